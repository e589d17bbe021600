"""What a user reads without asking: two lines when watching begins, and two when it ends."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from torch.nn.parameter import is_lazy

from ..measurement import printable
from ..run import log
from .session import Session

__all__ = ["begun", "ended", "say"]

LOGGER = logging.getLogger("probes")
LONGEST = 160
"""Letters of a line; the report has the rest."""


def say(lines: list[str]) -> None:
    """Log lines, level INFO; where the script has not configured logging, write them to the standard error."""
    with suppress(Exception):  # of a stream that is closed, or of a handler
        if LOGGER.hasHandlers():
            for line in lines:
                log.info("%s", line)
        elif LOGGER.level <= logging.INFO:
            print(*(f"probes: {line}" for line in lines), sep="\n", file=sys.stderr, flush=True)


def begun(session: Session) -> list[str]:
    """What is watched, where results go, and how to look."""
    run = session.run
    count = sum(parameter.numel() for parameter in run.model.parameters() if not is_lazy(parameter))
    names = ", ".join(plugin.key for plugin in session.turns.probes if not plugin.problem) or "no probe"
    again = f", going on at step {run.step}" if run.resumed_from is not None else ""
    lines = [f"watching {type(run.model).__name__} ({count:,} parameters) with {names}{again}"]
    if session.plugins.having("write"):
        place = _place(run.log_dir)
        lines.append(f"results go to {place}: tensorboard --logdir {place}, or probes show {place}")
    return [_short(line) for line in lines]


def ended(session: Session) -> list[str]:
    """What was measured, and what was not and why."""
    run, turns, governor = session.run, session.turns, session.governor
    rows, streams = session.accounts.measured, turns.streams
    share = governor.total / max(governor.training, 1e-9)
    cost = f", {share:.1%} of the training time" if share < 1 else ""  # in the first seconds it says nothing
    where = f": probes show {_place(run.log_dir)}" if session.plugins.having("write") else ""
    lines = [f"{rows:,} rows of {streams} streams up to step {run.step}, in {governor.total:.1f} s{cost}{where}"]
    reasons: dict[str, list[str]] = {}
    for plugin in turns.probes:
        if reason := plugin.problem or plugin.refusal or ("" if plugin.measured else "it was not due"):
            reasons.setdefault(reason, []).append(plugin.key)
    if reasons:
        lines.append("not measured: " + "; ".join(f"{', '.join(keys)} ({why})" for why, keys in reasons.items()))
    return [_short(line) for line in lines]


def _place(path: Path) -> str:
    """A path as a user would write it."""
    with suppress(ValueError, OSError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 30]}... (report() says more)"
