"""As many samples as a first turn has time for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..guard.unnoticed import unnoticed
from ..run import Run

__all__ = ["fit_batches"]

PASSES, LEAST_SAMPLES = 8, 8
"""Forward passes of a batch that fit into a first turn; of how many samples at least."""


def fit_batches(run: Run, whole: Sequence[str] | set[str], limit: float) -> dict[str, str]:
    """Take fewer samples, once, where one forward pass of a batch takes too long for the turns to come.

    A first turn is worth about eight passes of it. Two and four samples are tried.

    Args:
        run: The run, whose batches may become smaller.
        whole: The batches that stay as they are: given as a :class:`~probes.batches.Batch`, of a run that goes on, or
            looked at before.
        limit: Seconds of a first turn.

    Returns:
        The batches that were looked at, and what is to be said of each; empty where nothing is.
    """
    looked: dict[str, str] = {}
    each = limit / PASSES
    for name, batch in run.batches.items():
        if name in whole or batch.n <= LEAST_SAMPLES or each == math.inf:
            continue
        looked[name] = ""
        guard = unnoticed(run.model, run.optimizers, run.given)
        try:
            with guard:
                seconds = run.sample_seconds(name)
        except Exception:  # told when a probe calls the model
            continue
        finally:
            guard.restore()
        fewer = max(LEAST_SAMPLES, int(each / seconds) if seconds > 0 else batch.n)
        if fewer < batch.n:
            run.batches = {**run.batches, name: batch.first(fewer)}
            looked[name] = (
                f"Batch {name!r}: {fewer} samples of {batch.n} are measured on, since a forward pass of all takes "
                f"{seconds * batch.n:.1f} s. Pass batches={{{name!r}: Batch((inputs,), targets=targets)}} (of "
                f"probes.batches), which is taken whole, or overhead=None."
            )
    return looked
