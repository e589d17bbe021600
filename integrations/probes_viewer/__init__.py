"""One viewer of runs behind four doors: a file, a server, a tab of TensorBoard, a notebook."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .attachment import written_report as written_report
    from .notebook import Frame as Frame
    from .page import report as report
    from .server import serve as serve

_HOMES = {"Frame": "notebook", "report": "page", "serve": "server", "written_report": "attachment"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> _Any:
    if name in _HOMES:  # when asked for: the command `probes` lists its commands without waiting for them
        return getattr(_import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
