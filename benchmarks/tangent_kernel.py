"""The exact tangent kernel beside its peers: CPU time, peak memory, error, time over the floor.

Run: ``python benchmarks/tangent_kernel.py [--workloads mlp vgg19] [--methods ours torch.func] [--repeats 3]
[--device cpu]``

Four workloads, n = 100 examples, c = 10 outputs, weights as initialized: an MLP 784-6x256-10, VGG19 without batch
normalisation on images of 32 by 32, ResNet18 for such images, a transformer of 4 blocks of size 128 on 64 tokens. Every
turn is a process of its own with one thread, methods in turn in each round; the table holds medians. Memory is the peak
of the resident set above what was resident before. The error is against float64 gradients taken one at a time, on two
examples, max |K - K64| / max |K64|. The floor is the fewest operations that an exact kernel needs with the best method
known for each weight (``tangent_kernel_workloads.py``), at the best rate of a float32 matrix product measured in each
round (any precision setting whose error is below 1e-6).

``--workloads resnet50 convnext vit gpt2 llama``: ResNet50, ConvNeXt-T and ViT-B/16 of torchvision with ten classes on
images of 224 by 224, GPT-2 (124 million parameters) and a Llama of 100 million of transformers on 128 tokens, their
logits averaged over tokens and projected on ten fixed random directions; no weights are downloaded. The head of the ViT
is drawn anew, for it starts at zero. Our methods may use 8 GB there; the error is of the first two outputs.

Peers: nngeometry 0.4 (``pip install nngeometry==0.4``); torch.func's vmap over jacrev, contracted in blocks of
examples; neural-tangents 0.6.5, structured derivatives in blocks, by ``--jax-python`` of an environment with
``requirements-neural-tangents.txt``. Those that would take an hour compute a part, and the table says which: one pair
of blocks of all pairs (one Jacobian and one product: the other Jacobian is kept along a row), or one of the c classes
(c^2 times: nngeometry goes back c times for each class). A peer that fails is shown with its error, a process that
takes more than ``--minutes`` of CPU or ``--gigabytes`` of memory with that.

On an accelerator (``--device cuda``) the time is wall time, with nothing left to do before and after; on CUDA and XPU
memory is the peak of what torch allocates there. neural-tangents and ``--cifar10`` run on the CPU only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from devices import clock, missing
from tangent_kernel_workloads import REAL, WORKLOADS, C, floor, workload

MEMORY = 8e9
"""Given to our methods for models of torchvision and transformers."""
OURS = ("ours", "ours, no layers", "ours, diagonal", "ours, trace")
PEERS = ("nngeometry", "torch.func", "neural-tangents")
BLOCKS = {"mlp": 50, "vgg19": 4, "resnet18": 4, "transformer": 20, "resnet50": 2}
"""Examples of a block of torch.func: as many as fit in a few GB; one of the other models."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workloads", nargs="+", default=["mlp", "vgg19", "resnet18", "transformer"], choices=WORKLOADS
    )
    parser.add_argument("--methods", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--repeats", type=int, default=3, help="rounds of our methods; peers that take long run once")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="of CPU, after which a process is stopped")
    parser.add_argument("--gigabytes", type=float, help="of memory, beyond which a process gets none")
    parser.add_argument("--jax-python", default="", help="a Python with requirements-neural-tangents.txt")
    parser.add_argument("--cifar10", action="store_true", help="VGG19 on 100 train and 100 test images, all threads")
    parser.add_argument("--device", default="cpu", help="cuda, mps, xpu")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "WORKLOAD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        device = torch.device(arguments.device)
        print(json.dumps(measure(*arguments.one, arguments.n, arguments.jax_python, device)))
        return
    if why := missing(arguments.device):
        print(why)
        return
    if arguments.cifar10:
        cifar10()
        return
    for name in arguments.workloads:
        report(name, arguments)


def report(name: str, arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 132)
    rates, turns = [], {method: [] for method in arguments.methods}
    for number in range(arguments.repeats):
        rates.append(turn("rate", name, arguments)["rate"])
        for method in arguments.methods:
            if method in PEERS and number and turns[method][0].get("seconds", 1e9) > 60:
                continue
            turns[method].append(turn(method, name, arguments))
            console.print(f"[dim]{name}, round {number + 1}, {method}: {turns[method][-1]}[/dim]", highlight=False)
    operations, rate = floor(name, arguments.n), max(rates)
    least = operations / rate
    table = Table(
        title=f"{name}: n = {arguments.n}, c = {C}; floor {operations / 1e9:.0f} GFLOP = {least:.2f} s at "
        f"{rate / 1e9:.0f} GFLOP/s{'' if arguments.device == 'cpu' else f', on {arguments.device}'}"
    )
    for heading in (
        "method",
        "CPU s" if arguments.device == "cpu" else "s",
        "over the floor",
        "times ours",
        "peak memory MB",
        "error",
        "remark",
    ):
        table.add_column(heading, justify="left" if heading in ("method", "remark") else "right")
    own = statistics.median(one["seconds"] for one in turns["ours"]) if turns.get("ours") else float("nan")
    for method, results in turns.items():
        if "failed" in results[0]:
            table.add_row(method, "fails", "", "", "", "", results[0]["failed"])
            continue
        seconds = statistics.median(one["seconds"] for one in results)
        memory = statistics.median(one["memory"] for one in results) / 1e6
        error = f"{results[0]['error']:.0e}" if "error" in results[0] else ""
        table.add_row(
            method, f"{seconds:.3g}", f"{seconds / least:.2f}", f"{seconds / own:.3g}", f"{memory:.0f}", error,
            results[0].get("remark", ""),
        )  # fmt: skip
    console.print(table)


def cifar10() -> None:
    """What a probe of a VGG19 of full width costs on real photographs."""
    from examples.frame.classification import photographs
    from examples.frame.models import VGG
    from probes_ntk import alignment, center, effective_rank, eigenvalues, tangent_kernel

    torch.manual_seed(0)
    model = VGG(19, 64)
    for name, samples in zip(("train", "test"), photographs(1000, 1000, seed=0), strict=True):
        batch = samples.first(100).batch
        memory = resident()
        reset_peak()
        wall, start = time.perf_counter(), time.process_time()
        gram = tangent_kernel(model, batch, layers=True)
        wall, start = time.perf_counter() - wall, time.process_time() - start
        rank = effective_rank(eigenvalues(center(gram.kernel, "outputs")))
        print(
            f"VGG19, 64 channels, 100 {name} images of CIFAR-10, kernel {tuple(gram.kernel.shape)} and "
            f"{len(gram.layers)} layers, {torch.get_num_threads()} threads: {wall:.1f} s, {start:.1f} s of CPU, peak "
            f"memory {(peak() - memory) / 1e9:.2f} GB; effective rank {rank:.0f}, alignment "
            f"{alignment(gram.kernel, samples.first(100).labels, 'outputs'):.4f}"
        )


def turn(method: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", method, name, "--n", str(arguments.n)]
    command += ["--jax-python", arguments.jax_python, "--device", arguments.device]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    limits = {resource.RLIMIT_CPU: int(60 * arguments.minutes)}
    if arguments.gigabytes:
        limits[resource.RLIMIT_DATA] = int(1e9 * arguments.gigabytes)

    def limit() -> None:
        for kind, most in limits.items():
            resource.setrlimit(kind, (most, most + 9))

    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, preexec_fn=limit)
    if done.returncode == -signal.SIGXCPU:
        return {"failed": f"stopped after {arguments.minutes:g} min of CPU"}
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return {"failed": lines[-1][:120] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(method: str, name: str, n: int, jax_python: str, device: torch.device) -> dict[str, Any]:
    torch.set_num_threads(1)
    if method == "rate":
        return {"rate": gemm_rate(device)}
    if method == "neural-tangents":
        if device.type != "cpu":
            raise SystemExit("not run: on the CPU only")
        return neural_tangents(name, n, jax_python)
    model, inputs = workload(name, n)
    model, inputs = model.to(device), inputs.to(device)
    function, share, remark = METHODS[method](model, name, n)
    small = workload(name, 2)[1].to(device)
    result: dict[str, Any] = {"remark": remark} if remark else {}
    kernel = function(small)  # the first call of a process pays for what torch sets up once
    memory = resident_on(device)
    reset_peak_on(device)
    start = clock(device)
    function(inputs)
    result |= {"seconds": (clock(device) - start) * share, "memory": peak_on(device) - memory}
    if kernel.ndim == 4:  # afterwards, for what it frees may stay resident
        result["error"] = error(kernel, name)
    return result


def ours(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    from probes_ntk import tangent_kernel

    memory = {"memory": MEMORY} if name in REAL else {}
    return lambda x: tangent_kernel(model, x, layers=True, **memory).kernel, 1, "with the kernel of each layer"


def ours_alone(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    from probes_ntk import tangent_kernel

    memory = {"memory": MEMORY} if name in REAL else {}
    return lambda x: tangent_kernel(model, x, **memory).kernel, 1, ""


def ours_diagonal(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    from probes_ntk import tangent_diagonal

    return lambda x: tangent_diagonal(model, x).diagonal, 1, "exact trace, not the kernel"


def ours_trace(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    from probes_ntk import estimate_trace

    return lambda x: estimate_trace(model, x).trace, 1, "estimated trace, not the kernel"


def nngeometry(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    installed("nngeometry", "0.4")
    from nngeometry import GramMatrix
    from torch.utils.data import DataLoader, TensorDataset

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    classes = C if name in ("mlp", "transformer") else 1

    def kernel(x: Tensor) -> Tensor:
        loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=20 if name in REAL else len(x))
        gram: Tensor = GramMatrix(model, loader, function=lambda *d: model(d[0])[:, :classes]).data
        return gram

    return kernel, (C / classes) ** 2, "" if classes == C else f"1 class measured, times {C * C}"


def torch_func(model: nn.Module, name: str, n: int) -> tuple[Callable[[Tensor], Tensor], float, str]:
    from torch.func import functional_call, jacrev, vmap

    block = BLOCKS.get(name, 1)
    whole = name == "mlp"
    parameters = {key: tensor.detach() for key, tensor in model.named_parameters()}

    def one(p: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(model, p, (x[None],))[0]
        return out

    def jacobian(x: Tensor) -> list[Tensor]:
        return [each.flatten(2) for each in vmap(jacrev(one), (None, 0))(parameters, x).values()]

    def product(left: list[Tensor], right: list[Tensor]) -> Tensor:
        total = torch.zeros(())
        for a, b in zip(left, right, strict=True):
            total = total + torch.einsum("iap,jbp->aibj", a, b)
        return total

    def kernel(x: Tensor) -> Tensor:
        blocks = x.split(block)
        if not whole:  # a row of blocks keeps its left one: as many Jacobians and products as pairs
            left = jacobian(blocks[0])
            return product(left, left)
        rows = []
        for i, first in enumerate(blocks):
            left = jacobian(first)
            row = [product(left, left if i == j else jacobian(second)) for j, second in enumerate(blocks)]
            rows.append(torch.cat(row, 3))
        return torch.cat(rows, 1)

    count = -(-n // block)
    share = 1 if whole else count * (count + 1) / 2
    return kernel, share, f"blocks of {block}" if whole else f"blocks of {block}: 1 pair measured, times {share:.0f}"


METHODS = {
    "ours": ours,
    "ours, no layers": ours_alone,
    "ours, diagonal": ours_diagonal,
    "ours, trace": ours_trace,
    "nngeometry": nngeometry,
    "torch.func": torch_func,
}


def neural_tangents(name: str, n: int, python: str) -> dict[str, Any]:
    if not python:
        raise SystemExit("not run: pass --jax-python")
    model, inputs = workload(name, n)
    small = workload(name, 2)[1]
    script = Path(__file__).with_name("tangent_kernel_jax.py")
    one_core = {
        **os.environ,
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    core = str(sorted(os.sched_getaffinity(0))[-1])

    def run(x: Tensor, block: int, pairs: int) -> tuple[dict[str, Any], Any, float]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "workload.npz"
            np.savez(path, inputs=x.numpy(), **{key: value.numpy() for key, value in model.state_dict().items()})
            command = ["taskset", "-c", core, python, str(script), name, str(path), str(block), str(pairs)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_core)
            highest = first = 0.0
            while child.poll() is None:
                highest = max(highest, resident(child.pid))
                first = first or (highest if highest > 5e8 else 0.0)
                time.sleep(0.05)
            out, errors = child.communicate()
            if child.returncode:
                lines = [line for line in errors.strip().splitlines() if line.strip() and not line.startswith("---")]
                raise SystemExit(next((line for line in reversed(lines) if "Error" in line), lines[-1])[:120])
            return json.loads(out.strip().splitlines()[-1]), np.load(f"{path}.kernel.npy"), highest

    _, kernel, base = run(small, 2, 0)
    done, _, highest = run(inputs, 50, 1)
    share = done["of"] / done["pairs"]
    return {
        "seconds": done["seconds"] * share,
        "memory": highest - base,
        "error": error(torch.from_numpy(kernel), name),
        "remark": f"blocks of 50: {done['pairs']} pair measured, times {share:.0f}",
    }


def error(kernel: Tensor, name: str) -> float:
    """Against float64 gradients, one example and output at a time; of a large model the first two outputs."""
    outputs = min(len(kernel), 2 if name in REAL else C)
    count = kernel.shape[1]
    model, inputs = workload(name, count)
    model = model.double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs

    def rows() -> Iterator[list[Tensor]]:
        for a in range(outputs):
            for i in range(count):
                yield list(torch.autograd.grad(model(inputs[i : i + 1])[0, a], list(model.parameters())))

    gradients = list(rows())
    reference = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for tensors in zip(*gradients, strict=True):
        matrix = torch.stack([tensor.flatten() for tensor in tensors])
        reference += matrix @ matrix.T
    kernel = kernel[:outputs, :, :outputs].cpu().double().reshape(len(gradients), len(gradients))
    return float((kernel - reference).abs().max() / reference.abs().max())


def gemm_rate(device: torch.device, size: int = 2048) -> float:
    """Operations a second of the best float32 matrix product whose error is below 1e-6."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    exact = a.double() @ b.double()
    a, b = a.to(device), b.to(device)
    best = 0.0
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        wrong = float(((a @ b).cpu() - exact).abs().max() / exact.abs().max())
        times = []
        for _ in range(7):
            start = clock(device)
            a @ b
            times.append(clock(device) - start)
        if wrong <= 1e-6:
            best = max(best, 2 * size**3 / statistics.median(times))
    return best


def resident(process: int | str = "self") -> float:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def resident_on(device: torch.device) -> float:
    return getattr(torch, device.type).memory_allocated() if device.type in ("cuda", "xpu") else resident()


def reset_peak_on(device: torch.device) -> None:
    getattr(torch, device.type).reset_peak_memory_stats() if device.type in ("cuda", "xpu") else reset_peak()


def peak_on(device: torch.device) -> float:
    return getattr(torch, device.type).max_memory_allocated() if device.type in ("cuda", "xpu") else peak()


def installed(package: str, version: str) -> None:
    found = importlib.metadata.version(package)
    if found != version:
        raise SystemExit(f"{package} {version} wanted, {found} found")


if __name__ == "__main__":
    main()
