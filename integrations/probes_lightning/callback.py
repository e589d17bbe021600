"""ProbesCallback: a ProbeManager for as long as a Lightning Trainer fits, with its state in the checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import nn

from probes import Measurement, ProbeManager, hookimpl
from probes.run import Run
from probes.session.lifetime import ANOTHER_MODEL, isolated
from probes.session.settings import Settings
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.tensorboard import TensorBoardSink

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError("probes_lightning needs Lightning: pip install 'torch-probes[lightning]'") from error

__all__ = ["ProbesCallback"]

log = logging.getLogger("probes")


class ProbesCallback(Callback):
    """Attaches a :class:`~probes.ProbeManager` while a Trainer fits, and keeps its state in the Trainer's checkpoints.

    Watching begins after the sanity check and ends with the fit, also when that ends by an exception. A resumed fit
    (``ckpt_path=``) goes on in the same files. A step is an optimizer update: of several optimizers in manual
    optimization, those that step one after the other share one, while the Trainer's ``global_step`` counts each. When
    the same model is fitted again, its record goes on; for another model make another callback.

    Args:
        model: What to watch: the name of a submodule of the LightningModule, or a function of the LightningModule that
            returns the module. By default the one submodule that holds all parameters, if there is one, else the
            LightningModule itself. It must be what the training step calls, or no batch is seen; a warning then says
            what there is to choose from.
        log_to_trainer: Whether the Trainer's loggers get the scalar measurements too, under their own names and with
            their own step.
        settings: All other arguments of :class:`~probes.ProbeManager`.

    Raises:
        TypeError, ValueError: If an argument is not what it must be; as far as the model must be known for that, when
            the fit begins, before the first step.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from probes import every
        >>> from probes_fourier import SpectralNorm
        >>> class Regression(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch):
        ...         return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> callback = ProbesCallback(probes=[SpectralNorm(every(1))], sinks=[])
        >>> data = torch.utils.data.TensorDataset(torch.ones(12, 2), torch.ones(12, 1))
        >>> trainer = Trainer(
        ...     accelerator="cpu", max_epochs=1, callbacks=[callback],
        ...     logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> trainer.fit(Regression(), torch.utils.data.DataLoader(data, 4))
        >>> callback.manager.run.step, callback.manager.run.batches["train"].targets.shape
        (3, torch.Size([4, 1]))
    """

    manager: ProbeManager | None
    """That of the present or the last fit."""
    trainer: Trainer | None
    """That which fits now."""

    def __init__(
        self,
        model: str | Callable[[LightningModule], nn.Module] | None = None,
        log_to_trainer: bool = False,
        **settings: Any,
    ) -> None:
        if model is not None and not isinstance(model, str) and (isinstance(model, nn.Module) or not callable(model)):
            raise TypeError(
                f"`model` must be the name of a submodule of the LightningModule, or a function of the LightningModule "
                f"that returns the module to watch, got {type(model).__name__}."
            )
        Settings(nn.PReLU(), **settings)  # names what is wrong with them here, not when the fit begins
        self.manager = self.trainer = None
        self._model, self._log_to_trainer, self._settings = model, log_to_trainer, settings
        self._called: nn.Module | None = None
        self._resumed: dict[str, Any] | None = None
        self._attached = self._looked = False

    @property
    def state_key(self) -> str:
        """What the state is called in a checkpoint: its own for each watched module."""
        if self._model is None:
            return type(self).__qualname__
        return self._generate_state_key(model=getattr(self._model, "__qualname__", self._model))

    def _isolated(self, where: str, *passing: type[Exception]) -> AbstractContextManager[None]:
        return isolated(f"ProbesCallback.{where}", self._settings.get("on_error", "log"), passing)

    # ------------------------------------------------------------------------------------------------ begin and end

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget a checkpoint that was loaded for an earlier stage; that of this one comes next."""
        self._resumed = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach: the checkpoint is loaded, the sanity check is over, and no step has been taken."""
        with self._isolated("on_train_start", TypeError, ValueError):
            self._stop()
            self.trainer, watched = trainer, self._watched(pl_module)
            if self.manager is None or self._called is not watched:
                if self.manager is not None and self._settings.get("probes"):
                    log.warning(ANOTHER_MODEL)
                settings = dict(self._settings)
                if self._log_to_trainer:
                    sinks = settings.get("sinks")
                    sinks = [HDF5Sink(), TensorBoardSink()] if sinks is None else sinks
                    settings["sinks"] = [*sinks, _TrainerSink(self)]
                self.manager, self._called = ProbeManager(watched, **settings), watched
            if self._resumed is not None:
                state, self._resumed = self._resumed, None
                with self._isolated("on_train_start: the probes' part of the checkpoint, without which they go on"):
                    self.manager.load_state_dict(state)
            # The closure holds the last micro-batch of an accumulation too.
            self.manager.plain_closures = pl_module.automatic_optimization
            self.manager.wrapper = trainer.strategy.model or pl_module
            self.manager.attach()
            self._attached, self._looked = True, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After the first step, say what to pass if no batch was seen."""
        if self._looked or not self._attached or self.manager is None or not self.manager.run.step:
            return
        self._looked = True
        if "train" in self.manager.run.batches:
            return
        names = [name for name, child in pl_module.named_children() if next(iter(child.parameters()), None) is not None]
        log.warning(
            "The probes have seen no batch: the training step does not call %s (%s), or not with a batch of samples. "
            "Pass ProbesCallback(model=...) with the name of what it calls%s, or batches={'train': (inputs, targets)}.",
            "the LightningModule itself" if self._called is pl_module else "the watched module",
            type(self._called).__name__,
            f", e.g. {', '.join(map(repr, names))}" if names else "",
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach: files are written and closed."""
        with self._isolated("teardown"):
            self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach: what was measured until now is in the files."""
        with self._isolated("on_exception"):
            self._stop(exception)

    def _stop(self, error: BaseException | None = None) -> None:
        if self._attached and self.manager is not None:
            self._attached = False
            try:
                self.manager.__exit__(None, error, None)
            finally:
                self.trainer = None
                if self._called is not None:
                    self.manager.wrapper = self._called  # the Trainer's is not kept

    def _watched(self, pl_module: LightningModule) -> nn.Module:
        if self._model is None:
            holders = [child for child in pl_module.children() if next(iter(child.parameters()), None) is not None]
            whole = len(list(pl_module.parameters()))
            # A container is never called.
            if (
                len(holders) == 1
                and len(list(holders[0].parameters())) == whole
                and not isinstance(holders[0], nn.ModuleList | nn.ModuleDict)
            ):
                return holders[0]
            return pl_module
        if isinstance(self._model, str):
            try:
                return pl_module.get_submodule(self._model)
            except AttributeError:
                names = ", ".join(repr(name) for name, _ in pl_module.named_modules() if name)
                raise ValueError(
                    f"`model` must name a submodule of {type(pl_module).__name__}, got {self._model!r}. "
                    f"There are: {names or 'none'}."
                ) from None
        found = self._model(pl_module)
        if not isinstance(found, nn.Module):
            raise TypeError(f"`model` must return the module to watch, but returned {type(found).__name__}.")
        return found

    # --------------------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What the Trainer's checkpoint holds of the probes."""
        state: dict[str, Any] = {}
        with self._isolated("state_dict"):
            if self._resumed is not None:  # loaded, and not attached yet
                state = self._resumed
            elif self.manager is not None:
                state = self.manager.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds of the probes until the fit begins."""
        self._resumed = state_dict


class _TrainerSink:
    """Hands scalar measurements to the loggers of the Trainer, but not the probes' accounts of themselves."""

    name = "trainer"

    def __init__(self, callback: ProbesCallback) -> None:
        self._callback = callback

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        steps: dict[int, dict[str, float]] = {}
        for item in measurements:
            if item.value.ndim == 0 and item.value.dtype.kind in "fiub" and not item.name.startswith("probes/"):
                steps.setdefault(item.step, {})[item.name] = float(item.value)
        for step, scalars in steps.items():
            for logger in self._callback.trainer.loggers if self._callback.trainer is not None else ():
                logger.log_metrics(scalars, step=step)
