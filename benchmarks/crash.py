"""Kill a training run again and again, resume it from its last checkpoint, and compare with a run that was left alone.

Run: ``python benchmarks/crash.py [--kills 200]``

One training of a small convolutional network, every shipped probe attached, saves a checkpoint every few steps. It is
killed with SIGKILL after a random time, and started again, until it has reached its end; then the next one begins.
After every kill the file must be readable, no row that was flushed missing, no row wrong; half of the time, and always
when it may end, a reader looks on while the run writes. In the end its streams must equal those of the run that was
never killed, to the last bit, and TensorBoard's two loaders must show each step once. Exits with 1 if anything is not
so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch
import torch.nn.functional as F
import xarray
from torch import nn

from probes import ProbeManager, every, log_spaced, open_run
from probes.probe import Probe
from probes.session import accounts
from probes.session.discovery import load
from probes.sinks.hdf5.repair import repair_here

SAVE_EVERY = 10
SCHEDULES = {
    "fourier": every(4),
    "spectral_norm": log_spaced(),
    "kernel_spectrum": every(5),
    "radial_spectrum": every(50),
    "tangent_kernel": every(10),
    "complexity": every(1),
    "capacity": every(7),
    "mutual_information": every(40),
}


def make_probes() -> list[Probe]:
    """One of each shipped probe; the radial one refuses images, which is recorded and must be so after a resume too."""
    settings: dict[str, dict[str, Any]] = {"complexity": {"record": every(6)}, "mutual_information": {"layers": ["6"]}}
    return [load(name)(schedule, **settings.get(name, {})) for name, schedule in SCHEDULES.items()]


def train(directory: Path, steps: int) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    accounts.FLUSH_SECONDS = 0.1  # not 10: much shall lie past the checkpoint when the run is killed
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(64, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    images = torch.randn(200, 1, 8, 8)
    labels = (images.mean((1, 2, 3)) * 8).sigmoid().mul(3).long().clamp(0, 2)
    batches = {"train": (images[:40], labels[:40]), "test": (images[160:], labels[160:])}
    manager = ProbeManager(model, make_probes(), batches, log_dir=directory / "run", overhead=None)
    checkpoint, start = directory / "checkpoint", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        manager.load_state_dict(state["probes"])
        torch.set_rng_state(state["random"])
    with manager.attach(optimizer):
        for step in range(start, steps + 1):
            if step % SAVE_EVERY == 0:
                state = {
                    "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "random": torch.get_rng_state(), "probes": manager.state_dict(),
                }  # fmt: skip
                torch.save(state, checkpoint.with_suffix(".new"))
                os.replace(checkpoint.with_suffix(".new"), checkpoint)
            if step == steps:
                break
            chosen = torch.randint(160, (16,))
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def begin(directory: Path, steps: int) -> int:
    """The process id of a child that trains; it inherits the imports, which would take longer than the training."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with (directory / "log").open("a") as log:
            os.dup2(log.fileno(), 2)
            train(directory, steps)
        status = 0
    finally:
        os._exit(status)


def streams(directory: Path) -> dict[str, xarray.Dataset]:
    """What was measured, by name; without what the probes cost, which is never the same twice."""
    tree = open_run(directory / "run")
    return {
        node.path.strip("/"): node.to_dataset()
        for node in tree.leaves
        if "value" in node and not node.path.startswith("/probes/")
    }


def wrong(found: dict[str, xarray.Dataset], whole: dict[str, xarray.Dataset], least: int) -> str:
    """What is wrong with the rows found so far, in words: one missing up to step ``least``, one twice, one false."""
    for name, rows in found.items():
        if name not in whole:
            return f"{name} is no stream of the whole run"
        expected = whole[name].isel(step=slice(len(rows.step)))
        if not rows.drop_vars("wall_time").identical(expected.drop_vars("wall_time")):
            return f"{name}: rows at {rows.step.values.tolist()} are not those of the whole run"
    for name, rows in whole.items():
        needed = int((rows.step <= least).sum())
        if needed and (name not in found or len(found[name].step) < needed):
            return f"{name}: fewer than the {needed} rows flushed at step {least}"
    return ""


def saved_step(directory: Path) -> int:
    """The step of the last checkpoint; -1 when there is none."""
    checkpoint = directory / "checkpoint"
    return int(torch.load(checkpoint, weights_only=True)["step"]) if checkpoint.exists() else -1


def live_until(
    directory: Path, child: int, end: float, look: bool, whole: dict[str, xarray.Dataset]
) -> tuple[int, list[str]]:
    """Let a child live until ``end``, reading what it writes meanwhile; how often it was read, and what was wrong."""
    reads, faults = 0, []
    while time.perf_counter() < end and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if look and (directory / "run" / "run.h5").exists():
            least = saved_step(directory) - 1  # what is measured at a checkpoint's own step comes before it, or after
            if problem := wrong(streams(directory), whole, -1 if least < 0 else least):
                faults.append(f"while it was written: {problem}")
            reads += 1
        else:
            time.sleep(0.005)
    return reads, faults


def until_finished(
    directory: Path, whole: dict[str, xarray.Dataset], draw: random.Random, kills: int, longest: float, steps: int
) -> Counter[str]:
    """Kill and resume one training until it has ended by itself; what was counted."""
    counts: Counter[str] = Counter()
    directory.mkdir()
    while True:
        look = counts["kills"] >= kills or draw.random() < 0.5  # always at the one that may end
        child = begin(directory, steps)
        end = time.perf_counter() + (draw.uniform(0.02, longest) if counts["kills"] < kills else 600)
        reads, faults = live_until(directory, child, end, look, whole)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counts["reads while writing"] += reads
        counts["wrong reads"] += len(faults)
        for fault in faults:
            print(f"  {directory.name}: {fault}")
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                counts["failed starts"] += 1
                print(f"  {directory.name}: the training failed\n{(directory / 'log').read_text()[-2000:]}")
            return counts
        counts["kills"] += 1
        step = saved_step(directory)
        if not (directory / "run" / "run.h5").exists():
            counts["kills before the file"] += 1
            if step >= 0:
                counts["rows lost"] += 1
                print(f"  {directory.name}: a checkpoint of step {step}, but no file")
            continue
        for kind in ("unrepaired", "repaired"):
            if kind == "repaired":
                copy = directory / "copy"
                shutil.copytree(directory / "run", copy / "run")
                repair_here(copy / "run" / "run.h5")
                with xarray.open_datatree(copy / "run" / "run.h5", engine="h5netcdf") as tree:
                    tree.load()
            try:
                problem = wrong(streams(directory if kind == "unrepaired" else copy), whole, step - 1)
            except ValueError as error:
                problem = f"unreadable: {error}"
            if problem:
                counts["bad files"] += 1
                print(f"  {directory.name}, {kind}: {problem}")
        shutil.rmtree(copy)


def shown(logdir: Path, fast: bool) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """All scalars by run and tag, as a running TensorBoard serves them: (step, value), in its order."""
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(
        argv=[
            "tensorboard", "--logdir", str(logdir), "--port", "0", "--samples_per_plugin", "scalars=100000",
            f"--load_fast={'true' if fast else 'false'}",
        ]
    )  # fmt: skip
    url = board.launch()

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"{url}data/{path}") as answer:
            return json.load(answer)

    runs = {path.parent.name for path in logdir.glob("*/run")}
    tags: Any = {}
    quiet = 0
    for _ in range(600):  # it reads in the background, until nothing more comes
        time.sleep(0.5)
        now = get("plugin/scalars/tags")
        quiet = quiet + 1 if now == tags and {name.split("/")[0] for name in now} == runs else 0
        tags = now
        if quiet == 6:
            break
    return {
        run: {
            tag: [
                (step, value) for _, step, value in get(f"plugin/scalars/scalars?{urlencode({'run': run, 'tag': tag})}")
            ]
            for tag in found
            if not tag.startswith("probes/")
        }
        for run, found in tags.items()
    }


def main() -> int:
    """Kill, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=120, help="of the training")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        return compare(root, arguments.kills, arguments.steps, arguments.seed)
    finally:
        shutil.rmtree(root)


def compare(root: Path, kills: int, steps: int, seed: int = 0) -> int:
    """The table; 0 if nothing is wrong."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    (root / "whole").mkdir()
    start = time.perf_counter()
    os.waitpid(begin(root / "whole", steps), 0)
    longest = (time.perf_counter() - start) / 2
    whole = streams(root / "whole")
    rows = sum(len(stream.step) for stream in whole.values())
    counts: Counter[str] = Counter()
    finished = unequal = 0
    while counts["kills"] < kills:
        directory = root / f"killed-{finished}"
        counts += until_finished(directory, whole, draw, kills - counts["kills"], longest, steps)
        finished += 1
        problem = wrong(streams(directory), whole, steps)
        unequal += bool(problem)
        if problem:
            print(f"  {directory.name}, at its end: {problem}")
        print(f"  {directory.name}: {counts['kills']} kills so far", flush=True)
    scalars = {}
    for name, fast in {"the fast loader": True, "the Python loader": False}.items():
        by_run = shown(root, fast)
        expected = by_run["whole/run"]
        scalars[name] = [run for run, tags in by_run.items() if tags != expected]
        assert expected and len(by_run) == finished + 1
    table = {
        "runs, each of which was killed and resumed until it ended": finished,
        "kills": counts["kills"],
        "... of them before there was a file": counts["kills before the file"],
        "files unreadable, or with a flushed row missing, or a wrong one": counts["bad files"] + counts["rows lost"],
        "reads while the run was writing": counts["reads while writing"],
        "... of them with a wrong row": counts["wrong reads"],
        "resumes that failed": counts["failed starts"],
        f"finished files unlike the one of the whole run ({len(whole)} streams, {rows} rows)": unequal,
        **{f"runs that {name} of TensorBoard shows otherwise": len(runs) for name, runs in scalars.items()},
    }
    print(f"\ntorch {torch.__version__}, {steps} steps, a checkpoint every {SAVE_EVERY}, all {len(SCHEDULES)} probes")
    for what, count in table.items():
        print(f"{count:>8}  {what}")
    bad = ("bad files", "rows lost", "wrong reads", "failed starts")
    return int(bool(unequal or any(counts[what] for what in bad) or any(scalars.values())))


if __name__ == "__main__":
    sys.exit(main())
