"""The five largest eigenvalues of a Hessian beside curvlinops and hessian-eigenthings: CPU time, memory, agreement.

    python benchmarks/curvature.py --peers-python ENV/bin/python

ENV has what ``requirements-curvature.txt`` pins. Each tool runs in a process of its own, turn by turn, on one thread:
curvlinops' operator in scipy's ``eigsh``, with its own tolerance (0: to rounding) and with ours; the Lanczos iteration
of hessian-eigenthings with its own ten steps, which it does not go beyond, and with fifty. Differences are from
``eigsh`` to rounding, relative to each eigenvalue, the largest of the five.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = {
    "probes_curvature": "products until residuals are below 1e-4",
    "curvlinops, eigsh tol=0": "",
    "curvlinops, eigsh tol=1e-4": "",
    "hessian-eigenthings, 10 steps": "its default",
    "hessian-eigenthings, 50 steps": "",
}


def work(tool: str, width: int, n: int) -> dict[str, Any]:
    """One tool's eigenvalues, CPU seconds and peak memory in this process."""
    import torch
    from torch.nn.functional import cross_entropy

    from examples.frame.models import VGG

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VGG(19, width).eval()
    inputs, targets = torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    calls = 0
    if tool == "probes_curvature":
        from probes_curvature import hessian_eigenvalues
    elif tool.startswith("curvlinops"):
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh
    else:
        from hessian_eigenthings import HessianOperator, lanczos
    cross_entropy(model(inputs[:8]), targets[:8]).backward()  # what is set up at a first call
    start = time.process_time()
    if tool == "probes_curvature":
        found = hessian_eigenvalues(model, cross_entropy, inputs, targets, 5)
        values, calls = found.values.tolist(), found.products
    elif tool.startswith("curvlinops"):
        loss = torch.nn.CrossEntropyLoss()
        operator = HessianLinearOperator(model, loss, parameters, [(inputs, targets)], check_deterministic=False)
        scipys = operator.to_scipy()
        product = scipys._matvec

        def counted(vector: Any) -> Any:
            nonlocal calls
            calls += 1
            return product(vector)

        scipys._matvec = counted
        tolerance = float(tool.rpartition("=")[2])
        values = sorted(eigsh(scipys, k=5, which="LA", tol=tolerance, return_eigenvectors=False).tolist(), reverse=True)
    else:
        calls = int(tool.split()[-2])
        operator = HessianOperator(model, [(inputs, targets)], lambda m, batch: cross_entropy(m(batch[0]), batch[1]))
        values = lanczos(operator, k=5, max_iter=calls, which="LA", seed=0).eigenvalues.tolist()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"values": values, "seconds": seconds, "peak": peak, "products": calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="of the environment with the peers; without, they are left out")
    parser.add_argument("--width", type=int, default=16, help="of VGG19's first block (16: a quarter of its own)")
    parser.add_argument("--n", type=int, default=500, help="examples")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work, options.width, options.n)))
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    for _ in range(options.repeats):
        for tool in TOOLS:
            python = sys.executable if tool == "probes_curvature" else options.peers_python
            if python is None:
                continue
            given = [python, __file__, "--work", tool, "--width", str(options.width), "--n", str(options.n)]
            done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{tool}: {done.stderr.strip().splitlines()[-1]}")
                continue
            rows.setdefault(tool, []).append(json.loads(done.stdout.splitlines()[-1]))
    exact = rows.get("curvlinops, eigsh tol=0", rows["probes_curvature"])[0]["values"]
    print(f"VGG19, width {options.width}, n = {options.n}, medians of {options.repeats}, one thread")
    print(f"{'':32}{'products':>9}{'CPU s':>8}{'peak MB':>9}{'difference':>12}")
    for tool, found in rows.items():
        seconds, peak = (statistics.median(row[key] for row in found) for key in ("seconds", "peak"))
        apart = max(abs(a / b - 1) for a, b in zip(found[0]["values"], exact, strict=True))
        print(f"{tool:32}{found[0]['products']:9}{seconds:8.1f}{peak:9.0f}{apart:12.1e}")
    print("eigenvalues:", ", ".join(f"{value:.6g}" for value in exact))


if __name__ == "__main__":
    main()
