"""Analysis probes for any PyTorch training loop: what training does to the function that is being learned."""

# ruff: noqa: I001, E402 - grouped by subject, after the clock

from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

import torch as _torch  # noqa: F401 - the user's in any case: not what probes cost
from .budget.clock import OwnTime as _OwnTime

_clock = _OwnTime()
_begun = _clock()

# attaching to a loop
from .batches import Batch as Batch
from .manager import ProbeManager as ProbeManager

# writing a probe
from .hookspecs import hookimpl as hookimpl
from .measurement import Axis as Axis
from .measurement import Measurement as Measurement
from .probe import Probe as Probe
from .measurement import CannotMeasure as CannotMeasure
from .run import Run as Run

# when to measure
from .schedule import at as at
from .schedule import every as every
from .schedule import log_spaced as log_spaced

# reading the results, for which h5py is needed: a training of which nothing is watched does without
if _TYPE_CHECKING:
    from .reading import open_run as open_run


def __getattr__(name: str) -> _Any:
    if name == "open_run":
        from .reading import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "open_run"]


from .budget import spending as _spending

_spending.imported = _clock() - _begun
