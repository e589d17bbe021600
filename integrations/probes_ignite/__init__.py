"""Probes in an Ignite Engine: ``attach(trainer, model)``."""

from .handlers import attach

__all__ = ["attach"]
