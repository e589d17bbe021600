"""Probes in Keras on PyTorch: ``model.fit(..., callbacks=[ProbesCallback()])``."""

from .callback import ProbesCallback

__all__ = ["ProbesCallback"]
