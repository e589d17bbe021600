"""Representation: what hidden layers represent on a fixed batch, and how that changes during training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.budget.clock import OwnTime
from probes.measurement import Axis, CannotMeasure, Measurement
from probes.names import check_layers, hookable_modules
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule, at

from .cka import debiased_cka_matrix, folded, unfolded
from .features import Positions, as_rows
from .layers import Head, hidden_outputs, with_weights
from .quantities import COLLAPSE, RANKS, Labels, Layer, collapse, look, usable_labels
from .ridge import stratified_folds
from .turn import LEAST_SAMPLES, affordable_samples, seconds_per_operation

__all__ = ["Representation"]

MOST_SAMPLES = 512
PASSES = 4.2
"""Forward passes of a turn: the output, whether it is a function of each example, and the layers."""


class Representation(Probe):
    r"""How many directions hidden layers use, how similar they are, and how they separate the classes, on one batch.

    A layer is the output of a module: by default of each one with a weight of two dimensions or more, before its
    activation; name others by ``layers``, activations too. Its features are the units; of a convolution or a sequence
    the units at all positions, or their means over the positions (``positions="mean"``). Of a layer that is called
    several times it is what the first call gives; sequences with time first (``batch_first=False``) are turned.

    Yields, with the batch's name at the end:
        Per layer: ``representation/effective_rank`` (exp of the entropy of the trace-normalised eigenvalues of the
        covariance), ``representation/participation_ratio`` and ``representation/stable_rank``, of features less their
        mean; ``representation/rankme``, of features as they are. Of n examples, none is above n - 1 (RankMe: n).

        ``representation/cka``, of each layer with each ``other``, and ``representation/cka_to_start``, of each layer
        with itself at step 0: debiased linear CKA, with the standard error of the jackknife over the examples.

        Where the targets are classes: ``representation/ridge_accuracy``, per layer, held out, of five stratified folds
        that are drawn once. And where the model ends in a linear classifier, neural collapse of what it is given:
        ``representation/nc1`` (variability within classes), ``representation/nc2_equinorm_means``,
        ``representation/nc2_equiangular_means``, ``representation/nc2_angle_means`` and the same three of its
        ``_weights``, ``representation/nc3`` (distance from self-duality), all 0 once collapsed, and
        ``representation/nc4`` (agreement with the nearest class mean, on these same examples), 1 then.

    Numbers of a finite batch: of a population, ranks are larger; NC1 is smaller than it would be with all examples of
    a class, whose mean is fitted to few. Compare steps and layers on one batch. Classes that the batch lacks are left
    out of NC2 to NC4. Samples labelled -100 have no class.

    NaN is what is not defined, and no more: of a layer that is constant or not finite; CKA of fewer than 4 examples, or
    its error of fewer than 5; the classes' where there is one class, or fewer than 4 examples have one.

    Runs when named, and always at step 0, the start of ``cka_to_start`` (of a run that is attached or resumed later
    without a checkpoint of this probe: at its first turn, as the estimator says). Costs about four forward passes
    without gradients, of which other probes share three; for each of the L layers, of d features, 2 d n^2 operations,
    two sets of singular values of min(n, d) and one ridge classifier; and 2 L^2 n^2 for CKA, all in float64. A layer of
    512 units takes 7 ms for 100 samples and 150 ms for 512, on one core. It holds one layer's output at a time, and
    L n^2 numbers. Checkpoints hold L n (n - 1) / 2 numbers of 8 bytes: 1 MiB a layer of 512 samples. Where a budget
    limits the first turn, fewer samples are taken, once for all turns.

    Args:
        schedule: When it is due, besides step 0; log-spaced by default.
        batch: The name of the batch.
        layers: Names of modules.
        positions: What the features of convolutions and sequences are: ``"flatten"``, as Kornblith et al. (2019) take
            them for CKA, or ``"mean"``, as pooling and most classifiers on top of them take them.
        num_samples: The first so many of the batch; by default at most 512.
        penalty: Of the ridge classifier, in units of the mean squared length of a layer's centred features.

    Raises:
        ValueError: If ``positions`` is unknown, ``num_samples`` below 2, or ``penalty`` not positive.

    Example:
        >>> Representation(positions="mean").name
        'representation'

    Reference:
        Each quantity has its source in its own function: :func:`rankme`, :func:`debiased_cka_matrix`,
        :func:`within_class_variability`, :func:`ridge_accuracy`.
    """

    name = "representation"
    needs = frozenset({"batch"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        layers: Sequence[str] | None = None,
        positions: Positions = "flatten",
        num_samples: int | None = None,
        penalty: float = 0.1,
    ) -> None:
        super().__init__(schedule)
        if positions not in get_args(Positions):
            raise ValueError(f"`positions` must be 'flatten' or 'mean', got {positions!r}.")
        if num_samples is not None and not (hasattr(num_samples, "__index__") and num_samples >= 2):
            raise ValueError(f"`num_samples` must be an integer of at least 2, got {num_samples!r}.")
        if not (hasattr(penalty, "__float__") and 0 < penalty < math.inf):
            raise ValueError(f"`penalty` must be a positive number, got {penalty!r}.")
        if self.schedule.next(-1) != 0:  # the start that later steps are compared with
            self.schedule = at([0]) | self.schedule
        self.batch, self.positions, self.num_samples, self.penalty = batch, positions, num_samples, penalty
        self.layers = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
        self._names: list[str] = []
        """The layers of the first turn: a stream keeps its axis."""
        self._samples = 0
        """Of a turn, once it is known."""
        self._start: dict[str, Tensor] = {}
        """The similarity matrix of each layer at the start, above its diagonal, on the CPU."""
        self._since = 0
        self._folds: Tensor | None = None
        self._notes: list[str] = []

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the layers represent now."""
        if run.batches[self.batch].n < 2:
            raise CannotMeasure(
                f"At least 2 samples are needed to compare, batch {self.batch!r} has 1. Pass batches={{{self.batch!r}: "
                f"(inputs, targets)}} of a hundred or more."
            )
        self._notes = []
        run.check_examples(self.batch)
        names = self._chosen(run)
        batch = run.batch(self.batch)
        if not self._samples:
            self._samples = self._affordable(run, batch, names)
        batch = batch.first(self._samples)
        labels, why = usable_labels(batch)
        if labels is not None and (self._folds is None or len(self._folds) != len(labels.values)):
            self._folds = stratified_folds(labels.values, min(5, max(2, len(labels.values))), run.generator)
        found: dict[str, Layer] = {}

        def see(name: str, output: Tensor, channel: int) -> None:
            found[name] = look(as_rows(output, channel, self.positions), labels, self._folds, self.penalty)

        head = hidden_outputs(run.model, lambda: run.forward(batch), batch.n, names, see)
        self._check(found)
        if not self._names:
            self._names = list(found)
        layers = [found.get(name) or Layer.undefined(batch.n, run.device) for name in self._names]
        yield from self._per_layer(layers, labels, batch.n)
        yield from self._similarities(layers, step, batch.n)
        if why:
            self._notes.append(why)
        if labels is not None:
            yield from self._collapse(head, labels)
        if batch.n < 4:
            self._notes.append(f"CKA is NaN: it needs 4 samples, the batch has {batch.n}")
        if self._notes:
            run.left_out(f"{'; '.join(dict.fromkeys(self._notes))}.")

    def _chosen(self, run: Run) -> list[str]:
        modules = dict(hookable_modules(run.model))
        check_layers(self.layers or [], modules)
        if self._names:
            return [name for name in self._names if name in modules]
        return self.layers or with_weights(run.model)

    def _check(self, found: dict[str, Layer]) -> None:
        missing = [name for name in self.layers or [] if name not in found]
        if missing or not found:
            which = ", ".join(map(repr, missing)) or "none of those with a weight matrix"
            raise CannotMeasure(f"`layers` must return a tensor with a row for each sample, got {which}. Name others.")

    def _affordable(self, run: Run, batch: Batch, names: list[str]) -> int:
        """Examples of every turn, from the time that a few take where the first turn is limited."""
        n, limit = min(batch.n, self.num_samples or MOST_SAMPLES), run.first_turn_limit
        if math.isinf(limit) or self.num_samples is not None or n <= LEAST_SAMPLES:
            return n
        widths: list[int] = []

        def see(name: str, output: Tensor, channel: int) -> None:
            widths.append(as_rows(output[:1], channel, self.positions).shape[1])

        few = batch.first(2)
        hidden_outputs(run.model, lambda: run.forward(few), few.n, names, see)
        rate = seconds_per_operation(run.device, OwnTime())
        affordable = affordable_samples(n, widths, PASSES * run.sample_seconds(self.batch), rate, limit)
        if affordable < n:
            self._notes.append(f"measured on {affordable} of {n} samples, as time is short; `num_samples` takes more")
        return affordable

    def _axis(self) -> Axis:
        return Axis(np.array([name or "model" for name in self._names]), description="module, by name")

    def _per_layer(self, layers: list[Layer], labels: Labels | None, n: int) -> Iterator[Measurement]:
        measured = partial(Measurement, dims=("layer",), coords={"layer": self._axis()})
        for index, (name, words) in enumerate(RANKS.items()):
            yield measured(
                f"representation/{name}/{self.batch}",
                [layer.ranks[index] for layer in layers],
                estimator=f"not centred, at most {n}"
                if name == "rankme"
                else f"centred over the batch, at most {n - 1}",
                num_samples=n,
                unit="directions",
                description=words,
            )
        if labels is not None:
            yield measured(
                f"representation/ridge_accuracy/{self.batch}",
                [layer.accuracy.value for layer in layers],
                standard_error=[layer.accuracy.standard_error for layer in layers],
                estimator=f"stratified cross-validation, penalty of {self.penalty:g} mean squared lengths",
                num_samples=len(labels.values),
                description="accuracy of a ridge classifier, held out",
            )

    def _similarities(self, layers: list[Layer], step: int, n: int) -> Iterator[Measurement]:
        how = f"debiased linear CKA, jackknife over {n} samples"
        matrices = torch.stack([layer.similarity.to(layers[0].similarity.device) for layer in layers])
        if not self._start:
            self._start = {name: folded(matrix).cpu() for name, matrix in zip(self._names, matrices, strict=True)}
            self._since = step
        value, error = debiased_cka_matrix(matrices, matrices)
        defined = value.diagonal().isfinite()
        value.diagonal().copy_(torch.where(defined, 1.0, torch.nan))
        error.diagonal().copy_(torch.where(defined & (n > 4), 0.0, torch.nan))
        yield Measurement(
            f"representation/cka/{self.batch}",
            value,
            dims=("layer", "other"),
            coords={"layer": self._axis(), "other": self._axis()},
            standard_error=error,
            estimator=how,
            num_samples=n,
            description="similarity of layers (CKA)",
        )
        pairs = [self._to_start(name, matrix, n) for name, matrix in zip(self._names, matrices, strict=True)]
        yield Measurement(
            f"representation/cka_to_start/{self.batch}",
            [pair[0] for pair in pairs],
            dims=("layer",),
            coords={"layer": self._axis()},
            standard_error=[pair[1] for pair in pairs],
            estimator=f"{how}; start: step {self._since}",
            num_samples=n,
            description="similarity of a layer to its start (CKA)",
        )

    def _to_start(self, name: str, matrix: Tensor, n: int) -> tuple[float, float]:
        start = self._start.get(name)
        if start is None or len(start) != n * (n - 1) // 2:
            self._notes.append(f"layer {name!r} has no start on these {n} samples: its cka_to_start is NaN")
            return math.nan, math.nan
        before = unfolded(start.to(matrix.device), n)
        if torch.equal(before, matrix):
            return 1.0, 0.0 if n > 4 else math.nan
        value, error = debiased_cka_matrix(matrix[None], before[None])
        return float(value), float(error)

    def _collapse(self, head: Head | None, labels: Labels) -> Iterator[Measurement]:
        if head is None:
            self._notes.append("no neural collapse: the output is not that of a Linear with one for each class")
            return
        values, why = collapse(head, labels)
        if why:
            self._notes.append(why)
        for name, words in COLLAPSE.items():
            yield Measurement(
                f"representation/{name}/{self.batch}",
                values[name][0],
                standard_error=values[name][1] if name == "nc4" else None,
                estimator="classes weighted alike; inputs of the last linear layer",
                num_samples=len(labels.values),
                description=words,
            )

    def state_dict(self) -> dict[str, Any]:
        """The layers at the start, the folds, and how many samples a turn takes."""
        return {
            "names": list(self._names), "samples": self._samples, "since": self._since, "start": dict(self._start),
            "folds": self._folds,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._names, self._samples, self._since = list(state["names"]), int(state["samples"]), int(state["since"])
        self._start, self._folds = dict(state["start"]), state["folds"]
