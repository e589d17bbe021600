"""Probe: the thin base class that the author of a probe subclasses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from .measurement import Measurement
from .run import Run
from .schedule import Schedule, log_spaced

__all__ = ["Probe"]


class Probe:
    """A measurement taken during training.

    Subclass it and write :meth:`measure`. Any other hook of :mod:`probes.hookspecs` (``on_attach``, ``on_step``,
    ``on_detach``, ``state_dict``, ``load_state_dict``) may be added as a method of that name; no decorator is needed.

    Args:
        schedule: When the probe is due; by default often at first and then ever more rarely, :func:`log_spaced`.

    Example:
        >>> class WeightNorm(Probe):
        ...     def measure(self, run, step):
        ...         for name, parameter in run.model.named_parameters():
        ...             yield Measurement(f"weight_norm/{name}", parameter.norm())
    """

    name: ClassVar[str] = ""
    """Under which the probe's settings, cost and faults are recorded; the class name when empty."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the probe cannot run without: ``"batch"`` (any fixed batch), ``"inputs"`` (a batch with a floating-point
    input), ``"targets"`` (a batch with targets). A probe whose needs are not met is named in the attach report."""

    watched_updates: int | None = None
    """How many updates before each turn ``before_step`` and ``on_step`` are called for; None for every update."""

    sees_micro_batches: ClassVar[bool] = False
    """Whether, where it looks at updates, it is shown how the gradients of accumulated micro-batches relate, and under
    DDP rank 0's own to the average, as ``run.micro_batches``: two inner products a gradient, as it arrives."""

    by_default: ClassVar[bool] = True
    """Whether the probe runs when it is installed and the user names no probes."""

    def __init__(self, schedule: Schedule | None = None) -> None:
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(
                f"`schedule` of {type(self).__name__} must be a schedule such as every(100), log_spaced() or "
                f"at([0, 10]), got {schedule!r}."
            )
        self.schedule = schedule if schedule is not None else log_spaced()

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        """Yield the measurements of one step; everything done here is guarded and timed."""
        raise TypeError(f"{type(self).__name__} must implement measure(self, run, step).")

    def is_first(self, run: Run) -> bool:
        """Whether no other probe of its class has asked in this run before.

        A stream belongs to one probe: of several, each on a batch of its own, the first yields what is of no batch. To
        be asked in ``on_attach`` too, which goes through the list of probes.
        """
        # Kept at the run, which all of its probes are given: it ends with it.
        asked = vars(run).setdefault("_first_of_class", {})
        return asked.setdefault(type(self).__name__, self) is self
