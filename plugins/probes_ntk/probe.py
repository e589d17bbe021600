"""TangentKernel: how the features of the learned function align with the task during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import Axis, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .alignment import alignment, centered_alignment, label_matrix
from .centering import Centering, center, center_targets
from .engine import MEMORY, TangentGram, divide_kernel, tangent_kernel
from .plan import layer_of
from .spectrum import effective_rank, eigenfunctions, eigenvalues, trace_ratio

__all__ = ["TangentKernel"]

TRACE_RATIOS = (0.04, 0.08, 0.16)
ROWS, LEAST = 1000, 10


class TangentKernel(Probe):
    """Spectrum of the tangent kernel and its alignment with the labels, of all layers and of each, on fixed batches.

    Yields, with the batch's name at the end:
        ``ntk/eigenvalues``, and of these ``ntk/max_eigenvalue``, ``ntk/mean_eigenvalue``, ``ntk/median_eigenvalue``;
        ``ntk/trace``; ``ntk/effective_rank``; ``ntk/trace_ratio``: T_k for k of 4, 8 and 16 % of the eigenvalues.
        Where the batch has targets: ``ntk/alignment``, ``ntk/alignment_uncentered``.
        Per layer, in order of registration: ``ntk/layer_trace`` and, with targets, ``ntk/layer_alignment``; 0 and NaN
        of one that does not train, as long as it does not.
        With ``eigenfunctions``: ``ntk/eigenfunction_1`` and so on, pictures over the grid of the inputs.

    Of a language model, whose outputs are of shape (n, T, V), choose what the kernel is of: ``output=lambda result:
    result.logits[:, -1, :10]`` of the manager makes it that of ten logits at the last position. The labels of all
    positions do not go with these; give ``batches`` with those that do, or the kernel is measured without alignment.

    Eigenvalues, trace and rank are of the kernel centred as asked for; with ``"outputs"``, c of the nc eigenvalues are
    zero. Runs by default. Costs a forward pass, c backward passes and the kernel of the samples, n^3 c^3 operations
    for its eigenvalues, on each batch; the kernel is shared with other probes that ask for it at the same step.

    Args:
        schedule: When it is due; by default log-spaced, as in the thesis.
        batches: Names of the batches; all by default.
        centering: Of the features, ``"outputs"``, ``"all"`` or ``"none"``, see :func:`~probes_ntk.center`.
        num_samples: The first so many of each batch; by default as many as make a kernel of 1000 rows, at least 10.
        eigenfunctions: How many to draw, of a model of one output on batches that are a grid of the plane.
        memory: Bytes that the kernel may use.

    Raises:
        ValueError: If ``centering`` is unknown, ``num_samples`` is below 2, ``eigenfunctions`` is negative, or
            ``memory`` not positive.

    Example:
        >>> TangentKernel(batches=["train", "test"]).name
        'tangent_kernel'

    Reference:
        Baratin (2021), section 4.3 (eq. 5, 6, 7, figures 4.2 to 4.4) and figure 4.1.
    """

    name = "tangent_kernel"
    needs = frozenset({"batch"})
    any_rank = True

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batches: Sequence[str] | None = None,
        centering: Centering = "outputs",
        num_samples: int | None = None,
        eigenfunctions: int = 0,
        memory: float = MEMORY,
    ) -> None:
        super().__init__(schedule)
        if centering not in get_args(Centering):
            raise ValueError(
                f"`centering` must be one of {', '.join(map(repr, get_args(Centering)))}, got {centering!r}."
            )
        if num_samples is not None and not num_samples >= 2:
            raise ValueError(f"`num_samples` must be at least 2, got {num_samples}.")
        if not eigenfunctions >= 0:
            raise ValueError(f"`eigenfunctions` must be a number of pictures, got {eigenfunctions}.")
        if not memory > 0:
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory}.")
        self.batches = [batches] if isinstance(batches, str) else None if batches is None else list(batches)
        self.centering: Centering = centering
        self.num_samples, self.eigenfunctions, self.memory = num_samples, eigenfunctions, memory

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the kernel is now, batch by batch."""
        chosen = {name: self._chosen(run, name) for name in self.batches or run.batches}
        divided = self._divided(run, chosen) if run.hands > 1 else {}
        for name, batch in chosen.items():

            def compute(name: str = name, batch: Batch = batch) -> TangentGram:
                if name in divided:
                    return divided.pop(name)
                return tangent_kernel(run.model, batch, output=run.output, layers=True, memory=self.memory)

            gram = run.shared(("tangent_kernel", name, batch.n), compute)
            # All there are: a layer may be unfrozen later, and a stream keeps its axis.
            names = list(dict.fromkeys(layer_of(run.model, parameter) for parameter, _ in run.model.named_parameters()))
            c = gram.kernel.shape[0]
            if _of_positions(batch.targets, c):
                run.left_out(
                    f"The targets of batch {name!r} are {tuple(batch.targets.shape[1:])} labels a sample, and the "
                    f"outputs {c} numbers: its kernel has no alignment with them. Pass batches={{{name!r}: (inputs, "
                    f"targets)}} with the one label of each sample that goes with the chosen outputs."
                )
                batch = batch.with_targets(None)
            yield from self._measure_one(name, batch, gram, names)

    def _chosen(self, run: Run, name: str) -> Batch:
        outputs = run.evaluate(name)
        c = outputs.shape[1] if outputs.ndim > 1 else 1
        return run.batch(name).first(self.num_samples or max(ROWS // c, LEAST))

    def _divided(self, run: Run, chosen: Mapping[str, Batch]) -> dict[str, TangentGram]:
        """The kernels of all batches, to which all ranks contribute."""
        count = -(-run.hands // len(chosen))
        divisions = [
            divide_kernel(run.model, batch, count, output=run.output, memory=self.memory) for batch in chosen.values()
        ]
        done = iter(run.spread([piece for division in divisions for piece in division.pieces]))
        return {
            name: division.join([next(done) for _ in division.pieces])
            for name, division in zip(chosen, divisions, strict=True)
        }

    def _measure_one(self, name: str, batch: Batch, gram: TangentGram, names: list[str]) -> Iterator[Measurement]:
        centered = center(gram.kernel, self.centering)
        c, n = centered.shape[:2]
        dtype = str(gram.kernel.dtype).removeprefix("torch.")
        how = f"exact kernel of {n} samples and {c} outputs, {dtype}; features centred: {self.centering}"
        unit = "output^2 / parameter^2"
        index = {"eigenvalue": Axis(np.arange(1, n * c + 1), "index")}
        values = eigenvalues(centered)

        def measurement(
            quantity: str,
            value: Tensor,
            unit: str = "1",
            dims: tuple[str, ...] = (),
            coords: dict[str, Axis] | None = None,
            estimator: str = how,
            description: str = "",
        ) -> Measurement:
            return Measurement(
                f"ntk/{quantity}/{name}",
                value,
                dims=dims,
                coords=coords,
                unit=unit,
                estimator=estimator,
                num_samples=n,
                description=description,
            )

        yield measurement("eigenvalues", values, unit, ("eigenvalue",), index, description="eigenvalues")
        yield measurement("max_eigenvalue", values[0], unit, description="largest eigenvalue")
        yield measurement("mean_eigenvalue", values.mean(), unit, description="mean eigenvalue")
        yield measurement("median_eigenvalue", values.quantile(0.5), unit, description="median eigenvalue")
        yield measurement("trace", values.sum(), unit, description="trace of the kernel")
        yield measurement("effective_rank", effective_rank(values), description="exp of the entropy of the spectrum")
        ks = {max(1, round(share * n * c)): share for share in TRACE_RATIOS}
        yield measurement(
            "trace_ratio",
            torch.stack([trace_ratio(values, k) for k in ks]),
            dims=("ratio",),
            coords={"ratio": Axis(np.array([f"T_{k} ({share:.0%})" for k, share in ks.items()]))},
            description="share of the trace in the largest k eigenvalues",
        )
        layers = {"layer": Axis(np.array(names))}
        traces, aligned, y = [], [], None
        if batch.targets is not None:
            y = center_targets(label_matrix(batch.targets, c), self.centering).to(centered.device)
        for layer in names:
            part = gram.layers.get(layer)
            if part is None:
                traces.append(centered.new_zeros(()))
                aligned.append(centered.new_full((), float("nan")))
                continue
            centered_part = center(part, self.centering)
            traces.append(torch.einsum("aiai->", centered_part))
            if y is not None:
                # NaN for a layer that the function does not depend on (dead units).
                aligned.append(centered_alignment(part, centered_part, y))
        yield measurement(
            "layer_trace", torch.stack(traces), unit, ("layer",), layers, description="trace of the kernel of a layer"
        )
        if batch.targets is not None:
            words = f"{how}; with stacked labels"
            yield measurement(
                "alignment", alignment(gram.kernel, batch.targets, self.centering), estimator=words,
                description="alignment of the kernel with the labels",
            )  # fmt: skip
            yield measurement(
                "alignment_uncentered",
                alignment(gram.kernel, batch.targets, "none"),
                estimator=words.replace(f"centred: {self.centering}", "centred: none"),
                description="alignment of the kernel, not centred, with the labels",
            )
            yield measurement(
                "layer_alignment", torch.stack(aligned), "1", ("layer",), layers, words,
                "alignment of the kernel of a layer with the labels",
            )  # fmt: skip
        if self.eigenfunctions:
            place, coords = _grid(batch, c)
            functions = eigenfunctions(centered).functions[: self.eigenfunctions, 0]
            for j, function in enumerate(functions, 1):
                picture = torch.empty_like(function).index_copy_(0, place.to(function.device), function)
                shape = [len(coords[dim].values) for dim in ("y", "x")]
                yield measurement(
                    f"eigenfunction_{j}", picture.reshape(shape), "1", ("y", "x"), coords,
                    description=f"eigenfunction {j} of the kernel",
                )  # fmt: skip


def _of_positions(targets: Tensor | None, c: int) -> TypeGuard[Tensor]:
    """Whether the targets are labels of many positions in each sample, as of a language model."""
    return targets is not None and targets[0].numel() not in (1, c) and not targets.is_floating_point()


def _grid(batch: Batch, c: int) -> tuple[Tensor, dict[str, Axis]]:
    """Where each sample stands in a picture, rows upwards in y, and the coordinates of the picture."""
    inputs = batch.inputs
    if c != 1:
        raise ValueError(f"`eigenfunctions` are drawn for a model of one output, this one has {c}.")
    if inputs is None or inputs.ndim != 2 or inputs.shape[1] != 2:
        shape = None if inputs is None else tuple(inputs.shape)
        raise ValueError(f"`eigenfunctions` are drawn over inputs of two numbers, shape (n, 2), got {shape}.")
    (xs, column), (ys, row) = (np.unique(inputs[:, axis].cpu().numpy(), return_inverse=True) for axis in (0, 1))
    place = torch.from_numpy(row * len(xs) + column)
    if len(xs) * len(ys) != len(inputs) or len(np.unique(place)) != len(inputs):
        raise ValueError(
            f"`eigenfunctions` are drawn over a grid: every x with every y once. The {len(inputs)} inputs have "
            f"{len(xs)} different x and {len(ys)} different y. Pass a batch that is a grid, and its num_samples."
        )
    return place, {"y": Axis(ys, "input"), "x": Axis(xs, "input")}
