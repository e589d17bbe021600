"""The tab of TensorBoard: what its own views cannot show, from the ``run.h5`` beside the event files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin  # type: ignore[import-untyped]

from probes.commands.runs import run_files

from .app import Application, static
from .page import STATIC

__all__ = ["ProbesPlugin"]

LOOK_SECONDS = 60.0
"""TensorBoard asks again and again, also over directories of many files that are none of ours."""


class ProbesPlugin(TBPlugin):  # type: ignore[misc]
    """Found by TensorBoard through the entry point ``tensorboard_plugins``; reads the files, so no step is dropped."""

    plugin_name = "probes"

    def __init__(self, context: TBContext) -> None:
        super().__init__(context)
        self._folders = _folders(context)
        self._active, self._look_again = False, 0.0

    def is_active(self) -> bool:
        """Whether the log directory holds a run with ``run.h5``: a look at its names, once a minute until there is."""
        if not self._active and time.monotonic() >= self._look_again:
            self._active = any(file.name == "run.h5" for folder in self._folders.values() for file in run_files(folder))
            self._look_again = time.monotonic() + LOOK_SECONDS
        return self._active

    def get_plugin_apps(self) -> dict[str, Callable[[Any, Any], Iterable[bytes]]]:
        """The routes of the viewer and its files."""
        files = {f"/{path.name}": static(path.name) for path in STATIC.iterdir() if path.suffix in (".js", ".css")}
        return {**files, **(Application(self._folders).routes() if self._folders else {})}

    def frontend_metadata(self) -> FrontendMetadata:
        """The module that draws the tab."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Probes")


def _folders(context: TBContext) -> dict[str, Path]:
    """Where the runs are, by what their names begin with: ``--logdir``, or ``--logdir_spec name:path,path,...``."""
    if context.logdir:
        return {"": Path(context.logdir).expanduser()}
    found: dict[str, Path] = {}
    for part in (getattr(context.flags, "logdir_spec", None) or "").split(","):
        # as TensorBoard reads it: a path that begins with / may hold a colon, and what has a scheme lies elsewhere
        name, colon, path = part.partition(":") if not part.startswith("/") else ("", "", part)
        if not part or path.startswith("//"):
            continue
        folder = Path(path if colon else part).expanduser()
        name = name.strip("/") or folder.absolute().name
        found[name if name not in found else folder.absolute().as_posix().strip("/")] = folder
    return found
