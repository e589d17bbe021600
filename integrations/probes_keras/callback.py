"""ProbesCallback: a ProbeManager for as long as a Keras model is fitted, on Keras' PyTorch backend."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

try:
    import keras
except ImportError as error:
    raise ImportError("probes_keras needs Keras: pip install 'torch-probes[keras]'") from error

from probes import ProbeManager
from probes.session.lifetime import ANOTHER_MODEL, isolated
from probes.session.settings import Settings

__all__ = ["ProbesCallback"]

log = logging.getLogger("probes")


class ProbesCallback(keras.callbacks.Callback):  # type: ignore[misc,unused-ignore]
    """Attaches a :class:`~probes.ProbeManager` while a Keras model is fitted.

    Keras' optimizers are its own, of which nothing is seen but how many updates they have made: a step is one of those.
    Of gradients the ``layers`` probe therefore shows what ``backward()`` has left, before Keras clips or decays: with
    ``gradient_accumulation_steps`` those of the last batch, whose loss is ``loop/loss``, too; under a
    ``LossScaleOptimizer`` (``mixed_float16``) both multiplied by its scale, which is said in a warning. Keras'
    losses are seen as far as they call those of torch; give ``batches={"train": (inputs, targets)}`` where a probe
    needs targets.

    When the same model is fitted again, its record goes on; for another model make another callback.

    Args:
        settings: All arguments of :class:`~probes.ProbeManager` but the model.

    Raises:
        TypeError, ValueError: If an argument is not what it must be; as far as the model must be known for that, when
            the fit begins, before the first step.
        RuntimeError: When the fit begins, if Keras computes with another backend than PyTorch.

    For example::

        import os
        os.environ["KERAS_BACKEND"] = "torch"
        import keras
        from probes_keras import ProbesCallback

        model.fit(x, y, callbacks=[ProbesCallback()])
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        if "model" in settings:
            raise TypeError("`model` is the one that is fitted and must not be given.")
        Settings(nn.PReLU(), **settings)  # names what is wrong with them here, not when the fit begins
        self.manager: ProbeManager | None = None
        """That of the present or the last fit."""
        self._settings, self._updates, self._watched = settings, 0, None

    def _isolated(self, where: str, *passing: type[Exception]) -> AbstractContextManager[None]:
        return isolated(f"ProbesCallback.{where}", self._settings.get("on_error", "log"), passing)

    def on_train_begin(self, logs: Any = None) -> None:
        """Watch the model."""
        if keras.backend.backend() != "torch":
            raise RuntimeError(
                f"probes_keras measures models on Keras' PyTorch backend, and Keras computes with "
                f"{keras.backend.backend()}. Set KERAS_BACKEND=torch in the environment before Keras is imported."
            )
        with self._isolated("on_train_begin", TypeError, ValueError):
            self.on_train_end()  # a fit that has failed has not said so
            if self.manager is None or self._watched is not self.model:
                if self.manager is not None and self._settings.get("probes"):
                    log.warning(ANOTHER_MODEL)
                self.manager, self._watched = ProbeManager(self.model, **self._settings), self.model
            self._updates = self._made()
            self.manager.attach()
            if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
                log.warning(
                    "Losses and gradients are recorded as the LossScaleOptimizer has them, multiplied by its scale: "
                    "where that changes, they jump. Weights and updates are not."
                )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the update, if there was one: gradients may be added up over batches."""
        with self._isolated("on_train_batch_end"):
            if self.manager is not None and (made := self._made()) != self._updates:
                self._updates = made
                self.manager.step()

    def on_train_end(self, logs: Any = None) -> None:
        """Write what waits and close the files."""
        with self._isolated("on_train_end"):
            if self.manager is not None:
                self.manager.detach()

    def _made(self) -> int:
        return int(self.model.optimizer.iterations)
