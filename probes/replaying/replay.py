"""Measuring saved checkpoints after the fact, into the same kind of run as a live one."""

from __future__ import annotations

import copy
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..batches import Batch
from ..manager import ProbeManager
from ..measurement import Measurement, first_line
from ..run import Event
from ..schedule import Schedule, at
from ..session.discovery import default_names, load
from ..session.settings import check_batches
from ..session.turns import UNDEFINED
from ..sinks.recorder import Recorder
from .checkpoint_files import Checkpoint, read_checkpoint
from .loading import load_into
from .workers import Located

__all__ = ["Replayed", "replay"]

Model = Callable[[], nn.Module]
EVERY_UPDATE = ("on_step", "before_step")
"""Hooks of probes that must see each update, and not only the model after it."""
NEEDS_UPDATES = "it yields nothing without the updates before its turn, which checkpoints do not hold."


class Replayed(NamedTuple):
    """What has become of the checkpoints."""

    log_dir: Path
    measurements: int
    problems: list[str]
    """What went wrong, in words, with each probe and the steps where it measured nothing; empty when every probe
    measured every checkpoint."""


def replay(
    checkpoints: Sequence[str | os.PathLike[str]],
    model: Model,
    probes: Sequence[object | str] | None = None,
    batches: Mapping[str, Any] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    sinks: Sequence[object | str] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    seed: int | None = None,
    executor: Executor | None = None,
    done: Callable[[int, int], None] = lambda count, total: None,
) -> Replayed:
    """Measure every checkpoint as a run would have measured the model at that step, and write a run of it.

    What a probe measures is what it would have measured during training, to rounding: in the same order of steps, on
    the same batches and with the same random numbers, where the checkpoints hold the state of the probes
    (``manager.state_dict()``) or ``batches`` and ``seed`` are those of the run. Probes without a state of their own
    measure checkpoints in parallel; one with a state (what it measured first, a classifier that goes on from the last
    turn) measures all of them in turn, beside the others. Of a probe that looks at the updates before its turns
    (``watched_updates``), such as ``layers``, what needs no update is measured, as at step 0.

    Args:
        checkpoints: Files or folders; see :func:`~probes.replaying.checkpoint_files.read_checkpoint`. Measured in the
            order of their steps.
        model: Makes the model, whose parameters are then loaded. With an executor of other processes it must be a
            function that they can import.
        probes: As of :class:`~probes.ProbeManager`; their schedules are not asked.
        batches: As of :class:`~probes.ProbeManager`; by default those in the checkpoints.
        log_dir, sinks, output: As of :class:`~probes.ProbeManager`.
        seed: As of :class:`~probes.ProbeManager`; by default that in the checkpoints, or 0.
        executor: Where to measure: a ``ProcessPoolExecutor``, ``probes_ray.RayExecutor()``, or any other; by default
            here, one after the other.
        done: Called with how many of how many pieces of work are done.

    Returns:
        Where the results are, and what could not be measured.

    Raises:
        ValueError: If there is no checkpoint, one cannot be read or says no step, two are of one step, one does not fit
            the model or holds different parameters that do, there is no batch for a probe that needs one, or a probe
            must see every update.
        FileNotFoundError: If a checkpoint is not there.
        FileExistsError: If ``log_dir`` is a file.
    """
    if log_dir is not None and Path(log_dir).is_file():
        raise FileExistsError(f"{log_dir} is a file. Pass another place, a directory.")
    by_step: dict[int, Path] = {}
    found: Mapping[str, Any] | None = None
    for path in map(Path, checkpoints):
        step, _, state = read_checkpoint(path)
        if step in by_step:
            raise ValueError(f"{by_step[step]} and {path} are both of step {step}. Pass the checkpoints of one run.")
        by_step[step], found = path, found or state
    if not by_step:
        raise ValueError("`checkpoints` must name at least one file.")
    check_batches(batches)
    given = dict(batches or {})
    if found is not None:
        kept = {name: Batch(part["args"], part["kwargs"], part["targets"]) for name, part in found["batches"].items()}
        given = {**kept, **given}
    chosen = _made(probes)
    if not given and (needing := [type(probe).__name__ for probe in chosen if getattr(probe, "needs", None)]):
        raise ValueError(
            f"There is no batch to measure on for {', '.join(needing)}, since the checkpoints hold no state of the "
            f"probes. Pass batches=, such as {{'train': (inputs, targets)}}."
        )
    steps = sorted(by_step)
    first = read_checkpoint(by_step[steps[0]])
    module = _loaded(model, first, by_step[steps[0]])
    work = _Work(model, chosen, given, output, found["seed"] if seed is None and found else seed or 0)
    manager = ProbeManager(module, [], given, sinks, log_dir, None, output, work.seed, quiet=True)
    jobs = _jobs(chosen, [(step, by_step[step]) for step in steps])
    problems: list[str] = []
    missed: dict[tuple[str, str], list[int]] = defaultdict(list)
    with manager.attach():
        session = manager._session
        if session is None:
            raise RuntimeError(manager.report())
        manager.run.config["probes"] = {type(probe).__name__: vars(probe) for probe in chosen}
        waiting: dict[int, int] = {step: sum(step in dict(job.checkpoints) for job in jobs) for step in steps}
        rows: dict[int, list[tuple[int, _Turn]]] = defaultdict(list)
        for count, (number, turns) in enumerate(_results(executor, work, jobs), start=1):
            for turn in turns:
                rows[turn.step].append((number, turn))
                waiting[turn.step] -= 1
            done(count, len(jobs))
            while steps and not waiting[steps[0]]:  # in order, as soon as all of a step is there
                step = steps.pop(0)
                for _, turn in sorted(rows.pop(step), key=lambda item: item[0]):
                    manager.run.step = step
                    session.accounts.record(turn.measurements)
                    for event in turn.events:
                        session.plugins.record(event.kind, None, event.message)
                    # What is NaN was measured.
                    problems += [event.message for event in turn.events if UNDEFINED not in event.message]
                    for probe_and_reason in turn.missed:
                        missed[probe_and_reason].append(step)
        for message in _words(missed, len(by_step), problems):
            session.plugins.record("warning", None, message)
            problems.append(message)
        return Replayed(manager.run.log_dir, session.accounts.measured, list(dict.fromkeys(problems)))


@dataclass
class _Work:
    """What all pieces of work have in common."""

    model: Model
    probes: list[Any]
    batches: dict[str, Any]
    output: Callable[[Any], Tensor] | None
    seed: int


@dataclass(frozen=True)
class _Job:
    """Some of the probes, on some checkpoints, one after the other."""

    probes: tuple[int, ...]
    checkpoints: list[tuple[int, Path]]


@dataclass
class _Turn:
    step: int
    measurements: list[Measurement] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    missed: list[tuple[str, str]] = field(default_factory=list)
    """Probes that have measured nothing, and why, unless an event tells of it."""


class _Never(Schedule):
    def next(self, after: int) -> None:
        return None


def _made(probes: Sequence[object | str] | None) -> list[Any]:
    names = default_names() if probes is None else probes
    made: list[Any] = []
    for probe in names:
        kind: Any = load(probe) if isinstance(probe, str) else type(probe)
        if getattr(kind, "watched_updates", None) is None and any(hasattr(kind, hook) for hook in EVERY_UPDATE):
            if probes is None:
                continue
            raise ValueError(
                f"{kind.__name__} must see every update of the training, which checkpoints do not hold. Attach it to "
                f"the training itself."
            )
        if probes is not None or kind.by_default:
            made.append(kind() if isinstance(probe, str) else probe)
    if not made:
        raise ValueError("`probes` must name at least one probe.")
    return made


def _jobs(probes: Sequence[Any], checkpoints: list[tuple[int, Path]]) -> list[_Job]:
    with_state = [index for index, probe in enumerate(probes) if hasattr(probe, "state_dict")]
    without = tuple(index for index in range(len(probes)) if index not in with_state)
    jobs = [_Job((index,), checkpoints) for index in with_state]  # the longest first
    return jobs + [_Job(without, [checkpoint]) for checkpoint in checkpoints if without]


def _results(executor: Executor | None, work: _Work, jobs: list[_Job]) -> Any:
    """The number and the result of each job, as they come."""
    if executor is None:
        for number, job in enumerate(jobs):
            yield number, _measured(work, job)
        return
    futures: dict[Future[list[_Turn]], int] = {
        executor.submit(_measured, work, job): number for number, job in enumerate(jobs)
    }
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _measured(work: _Work, job: _Job) -> list[_Turn]:
    """One piece of work, in whichever process."""
    probes = copy.deepcopy(work.probes)
    schedule = at([step for step, _ in job.checkpoints])
    for index, probe in enumerate(probes):  # all of them, so that each has the name that it has in the run
        probe.schedule = schedule if index in job.probes else _Never()
    step, path = job.checkpoints[0]
    model = _loaded(work.model, read_checkpoint(path), path)
    turns, sink = [], Recorder()
    with tempfile.TemporaryDirectory() as folder:
        manager = ProbeManager(model, probes, work.batches, [sink], folder, None, work.output, work.seed, quiet=True)
        manager.run.step, manager.run.resumed_from = step, -1
        with manager.attach():
            session = manager._session
            assert session is not None
            here = [plugin for plugin in session.turns.probes if plugin.due is not None]
            watchers = [plugin for plugin in here if plugin.watched_updates is not None]
            for plugin in watchers:  # no update is made here: their turns wait for none
                plugin.watched_updates = None
                plugin.hooks = {name: hook for name, hook in plugin.hooks.items() if name not in EVERY_UPDATE}
            session.watching.plan(step)
            for step, path in job.checkpoints:
                load_into(model, read_checkpoint(path).weights, path)
                session.measure_at(step)
                turn = _Turn(step, sink.rows, [event for event in sink.events if event.kind != "attach"])
                told = {item.probe for item in sink.rows} | {event.plugin for event in sink.events}
                for plugin in here:
                    if plugin.due is not None and plugin.due <= step:
                        turn.missed.append((plugin.label, plugin.problem or "its turn has not come."))
                    elif plugin in watchers and plugin.label not in told:
                        turn.missed.append((plugin.label, NEEDS_UPDATES))
                turns.append(turn)
                sink.rows, sink.events = [], []
    return turns


def _words(missed: Mapping[tuple[str, str], list[int]], checkpoints: int, told: Sequence[str]) -> list[str]:
    """Which probes have measured nothing at which steps, a line for each, but for what has been told of all steps."""
    return [
        f"Plugin {label} has measured nothing at step {', '.join(map(str, steps))}: {reason}"
        for (label, reason), steps in missed.items()
        if len(steps) < checkpoints or not any(reason in message for message in told)
    ]


def _loaded(model: Model, checkpoint: Checkpoint, path: Path) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            made = model()
        except Exception as error:
            if isinstance(model, Located):
                raise  # it names itself
            raise ValueError(
                f"`model`, called without arguments, fails: {type(error).__name__}: {first_line(error)}. It must make "
                f"the model whose parameters are in the checkpoints."
            ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"`model` must be a function that returns a torch.nn.Module, got {type(made).__name__}.")
    load_into(made, checkpoint.weights, path)
    return made
