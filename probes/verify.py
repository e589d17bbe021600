"""Whether the probes change a script's training: it is run with them and without, and compared at every update.

``probes verify train.py --epochs 1`` runs the script in processes of their own: without probes, without them once more,
since a script that does not repeat itself shows nothing, and with them. Before and after every optimizer update
fingerprints are taken of parameters, gradients, buffers, modes, optimizer state, random states and settings of the
process, and streamed to a file. If a probe changes anything, the runs are repeated with each probe alone, to find it.
"""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .digest import Digest, differences, of_model, of_optimizer, of_process, of_random_states
from .manager import ProbeManager
from .plugins import Plugin

__all__ = ["Difference", "Verdict", "verify"]

AT_THE_END = "at the end"


@dataclass
class Difference:
    """The first point at which two runs of a script differ."""

    place: str
    names: list[str]
    """What differs there."""
    updates: int
    """Optimizer updates until there."""


@dataclass
class Verdict:
    """What was found out about a script."""

    error: str = ""
    """Why nothing could be found out."""
    updates: int = 0
    """That were compared, of the optimizer that made most."""
    reproducible: bool = True
    """Whether the script repeats itself without probes."""
    difference: Difference | None = None
    """Between the runs with and without probes; of a script that is not reproducible, between those without."""
    culprits: list[str] = field(default_factory=list)
    """The probes that, alone, change the training."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    """Each with its ``name``, how often it ``measured`` and ``failed``, and the ``problem`` it had."""

    @property
    def equal(self) -> bool:
        """Whether the probes have changed nothing."""
        return not self.error and self.difference is None


def verify(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    steps: int | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Verdict:
    """Run a script with probes and without, and compare.

    All random states are seeded before the script begins, so that it need not do so. What it writes by itself, it
    writes in each of the runs; results of the probes go to a temporary directory.
    The budget of the probes is lifted, so that each measures whenever it is due.

    Args:
        script: A Python script that attaches a :class:`ProbeManager`.
        arguments: Its arguments.
        steps: Stop each run after so many updates.
        tell: Called with what is done next.

    Raises:
        ValueError: If there is no such script, or ``steps`` is not positive.
    """
    if not Path(script).is_file():
        raise ValueError(f"`script` must be a Python file, there is none at {str(script)!r}.")
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` must be a positive number of optimizer updates, got {steps}.")
    with tempfile.TemporaryDirectory(prefix="probes-verify-") as directory:
        run = functools.partial(_Run.make, Path(directory), str(script), list(arguments))
        tell("1 of 3: without probes")
        bare = run("bare", steps, probes=False)
        if bare.error:
            return Verdict(error=bare.error)
        tell("2 of 3: without probes again")
        control = run("control", steps, probes=False)
        verdict = Verdict(error=control.error, updates=bare.updates)
        if control.error:
            return verdict
        if (difference := first_difference(bare.records, control.records)) is not None:
            verdict.reproducible, verdict.difference = False, difference
            return verdict
        tell("3 of 3: with probes")
        probed = run("probed", steps)
        verdict.probes = probed.probes
        verdict.difference = first_difference(bare.records, probed.records)
        if probed.error:
            verdict.error = f"With probes only: {probed.error}"
        elif verdict.difference is not None:
            until = verdict.difference.updates + 1
            names = [probe["name"] for probe in probed.probes]
            for index, name in enumerate(["", *names]):
                tell(f"which one: {name or 'none of them, only the manager and its files'}")
                alone = run(f"alone-{index}", until, only=index - 1)
                if first_difference(bare.records, alone.records, stopped=True) is not None:
                    verdict.culprits.append(name or "the manager itself")
        return verdict


def first_difference(first: Path, second: Path, stopped: bool = False) -> Difference | None:
    """Where two files of records part, read side by side; the second one's run may have been ``stopped`` earlier."""
    updates = 0
    with first.open(encoding="utf-8") as one, second.open(encoding="utf-8") as two:
        for a, b in itertools.zip_longest(_records(one), _records(two)):
            if (a is None or b is None) and (a or b)["place"] == AT_THE_END:
                return None  # the model has outlived one run, and not the other
            if stopped and (b is None or b["place"] == AT_THE_END):
                return None
            if a is None or b is None or a["place"] != b["place"]:
                places = " and ".join(repr(item["place"]) if item else "its end" for item in (a, b))
                return Difference(f"the runs part: one is at {places}, the other", [], updates)
            updates = a["updates"]
            if names := differences(a["digest"], b["digest"]):
                return Difference(a["place"], names, updates)
    return None


def _records(file: TextIO) -> Iterator[Any]:
    for line in file:
        yield json.loads(line)


# ---------------------------------------------------------------------------------------------------------- one run


@dataclass
class _Run:
    """What a run has left."""

    records: Path
    error: str
    updates: int
    probes: list[dict[str, Any]]

    @classmethod
    def make(
        cls,
        directory: Path,
        script: str,
        arguments: list[str],
        name: str,
        steps: int | None,
        probes: bool = True,
        only: int | None = None,
    ) -> _Run:
        """Run the script in a process of its own; ``only`` is the number of the one probe, -1 for none of them."""
        place = directory / name
        place.mkdir()
        settings = {"place": str(place), "steps": steps, "only": only}
        environment = {"PYTHONHASHSEED": "0", **os.environ, "PROBES": "on" if probes else "off"}
        with (place / "output").open("w", encoding="utf-8") as output:
            code = subprocess.run(
                [sys.executable, "-m", "probes.verify", json.dumps(settings), script, *arguments],
                env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
            ).returncode  # fmt: skip
        summary: dict[str, Any] = {"attached": 0, "updates": 0, "probes": [], "error": ""}
        if (place / "summary").exists():
            summary |= json.loads((place / "summary").read_text(encoding="utf-8"))
        (place / "records").touch()
        error = ""
        if code or summary["error"]:
            lines = (place / "output").read_text(encoding="utf-8", errors="replace").splitlines()
            last = "\n".join(lines[-30:]) or "(nothing was printed)"
            error = f"{script} failed with exit code {code}. It ended with:\n{last}"
        elif not summary["attached"]:
            error = (
                f"{script} never attaches a ProbeManager, so there is nothing to verify. Add "
                f"ProbeManager(model).attach() before its training loop."
            )
        elif not summary["updates"]:
            error = f"{script} never takes an optimizer step, so there is nothing to compare."
        return cls(place / "records", error, summary["updates"], summary["probes"])


class _Enough(SystemExit):
    """Ends the script when enough updates were made."""


class _Recorder:
    """Within the script's process: takes a record before and after every update."""

    def __init__(self, place: Path, steps: int | None, only: int | None) -> None:
        self.place, self.steps, self.only = place, steps, only
        self.file = (place / "records").open("w", encoding="utf-8")
        self.models: list[weakref.ref[nn.Module]] = []
        self.counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self.updates = self.attached = 0
        self.plugins: list[Plugin] = []
        self.pid = os.getpid()

    def begin(self) -> None:
        """Listen to every optimizer and every manager."""
        register_optimizer_step_pre_hook(self.before)
        register_optimizer_step_post_hook(self.after)
        make, attach = ProbeManager.__init__, ProbeManager.attach
        signature = inspect.signature(make)

        @functools.wraps(make)
        def made(*arguments: Any, **settings: Any) -> None:
            given = signature.bind(*arguments, **settings).arguments
            given |= {"log_dir": self.place / f"results-{self.attached}", "overhead": None}
            make(**given)
            manager = given["self"]
            if self.only is not None:
                manager._probes = [probe for index, probe in enumerate(manager._probes) if index == self.only]

        @functools.wraps(attach)
        def attached(manager: ProbeManager, *arguments: Any, **settings: Any) -> ProbeManager:
            attach(manager, *arguments, **settings)
            self.attached += 1
            self.models.append(weakref.ref(manager.run.model))
            if manager._dispatch is not None:
                self.plugins += manager._dispatch.probes
            return manager

        ProbeManager.__init__, ProbeManager.attach = made, attached  # type: ignore[method-assign,assignment]

    def before(self, optimizer: Optimizer, *_: object) -> None:
        self.record(f"before update {self.counts.get(optimizer, 0) + 1} of {type(optimizer).__name__}", optimizer)

    def after(self, optimizer: Optimizer, *_: object) -> None:
        self.counts[optimizer] = count = self.counts.get(optimizer, 0) + 1
        self.updates = max(self.updates, count)
        self.record(f"after update {count} of {type(optimizer).__name__}", optimizer)
        if self.steps is not None and count >= self.steps:
            raise _Enough(0)

    def record(self, place: str, optimizer: Optimizer | None = None) -> None:
        if os.getpid() != self.pid:  # a process that the script has forked
            return
        digest: Digest = {}
        names: dict[int, str] = {}
        alive = [model for reference in self.models if (model := reference()) is not None]
        for number, model in enumerate(dict.fromkeys(alive)):
            prefix = f"{type(model).__name__} {number}: " if len(alive) > 1 else ""
            digest.update(of_model(model, prefix))
            names |= {id(parameter): prefix + name for name, parameter in model.named_parameters()}
        if optimizer is not None:
            digest.update(of_optimizer(optimizer, names, f"{type(optimizer).__name__}: "))
        digest.update(of_random_states())
        digest.update(of_process())
        if optimizer is not None or alive:
            self.file.write(json.dumps({"place": place, "updates": self.updates, "digest": digest}) + "\n")

    def end(self, error: str) -> None:
        """Record what is left, and say how it went."""
        self.record(AT_THE_END)
        self.file.close()
        probes = [
            {"name": plugin.key, "measured": plugin.measured, "failed": plugin.failed,
             "problem": plugin.problem or plugin.last_failure}
            for plugin in self.plugins
        ]  # fmt: skip
        summary = {"attached": self.attached, "updates": self.updates, "probes": probes, "error": error}
        (self.place / "summary").write_text(json.dumps(summary), encoding="utf-8")


def _record(settings: str, script: str, arguments: list[str]) -> int:
    """Run a script as if it had been called, and record it."""
    given = json.loads(settings)
    recorder = _Recorder(Path(given["place"]), given["steps"], given["only"])
    recorder.begin()
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    # A script that seeds nothing, or not everything, repeats itself nevertheless.
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    code: Any = 0
    error = ""
    try:
        kept = runpy.run_path(script, run_name="__main__")  # noqa: F841 - keeps the script's model until the end
    except _Enough:
        recorder.end("")
        return 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        error = traceback.format_exc()
    if isinstance(code, str):
        print(code)
    code = int(code) if isinstance(code, int) else int(code is not None)
    if error:
        print(error)
    gc.collect()
    recorder.end(error or (f"exit code {code}" if code else ""))
    return code or int(bool(error))


if __name__ == "__main__":
    # The script imports this module, if it does, as probes.verify; what runs here is called __main__.
    sys.exit(_record(sys.argv[1], sys.argv[2], sys.argv[3:]))
