"""The five largest eigenvalues of a Hessian beside curvlinops and hessian-eigenthings: CPU time, memory, agreement.

    python benchmarks/curvature.py --peers-python ENV/bin/python [--estimates]

ENV has what ``requirements-curvature.txt`` pins. Each tool runs in a process of its own, turn by turn, on one thread:
curvlinops' operator in scipy's ``eigsh``, with its own tolerance (0: to rounding) and with ours; the Lanczos iteration
of hessian-eigenthings with its own ten steps, which it does not go beyond, and with fifty. Differences are from
``eigsh`` to rounding, relative to each eigenvalue, the largest of the five.

With ``--estimates``, the trace of the Hessian by Hutch++ from 60 products, and the mean square of its eigenvalues from
the spectral density, of five random vectors and 30 steps of Lanczos each, with the standard errors that are stated.
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
ESTIMATES = ("probes_curvature", "curvlinops", "hessian-eigenthings")
MATVECS, VECTORS, STEPS = 60, 5, 30


def task(width: int, n: int) -> tuple[Any, Any, Any]:
    """The network, images and classes."""
    import torch
    from torch.nn.functional import cross_entropy

    from examples.frame.models import VGG

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VGG(19, width).eval()
    inputs, targets = torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,))
    cross_entropy(model(inputs[:8]), targets[:8]).backward()  # what is set up at a first call
    return model, inputs, targets


def estimate(tool: str, width: int, n: int) -> dict[str, Any]:
    """One tool's trace and mean square of the eigenvalues, with their errors and CPU seconds."""
    import torch
    from torch.nn.functional import cross_entropy

    model, inputs, targets = task(width, n)
    parameters = list(model.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    start = time.process_time()
    none = float("nan")
    if tool == "probes_curvature":
        from probes_curvature import hessian_trace, spectral_density

        trace = list(hessian_trace(model, cross_entropy, inputs, targets, products=MATVECS))
        seconds = time.process_time() - start
        square = list(spectral_density(model, cross_entropy, inputs, targets, vectors=VECTORS, steps=STEPS).moment(2))
    elif tool == "curvlinops":
        from curvlinops import HessianLinearOperator, hutchpp_trace, lanczos_approximate_spectrum

        loss = torch.nn.CrossEntropyLoss()
        operator = HessianLinearOperator(model, loss, parameters, [(inputs, targets)], check_deterministic=False)
        trace = [float(hutchpp_trace(operator, MATVECS)), none]
        seconds = time.process_time() - start
        grid, density = lanczos_approximate_spectrum(operator, STEPS, num_repeats=VECTORS)
        square = [float(torch.trapezoid(density * grid**2, grid)), none]
    else:
        from hessian_eigenthings import HessianOperator, spectral_density, trace

        operator = HessianOperator(model, [(inputs, targets)], lambda m, batch: cross_entropy(m(batch[0]), batch[1]))
        found = trace(operator, num_matvecs=MATVECS, seed=0)
        trace = [float(found.estimate), float(found.stderr)]
        seconds = time.process_time() - start
        spectrum = spectral_density(operator, num_runs=VECTORS, lanczos_steps=STEPS, seed=0)
        each = (spectrum.raw_eigenvalues.double() ** 2 * spectrum.raw_weights.double()).sum(-1)
        square = [float(each.mean()), none]
    whole = time.process_time() - start
    return {"trace": trace, "square": [size * each for each in square], "seconds": [seconds, whole - seconds]}


def work(tool: str, width: int, n: int) -> dict[str, Any]:
    """One tool's eigenvalues, CPU seconds and peak memory in this process."""
    import torch
    from torch.nn.functional import cross_entropy

    model, inputs, targets = task(width, n)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    calls = 0
    if tool == "probes_curvature":
        from probes_curvature import hessian_eigenvalues
    elif tool.startswith("curvlinops"):
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh
    else:
        from hessian_eigenthings import HessianOperator, lanczos
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
    parser.add_argument("--estimates", action="store_true", help="trace and density in place of eigenvalues")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps((estimate if options.estimates else work)(options.work, options.width, options.n)))
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    for _ in range(options.repeats):
        for tool in ESTIMATES if options.estimates else TOOLS:
            python = sys.executable if tool == "probes_curvature" else options.peers_python
            if python is None:
                continue
            given = [python, __file__, "--work", tool, "--width", str(options.width), "--n", str(options.n)]
            given += ["--estimates"] * options.estimates
            done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{tool}: {done.stderr.strip().splitlines()[-1]}")
                continue
            rows.setdefault(tool, []).append(json.loads(done.stdout.splitlines()[-1]))
    if options.estimates:
        print(f"VGG19, width {options.width}, n = {options.n}, medians of {options.repeats}, one thread")
        print(f"{'':22}{'trace':>10}{'+-':>9}{'CPU s':>8}{'sum of squares':>16}{'+-':>9}{'CPU s':>8}")
        for tool, found in rows.items():
            seconds = [statistics.median(row["seconds"][index] for row in found) for index in range(2)]
            (trace, error), (square, other) = found[0]["trace"], found[0]["square"]
            print(f"{tool:22}{trace:10.4g}{error:9.2g}{seconds[0]:8.1f}{square:16.4g}{other:9.2g}{seconds[1]:8.1f}")
        return
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
