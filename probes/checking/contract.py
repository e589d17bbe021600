"""The contract that every probe meets, point by point, as functions; :mod:`probes.testing` is how they are called.

A :class:`Contract` holds what several points need to know of a probe: it is trained with on every model of
:data:`~probes.checking.subjects.SUBJECTS`, once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..guard.process import random_states_kept
from ..probe import Probe
from ..schedule import every
from .cost import Cost, turn_cost
from .evidence import COST_SAMPLES, DUE, NotChecked, Result, Unmet
from .points import POINTS
from .subjects import SUBJECTS, Subject
from .trials import Overdue, Trial

__all__ = ["Contract"]


class Contract:
    """One probe, and what the points of the contract need to know of it.

    Args:
        probe: A class, which is made without arguments, or an instance, which is copied and stays as it is.
        subjects: The models to try it on; pass your own for a probe of a special kind of model.
        deadline: Seconds that a training of five steps may take with the probe.

    Raises:
        TypeError: If it is not a probe.

    Example:
        >>> class Steps(Probe):
        ...     '''The number of steps.'''
        ...     name = "steps"
        ...     def measure(self, run, step):
        ...         yield Measurement("steps/count", step, unit="steps", description="updates so far")
        >>> Contract(Steps).result("units")
        Result(point='units', status='ok', found='1 stream', advice='')
    """

    def __init__(
        self, probe: type[Probe] | Probe, subjects: Sequence[Subject] = SUBJECTS, deadline: float = 60.0
    ) -> None:
        self.cls = probe if isinstance(probe, type) else type(probe)
        if not issubclass(self.cls, Probe):
            raise TypeError(f"`probe` must be a subclass of probes.Probe, or an instance of one, got {probe!r}.")
        self.given, self.subjects, self.deadline = probe, tuple(subjects), deadline
        self._results: dict[str, Result] = {}

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

    def result(self, point: str) -> Result:
        """Whether the probe meets a point; looked at once.

        Raises:
            ValueError: If there is no such point.
        """
        if point not in POINTS:
            raise ValueError(f"No point of the contract is named {point!r}. There are: {', '.join(POINTS)}.")
        if point not in self._results:
            try:
                with random_states_kept():
                    self._results[point] = Result(point, "ok", POINTS[point](self), "")
            except Unmet as unmet:
                self._results[point] = Result(point, "failed", unmet.found, unmet.advice)
            except NotChecked as reason:
                self._results[point] = Result(point, "not checked", str(reason), "")
        return self._results[point]

    def require(self, point: str) -> None:
        """Go on only if a point is met: what fails there would fail here again.

        Raises:
            NotChecked: If it is not.
        """
        if (result := self.result(point)).status != "ok":
            raise NotChecked(f"see {point!r}" if result.status == "failed" else result.found)


# ---------------------------------------------------------------------------------------------------------- the points


# -------------------------------------------------------------------------------------------------------- how they look
