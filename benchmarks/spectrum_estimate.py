"""Spectra of kernels that are never formed: how often the stated interval covers the exact value, and what n costs.

Run: ``python benchmarks/spectrum_estimate.py [--sizes 50 100 200 400] [--seeds 20] [--growth 1000 2500 5000 10000]``

Three kinds of model on the 8 by 8 digits of scikit-learn, c = 10 outputs, kernels centred by output: an MLP trained for
300 steps, one as initialized, a convolutional network with batch normalisation trained for 300 steps. For each the
exact effective rank, participation ratio, trace ratios of 4, 8 and 16 % of the eigenvalues and alignment with the
labels, from the kernel and all its eigenvalues in float64, and with 100 products and each seed: the root mean square of
the relative errors, the mean of the stated ones, and how often +-1.96 of them covers.

Growth: the time of the processor and the peak of the resident set, above what was resident before, of one estimate on n
examples (random inputs), each in a process of its own with one thread: an MLP 784-6x256-10, and a VGG11 of a quarter of
its width on images of 32 by 32; with the fitted exponent of n.
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import statistics
import subprocess
import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probes_ntk import (
    Estimate,
    SpectrumEstimate,
    alignment,
    center,
    effective_rank,
    eigenvalues,
    estimate_spectrum,
    tangent_kernel,
    trace_ratio,
)

SHARES = (0.04, 0.08, 0.16)


def models() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """By name, in eval mode, with its inputs and labels."""
    torch.manual_seed(0)
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def trained(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(300):
            chosen = torch.randint(len(inputs), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        return model.eval(), inputs, labels

    convolutions = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    return {
        "MLP, trained": trained(mlp(64, 128, 2), inputs),
        "MLP, initial": (mlp(64, 128, 2).eval(), inputs, labels),
        "convolutional": trained(convolutions, inputs.reshape(-1, 1, 8, 8)),
    }


def mlp(inputs: int, width: int, depth: int) -> nn.Sequential:
    sizes = [inputs, *[width] * depth]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 0, 32, 0, 64, 64, 0, 128, 128, 0, 128, 128, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


GROWN = {"MLP 6 x 256": (lambda: mlp(784, 256, 6), (784,)), "VGG11 / 4": (vgg, (3, 32, 32))}


def coverage(sizes: list[int], seeds: int, products: int) -> None:
    print(f"{'model':14} {'n':>5}  {'quantity':20} {'exact':>8} {'error':>6} {'stated':>6} {'covers':>6}")
    for name, (model, inputs, labels) in models().items():
        for n in sizes:
            kernel = center(tangent_kernel(model, inputs[:n], memory=16e9).kernel, "outputs")
            values, aligned = eigenvalues(kernel), alignment(kernel, labels[:n], "outputs").item()
            del kernel
            ranks = [round(share * len(values)) for share in SHARES]
            exact = {
                "effective rank": effective_rank(values).item(),
                "participation ratio": (values.sum().square() / values.square().sum()).item(),
                **{f"trace ratio of {k}": trace_ratio(values, k).item() for k in ranks},
                "alignment": aligned,
            }
            found = [
                _numbers(
                    estimate_spectrum(
                        model, inputs[:n], centering="outputs", products=products, targets=labels[:n],
                        generator=torch.Generator().manual_seed(seed),
                    ),
                    ranks,
                )
                for seed in range(seeds)
            ]  # fmt: skip
            for index, (quantity, true) in enumerate(exact.items()):
                pairs = [each[index] for each in found]
                error = math.sqrt(statistics.fmean((value / true - 1) ** 2 for value, _ in pairs))
                stated = statistics.fmean(sigma / true for _, sigma in pairs)
                covers = sum(abs(value - true) <= 1.96 * sigma + 1e-6 * true for value, sigma in pairs)
                cells = f"{true:8.4g} {error:6.1%} {stated:6.1%} {covers:>3}/{seeds}"
                print(f"{name:14} {n:>5}  {quantity:20} {cells}", flush=True)


def _numbers(found: SpectrumEstimate, ranks: list[int]) -> list[Estimate]:
    assert found.alignment is not None
    ratios = [found.density.trace_ratio(k) for k in ranks]
    return [found.effective_rank, found.participation_ratio, *ratios, found.alignment]


def growth(sizes: list[int]) -> None:
    print(f"{'model':12} {'n':>6} {'CPU time, s':>12} {'memory, MB':>11}  effective rank")
    for name in GROWN:
        times = []
        for n in sizes:
            command = [sys.executable, __file__, "--one", name, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, memory, words = done.stdout.strip().split(maxsplit=2)
            times.append(float(seconds))
            print(f"{name:12} {n:>6} {times[-1]:12.1f} {float(memory):11.0f}  {words}", flush=True)
        if len(sizes) > 1:
            fit = statistics.linear_regression([math.log(n) for n in sizes], [math.log(each) for each in times])
            print(f"{name:12} exponent of n: {fit.slope:.2f}", flush=True)


def one(name: str, n: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    make, shape = GROWN[name]
    model, inputs = make().eval(), torch.randn(n, *shape)
    estimate_spectrum(model, inputs[:32], centering="outputs", products=24)  # what the first call of torch takes
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    rank = estimate_spectrum(model, inputs, centering="outputs", memory=0.4e9).effective_rank
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(seconds, memory, f"{rank.value:.1f} +- {rank.standard_error:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[50, 100, 200, 400])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--products", type=int, default=100)
    parser.add_argument("--growth", nargs="*", type=int, default=[1000, 2500, 5000, 10000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], int(arguments.one[1]))
        return
    if arguments.sizes:
        coverage(arguments.sizes, arguments.seeds, arguments.products)
    if arguments.growth:
        growth(arguments.growth)


if __name__ == "__main__":
    main()
