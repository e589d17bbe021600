"""Probes in a Lightning Trainer: ``Trainer(callbacks=[ProbesCallback()])``."""

from .callback import ProbesCallback

__all__ = ["ProbesCallback"]
