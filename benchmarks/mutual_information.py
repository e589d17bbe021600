"""Mutual information of the 40 tasks of bmi: error and CPU time, ours and others', by task.

Run: ``python benchmarks/mutual_information.py --bmi-python PYTHON [--mist-python PYTHON] [--seeds 0 1 2] [--n 10000]
[--methods ours bmi mist minde mmg dime ksg copula] [--diffusion-python PYTHON] [--tasks NAME ...] [--out FILE]``

The samples are bmi's own, drawn by an environment with ``requirements-bmi.txt``. The methods:

* ours: ``mutual_information(x, y, seed=seed)``, one configuration for all tasks;
* bmi: its MINE with its defaults (critic 16-8, at most 10,000 steps, half of the samples held out);
* mist: torch-mist's MINE with hidden layers of 64 and 64, at most 3,000 iterations, otherwise its defaults, in an
  environment with ``requirements-torch-mist.txt``;
* minde, mmg, dime: of diffusion-mi, 2,000 steps of 256 of the first half of the samples, standardized, learning rate
  0.001, otherwise their defaults, read off the second half; an environment with ``requirements-diffusion-mi.txt``;
* ksg: nearest neighbours, k = 5, on normal scores;
* copula: the Gaussian anchor, in closed form.

Tasks come one after the other, all methods on the same samples by turns, one thread each. CPU seconds are of the
estimate alone, without imports. An error is the mean over the seeds of value less truth; s.e. is the standard error
that ours states.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from probes_mine import gaussian_anchor, ksg, mutual_information, normal_scores

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
DIFFUSION = ("minde", "mmg", "dime")
PEERS = Path(__file__).with_name("mutual_information_peers.py")


class Peer:
    """A process that answers paths of samples with a value and CPU seconds."""

    def __init__(self, python: str, method: str) -> None:
        command = [python, str(PEERS), method]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def __call__(self, path: Path, x: Any, y: Any, seed: int) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args} ended without an answer; run it by hand to see why.")
        value, seconds = json.loads(answer)
        return [value, seconds, math.nan]


def ours(path: Path, x: Any, y: Any, seed: int) -> list[float]:
    start = time.process_time()
    found = mutual_information(x, y, seed=seed)
    return [found.value, time.process_time() - start, found.standard_error]


def neighbors(path: Path, x: Any, y: Any, seed: int) -> list[float]:
    start = time.process_time()
    value = ksg(*(normal_scores(side) for side in _tensors(x, y)))
    return [value, time.process_time() - start, math.nan]


def copula(path: Path, x: Any, y: Any, seed: int) -> list[float]:
    start = time.process_time()
    value = float(gaussian_anchor(*_tensors(x, y)).value)
    return [value, time.process_time() - start, math.nan]


def _tensors(*sides: Any) -> list[torch.Tensor]:
    return [torch.from_numpy(side.astype(np.float64)).reshape(len(side), -1) for side in sides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bmi-python", required=True, help="a Python with requirements-bmi.txt: draws the samples")
    parser.add_argument("--mist-python", help="a Python with requirements-torch-mist.txt")
    parser.add_argument("--diffusion-python", help="a Python with requirements-diffusion-mi.txt")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["ours", "bmi"],
        choices=["ours", "bmi", "mist", *DIFFUSION, "ksg", "copula"],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--tasks", nargs="+", help="parts of the names of tasks; all by default")
    parser.add_argument("--out", type=Path, help="JSON file of every estimate: truth, value, CPU seconds, s.e.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mutual_information(torch.arange(40.0), torch.arange(40.0).sin(), max_steps=1)  # imports what it needs
    methods: dict[str, Any] = {}
    for method in arguments.methods:
        option = "diffusion_python" if method in DIFFUSION else f"{method}_python"
        python = getattr(arguments, option, "")
        if python is None:
            parser.error(f"--methods {method} needs --{option.replace('_', '-')}")
        named = {"ours": ours, "ksg": neighbors, "copula": copula}
        methods[method] = named[method] if method in named else Peer(python, method)

    found: dict[str, dict[str, list[list[float]]]] = {}
    truths: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            samples = Path(folder) / str(seed)
            command = [arguments.bmi_python, str(PEERS), "samples", str(samples), str(arguments.n), str(seed)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            truths = json.loads((samples / "tasks.json").read_text())
            for task in truths:
                if arguments.tasks and not any(part in task for part in arguments.tasks):
                    continue
                with np.load(path := samples / f"{task}.npz") as file:
                    x, y = file["x"], file["y"]
                for method, estimate in methods.items():
                    answer = estimate(path, x, y, seed)
                    found.setdefault(task, {}).setdefault(method, []).append(answer)
                row = ", ".join(f"{m} {v[-1][0] - truths[task]:+.3f} {v[-1][1]:.1f} s" for m, v in found[task].items())
                print(f"seed {seed} {task}: {row}", file=sys.stderr, flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"n": arguments.n, "truths": truths, "found": found}))
    Console(width=170).print(table(found, truths, list(methods), arguments.n, len(arguments.seeds)))


def table(
    found: dict[str, dict[str, list[list[float]]]], truths: dict[str, float], methods: list[str], n: int, seeds: int
) -> Table:
    result = Table(title=f"Error in nats (mean of {seeds} seeds) and CPU seconds, N = {n}", box=None)
    result.add_column("task", no_wrap=True)
    result.add_column("truth", justify="right")
    for method in methods:
        result.add_column(method, justify="right")
        result.add_column("CPU s", justify="right")
        if method == "ours":
            result.add_column("s.e.", justify="right")
    arrays = {task: {m: np.array(rows) for m, rows in by_method.items()} for task, by_method in found.items()}
    for task, by_method in arrays.items():
        row = [task, f"{truths[task]:.3f}"]
        for method in methods:
            values = by_method[method]
            row += [f"{values[:, 0].mean() - truths[task]:+.3f}", f"{np.median(values[:, 1]):.1f}"]
            row += [f"{values[:, 2].mean():.3f}"] if method == "ours" else []
        result.add_row(*row)
    result.add_section()
    errors = {m: np.array([arrays[t][m][:, 0].mean() - truths[t] for t in arrays]) for m in methods}
    spiral = np.array(["spiral" in task for task in arrays])
    for label, value in (
        ("mean |error|", lambda e: f"{np.nanmean(np.abs(e)):.4f}"),
        ("of spirals", lambda e: f"{np.nanmean(np.abs(e[spiral])):.4f}" if spiral.any() else ""),
        ("of the others", lambda e: f"{np.nanmean(np.abs(e[~spiral])):.4f}" if not spiral.all() else ""),
        ("worst", lambda e: f"{e[np.nanargmax(np.abs(e))]:+.3f}"),
        ("tasks within 0.05", lambda e: f"{(np.abs(e) <= 0.05).sum()}"),
        ("tasks without a number", lambda e: f"{np.isnan(e).sum()}"),
    ):
        cells = []
        for method in methods:
            seconds = np.mean([np.median(arrays[t][method][:, 1]) for t in arrays])
            cells += [value(errors[method]), f"{seconds:.1f}" if label == "mean |error|" else ""]
            cells += [""] if method == "ours" else []
        result.add_row(label, "", *cells)
    if "ours" in methods:
        over = {t: (errors["ours"][i], arrays[t]["ours"][:, 2].mean()) for i, t in enumerate(arrays)}
        above = [t for t, (error, se) in over.items() if error > 2 * se]
        normal = [task for task in arrays if task.startswith(("1v1-normal", "multinormal"))]
        covered = [abs(row[0] - truths[t]) <= 1.96 * row[2] for t in normal for row in arrays[t]["ours"]]
        result.caption = (
            f"ours above the truth by more than 2 s.e.: {', '.join(above) or 'no task'}; "
            f"its 95 % interval covers the truth in {sum(covered)} of {len(covered)} estimates of Gaussian tasks"
        )
    return result


if __name__ == "__main__":
    main()
