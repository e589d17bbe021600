"""The samples of bmi, and other packages' estimates of them; run by ``mutual_information.py`` with a Python of its own.

``samples FOLDER N SEED`` writes the tasks as ``.npz``, with the true values in ``tasks.json``. ``bmi`` and ``mist``
read the paths of such files, a line each, and answer each with a line of JSON: value, CPU seconds.
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


def main() -> None:
    method, *arguments = sys.argv[1:]
    if method == "samples":
        return samples(*arguments)
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print
    estimate = {"bmi": bmi_mine, "mist": mist_mine}[method]()
    for line in sys.stdin:
        with np.load(line.strip()) as file:
            x, y = file["x"], file["y"]
        start = time.process_time()
        value = estimate(x, y)
        print(json.dumps([value, time.process_time() - start]), file=answers, flush=True)


if __name__ == "__main__":
    main()
