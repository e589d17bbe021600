"""Analysis probes for any PyTorch training loop: what training does to the function that is being learned.

The names below are the public ones. The first that is asked for imports them all, so that the command ``probes`` can
say what is installed without waiting for torch; ``open_run`` is imported when it is asked for itself, since it needs
h5py, and a training of which nothing is watched does without.
"""

# ruff: noqa: I001 - grouped by subject

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

if _TYPE_CHECKING:
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

    # reading the results
    from .reading import open_run as open_run

_HOMES = {
    "Batch": "batches", "ProbeManager": "manager", "hookimpl": "hookspecs", "Axis": "measurement",
    "Measurement": "measurement", "Probe": "probe", "CannotMeasure": "measurement", "Run": "run", "at": "schedule",
    "every": "schedule", "log_spaced": "schedule", "open_run": "reading",
}  # fmt: skip
"""The module of each public name: what the imports above say to type checkers."""

__all__ = [*_HOMES]


def _load() -> None:
    """Import what is public, and book what that takes."""
    import torch  # noqa: F401 - the user's in any case: not what probes cost

    from .budget import spending
    from .budget.clock import OwnTime

    clock = OwnTime()
    begun = clock()
    for name, home in _HOMES.items():
        if name != "open_run":
            globals()[name] = getattr(_import_module(f".{home}", __name__), name)
    spending.imported += clock() - begun


def __getattr__(name: str) -> _Any:
    if name in _HOMES:
        if "ProbeManager" not in globals():
            _load()
        return getattr(_import_module(f".{_HOMES[name]}", __name__), name)
    if not name.startswith("_"):  # a module, as `probes.schedule`
        try:
            return _import_module(f".{name}", __name__)
        except ModuleNotFoundError as missing:
            if missing.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
