"""The samples of bmi, and other packages' estimates of them; run by ``mutual_information.py`` with a Python of its own.

``samples FOLDER N SEED`` writes the tasks as ``.npz``, with the true values in ``tasks.json``. ``bmi``, ``mist``,
``minde``, ``mmg`` and ``dime`` read the paths of such files, a line each, and answer each with a line of JSON: value,
CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def samples(folder: str, n: str, seed: str) -> None:
    import bmi

    path, tasks = Path(folder), {}
    path.mkdir(parents=True, exist_ok=True)
    for name, task in bmi.benchmark.BENCHMARK_TASKS.items():
        x, y = task.sample(int(n), seed=int(seed))
        np.savez(path / f"{name}.npz", x=np.asarray(x), y=np.asarray(y))
        tasks[name] = float(task.mutual_information)
    (path / "tasks.json").write_text(json.dumps(tasks))


def bmi_mine() -> Callable[[Any, Any], float]:
    from bmi.estimators import MINEEstimator

    return lambda x, y: float(MINEEstimator(verbose=False).estimate(x, y))


def mist_mine() -> Callable[[Any, Any], float]:
    import torch
    from torch_mist import estimate_mi

    torch.set_num_threads(1)

    def estimate(x: Any, y: Any) -> float:
        torch.manual_seed(0)
        data = tuple(torch.as_tensor(side, dtype=torch.float32).reshape(len(side), -1) for side in (x, y))
        found = estimate_mi(data, estimator="mine", hidden_dims=[64, 64], max_iterations=3000, verbose=False)
        return float(found[0] if isinstance(found, tuple) else found)

    return estimate


def diffusion_mi(method: str) -> Callable[[Any, Any], float]:
    """MINDE, MMG or DIME, trained on half of the samples, standardized, and read off the other half."""
    import logging

    import torch
    from dmi import estimators

    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    name, arguments = {
        "minde": ("MINDEEstimator", {"max_epochs": STEPS // 20}),  # its trainer knows epochs only, of 20 steps
        "mmg": ("MMGEstimator", {"max_n_steps": STEPS}),
        "dime": ("DIMEEstimator", {"max_n_steps": STEPS, "max_epochs": None}),
    }[method]

    def estimate(x: Any, y: Any) -> float:
        torch.manual_seed(0)
        sides = [side.reshape(len(side), -1).astype(np.float32) for side in (x, y)]
        sides = [(side - side.mean(0)) / side.std(0) for side in sides]
        half = len(x) // 2
        fitted, held_out = [side[:half] for side in sides], [side[half:] for side in sides]
        estimator = getattr(estimators, name)(learning_rate=1e-3, batch_size=256, **arguments)
        estimator.fit(*fitted, *held_out)
        return float(estimator.estimate(*held_out))

    return estimate


STEPS = 2000


def main() -> None:
    method, *arguments = sys.argv[1:]
    if method == "samples":
        return samples(*arguments)
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print
    estimate = {"bmi": bmi_mine, "mist": mist_mine}[method]() if method in ("bmi", "mist") else diffusion_mi(method)
    for line in sys.stdin:
        with np.load(line.strip()) as file:
            x, y = file["x"], file["y"]
        start = time.process_time()
        value = estimate(x, y)
        print(json.dumps([value, time.process_time() - start]), file=answers, flush=True)


if __name__ == "__main__":
    main()
