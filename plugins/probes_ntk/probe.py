"""TangentKernel: how the features of the learned function align with the task during training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from probes import CannotMeasure
from probes.batches import Batch
from probes.budget.clock import OwnTime
from probes.measurement import Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .call import Call
from .centering import Centering
from .choice import Choice, affordable, choose
from .engine import MEMORY, TangentGram, tangent_kernel
from .estimate import LEAST
from .estimated import estimated_quantities
from .plan import kernel_bytes, layer_of
from .quantities import quantities

__all__ = ["TangentKernel"]

FORMED, PRODUCTS = 5000, 100
"""Rows up to which a kernel is formed by default, and the products that are taken of a larger one instead."""
PASSES = 1e9
"""Bytes that their passes take at most."""


class TangentKernel(Probe):
    """Spectrum of the tangent kernel and its alignment with the labels, of all layers and of each, on fixed batches.

    Yields, with the batch's name at the end:
        ``ntk/eigenvalues``, and of these ``ntk/max_eigenvalue``, ``ntk/mean_eigenvalue``, ``ntk/median_eigenvalue``;
        ``ntk/trace``; ``ntk/effective_rank``; ``ntk/trace_ratio``: T_k for k of 4, 8 and 16 % of the eigenvalues.
        Where the batch has targets: ``ntk/alignment``, ``ntk/alignment_uncentered``.
        Per layer of the first turn, in order of registration: ``ntk/layer_trace`` and, with targets,
        ``ntk/layer_alignment``; 0 and NaN of one that does not train, as long as it does not, or that is gone.
        With ``eigenfunctions``: ``ntk/eigenfunction_1`` and so on, pictures over the grid of the inputs.

    A number that is undefined is NaN, and the others are measured: the alignment with targets that are all alike or do
    not go with the outputs, the rank of a kernel that is zero, everything while the outputs are not finite. Outputs
    of a position, or of a sample, with a label of -100, which losses ignore, are left out of the alignments.

    The kernel has at most 1000 rows by default, one for each sample and output. Of many outputs, of a language model's
    (n, T, V) or of images, it is that of a few, drawn once from the run's seed; those of labels that occur come first.
    Labels of each position count for the outputs of the same position: of a causal language model that shifts its
    labels itself, give ``batches`` with shifted ones.

    A kernel of more than 5000 rows, or of more than fit ``memory``, is not formed: products with vectors tell the same,
    with standard errors (:func:`~probes_ntk.estimate_spectrum`), but for all eigenvalues after the first ten, their
    median, the alignment that is not centred and the pictures.

    Eigenvalues, trace and rank are of the kernel centred as asked for; with ``"outputs"``, c of the nc eigenvalues are
    zero. Runs by default. Costs three forward passes, c backward passes and the kernel of the samples, n^3 c^3
    operations for its eigenvalues, on each batch; the kernel is shared with other probes that ask for it at the same
    step. Where the run limits the time of a first turn, that is predicted from the kernels of 2, 4, 8 and more
    samples, and samples and outputs are made fewer, for good, until it is short enough; what was asked for is kept.

    Args:
        schedule: When it is due; by default log-spaced, as in the thesis.
        batches: Names of the batches; all by default.
        centering: Of the features, ``"outputs"``, ``"all"`` or ``"none"``, see :func:`~probes_ntk.center`.
        num_samples: The first so many of each batch; by default as many as make a kernel of 1000 rows, at least 10.
        num_outputs: So many of the outputs, drawn from the run's seed; by default all, or ten where all of them
            would make a kernel of more than 1000 rows.
        eigenfunctions: How many to draw, of a model of one output on batches that are a grid of the plane.
        products: So many products instead of the kernel, from 24 on; 0 for the kernel however large. By default 0 up to
            5000 rows that fit ``memory``, else 100.
        memory: Bytes that the kernel may use; the passes of products take 1 GB of it at most.

    Raises:
        ValueError: If ``centering`` is unknown, ``num_samples`` is below 2, ``num_outputs`` below 1,
            ``eigenfunctions`` is negative, ``products`` is too small, or ``memory`` not positive.

    Example:
        >>> TangentKernel(batches=["train", "test"]).name
        'tangent_kernel'

    Reference:
        Baratin (2021), section 4.3 (eq. 5, 6, 7, figures 4.2 to 4.4) and figure 4.1.
    """

    name = "tangent_kernel"
    needs = frozenset({"batch"})

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batches: Sequence[str] | None = None,
        centering: Centering = "outputs",
        num_samples: int | None = None,
        num_outputs: int | None = None,
        eigenfunctions: int = 0,
        products: int | None = None,
        memory: float = MEMORY,
    ) -> None:
        super().__init__(schedule)
        if centering not in get_args(Centering):
            raise ValueError(
                f"`centering` must be one of {', '.join(map(repr, get_args(Centering)))}, got {centering!r}."
            )
        if num_samples is not None and not (hasattr(num_samples, "__index__") and num_samples >= 2):
            raise ValueError(f"`num_samples` must be an integer of at least 2, got {num_samples!r}.")
        if num_outputs is not None and not (hasattr(num_outputs, "__index__") and num_outputs >= 1):
            raise ValueError(f"`num_outputs` must be an integer of at least 1, got {num_outputs!r}.")
        if not (hasattr(eigenfunctions, "__index__") and eigenfunctions >= 0):
            raise ValueError(f"`eigenfunctions` must be a number of pictures, got {eigenfunctions!r}.")
        if products is not None and not (hasattr(products, "__index__") and (products == 0 or products >= LEAST)):
            raise ValueError(f"`products` must be 0 or an integer from {LEAST} on, got {products!r}.")
        if not (hasattr(memory, "__float__") and memory > 0):
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
        self.batches = [batches] if isinstance(batches, str) else None if batches is None else list(batches)
        self.centering: Centering = centering
        self.num_samples, self.num_outputs = num_samples, num_outputs
        self.eigenfunctions, self.products, self.memory = eigenfunctions, products, memory
        self._sizes: dict[str, list[Any]] = {}
        """Samples and outputs that the time of a first turn has left, by batch, and the shape of all outputs."""
        self._layers: list[str] = []
        """Those of the first turn: a stream keeps its axis."""

    def state_dict(self) -> dict[str, Any]:
        """The layers, and how large the kernels are, where the time of a first turn has decided it: axes stay."""
        return {"sizes": {name: list(size) for name, size in self._sizes.items()}, "layers": list(self._layers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sizes = {name: list(size) for name, size in state["sizes"].items()}
        self._layers = list(state.get("layers", ()))  # older states have none

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the kernel is now, batch by batch."""
        notes: list[str] = []  # of what is left out
        refused: list[CannotMeasure] = []
        names = list(self.batches or run.batches)
        chosen: dict[str, Choice] = {}
        for name in names:
            try:
                chosen[name] = self._choice(run, name, len(names), notes)
            except CannotMeasure as error:
                refused.append(error)
        # All there are: a layer may be unfrozen later, and a stream keeps its axis.
        layers = list(dict.fromkeys(layer_of(run.model, parameter) for parameter, _ in run.model.named_parameters()))
        self._layers = self._layers or layers
        if later := [layer for layer in layers if layer not in self._layers]:
            notes.append(f"Layers that came after the first turn are in the kernel of all alone: {', '.join(later)}.")
        layers = self._layers
        for name, choice in chosen.items():
            batch = run.batch(name).first(choice.samples)
            try:
                if products := self._products(run, choice):
                    yield from self._estimated(run, name, batch, choice, products, layers, notes)
                    continue
                gram = self._gram(run, name, choice)
            except CannotMeasure as error:
                refused.append(error)
                continue
            yield from quantities(name, batch, choice, gram, layers, self.centering, self.eigenfunctions, notes)
        if len(refused) == len(names) and refused:
            raise refused[0]
        notes += map(str, refused)
        if notes:
            run.left_out(" ".join(notes))

    def _choice(self, run: Run, name: str, count: int, notes: list[str]) -> Choice:
        """What the kernel of a batch is of."""
        batch, outputs = run.batch(name), run.evaluate(name)
        if batch.n < 2:
            raise CannotMeasure(
                f"Batch {name!r} is of one sample, and a kernel compares samples. Pass batches={{{name!r}: (inputs, "
                f"targets)}} with several, 100 say."
            )
        choice = choose(tuple(outputs.shape), batch.targets, run.seed, self.num_samples, self.num_outputs)
        limit = getattr(run, "first_turn_limit", math.inf) / count
        size = self._sizes.get(name)
        formed = not self._products(run, choice)
        if size is None and formed and limit < math.inf and outputs.isfinite().all():
            run.check_examples(name)  # of fewer samples than all, what interacts would fail
            tangent_kernel(nn.LayerNorm(2), torch.eye(2))  # what a process does once is not a part of the time
            fixed = self.num_samples is not None, self.num_outputs is not None
            kernel, seconds = partial(self._kernel, run, name, choice), self._sample_seconds(run, name, choice)
            n, c = affordable(kernel, seconds, choice, len(run.layers), limit, fixed)
            size = self._sizes[name] = [n, c, list(choice.shape)]
        if size is not None and tuple(size[2]) == choice.shape:
            choice = choose(choice.shape, batch.targets, run.seed, size[0], size[1])
        asked = self.num_samples or batch.n, self.num_outputs or choice.width
        if choice.samples < min(batch.n, asked[0]) or choice.count < min(choice.width, asked[1]):
            notes.append(
                f"The kernel of batch {name!r} is that of {choice.samples} of {batch.n} samples and {choice.count} of "
                f"{choice.width} outputs. TangentKernel(num_samples=..., num_outputs=...) takes others."
            )
        return choice

    def _products(self, run: Run, choice: Choice) -> int:
        """How many are taken instead of the kernel; 0 where it is formed."""
        if self.products is not None:
            return self.products
        rows = choice.samples * choice.count
        size = max(4, *(p.element_size() for p in run.model.parameters() if p.requires_grad), 0)
        fits = kernel_bytes(rows, rows, size, len(run.layers)) <= self.memory
        return 0 if rows <= FORMED and fits else PRODUCTS

    def _estimated(
        self, run: Run, name: str, batch: Batch, choice: Choice, products: int, layers: list[str], notes: list[str]
    ) -> Iterator[Measurement]:
        if self.eigenfunctions:
            notes.append(f"No eigenfunction is drawn for batch {name!r}: its kernel is not formed. Pass products=0.")
        finite = bool(run.evaluate(name)[: choice.samples].isfinite().all())
        yield from estimated_quantities(
            name, batch, choice, run.model, run.output, layers, self.centering, products,
            min(self.memory, PASSES), run.seed, finite, notes,
        )  # fmt: skip

    def _sample_seconds(self, run: Run, name: str, choice: Choice) -> float:
        """Seconds that a sample takes forward, from passes forward and backward as the kernel has them."""
        clock, least = OwnTime(), math.inf
        for n in (2, 4):
            begun = clock()
            call = Call.of(run.model, run.batch(name).first(n), run.output, choice.outputs)
            torch.autograd.grad(call.forward(call.batch).sum(), list(call.parameters.values()), allow_unused=True)
            least = min(least, (clock() - begun) / call.batch.n / 3)
        return least

    def _kernel(self, run: Run, name: str, choice: Choice, n: int) -> TangentGram:
        batch = run.batch(name).first(n)
        return tangent_kernel(
            run.model, batch, output=run.output, outputs=choice.outputs, layers=True, memory=self.memory
        )

    def _gram(self, run: Run, name: str, choice: Choice) -> TangentGram | None:
        """The kernel; None where the outputs are not finite, and it could not be."""
        if not run.evaluate(name)[: choice.samples].isfinite().all():
            return None
        return run.shared(
            ("tangent_kernel", name, str(choice)), lambda: self._kernel(run, name, choice, choice.samples)
        )
