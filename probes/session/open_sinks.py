"""Finding a directory that the sinks can use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..measurement import storable
from ..run import Run
from ..sinks.log_dir import LogDirTaken, choose
from .calls import Plugins
from .plugins import Plugin, invoke
from .settings import Settings

__all__ = ["open_sinks"]


def open_sinks(plugins: Plugins, run: Run, settings: Settings, resumed: Mapping[str, Any] | None) -> None:
    """Find a directory that the sinks can use, and let them begin; one that fails on its own is disabled.

    Args:
        plugins: With the sinks.
        run: Whose ``log_dir`` becomes that directory.
        settings: With the directory that was asked for.
        resumed: The state of the checkpoint from which the run goes on, if it does.

    Raises:
        OSError, LogDirTaken: With ``on_error="raise"``, if the directory that was asked for cannot be used.
    """
    sinks, strict = plugins.having("write"), settings.on_error == "raise"
    hooks = {sink.key: hook for sink in sinks if (hook := sink.hooks.pop("on_attach", None))}
    failed: dict[str, BaseException] = {}

    def begin(log_dir: Path) -> None:
        run.log_dir = log_dir
        failed.clear()
        begun: list[Plugin] = []
        for sink in sinks:
            try:
                if sink.key in hooks:
                    invoke(hooks[sink.key], run=run)
                begun.append(sink)
            except LogDirTaken:
                for other in begun:
                    plugins.call(other, "on_detach", run=run)
                raise
            except BaseException as error:
                if strict or not plugins.is_a_fault(error):
                    raise
                failed[sink.key] = error

    before = Path(resumed["log_dir"]) if resumed is not None else run.log_dir if run.step else None
    # Attached again it goes on where it was: the loop may have changed its directory meanwhile.
    given = settings.directory if resumed is not None or before is None else before
    asked = given or before or Path("runs")
    try:
        _, why = choose(given, before, begin, strict=strict)
    except (OSError, LogDirTaken) as error:
        if strict:
            raise
        plugins.record(
            "warning",
            None,
            f"Nothing is recorded: neither {asked} nor another directory can be written. Training goes on. {error}",
        )
        run.log_dir, failed = asked, {sink.key: error for sink in sinks} if settings.sinks is None else failed
    else:
        if why:
            plugins.record("warning", None, f"Results go to {run.log_dir}, not to {storable(str(asked))}: {why}")
    if run.resumed_from is not None:
        run.earlier = functools.partial(_earlier, run.log_dir)
    for sink in sinks:
        if sink.key in failed:
            plugins.disable(sink, failed[sink.key], "it cannot record")


def _earlier(log_dir: Path) -> Mapping[str, Any]:
    """What the run recorded before it was resumed, for a sink that draws it again."""
    from ..reading import open_run  # here, so that to import the package stays quick

    try:
        return cast("Mapping[str, Any]", open_run(log_dir))
    except (OSError, ValueError):
        return {}
