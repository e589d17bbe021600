"""KernelMotion: how the tangent kernel itself changes during training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from probes import CannotMeasure
from probes.batches import Batch
from probes.measurement import Axis, Measurement
from probes.run import Run
from probes.schedule import Schedule

from .centering import center
from .choice import Choice, labels_of
from .engine import MEMORY
from .motion import eigenspace_rotation, kernel_distance, residual_shares
from .probe import TangentKernel
from .product import KernelOperator
from .quantities import TRACE_RATIOS
from .spectrum import eigenfunctions

__all__ = ["KernelMotion"]

LEADING = 10
"""Eigenvectors whose space is followed."""
KEPT = 20
"""Kernels that are kept: of the first turn, and of the first from step 1, 2, 4, ... on."""


class KernelMotion(TangentKernel):
    """How far the tangent kernel moves: from the first turn, from turn to turn, and as an eigenspace.

    Yields, with the batch's name at the end:
        ``ntk_motion/distance``: kernel distance to the kernel of the first turn, not centred; ``ntk_motion/velocity``:
        that to the last turn, for each step in between; from the second turn on.
        ``ntk_motion/cka``: CKA, centred by output, with the kernels of the first turn and of the first turns from
        steps 1, 2, 4, 8, ... on; as long as there is none, with itself, 1.
        ``ntk_motion/rotation``: of the space of the ten leading eigenvectors, since the first and the last turn.
        Where the batch has targets: ``ntk_motion/residual_share``, in the eigenspaces of the largest 4, 8 and 16 % of
        the eigenvalues; of labels, the residual is that of cross-entropy: one-hot labels less softmax; of numbers,
        targets less outputs, or less their sigmoid where the loop's loss was seen to be that of logits.
        ``ntk_motion/update``: how long the change of the outputs by the last update was; ``ntk_motion/update_error``:
        how far the tangent features before it, times the update, are from that, relative to it (lemma 4.1).

    In the lazy regime all of this stays near 0, and CKA at 1. Runs when named. The kernels are those of
    :class:`TangentKernel` and are shared with it. Costs its eigenvectors beside, N^3 operations, N <= 1000 by default;
    keeps at most 22 kernels of N^2 / 2 numbers in memory, 44 MB for N = 1000, in the state of a run that is resumed
    too. At the update before each turn it holds a copy of the parameters.

    Args:
        schedule: When it is due; by default log-spaced.
        batches: Names of the batches; all by default.
        num_samples: As for :class:`TangentKernel`.
        num_outputs: As for :class:`TangentKernel`.
        memory: Bytes that a kernel may use.

    Raises:
        ValueError: As :class:`TangentKernel`.

    Example:
        >>> KernelMotion(batches=["train"], num_samples=50).name
        'kernel_motion'

    References:
        Fort et al. (2020), Deep learning versus kernel learning. Baratin (2021), lemma 4.1.
    """

    name = "kernel_motion"
    by_default = False
    watched_updates = 1

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batches: Sequence[str] | None = None,
        num_samples: int | None = None,
        num_outputs: int | None = None,
        memory: float = MEMORY,
    ) -> None:
        super().__init__(
            schedule, batches=batches, num_samples=num_samples, num_outputs=num_outputs, products=0, memory=memory
        )
        self._past: dict[str, dict[str, Any]] = {}
        """By batch: the kernels and leading eigenvectors of the first and the last turn, and the centred ones kept."""

        self._held: tuple[int, dict[str, Tensor]] | None = None
        """The step before an update that is watched, and the parameters then."""
        self._seen: set[int] = set()
        """The optimizers that have begun that update, by id."""

    def before_step(self, run: Run, optimizer: Optimizer | None) -> None:
        """Copy the parameters, before the first of several optimizers; again where an update was skipped."""
        if self._held is not None and self._held[0] == run.step and id(optimizer) not in self._seen:
            self._seen.add(id(optimizer))
            return
        trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad and not is_lazy(p)}
        plain = all(type(p) is nn.Parameter and not p.is_meta for p in trained.values())
        if plain:
            self._held = run.step, {name: p.detach().clone() for name, p in trained.items()}
            self._seen = {id(optimizer)}

    def state_dict(self) -> dict[str, Any]:
        """Beside the sizes what the kernels are compared with; in the midst of an update, the parameters before it."""
        past = {name: dict(past) for name, past in self._past.items()}
        return {**super().state_dict(), "past": past, "held": None if self._held is None else list(self._held)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state)
        self._past = {name: dict(past) for name, past in state["past"].items()}
        self._held = None if state["held"] is None else (state["held"][0], dict(state["held"][1]))

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield how the kernel has moved, batch by batch."""
        notes: list[str] = []
        refused: list[CannotMeasure] = []
        names = list(self.batches or run.batches)
        for name in names:
            try:
                choice = self._choice(run, name, len(names), notes)
                gram = self._gram(run, name, choice)
            except CannotMeasure as error:
                refused.append(error)
                continue
            kernel = None if gram is None or not gram.kernel.any() else gram.kernel
            if kernel is not None and not kernel.isfinite().all():
                kernel = None
            if kernel is None:
                notes.append(f"On batch {name!r} the kernel is zero or not finite.")
            batch, outputs = run.batch(name).first(choice.samples), run.evaluate(name)[: choice.samples]
            yield from self._moved(run, name, step, batch, outputs, choice, kernel, notes)
            yield from self._update(run, name, step, batch, outputs, choice)
        self._held = None
        if len(refused) == len(names) and refused:
            raise refused[0]
        notes += map(str, refused)
        if notes:
            run.left_out(" ".join(notes))

    def _moved(
        self, run: Run, name: str, step: int, batch: Batch, outputs: Tensor, choice: Choice, kernel: Tensor | None,
        notes: list[str],
    ) -> Iterator[Measurement]:  # fmt: skip
        words = f"exact kernel of {choice.words}"
        measured = partial(Measurement, num_samples=choice.samples, estimator=f"{words}; not centred")
        distance, turned = math.nan, [math.nan, math.nan]
        velocity = math.nan if name in self._past else None
        similar = torch.full((KEPT,), torch.nan, dtype=torch.float64)
        ks = {max(1, round(share * choice.samples * choice.count)): share for share in TRACE_RATIOS}
        shares = torch.full((len(ks),), torch.nan, dtype=torch.float64)
        residual, what = None, ""
        if batch.targets is not None:
            residual, what = self._residual(run, name, batch.targets, outputs, choice, notes)
        if kernel is not None:
            functions = eigenfunctions(kernel).functions
            leading, packed = functions[:LEADING].float().cpu(), _packed(kernel)
            past = self._past.get(name)
            if past is None or past["shape"] != tuple(kernel.shape):
                now = {"step": step, "kernel": packed, "leading": leading}
                past = self._past[name] = {"shape": tuple(kernel.shape), "first": now, "last": now, "kept": {}}
            first, last = past["first"], past["last"]
            size = len(functions)
            distance = float(kernel_distance(_unpacked(packed, size), _unpacked(first["kernel"], size)))
            turned = [
                float(eigenspace_rotation(leading, each["leading"]))
                if each["step"] != step
                else 0.0  # but for rounding
                for each in (first, last)
            ]
            if step > last["step"]:
                moved = float(kernel_distance(_unpacked(packed, size), _unpacked(last["kernel"], size)))
                velocity = moved / (step - last["step"])
            similar = self._similar(past["kept"], step, center(kernel, "outputs"))
            past["last"] = {"step": step, "kernel": packed, "leading": leading}
            if residual is not None:
                shares = residual_shares(functions, residual.to(functions.device), list(ks)).cpu()
        words_of = "distance of the kernel from that of the first turn"
        yield measured(f"ntk_motion/distance/{name}", distance, description=words_of)
        words_of = "distance of the kernel from that of the last turn that had one, for each step"
        if velocity is not None:
            yield measured(f"ntk_motion/velocity/{name}", velocity, unit="1 / step", description=words_of)
        since = {"since": Axis(np.array(["first turn", "last turn"]))}
        words_of = f"rotation of the space of the {LEADING} leading eigenvectors"
        yield measured(f"ntk_motion/rotation/{name}", turned, dims=("since",), coords=since, description=words_of)
        # Names, so that a picture has rows of one height.
        kept_from = {"kept": Axis(np.array(["first turn", *(f"step {2**j}" for j in range(KEPT - 1))]))}
        yield measured(
            f"ntk_motion/cka/{name}", similar, dims=("kept",), coords=kept_from,
            estimator=f"{words}; features centred: outputs",
            description="CKA with earlier kernels; 1 with those to come",
        )  # fmt: skip
        if batch.targets is not None:
            spaces = {"eigenspace": Axis(np.array([f"largest {k} ({share:.0%})" for k, share in ks.items()]))}
            words_of = "share of the residual in the leading eigenspaces"
            yield measured(
                f"ntk_motion/residual_share/{name}", shares, dims=("eigenspace",), coords=spaces, description=words_of,
                estimator=f"{words}; not centred; residual: targets less {what}",
            )  # fmt: skip

    def _update(
        self, run: Run, name: str, step: int, batch: Batch, outputs: Tensor, choice: Choice
    ) -> Iterator[Measurement]:
        """What the last update made of the outputs, beside what was to be expected to first order."""
        if self._held is None or self._held[0] != step - 1:
            return
        held, now = self._held[1], dict(run.model.named_parameters())
        if held.keys() - now.keys() or any(now[key].shape != value.shape for key, value in held.items()):
            return
        held = {key: value.to(now[key]) for key, value in held.items()}
        about: dict[str, Any] = {"output": run.output, "outputs": choice.outputs, "memory": self.memory}
        kernel = KernelOperator(run.model, batch, "none", at=held, **about)
        before = kernel.call.evaluate(kernel.call.batch).double().T
        if any(value.dtype.itemsize < 4 for value in held.values()):  # in single precision, as before
            call = KernelOperator(run.model, batch, "none", **about).call
            after = call.evaluate(call.batch).double().T
        else:
            after = outputs.detach().double().reshape(len(outputs), -1)
            after = (after if choice.outputs is None else after[:, list(choice.outputs)]).T
        moved = {key: _single(now[key].detach()) - _single(value) for key, value in held.items()}
        made, said = after - before, kernel.push(moved)
        length = float(made.norm())
        yield Measurement(
            f"ntk_motion/update/{name}",
            length,
            unit="output",
            num_samples=choice.samples,
            estimator=f"{choice.words}; root of the sum over outputs and examples",
            description="change of the outputs by the last update",
        )
        yield Measurement(
            f"ntk_motion/update_error/{name}",
            float((made - said).norm()) / length if length else math.nan,
            num_samples=choice.samples,
            estimator=f"{choice.words}; tangent features before the update times the update",
            description="difference of that change from what is expected to first order, relative to it",
        )

    def _similar(self, kept: dict[int, Tensor], step: int, centered: Tensor) -> Tensor:
        """CKA with each kernel that is kept, 1 with those to come; the first of its place is kept."""
        size = centered.shape[0] * centered.shape[1]
        diagonal = torch.arange(size).cumsum(0) + torch.arange(size)  # where a packed triangle has its diagonal
        similar = torch.full((KEPT,), torch.nan, dtype=torch.float64)
        norm = centered.norm()
        if not norm > 0:
            return similar
        packed = _packed(centered / norm)
        similar[:] = 1
        place = 0 if step <= 0 else min(KEPT - 1, int(math.log2(step)) + 1)
        for each in range(1 if kept else 0, place + 1):
            kept.setdefault(each, packed)
        now = packed.double()
        for index, other in kept.items():
            products = now * other.double()
            similar[index] = 2 * products.sum() - products[diagonal].sum()
        return similar

    def _residual(
        self, run: Run, name: str, targets: Tensor, outputs: Tensor, choice: Choice, notes: list[str]
    ) -> tuple[Tensor | None, str]:
        """Targets less what the outputs say, of the chosen outputs; 0 where there is no label. Shape ``(c, n)``."""
        try:
            matrix, labelled = labels_of(targets, choice)
        except CannotMeasure as error:
            notes.append(f"The targets of batch {name!r} leave no residual: {error}.")
            return None, "outputs"
        flat = outputs.detach().double().reshape(len(outputs), -1)
        if targets.is_floating_point() and "binary_cross_entropy_with_logits" in str(run.criterion):
            said, what = flat.sigmoid(), "the sigmoid of the outputs"
        elif targets.is_floating_point() or flat.shape[1] == 1:
            said, what = flat, "outputs"
        elif outputs.ndim == 2:
            said, what = nn.functional.softmax(flat, 1), "the softmax of the outputs"
        else:
            notes.append(f"The residual of batch {name!r} is told for outputs of shape (n, c) alone.")
            return None, "outputs"
        columns = range(flat.shape[1]) if choice.outputs is None else choice.outputs
        residual = matrix.to(flat.device) - said[:, list(columns)].T
        return residual.where(labelled.to(flat.device), 0), what


def _single(tensor: Tensor) -> Tensor:
    """In single precision at least, in which differences of half precision are exact enough."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _packed(kernel: Tensor) -> Tensor:
    """The lower triangle of a kernel, row by row, float32 on the CPU."""
    size = math.isqrt(kernel.numel())
    matrix = kernel.detach().reshape(size, size).float().cpu()
    rows, columns = torch.tril_indices(size, size)
    return matrix[rows, columns]


def _unpacked(packed: Tensor, size: int) -> Tensor:
    matrix = packed.new_zeros(size, size)
    rows, columns = torch.tril_indices(size, size)
    matrix[rows, columns] = packed
    matrix[columns, rows] = packed
    return matrix
