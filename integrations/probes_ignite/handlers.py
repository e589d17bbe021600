"""attach: a ProbeManager for as long as an Ignite Engine runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError("probes_ignite needs Ignite: pip install 'torch-probes[ignite]'") from error

from probes import ProbeManager
from probes.session.lifetime import isolated

__all__ = ["attach"]


def attach(
    engine: Engine, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None, **settings: Any
) -> ProbeManager:
    """Watch what an Engine trains while it runs; when it runs again, the record goes on.

    The manager can be given to Ignite's ``Checkpoint`` beside the model and the optimizer, and to
    ``Checkpoint.load_objects`` before the run that resumes.

    Args:
        engine: The trainer, from ``create_supervised_trainer`` or with an update function of your own.
        model: The model that it calls.
        optimizer: The optimizer(s) whose updates are the steps; by default every optimizer that holds a parameter of
            the model.
        settings: All other arguments of :class:`~probes.ProbeManager`.

    Raises:
        TypeError, ValueError: If an argument is not what it must be; as far as the batches and the optimizer are
            concerned, when the run begins, before the first step.

    Example:
        >>> import torch
        >>> from ignite.engine import create_supervised_trainer
        >>> from probes import every
        >>> from probes_fourier import SpectralNorm
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = create_supervised_trainer(model, optimizer, torch.nn.functional.mse_loss)
        >>> manager = attach(trainer, model, probes=[SpectralNorm(every(1))], sinks=[])
        >>> _ = trainer.run([(torch.ones(4, 2), torch.ones(4, 1))] * 3)
        >>> manager.run.step, manager.run.batches["train"].targets.shape
        (3, torch.Size([4, 1]))
    """
    if not isinstance(engine, Engine):
        raise TypeError(f"`engine` must be an ignite.engine.Engine, got {type(engine).__name__}.")
    manager = ProbeManager(model, **settings)
    on_error = settings.get("on_error", "log")
    attached = False

    def start() -> None:
        nonlocal attached
        with isolated("an Ignite handler", on_error, (TypeError, ValueError)):
            if not attached:
                manager.attach(optimizer)
                attached = True

    def stop(error: BaseException | None = None) -> None:
        nonlocal attached
        with isolated("an Ignite handler", on_error):
            if attached:
                attached = False
                manager.__exit__(None, error, None)

    engine.add_event_handler(Events.STARTED, start)
    engine.add_event_handler(Events.TERMINATE | Events.COMPLETED, stop)
    engine.add_event_handler(Events.EXCEPTION_RAISED, _Failed(stop))
    return manager


class _Failed:
    """Called with an exception of the run.

    An engine whose exceptions are handled by somebody swallows them: handlers of ours alone must not make it do so.
    """

    def __init__(self, stop: Callable[[BaseException], None]) -> None:
        self._stop = stop

    def __call__(self, engine: Engine, error: BaseException) -> None:
        self._stop(error)
        handlers = [handler for handler, *_ in engine._event_handlers[Events.EXCEPTION_RAISED]]
        if handlers[-1] is self and all(isinstance(handler, _Failed) for handler in handlers):
            raise error
