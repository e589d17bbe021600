"""What the points of the contract look at: trainings with the probe and without it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COST_SAMPLES", "DUE", "NotChecked", "Result", "Unmet"]

DUE = 2
"""Every so many steps the probe measures in a trial."""


COST_SAMPLES = (32, 128, 512)


class Unmet(AssertionError):
    """A probe does not meet a point of the contract: what was found, and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found} {advice}")
        self.found, self.advice = found, advice


class NotChecked(Exception):
    """A point could not be looked at, for the reason given."""


@dataclass(frozen=True)
class Result:
    """What was found at a point of the contract."""

    point: str
    status: str
    """``"ok"``, ``"failed"`` or ``"not checked"``, because another point failed."""
    found: str
    advice: str
    """What to do; empty if it is met."""
