"""What the points of the contract look at: trainings with the probe and without it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..measurement import Measurement
from ..probe import Probe
from ..schedule import every
from .cost import Cost, turn_cost
from .deadline import Overdue
from .subjects import SUBJECTS, Subject
from .trials import Trial, place

__all__ = ["COST_SAMPLES", "DUE", "Evidence", "NotChecked", "Result", "Unmet", "same"]

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


class Evidence:
    """The trainings that the points look at, each made once, when it is first asked for.

    Args:
        probe: A class, which is made without arguments, or an instance, which is copied and stays as it is.
        subjects: The models to try it on.
        deadline: Seconds that a training of five steps may take with the probe.

    Raises:
        TypeError: If it is not a probe.
    """

    def __init__(
        self, probe: type[Probe] | Probe, subjects: Sequence[Subject] = SUBJECTS, deadline: float = 60.0
    ) -> None:
        self.cls = probe if isinstance(probe, type) else type(probe)
        if not issubclass(self.cls, Probe):
            raise TypeError(f"`probe` must be a subclass of probes.Probe, or an instance of one, got {probe!r}.")
        self.given, self.subjects, self.deadline = probe, tuple(subjects), deadline

    def make(self) -> Probe:
        """A fresh probe, due at every other step."""
        if isinstance(self.given, type):
            return self.given(every(DUE))
        made = copy.deepcopy(self.given)
        made.schedule = every(DUE)
        return made

    def trial(self, subject: Subject, **settings: Any) -> Trial:
        """A training of a subject with a fresh probe."""
        return Trial(subject, self.make(), deadline=self.deadline, **settings)

    @cached_property
    def pairs(self) -> list[tuple[Trial, Trial]]:
        """Of each subject a training without the probe and one with it; none after one that did not end."""
        done: list[tuple[Trial, Trial]] = []
        for subject in self.subjects:
            try:
                probed = self.trial(subject)
            except Exception as error:
                raise NotChecked(f"the probe cannot be made: {error!r}") from error
            done.append((Trial(subject).run(), probed.run()))
            if isinstance(probed.error, Overdue):
                break
        return done

    @property
    def trials(self) -> list[Trial]:
        """Those with the probe."""
        return [probed for _, probed in self.pairs]

    @cached_property
    def measured(self) -> list[Trial]:
        """Those that the probe has measured in; at least one."""
        found = [trial for trial in self.trials if trial.error is None and trial.rows]
        if not found:
            raise NotChecked("it measured on none of the models")
        return found

    @cached_property
    def costs(self) -> list[Cost]:
        """Of a turn, by the number of samples, on the first subject that the probe measures."""
        subject = self.measured[0].subject
        return [turn_cost(lambda n=n: self.trial(subject, samples=n)) for n in COST_SAMPLES]  # type: ignore[misc]

    def require(self, point: str) -> None:
        """Go on only if another point is met: what fails there would fail here again.

        Raises:
            NotChecked: If it is not.
        """
        raise NotImplementedError


def same(expected: list[Measurement], trial: Trial, when: str, advice: str, before: Sequence[Measurement] = ()) -> None:
    """That a trial, and what was measured ``before`` it, has the expected measurements, bit for bit."""
    if trial.error is not None:
        raise Unmet(f"{when} it ends in {trial.error!r} at {place(trial.error)}.", advice)
    one = {(row.step, row.name): row for row in expected}
    other = {(row.step, row.name): row for row in [*before, *trial.rows]}
    for step, name in [*one, *(key for key in other if key not in one)]:
        row, again = one.get((step, name)), other.get((step, name))
        if row is None or again is None:
            raise Unmet(f"{when} {name} at step {step} is {'missing' if again is None else 'there too'}.", advice)
        if not (equal(row.value, again.value) and equal(row.standard_error, again.standard_error)):
            raise Unmet(
                f"{when} {name} is another at step {step}: {brief(again.value)}, not {brief(row.value)}.", advice
            )


def equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and bool(((one == other) | ((one != one) & (other != other))).all())
    )


def brief(value: Any) -> str:
    return repr(value.item()) if value.size == 1 else f"an array with a mean of {value.mean():.9g}"
