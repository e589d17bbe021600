"""How the exact tangent kernel grows with samples, outputs, tokens and parameters: CPU time, memory, exponents.

Run: ``python benchmarks/tangent_kernel_growth.py [--repeats 3] [--quick]``

A transformer of four blocks as in ``tangent_kernel.py``, n = 32, c = 8, 64 tokens, width 128; one of them at a time is
halved and doubled. Each turn is a process of its own with one thread, settings in turn in each round; the table holds
medians. The exponent is the slope of a line through the logarithms; that of the last doubling stands beside it, since
a sum of powers has none of its own. Memory is the peak above what was resident before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from tangent_kernel import peak, reset_peak, resident
from tangent_kernel_workloads import Transformer

BASE = {"n": 32, "c": 8, "tokens": 64, "width": 128}
GROWN = {"n": (16, 32, 64, 128), "c": (4, 8, 16, 32), "tokens": (32, 64, 128, 256), "width": (64, 128, 256, 512)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the two smallest settings of each, once")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    sizes = {what: values[:2] if arguments.quick else values for what, values in GROWN.items()}
    settings = {json.dumps(BASE | {what: value}): None for what, values in sizes.items() for value in values}
    turns: dict[str, list[list[float]]] = {setting: [] for setting in settings}
    for _ in range(1 if arguments.quick else arguments.repeats):
        for setting, found in turns.items():
            found.append(turn(setting))
            print(setting, found[-1], file=sys.stderr, flush=True)
    print(
        table(
            sizes, {key: [statistics.median(each) for each in zip(*found, strict=True)] for key, found in turns.items()}
        )
    )


def turn(setting: str) -> list[float]:
    """One measurement in a process of its own: CPU seconds, bytes, parameters."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--one", setting]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads})
    result: list[float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(n: int, c: int, tokens: int, width: int) -> list[float]:
    from probes_ntk import tangent_kernel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Transformer(width, tokens).eval()
    model.head = nn.Linear(width, c)
    inputs = torch.randint(0, 1000, (n, tokens))
    tangent_kernel(model, inputs[:2])  # the first call of a process pays for what torch sets up once
    before = resident()
    reset_peak()
    start = time.process_time()
    tangent_kernel(model, inputs)
    return [time.process_time() - start, peak() - before, sum(p.numel() for p in model.parameters())]


def table(sizes: dict[str, Any], found: dict[str, list[float]]) -> str:
    lines = ["| grown | CPU s | exponent, last | peak MB | exponent, last |", "| --- | --- | --- | --- | --- |"]
    for what, values in sizes.items():
        rows = [found[json.dumps(BASE | {what: value})] for value in values]
        name = what if what != "width" else "parameters, M (width " + ", ".join(map(str, values)) + ")"
        scale = values if what != "width" else [row[2] for row in rows]
        named = (
            ", ".join(str(value) for value in values)
            if what != "width"
            else ", ".join(f"{value / 1e6:.2g}" for value in scale)
        )
        cells = [f"{name}: {named}"]
        for column, unit in ((0, 1.0), (1, 1e6)):
            logs = np.log([row[column] for row in rows])
            at = np.log(scale)
            last = (logs[-1] - logs[-2]) / (at[-1] - at[-2])
            cells += [", ".join(f"{row[column] / unit:.2g}" for row in rows)]
            cells += [f"{np.polyfit(at, logs, 1)[0]:.2f}, {last:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
