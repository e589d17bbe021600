"""The contract that every probe meets; :mod:`probes.testing` is how it is called.

The points are functions in :mod:`probes.checking.points`; what they look at is in :mod:`probes.checking.evidence`: the
probe is trained with on every model of :data:`~probes.checking.subjects.SUBJECTS`, once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..guard.process import random_states_kept
from ..probe import Probe
from .evidence import Evidence, NotChecked, Result, Unmet
from .points import POINTS
from .subjects import SUBJECTS, Subject

__all__ = ["Contract"]


class Contract(Evidence):
    """One probe, and which points of the contract it meets.

    Args:
        probe: A class, which is made without arguments, or an instance, which is copied and stays as it is.
        subjects: The models to try it on; pass your own for a probe of a special kind of model.
        deadline: Seconds that a training of five steps may take with the probe.

    Raises:
        TypeError: If it is not a probe.

    Example:
        >>> from probes import Measurement, Probe
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
        super().__init__(probe, subjects, deadline)
        self._results: dict[str, Result] = {}

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
        """Go on only if another point is met."""
        if (result := self.result(point)).status != "ok":
            raise NotChecked(f"see {point!r}" if result.status == "failed" else result.found)
