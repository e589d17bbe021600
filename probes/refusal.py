"""CannotMeasure: what a probe raises about a model or a batch that it cannot measure; no fault of the probe."""

from __future__ import annotations

__all__ = ["CannotMeasure", "first_line"]


class CannotMeasure(ValueError):
    """The model or the batch is not one that can be measured, for the reason given.

    Raise it from ``measure``, or from a function that it calls. It is no fault of the probe: the reason is logged once,
    in one line and without a traceback, and the probe is asked again at its next turn, since the cause may pass. So
    the message says what was found, what is needed and what to pass.

    Example:
        >>> raise CannotMeasure("One sample is no batch. Pass batches={'train': (inputs, targets)} with several.")
        Traceback (most recent call last):
        ...
        probes.refusal.CannotMeasure: One sample is no batch. Pass batches={'train': (inputs, targets)} with several.
    """


def first_line(error: BaseException) -> str:
    """The first sentence of an error's message, at most 120 letters of it."""
    text = next(iter(str(error).strip().splitlines()), "").split(". ")[0]
    return text if len(text) <= 120 else f"{text[:120]}..."
