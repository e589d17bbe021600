"""What TangentKernel says of a kernel that is too large to be formed: the same streams, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.batches import Batch
from probes.measurement import Axis, Measurement

from .centering import Centering, center_targets
from .choice import Choice
from .estimate import SpectrumEstimate, estimate_spectrum
from .quantities import TRACE_RATIOS, UNIT, labels_beside

__all__ = ["estimated_quantities"]

LARGEST = 10
"""How many of the largest eigenvalues are told."""
NOTHING = float("nan"), float("nan")


def estimated_quantities(
    name: str,
    batch: Batch,
    choice: Choice,
    model: nn.Module,
    output: Callable[[Any], Tensor],
    layers: Sequence[str],
    centering: Centering,
    products: int,
    memory: float,
    seed: int,
    finite: bool,
    notes: list[str],
) -> Iterator[Measurement]:
    """Yield all measurements of a kernel that is never formed.

    Args:
        name: Of the batch.
        batch: The samples of the kernel.
        choice: What it is of.
        model: In eval mode.
        output: Picks the outputs.
        layers: Names for the axis of layers.
        centering: Of the features.
        products: How many are taken.
        memory: Bytes that they may use.
        seed: Of the random vectors, the same at each turn so that curves are smooth.
        finite: Whether the outputs are; if not, everything is NaN.
        notes: What is left out, and why, is appended.
    """
    labels = None if batch.targets is None else labels_beside(name, batch.targets, choice, centering, notes)
    beside = labels is not None and labels.labelled is None and bool(center_targets(labels.matrix, centering).any())
    if labels is not None and labels.labelled is not None:
        notes.append(
            f"Some labels of batch {name!r} are -100: the alignment of a kernel that is only estimated leaves out no "
            f"row. Pass batches without them, or fewer num_samples."
        )
    found: SpectrumEstimate | None = None
    if finite:
        found = estimate_spectrum(
            model, batch, centering=centering, products=products, generator=torch.Generator().manual_seed(seed),
            targets=labels.matrix.T if labels is not None and beside else None, layers=True,
            output=output, outputs=choice.outputs, memory=memory,
        )  # fmt: skip
    else:
        notes.append(f"On batch {name!r} the outputs are not finite, and neither is the kernel.")
    how = f"{products} products with the kernel of {choice.words}, never formed; features centred: {centering}"
    measured = partial(Measurement, estimator=how, num_samples=choice.samples)
    size = choice.samples * choice.count
    yield from _of_spectrum(name, found, size, measured)
    per_layer = partial(measured, dims=("layer",), coords={"layer": Axis(np.array(layers))})
    parts = {} if found is None else found.layers
    untrained = NOTHING[0] if found is None else 0.0
    traces = [parts[layer].trace.value if layer in parts else untrained for layer in layers]
    yield per_layer(f"ntk/layer_trace/{name}", traces, unit=UNIT, description="trace of the kernel of a layer")
    if batch.targets is None:
        return
    words = f"{how}; with stacked labels"
    value, error = NOTHING if found is None or found.alignment is None else found.alignment
    yield measured(
        f"ntk/alignment/{name}", value, standard_error=error, estimator=words,
        description="alignment of the kernel with the labels",
    )  # fmt: skip
    pairs = [parts[layer].alignment if layer in parts else None for layer in layers]
    aligned = [NOTHING if pair is None else tuple(pair) for pair in pairs]
    yield per_layer(
        f"ntk/layer_alignment/{name}", [value for value, _ in aligned], standard_error=[error for _, error in aligned],
        estimator=words, description="alignment of the kernel of a layer with the labels",
    )  # fmt: skip


def _of_spectrum(
    name: str, found: SpectrumEstimate | None, size: int, measured: partial[Measurement]
) -> Iterator[Measurement]:
    """Yield the largest eigenvalues, and what sums all of them up."""
    kernel = partial(measured, unit=UNIT)
    largest = torch.full((LARGEST,), torch.nan, dtype=torch.float64)
    if found is not None:
        some = found.eigenvalues[:LARGEST].cpu()
        largest[: len(some)] = some
    index = {"eigenvalue": Axis(np.arange(1, LARGEST + 1), "index")}
    words = "largest eigenvalues, of equal ones one"
    yield kernel(f"ntk/eigenvalues/{name}", largest, dims=("eigenvalue",), coords=index, description=words)
    yield kernel(f"ntk/max_eigenvalue/{name}", largest[0], description="largest eigenvalue")
    trace = NOTHING[0] if found is None else found.trace.value
    yield kernel(f"ntk/mean_eigenvalue/{name}", trace / size, description="mean eigenvalue")
    yield kernel(f"ntk/trace/{name}", trace, description="trace of the kernel")
    rank, error = NOTHING if found is None else found.effective_rank
    words = "exp of the entropy of the spectrum"
    yield measured(f"ntk/effective_rank/{name}", rank, standard_error=error, description=words)
    ks = {max(1, round(share * size)): share for share in TRACE_RATIOS}
    ratios = [NOTHING if found is None else found.density.trace_ratio(k) for k in ks]
    yield measured(
        f"ntk/trace_ratio/{name}", [value for value, _ in ratios], standard_error=[error for _, error in ratios],
        dims=("ratio",),
        coords={"ratio": Axis(np.array([f"T_{k} ({share:.0%})" for k, share in ks.items()]))},
        description="share of the trace in the largest k eigenvalues",
    )  # fmt: skip
