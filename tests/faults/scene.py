"""One small training in which a fault happens, in a process whose exit code, weights and files are looked at.

Processes are forked from one that has imported everything. A fault is a function that prepares the training; what must
come of it stands in its decorator. The same for all: the training ends with its exit code, with weights, buffers,
optimizer state and random states that equal those of a bare run to the last bit; the rows that were kept equal those of
an undisturbed run; and what is missing is said.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import logging
import os
import random
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import warm
from torch import Tensor, nn

from probes import Measurement, Probe, ProbeManager, every, open_run

STEPS = 12
ROWS = STEPS + 1
SECONDS = 600
"""After which a process counts as hanging."""


class Witness(Probe):
    """Measured at every step, and needed by no fault: what must be there, and right, in spite of it."""

    name = "witness"

    def measure(self, run, step):
        draw = torch.rand((), generator=run.generator, dtype=torch.float64)
        norm = torch.stack([p.detach().double().norm() for p in run.model.parameters()]).norm()
        yield Measurement("witness/norm", norm + draw)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


@dataclass
class Scene:
    """The training that a fault prepares."""

    folder: Path
    probes: list[Any] = field(default_factory=lambda: [Witness(every(1))])
    sinks: list[Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    batches: dict[str, Any] = field(default_factory=dict)
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    """What happens in the loop after a step, beside the training."""
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    caught: type[BaseException] | tuple[type[BaseException], ...] = ()
    """What the user's loop catches around an update."""
    network: Callable[[], nn.Module] = network
    log_dir: Path = Path("run")
    probed: bool = True
    manager: ProbeManager | None = None
    model: Any = None
    optimizer: Any = None

    def do(self, act: Callable[..., Any]) -> None:
        """A probe that does something in each turn, and measures nothing."""
        self.add(lambda run, step: (act(run), ())[1])

    def add(self, measure: Callable[..., Any], **attributes: Any) -> None:
        """A probe with that ``measure(run, step)``."""
        attributes = {"name": "faulty", **attributes}
        probe = type("Faulty", (Probe,), {"measure": lambda self, run, step: measure(run, step), **attributes})
        self.probes.insert(0, probe(every(1)))


def train(scene: Scene) -> str:
    """Train, and return a fingerprint of everything that training has made."""
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    scene.model = model = scene.network()
    scene.optimizer = optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    if scene.probed:
        scene.manager = ProbeManager(
            model, scene.probes, batches=scene.batches, sinks=scene.sinks, log_dir=scene.log_dir,
            **{"overhead": None, **scene.settings},
        ).attach(optimizer)  # fmt: skip
    for step in range(STEPS):
        x, y = torch.randn(24, 2), torch.randint(0, 3, (24,))
        optimizer.zero_grad()
        scene.loss(model(x), y).backward()
        try:
            optimizer.step()
        except scene.caught as error:
            print("caught", repr(error))
        scheduler.step()
        scene.at.get(step + 1, int)()
    return fingerprint(model, optimizer)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    digest = hashlib.sha256()
    state = optimizer.state_dict()
    entries = [item for entry in state["state"].values() for item in entry.values()]
    for tensor in [
        *model.state_dict().values(),
        *entries,
        torch.get_rng_state(),
        *(p.grad for p in model.parameters()),
    ]:
        digest.update(tensor.detach().numpy().tobytes())
    settings = {key: value for key, value in state["param_groups"][0].items()}
    modes = [module.training for module in model.modules()]
    rest = [random.random(), np.random.rand(), settings, modes, torch.get_num_threads(), torch.get_default_dtype()]  # noqa: NPY002
    digest.update(repr(rest).encode())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """A fault, and what must come of it."""

    name: str
    where: str
    prepare: Callable[[Scene], object]
    said: str
    """A regular expression for an event in the file; of the log, where ``no_file``."""
    kept: int
    """Rows of the witness in the file."""
    exit: int
    no_file: bool
    slow: bool
    look: Callable[[Scene, Any], object] | None
    """Raises if something else is not as it must be; gets the scene and the run as it was read."""
    same: bool
    """Whether the training is the bare run's; not where the user's own loop is cut short."""
    own: bool
    """Whether it is another training, which has a bare run of its own."""
    full: bool
    """Whether there is no room in the file to say it: the log does."""


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, where: str, said: str = "", *, kept: int = ROWS, exit: int = 0, no_file: bool = False,
    slow: bool = False, look: Callable[[Scene, Any], object] | None = None, same: bool = True, own: bool = False,
    full: bool = False,
) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:  # fmt: skip
    """Enter a fault into the list."""

    def enter(prepare: Callable[[Scene], object]) -> Callable[[Scene], object]:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, where, prepare, said, kept, exit, no_file, slow, look, same, own, full)
        return prepare

    return enter


# ------------------------------------------------------------------------------------------------------------- running


@dataclass
class Outcome:
    """What has come of a fault."""

    name: str
    where: str
    exit: int
    equal: bool
    kept: int
    expected: int
    said: str
    problems: list[str]


def run_in_child(folder: Path, prepare: Callable[[Scene], object], probed: bool = True) -> int | None:
    """Train in a forked process; its exit code in the parent. In the child this exits, through the whole of Python's
    own ending: it must be called where nothing catches SystemExit."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(folder, prepare, probed)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def _child(folder: Path, prepare: Callable[[Scene], object], probed: bool) -> None:
    warm.ordinary_heap()  # the guard counts frozen objects at each turn, of which the parent has many
    out = os.open(folder / "out.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1), os.dup2(out, 2)
    os.chdir(folder)
    logging.basicConfig(filename=folder / "log.txt", level=logging.WARNING, force=True)
    warnings.resetwarnings()
    scene = Scene(folder, probed=probed)
    prepare(scene)
    (folder / "digest.txt").write_text(train(scene))
    sys.exit(0)


@functools.cache
def reference(folder: Path) -> tuple[str, np.ndarray]:
    """The fingerprint of the bare run, and the witness' values in an undisturbed one."""
    gc.collect()
    gc.freeze()  # a child that looks at all these objects when it ends would copy their memory
    assert run_in_child(folder / "bare", lambda scene: None, probed=False) == 0
    assert run_in_child(folder / "undisturbed", lambda scene: None) == 0
    values = open_run(folder / "undisturbed" / "run")["witness/norm"]["value"].values
    assert len(values) == ROWS
    return (folder / "bare" / "digest.txt").read_text(), values


def run_fault(item: Fault, folder: Path) -> Outcome:
    """Let a fault happen and look at what has come of it."""
    bare, values = reference(folder)
    place = folder / re.sub(r"\W+", "_", item.name)
    if item.own:
        run_in_child(place / "bare", item.prepare, probed=False)
        bare = (place / "bare" / "digest.txt").read_text()
    code = run_in_child(place, item.prepare)
    problems, said, kept = [], "", 0
    digest = place / "digest.txt"
    equal = digest.exists() and digest.read_text() == bare
    if item.same and not equal:
        problems.append("the weights differ" if digest.exists() else "the training did not end")
    if code != item.exit:
        problems.append("it hangs" if code is None else f"exit code {code}")
    log = (place / "log.txt").read_text() if (place / "log.txt").exists() else ""
    try:
        if item.no_file:
            lines = log.splitlines()
        else:
            run = open_run(find_run(place))
            lines = [str(message) for message in run["events"]["message"].values]
            steps, rows = run["witness/norm"]["step"].values, run["witness/norm"]["value"].values
            kept = len(rows)
            if len(set(steps)) != kept or not (item.own or np.array_equal(rows, values[steps])):
                problems.append("rows are wrong or twice there")
            if kept != item.kept:
                problems.append(f"{kept} rows are kept")
            if item.look is not None:
                item.look(Scene(place), run)
        lines += [f"(log) {line}" for line in log.splitlines() if item.full]
        said = next((line for line in lines if re.search(item.said, line)), "") if item.said else "-"
        if not said:
            problems.append(f"nothing says {item.said!r}")
    except Exception as error:
        problems.append("".join(traceback.format_exception_only(error)).strip()[:300])
    for line in Path("/proc/mounts").read_text().splitlines() if sys.platform == "linux" else []:
        if line.split()[1].startswith(str(place)):
            subprocess.run(["umount", "-l", line.split()[1]], check=True)
    if problems:
        out = place / "out.txt"
        problems.append(f"[{place}] " + (out.read_text(errors="replace") if out.exists() else "")[-800:])
    return Outcome(item.name, item.where, -999 if code is None else code, equal, kept, item.kept, said, problems)


def find_run(place: Path) -> Path:
    """Where the scene's results are: in the newest run file below its folder, or where the log says they went."""
    files = [file for file in place.rglob("run*.h5") if "damaged" not in file.name]
    mine = [file for file in files if not file.with_name("not_mine").exists()]
    return max(mine, key=lambda file: file.stat().st_mtime)


def outcomes(names: list[str], folder: Path) -> Iterator[Outcome]:
    for name in names:
        yield run_fault(FAULTS[name], folder)


def as_json(outcome: Outcome) -> str:
    return json.dumps(vars(outcome))
