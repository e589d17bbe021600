"""Probes in a Hugging Face Trainer: ``Trainer(..., callbacks=[ProbesCallback()])``."""

from .callback import ProbesCallback

__all__ = ["ProbesCallback"]
