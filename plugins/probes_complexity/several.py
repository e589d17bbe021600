"""Several probes of a class in one run, such as one for each batch."""

from __future__ import annotations

from probes.probe import Probe
from probes.run import Run

__all__ = ["is_first"]


def is_first(run: Run, probe: Probe) -> bool:
    """Whether no other probe of its class has asked in this run before: a stream belongs to one probe.

    The first one yields what depends on no batch. Asked in ``on_attach``, which goes through the list of probes.
    """
    # Kept at the run, which all of its probes are given: it ends with it.
    asked = vars(run).setdefault("_first_of_class", {})
    return asked.setdefault(type(probe).__name__, probe) is probe
