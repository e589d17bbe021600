"""What a user reads: two lines when watching begins and two when it ends, and the report on all of it."""

from __future__ import annotations

import logging
import shlex
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import nn
from torch.nn.parameter import is_lazy

from ..budget.governor import Governor
from ..budget.spending import CORE
from ..drawing.words import counted
from ..measurement import printable
from ..run import log
from ..summary import findings
from .discovery import COMMANDS, installed
from .plugins import Plugin, keys
from .session import Session

__all__ = ["begun", "ended", "found", "report", "say"]

LOGGER = logging.getLogger("probes")
LONGEST = 160
"""Letters of a line; the report has the rest."""
WRITING = ("write", "flush", "on_detach")
"""Hooks of a sink."""
WIDTH = 118
"""Of the findings in the report."""


def report(
    session: Session, missed: str = "", targets_seen_in: str = "", awaited: bool = False, broken: Sequence[str] = ()
) -> str:
    """The report of a run.

    Args:
        session: The run's.
        missed: What is to say while no step has come.
        targets_seen_in: Where the targets of the loop's first batch were seen.
        awaited: Whether that batch is still to come.
        broken: What could not be made.
    """
    run, governor = session.run, session.governor
    parameters = [p for p in run.model.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)]
    count = sum(parameter.numel() for parameter in parameters)
    lines = [
        f"Model      {type(run.model).__name__}, {counted(count, 'parameter')} in {counted(len(run.layers), 'layer')}",
        f"Steps      {run.step}, counted in "
        + (
            ", ".join(type(item).__name__ for item in run.optimizers)
            or ("manager.step()" if session.by_hand else "the model's optimizers (none has stepped yet)")
        ),
    ]
    if not run.step and missed:
        lines.append(f"           {missed}")
    for name, batch in run.batches.items():
        if batch.targets is not None:
            seen = f", seen in {targets_seen_in}" if name == "train" and targets_seen_in else ""
            targets = f"with targets{seen}"
        else:
            targets = f"without targets: pass batches={{{name!r}: (inputs, targets)}} if a probe needs them"
        lines.append(f"Batch      {name!r}: {counted(batch.n, 'sample')} {targets}")
    if run.taken:
        lines.append(f"Output     {run.taken[0]}, chosen here; output= takes another")
    if awaited:
        lines.append("Batch      'train' will be the first batch of the loop")
    lines.append(f"Overhead   {_overhead(governor)}")
    if not session.turns.probes:
        lines.append("Probes     none: install a plugin, or pass probes=[...]")
    rows: list[tuple[str, ...]] = [
        ("probe", "schedule", "turns", "skipped", "failed", "last step", "ms a turn", "overhead")
    ]
    for plugin in session.turns.probes:
        spent = governor.spent[plugin.key]
        last = "-" if plugin.last_step is None else str(plugin.last_step)
        each = f"{1e3 * spent / (plugin.measured + plugin.failed):.1f}" if plugin.measured + plugin.failed else "-"
        turns = (plugin.measured, plugin.skipped, plugin.failed)
        rows.append((plugin.key, repr(plugin.schedule), *map(str, turns), last, each, _share(governor, spent)))
    for plugin in session.plugins.having("write"):
        share = _share(governor, governor.spent[plugin.key])
        rows.append((plugin.key, "sink", "", "", str(plugin.failed), "", "", share))
    rows.append((CORE, "", "", "", "", "", "", _share(governor, governor.spent[CORE])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += [""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    everyone = session.plugins.all
    problems = {plugin.key: plugin.problem for plugin in everyone}
    lines += _section("Not running", problems, [f"  {message}" for message in broken])
    lines += _section(
        "Waiting, to stay within the budget", {plugin.key: _waiting(session, plugin) for plugin in session.turns.probes}
    )
    running = [plugin for plugin in everyone if not plugin.problem]
    lines += _section("Not measured", {plugin.key: plugin.refusal for plugin in running})
    lines += _section("Left out", {plugin.key: plugin.left_out for plugin in everyone})
    lines += _section("Last failure", {plugin.key: plugin.last_failure for plugin in running})
    if session.plugins.having("write"):
        lines += ["", f"Results    {_looks(session, str(run.log_dir))}"]
    return "\n".join(lines) + "\n"


def found(session: Session) -> str:
    """The end of a report: what the run's file shows so far, in words; empty without a file, or without xarray."""
    with suppress(Exception):
        from ..reading import open_run  # only here: it needs h5py

        items = findings(open_run(session.run.log_dir))
        told = [textwrap.fill(str(item), WIDTH, initial_indent="  ", subsequent_indent="    ") for item in items]
        return "\n".join(["", "Found", *(told or ["  Nothing stands out."])]) + "\n"
    return ""


def _section(title: str, texts: dict[str, str], more: Sequence[str] = ()) -> list[str]:
    """What is to say of each plugin, the same once; nothing where there is nothing to say."""
    plugins: dict[str, list[str]] = {}
    for key, text in texts.items():
        if text:
            plugins.setdefault(text, []).append(key)
    told = [f"  {', '.join(keys)}: {text}" for text, keys in plugins.items()] + list(more)
    return ["", title, *told] if told else []


def _share(governor: Governor, seconds: float) -> str:
    """Of the training time; in seconds where that is shorter than what was spent."""
    return f"{seconds / governor.training:.2%}" if governor.total < governor.training else f"{seconds:.1f} s"


def _overhead(governor: Governor) -> str:
    share = governor.total / max(governor.training, 1e-9)
    told = f", {share:.1%} of the training time so far" if share < 1 else ""  # of a training of seconds it says nothing
    spent = f"{governor.total:.1f} s{told}"
    if governor.overhead is None:
        return f"{spent} (no limit)"
    return f"{spent} (at most {governor.overhead:.1%}, or {governor.head_start:g} s in all)"


def _waiting(session: Session, plugin: Plugin) -> str:
    """How many turns of a probe were taken, of those that were due, and when the next comes; empty if all were."""
    run, governor = session.run, session.governor
    waits = plugin in session.turns.waiting(run.step) and bool(plugin.measured)
    due = plugin.measured + plugin.failed + plugin.skipped + waits
    if plugin.problem or not (plugin.skipped or waits):
        return ""
    text = f"{plugin.measured} of {due} due turns were taken"
    if waits and run.step and governor.training > 0:
        seconds = max(0.0, governor.next_turn([plugin.key]) - governor.clock())
        step = run.step + seconds * run.step / governor.training
        text += f"; the next at about step {float(f'{step:.2g}') if step >= 100 else step:.0f}"
    return text


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
    lines = [f"watching {type(run.model).__name__} ({counted(count, 'parameter')}) with {names}{again}"]
    if session.plugins.having("write"):
        lines.append(f"results go to {_looks(session, _place(run.log_dir))}")
    return [_short(line) for line in lines]


def ended(session: Session) -> list[str]:
    """What was measured, and what was not and why."""
    run, turns, governor = session.run, session.turns, session.governor
    rows, streams = session.accounts.measured, turns.streams
    share = governor.total / max(governor.training, 1e-9)
    cost = f", {share:.1%} of the training time" if share < 1 else ""  # in the first seconds it says nothing
    sinks = [plugin for plugin in session.plugins.all if "write" in plugin.hooks]
    failing = keys(sink for sink in sinks if sink.problem or any(sink.failures[h] for h in WRITING))
    where = f": probes show {_place(run.log_dir)}" if "hdf5" in keys(sinks) and "hdf5" not in failing else ""
    measured = f"{counted(rows, 'row')} of {counted(streams, 'stream')}"
    lines = [f"{measured} up to step {run.step}, in {governor.total:.1f} s{cost}{where}"]
    if failing:
        lines.append(f"not all of it was written by {', '.join(failing)}: see the messages before")
    reasons: dict[str, list[str]] = {}
    late = "it was not due" if run.step else "no step was seen"
    for plugin in turns.probes:
        failed = f"it failed: {plugin.last_failure}" if plugin.last_failure else late
        if reason := plugin.problem or plugin.refusal or ("" if plugin.measured else failed):
            reasons.setdefault(reason, []).append(plugin.key)
    if reasons:
        lines.append("not measured: " + "; ".join(f"{', '.join(keys)} ({why})" for why, keys in reasons.items()))
    return [_short(line) for line in lines]


def _looks(session: Session, place: str) -> str:
    """Where results are and how to look at them, as far as it is known what the sinks write; the names of others."""
    sinks = keys(session.plugins.having("write"))
    looks = [f"tensorboard --logdir {place}"] if "tensorboard" in sinks else []
    if "hdf5" in sinks:
        looks.append(
            f"probes show {place}{' (in the browser: probes serve)' if 'serve' in installed(COMMANDS) else ''}"
        )
    return f"{place}: {', or '.join(looks)}" if looks else ", ".join(sinks)


def _place(path: Path) -> str:
    """A path as a user would write it in a shell."""
    with suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return str(path) if "\\" in str(path) else shlex.quote(str(path))  # of Windows: other quotes


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 30]}... (report() says more)"
