"""Which samples and outputs the kernel of the probe is of, where those of a batch are too many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probes import CannotMeasure
from probes.batches import IGNORED
from probes.budget.clock import OwnTime
from probes.precision import to_float64

__all__ = ["ROWS", "Choice", "affordable", "choose", "labels_of", "matrix_cost"]

ROWS, OUTPUTS, LEAST_SAMPLES = 1000, 10, 10
SIZES = (8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 125, 160, 200, 250, 320, 400, 500, 640, 800)
PLANNING, PRODUCTS = 60, 2.0
"""Samples that go through the model before a kernel is begun; all that it takes, in passes of its samples."""
_SIDE = 256
"""Rows of the matrix on which the time that matrices take is measured."""


@dataclass(frozen=True)
class Choice:
    """What a kernel is of."""

    samples: int
    """The first so many of the batch."""
    outputs: list[int] | None
    """Indices into the flattened outputs of a sample; None for all, of shape ``(n, c)`` or ``(n,)``."""
    shape: tuple[int, ...]
    """Of all outputs of all samples of the batch."""
    by_labels: bool = False
    """Whether those of frequent labels come first."""

    @property
    def width(self) -> int:
        """Number of outputs that a sample has."""
        return math.prod(self.shape[1:])

    @property
    def count(self) -> int:
        """c: how many of them are chosen."""
        return self.width if self.outputs is None else len(self.outputs)

    @property
    def words(self) -> str:
        """How many samples and outputs, and which."""
        if self.outputs is None or self.count == self.width:
            return f"{self.samples} samples and {self.count} outputs"
        named = ", ".join(map(str, self.outputs[:20])) + (", ..." if self.count > 20 else "")
        first = ", those of frequent labels first" * self.by_labels
        return f"{self.samples} samples and {self.count} of {self.width} outputs, drawn once{first} ({named})"


def choose(
    shape: tuple[int, ...], targets: Tensor | None, seed: int, samples: int | None = None, outputs: int | None = None
) -> Choice:
    """At most 1000 rows: all outputs, or ten where those would be more; then as many samples as go with them.

    Which outputs is drawn from the seed. Those of labels that occur come before others, the most frequent first.

    Args:
        shape: Of the outputs of the batch, ``(n, ...)``.
        targets: Of the batch.
        seed: Of the run.
        samples: That many, instead.
        outputs: That many, instead.

    Example:
        >>> choice = choose((100, 784), None, 0)
        >>> choice.samples, choice.outputs
        (100, [60, 81, 107, 167, 313, 361, 367, 578, 626, 772])
    """
    width, n = math.prod(shape[1:]), min(shape[0], samples or ROWS)
    count = min(width, outputs or (width if n * width <= ROWS else OUTPUTS))
    n = n if samples else min(n, max(LEAST_SAMPLES, ROWS // count))
    if count == width:
        return Choice(n, None if len(shape) <= 2 else list(range(width)), shape)
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    columns = None if targets is None else _label_columns(targets, shape)
    if columns is not None:
        valid = columns[(columns >= 0) & (columns < width)]
        frequency = torch.bincount(valid.cpu(), minlength=width)
        order = order[frequency[order].argsort(descending=True, stable=True)]
    return Choice(n, sorted(order[:count].tolist()), shape, by_labels=columns is not None)


def labels_of(targets: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """The matrix that stands beside the chosen outputs, and which of its entries have labels.

    Numbers, one for each output, are taken as they are. Class labels are taken one-hot: one of each sample beside
    outputs ``(n, c)``; one of each position beside ``(n, T, c)`` or ``(n, c, height, width)``.

    Args:
        targets: Of the samples.
        choice: What the kernel is of.

    Returns:
        Shape ``(c, n)``, float64; and of the same shape: False for the outputs of a position, or of a whole sample,
        whose label is -100, which losses ignore.

    Raises:
        CannotMeasure: If the targets do not go with the outputs, or a label is none of the classes.
    """
    n, width = len(targets), choice.width
    chosen = torch.tensor(range(width) if choice.outputs is None else choice.outputs, device=targets.device)
    flat = targets.detach().reshape(n, -1)
    if flat.shape[1] == width:
        return to_float64(flat)[:, chosen].T, torch.ones(len(chosen), n, dtype=torch.bool, device=targets.device)
    columns = _label_columns(targets, choice.shape)
    if columns is None:
        each = f"{tuple(targets.shape[1:])} {'numbers' if targets.is_floating_point() else 'labels'} a sample"
        raise CannotMeasure(f"they are {each}, and the outputs {' x '.join(map(str, choice.shape[1:])) or 1} numbers")
    if bool((columns >= width).any()):
        labels = targets[targets != IGNORED]
        raise CannotMeasure(f"labels from {int(labels.min())} to {int(labels.max())} are not all among its classes")
    where = (columns[:, None, :] == chosen[:, None]).any(2)  # (n, c)
    positions = _positions(choice.shape, targets)[chosen]
    return to_float64(where).T, (columns >= 0)[:, positions].T


def _label_columns(targets: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Which of the flattened outputs each label stands for, ``(n, P)``: -1 if ignored, too large if wrong.

    None where the targets are no class labels that go with outputs of this shape.
    """
    if targets.is_floating_point() or targets.is_complex() or len(shape) < 2 or math.prod(shape[1:]) == 1:
        return None
    labels = targets.detach().reshape(len(targets), -1).long()
    positions = labels.shape[1]
    dim = _class_dim(shape, targets)
    if dim is None:
        return None
    classes, place = shape[dim], torch.arange(positions, device=labels.device)
    columns = labels * positions + place if dim == 1 else place * classes + labels
    columns = columns.where((labels >= 0) & (labels < classes), math.prod(shape[1:]))
    return columns.where(labels != IGNORED, -1)


def _class_dim(shape: tuple[int, ...], targets: Tensor) -> int | None:
    """In which dimension of the outputs the classes are."""
    given = tuple(targets.shape[1:])
    if len(shape) == 2:
        return 1 if given in ((), (1,)) else None
    first, last = given == shape[2:], given == shape[1:-1]
    if first and last:  # as many positions as classes: sequences have their classes last, images first
        return -1 if len(shape) == 3 else 1
    return 1 if first else -1 if last else None


def _positions(shape: tuple[int, ...], targets: Tensor) -> Tensor:
    """The position, among those with a label, of each of the flattened outputs."""
    width, dim = math.prod(shape[1:]), _class_dim(shape, targets)
    index = torch.arange(width, device=targets.device)
    assert dim is not None
    return index % (width // shape[1]) if dim == 1 else index // shape[-1]


def affordable(
    kernel: Callable[[int], object],
    sample: float,
    choice: Choice,
    layers: int,
    limit: float,
    fixed: tuple[bool, bool],
) -> tuple[int, int]:
    """The largest part of a choice whose turn is predicted to take no longer than ``limit`` seconds.

    Where the passes through the model alone take a quarter of the limit, they tell: about 60 samples go through it
    before the kernel is begun, then n forward and n c backward, and the products take about as long again. Otherwise
    the kernels of 2, 4, 8 and more samples are timed until one takes a twentieth of the limit. The last two tell what
    grows with the samples and what with their square. The eigenvalues are timed on a small matrix, and grow with the
    cube of its rows. Samples are given up first, down to 10, then outputs, then samples down to 8; round numbers of
    them, so that two runs are likely to take the same.

    Args:
        kernel: Evaluates the kernel of the first so many samples.
        sample: Seconds that one sample takes to go through the model, a third of forward and backward.
        choice: What it would be of.
        layers: How many kernels of layers are centred.
        limit: Seconds.
        fixed: Whether samples, and outputs, are as the user has asked for.

    Returns:
        How many samples and outputs.

    Raises:
        CannotMeasure: If not even the least fits.
    """
    clock = OwnTime()

    def passes(n: int, c: int) -> float:
        return sample * (PLANNING + PRODUCTS * n * (1 + 2 * c))

    linear, square = 0.0, 0.0
    heavy = passes(choice.samples, choice.count) > limit / 4
    if not heavy:
        m, before, last = 1, 0.0, 0.0
        while 2 * m <= choice.samples and last < limit / 20:
            m, before, last = 2 * m, last, math.inf
            for _ in range(2):  # the first call of a model may take long for reasons of its own
                begun = clock()
                kernel(m)
                last = min(last, clock() - begun)
                if last < limit / 20:
                    break
        square = max(0.0, 2 * (last - 2 * before) / m**2) if m > 2 else 0.0
        linear = max(0.0, (last - square * m**2) / m)
    eigen, centring = matrix_cost()

    def seconds(n: int, c: int) -> float:
        part, rows = n * c / choice.count, n * c
        own = passes(n, c) if heavy else linear * part + square * part**2
        return own + eigen * rows**3 + centring * rows**2 * (layers + 2)

    samples = [choice.samples] if fixed[0] else [n for n in SIZES if n < choice.samples]
    samples = sorted({*samples, choice.samples}, reverse=True)
    outputs = [choice.count]
    while not fixed[1] and outputs[-1] > 2:
        outputs.append(max(2, outputs[-1] // 2))
    enough = [n for n in samples if n >= LEAST_SAMPLES] or samples[:1]
    for n, c in [(n, c) for c in outputs for n in enough] + [(n, outputs[-1]) for n in samples]:
        if seconds(n, c) <= limit or (all(fixed) or (fixed[0] and c == outputs[-1])):
            return n, c
    n, c = samples[-1], outputs[-1]
    raise CannotMeasure(
        f"The kernel of {n} samples and {c} outputs alone is predicted to take {seconds(n, c):.1f} s, more than a "
        f"first turn may. It is tried again when a twentieth of the training is as much; TangentKernel(num_samples="
        f"{n}, num_outputs={c}) or overhead=None measures it at any cost."
    )


def matrix_cost() -> tuple[float, float]:
    """Seconds that eigenvalues take, for each cube of the rows, and that centring takes, for each square."""
    matrix = torch.randn(_SIDE, _SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix @ matrix.T
    times = []
    works: list[Callable[[], Tensor]] = [
        lambda: torch.linalg.eigvalsh(matrix),
        lambda: (matrix - matrix.mean(0)).norm(),
    ]
    for work in works:
        work()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[0] / _SIDE**3, 4 * times[1] / _SIDE**2
