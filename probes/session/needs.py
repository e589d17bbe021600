"""What a probe cannot run without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..batches import Batch

__all__ = ["NEEDS", "unmet_need"]

NEEDS = frozenset({"batch", "inputs", "targets"})


def unmet_need(probe: Any, batches: Mapping[str, Batch], blocked: str) -> str:
    """Why a probe cannot run on the batches there are, and what to pass; empty when it can.

    Args:
        probe: The probe, with its ``needs`` and, when it measures on one batch, the name of that ``batch``.
        batches: The fixed batches, by name.
        blocked: What kept the first batch of the loop from being used, if anything did.
    """
    needs: frozenset[str] = getattr(probe, "needs", frozenset())
    if not needs:
        return ""
    name = getattr(probe, "batch", None)
    name = name if isinstance(name, str) else next(iter(batches), "train")
    batch = batches.get(name)
    if batch is None and name != "train":
        return f"there is no batch {name!r}. Pass batches={{{name!r}: (inputs, targets)}}."
    if batch is None and blocked:
        return blocked
    if batch is None:
        return (
            "no batch was seen: the loop does not call the object given to ProbeManager (but a compiled or wrapped "
            "one?), or its output was not usable. Pass the object that the loop calls, or "
            "batches={'train': (inputs, targets)}."
        )
    if "inputs" in needs and batch.inputs is None:
        return f"batch {name!r} has no floating-point input, and it measures the function of one."
    if "targets" in needs and batch.targets is None:
        return f"the targets of batch {name!r} were not seen. Pass batches={{{name!r}: (inputs, targets)}}."
    return ""
