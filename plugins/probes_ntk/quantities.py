"""What TangentKernel says of one kernel. A number that is undefined is NaN, and no other is lost for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probes import CannotMeasure
from probes.batches import Batch
from probes.measurement import Axis, Measurement
from probes.precision import rounding

from .alignment import centered_alignment, centered_labels
from .centering import Centering, as_blocks, center, center_where
from .choice import Choice, labels_of
from .engine import TangentGram
from .spectrum import effective_rank, eigenfunctions, eigenvalues, trace_ratio

__all__ = ["TRACE_RATIOS", "UNIT", "Labels", "labels_beside", "quantities"]

UNIT = "output^2 / parameter^2"
TRACE_RATIOS = (0.04, 0.08, 0.16)
NAN = torch.full((), torch.nan, dtype=torch.float64)


def quantities(
    name: str,
    batch: Batch,
    choice: Choice,
    gram: TangentGram | None,
    layers: Sequence[str],
    centering: Centering,
    pictures: int,
    notes: list[str],
) -> Iterator[Measurement]:
    """Yield all measurements of a kernel.

    Args:
        name: Of the batch.
        batch: The samples of the kernel.
        choice: What it is of.
        gram: The kernel; None where the outputs are not finite.
        layers: Names for the axis of layers.
        centering: Of the features.
        pictures: Number of eigenfunctions to draw.
        notes: What is left out, and why, is appended.
    """
    size = choice.samples * choice.count
    if gram is None or not (gram.kernel.sum().isfinite() or gram.kernel.isfinite().all()):  # the sum is much faster
        gram = None
        notes.append(f"On batch {name!r} the outputs or their derivatives are not finite, and neither is the kernel.")
    precision = "" if gram is None else f", {str(gram.kernel.dtype).removeprefix('torch.')}"
    how = f"exact kernel of {choice.words}{precision}; features centred: {centering}"
    measured = partial(Measurement, estimator=how, num_samples=choice.samples)
    centered = None if gram is None else center(gram.kernel, centering)
    values = NAN.expand(size) if centered is None else _or_nan(eigenvalues, centered, size)
    yield from _of_eigenvalues(name, values, measured)
    labels = None if batch.targets is None else labels_beside(name, batch.targets, choice, centering, notes)
    per_layer = partial(measured, dims=("layer",), coords={"layer": Axis(np.array(layers))})
    traces, aligned = _of_layers(gram, layers, centering, labels)
    yield per_layer(f"ntk/layer_trace/{name}", traces, unit=UNIT, description="trace of the kernel of a layer")
    if batch.targets is not None:
        words = f"{how}; with stacked labels{labels.words if labels else ''}"
        whole, uncentered = NAN, NAN
        if gram is not None and labels is not None:
            whole, uncentered = labels.aligned(gram.kernel, centering, centered), labels.aligned(gram.kernel, "none")
        of_labels = "alignment of the kernel with the labels"
        yield measured(f"ntk/alignment/{name}", whole, estimator=words, description=of_labels)
        yield measured(
            f"ntk/alignment_uncentered/{name}",
            uncentered,
            estimator=words.replace(f"centred: {centering}", "centred: none"),
            description="alignment of the kernel, not centred, with the labels",
        )
        of_labels = "alignment of the kernel of a layer with the labels"
        yield per_layer(f"ntk/layer_alignment/{name}", aligned, estimator=words, description=of_labels)
    if pictures and centered is not None:
        try:
            drawn = list(_pictures(batch, centered, pictures))
        except CannotMeasure as error:
            notes.append(f"{error} None is drawn for batch {name!r}.")
            return
        for j, (picture, coords) in enumerate(drawn, 1):
            words = f"eigenfunction {j} of the kernel"
            yield measured(f"ntk/eigenfunction_{j}/{name}", picture, dims=("y", "x"), coords=coords, description=words)


def _of_eigenvalues(name: str, values: Tensor, measured: partial[Measurement]) -> Iterator[Measurement]:
    """Yield the eigenvalues and what follows from them alone."""
    size = len(values)
    index = {"eigenvalue": Axis(np.arange(1, size + 1), "index")}
    kernel = partial(measured, unit=UNIT)
    yield kernel(f"ntk/eigenvalues/{name}", values, dims=("eigenvalue",), coords=index, description="eigenvalues")
    yield kernel(f"ntk/max_eigenvalue/{name}", values[0], description="largest eigenvalue")
    yield kernel(f"ntk/mean_eigenvalue/{name}", values.mean(), description="mean eigenvalue")
    yield kernel(f"ntk/median_eigenvalue/{name}", values.quantile(0.5), description="median eigenvalue")
    yield kernel(f"ntk/trace/{name}", values.sum(), description="trace of the kernel")
    rank = _or_nan(effective_rank, values)
    yield measured(f"ntk/effective_rank/{name}", rank, description="exp of the entropy of the spectrum")
    ks = {max(1, round(share * size)): share for share in TRACE_RATIOS}
    yield measured(
        f"ntk/trace_ratio/{name}",
        torch.stack([_or_nan(partial(trace_ratio, k=k), values) for k in ks]),
        dims=("ratio",),
        coords={"ratio": Axis(np.array([f"T_{k} ({share:.0%})" for k, share in ks.items()]))},
        description="share of the trace in the largest k eigenvalues",
    )


def _of_layers(
    gram: TangentGram | None, layers: Sequence[str], centering: Centering, labels: Labels | None
) -> tuple[Tensor, Tensor]:
    """Trace of the kernel of each layer, and its alignment with the labels; one layer at a time is centred."""
    parts = {} if gram is None else gram.layers
    untrained = NAN if gram is None else torch.zeros_like(NAN)
    traces, aligned = [], []
    for layer in layers:
        part = parts.get(layer)
        centered = None if part is None else center(part, centering)
        traces.append(untrained if centered is None else torch.einsum("aiai->", centered).cpu())
        # NaN for a layer that the function does not depend on (dead units).
        aligned.append(NAN if part is None or labels is None else labels.aligned(part, centering, centered))
    return torch.stack(traces), torch.stack(aligned)


def _or_nan(quantity: Callable[[Tensor], Tensor], of: Tensor, *shape: int) -> Tensor:
    """A quantity, NaN where it is undefined."""
    try:
        return quantity(of).cpu()
    except (CannotMeasure, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return NAN.expand(shape)


@dataclass(frozen=True)
class Labels:
    """The labels of those positions and samples that have one."""

    matrix: Tensor
    """Shape ``(c, n)``."""
    labelled: Tensor | None
    """Of these entries, shape ``(c, n)``; None for all."""
    dtype: torch.dtype
    """Of the targets."""
    words: str
    """For the estimator."""

    def aligned(self, kernel: Tensor, centering: Centering, centered: Tensor | None = None) -> Tensor:
        """Alignment with a kernel, which is centred already where ``centered`` is given; NaN where undefined."""
        if self.labelled is not None:
            # Of the labelled rows alone, so that the means of features and of labels are over the same ones.
            half = center_where(as_blocks(kernel), centering, self.labelled)
            centered = center_where(half.permute(2, 3, 0, 1), centering, self.labelled)
            centered = centered * (centered.norm() > rounding(kernel.dtype) * kernel.norm())
        centered = center(kernel, centering) if centered is None else centered
        y = centered_labels(self.matrix, self.dtype, centering, self.labelled).to(centered.device)
        return centered_alignment(centered, y).cpu()


def labels_beside(name: str, targets: Tensor, choice: Choice, centering: Centering, notes: list[str]) -> Labels | None:
    """The labels that stand beside a kernel; None where none do, which is noted."""
    given = f"Pass batches={{{name!r}: (inputs, targets)}} with targets"
    try:
        matrix, labelled = labels_of(targets, choice)
    except CannotMeasure as error:
        notes.append(f"The targets of batch {name!r} have no alignment with its kernel: {error}. {given} that do.")
        return None
    if not labelled.any():
        notes.append(
            f"The targets of batch {name!r} are -100 in every sample, which losses ignore. {given} that do not."
        )
        return None
    index, words = None, ""
    if not labelled.all():
        index, whole = labelled, int(labelled.all(0).sum())
        words = f", of the {whole} samples without a label of -100"
        if whole < int(labelled.any(0).sum()):  # of some samples, some positions
            words = f", of the {int(labelled.sum())} of {labelled.numel()} outputs whose label is not -100"
    if not centered_labels(matrix, targets.dtype, centering, index).any():
        notes.append(f"The targets of batch {name!r} are all alike: nothing is aligned with them. {given} that differ.")
    return Labels(matrix, index, targets.dtype, words)


def _pictures(batch: Batch, centered: Tensor, count: int) -> Iterator[tuple[Tensor, dict[str, Axis]]]:
    """The first eigenfunctions, over the grid of the inputs."""
    place, coords = _grid(batch, len(centered))
    shape = [len(coords[dim].values) for dim in ("y", "x")]
    for function in eigenfunctions(centered).functions[:count, 0]:
        yield torch.empty_like(function).index_copy_(0, place.to(function.device), function).reshape(shape), coords


def _grid(batch: Batch, c: int) -> tuple[Tensor, dict[str, Axis]]:
    """Where each sample stands in a picture, rows upwards in y, and the coordinates of the picture."""
    inputs = batch.inputs
    if c != 1:
        raise CannotMeasure(f"`eigenfunctions` are drawn for a model of one output, this one has {c}.")
    if inputs is None or inputs.ndim != 2 or inputs.shape[1] != 2:
        shape = None if inputs is None else tuple(inputs.shape)
        raise CannotMeasure(f"`eigenfunctions` are drawn over inputs of two numbers, shape (n, 2), got {shape}.")
    (xs, column), (ys, row) = (np.unique(inputs[:, axis].cpu().numpy(), return_inverse=True) for axis in (0, 1))
    place = torch.from_numpy(row * len(xs) + column)
    if len(xs) * len(ys) != len(inputs) or len(np.unique(place)) != len(inputs):
        raise CannotMeasure(
            f"`eigenfunctions` are drawn over a grid: every x with every y once. The {len(inputs)} inputs have "
            f"{len(xs)} different x and {len(ys)} different y. Pass a batch that is a grid, and its num_samples."
        )
    return place, {"y": Axis(ys, "input"), "x": Axis(xs, "input")}
