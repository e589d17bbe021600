"""PathComplexity: how far training has moved the function, step by step, in the geometry of its tangent features."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from probes.loop.sharding import is_sharded, local_part
from probes.measurement import Axis, CannotMeasure, Measurement
from probes.precision import to_float64
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule, at
from probes_ntk import estimate_trace, layer_of, tangent_diagonal, widening

from .initial import InitialParameters, square_norms
from .norms import held, without_numbers
from .path import PathComplexitySum, Segment

__all__ = ["PathComplexity"]

Trace = Literal["signs", "exact"]
MEMORY = 4 << 30


class PathComplexity(Probe):
    r"""Path complexity, the sum of update norms times norms of the tangent features, and what it is made of.

    .. math:: C = \sum_t \|\delta w_t\|_2 \, \|\Phi_t\|_F, \qquad \|\Phi_t\|_F = \sqrt{\operatorname{Tr} K_t}

    The update norm :math:`\|\delta w_t\|_2`, of what the optimizer changes in the trainable parameters, is taken at
    every step. The feature norm, on a fixed batch and before the update, is taken when the probe is due: with
    ``every(1)`` C is the sum itself, otherwise the feature norm is interpolated between, and what that may be wrong by
    is part of the standard error (:class:`PathComplexitySum`). A fluctuation that has the period of the schedule goes
    unseen: measure at odd distances where training oscillates from step to step.

    Yields, of the batch whose name is at the end, up to the step of the measurement:
        ``complexity/path_complexity/train``; its factors ``complexity/feature_norm/train`` and, of the last update,
        ``complexity/update_norm``; ``complexity/path_length``, the sum of update norms; and
        ``complexity/displacement``, the distance from the initial parameters. Per layer, each with the norms of its own
        parameters: ``complexity/layer_path_complexity/train``, ``complexity/layer_feature_norm/train``,
        ``complexity/layer_path_length``, ``complexity/layer_displacement``. Of several probes of several batches the
        first in the list yields alone what is of no batch.

    Does not run by default, for it costs time at every step, which no budget can postpone: four passes over the
    trainable parameters, and while the optimizer steps a copy of them (not during forward and backward, unless these
    run in a closure). When due, with ``"signs"`` one forward and one backward pass and the norms of each example's
    gradients. The initial parameters are kept in host memory and in checkpoints.

    Args:
        schedule: When the feature norm is taken, besides step 0; log-spaced by default.
        record: When measurements are yielded, of these steps; at all of them by default. ``PathComplexity(every(1),
            record=every(100))`` takes the whole sum, at less cost, and does not fill the disk.
        batch: The name of the batch.
        trace: ``"exact"``, which takes a backward pass for each output, or ``"signs"``, an estimate from one backward
            pass with random signs of the outputs, see :func:`~probes_ntk.estimate_trace`. Both are the same for a
            model of one output.
        memory: Bytes that the trace may use.

    Raises:
        ValueError: If ``trace`` is unknown, or ``memory`` not positive.
        TypeError: If ``record`` is not a schedule.

    Example:
        >>> PathComplexity(trace="exact").name
        'complexity'

    Reference:
        Baratin (2021), eq. 18 and figure 4.6.
    """

    name = "complexity"
    needs = frozenset({"batch"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        record: Schedule | None = None,
        batch: str = "train",
        trace: Trace = "signs",
        memory: float = MEMORY,
    ) -> None:
        super().__init__(schedule)
        if trace not in get_args(Trace):
            raise ValueError(f"`trace` must be one of {', '.join(map(repr, get_args(Trace)))}, got {trace!r}.")
        if not (hasattr(memory, "__float__") and memory > 0):
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
        if self.schedule.next(-1) != 0:  # the first update needs the feature norm before it
            self.schedule = at([0]) | self.schedule
        if record is not None and not isinstance(record, Schedule):
            raise TypeError(f"`record` must be a schedule such as every(100), got {record!r}.")
        self.record, self.batch, self.trace, self.memory = record, batch, trace, memory
        self._layers: list[str] = []
        self._total: PathComplexitySum | None = None
        self._segment: Segment | None = None
        self._update_norm: Tensor | None = None
        self._initial = InitialParameters()
        self._seen: dict[int, nn.Parameter] = {}
        """The parameters that optimizers hold, by id."""
        self._undefined: Tensor | None = None
        """How many updates were not finite since the last turn."""
        self._parameters: list[tuple[str, int, nn.Parameter]] = []
        """Of the model, with the index of the layer."""
        self._model: nn.Module | None = None
        """Whose parameters these are."""
        self._sharded = False
        """Whether this rank sees a part of each update only."""
        self._squares: list[Tensor] = []
        """Of this rank's part of the updates since the last turn."""
        self._missing = 0
        """Updates of which a checkpoint holds one rank's part only."""
        self._before: list[Tensor] = []
        """Copies of the trainable parameters while the optimizer steps."""
        self._kept: list[Tensor] = []
        """Such copies, from a checkpoint."""
        self._names: list[str] = []
        self._moving: list[tuple[int, nn.Parameter]] = []
        self._rows: Tensor | None = None
        """Of the trainable parameters, and where in the sums each belongs, on the device."""
        self._plan: Any = None

    def on_attach(self, run: Run) -> None:
        """Ask whether another one yields what is of no batch."""
        self.is_first(run)

    def before_step(self, run: Run) -> None:
        """Copy the trainable parameters."""
        if self._before:  # of an update that was skipped, or one of several of this step
            return
        if self._model is not run.model or self._replaced(run):
            self._find(run.model)
            self._sharded = is_sharded(run.model)
        kept, self._kept = self._kept, []
        trainable = [item for item in self._parameters if item[2].requires_grad and not item[2].is_meta]
        if not self._sharded:
            self._initial.keep(trainable)
        if [name for name, _, _ in trainable] != self._names:
            self._names = [name for name, _, _ in trainable]
            self._moving, self._rows = [(layer, parameter) for _, layer, parameter in trainable], None
        if len(kept) == len(self._moving):
            self._before = kept
        else:
            self._before = [value.clone() for value in self._values()]

    def _replaced(self, run: Run) -> bool:
        """Whether an optimizer holds a parameter that was not seen yet: a head is new, or the model was assigned to."""
        held = {
            id(parameter): parameter
            for optimizer in run.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        new = not held.keys() <= self._seen.keys()
        if new:
            self._seen = held  # held, for an id is another's once its owner is gone; weakly, they could not be swapped
        return new

    def _values(self) -> list[Tensor]:
        """The trainable parameters, or this rank's part of them."""
        return [local_part(item) if self._sharded else item.detach() for _, item in self._moving]

    def on_step(self, run: Run, step: int) -> None:
        """Add the norm of the update."""
        if not self._before:
            return
        moved, self._before = self._before, []
        with torch.no_grad():
            torch._foreach_sub_(moved, self._values())
            squares = square_norms(moved)
        size = 1 + len(self._layers)
        if self._rows is None:
            self._rows = torch.tensor([1 + layer for layer, _ in self._moving], device=squares.device)
        # The last row takes layers that have come later, which count in the whole alone.
        sums = squares.new_zeros(size + 1).index_add_(0, self._rows, squares)[:size]
        sums[0] = squares.sum()
        if self._sharded:
            self._squares.append(sums)
        else:
            self._add(sums)

    def _add(self, squares: Tensor) -> None:
        self._update_norm = norms = squares.sqrt_()
        # One update that is not finite would make the sum NaN for good.
        finite = norms[0].isfinite()
        undefined = (~finite).long()
        self._undefined = undefined if self._undefined is None else self._undefined + undefined
        self._segment = (self._segment or Segment.empty(len(norms))).like(norms)
        self._segment.add(torch.where(finite, norms, 0.0))

    def rank_part(self) -> Tensor | None:
        """The squares of this rank's part of each update since the last call, shape ``(updates, 1 + layers)``."""
        squares, self._squares = self._squares, []
        return torch.stack(squares).cpu() if squares else None

    def join_parts(self, parts: list[Tensor | None]) -> None:
        """Add the norms of these updates."""
        seen = [part for part in parts if part is not None]
        if len(seen) not in (0, len(parts)) or len({len(part) for part in seen}) > 1:
            raise ValueError("The ranks have seen different numbers of updates; the sum over them would be wrong.")
        if seen:
            for squares in torch.stack(seen).sum(0):
                self._add(squares)

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Take the feature norm and yield what the sum is now."""
        batch = run.batch(self.batch)  # what cannot be measured is refused before anything is kept
        recorded = self.record is None or self.record.next(step - 1) == step
        if recorded or self._model is not run.model:
            self._find(run.model)
        if message := without_numbers(run.model):
            run.left_out(message)
        self._initial.keep(item for item in self._parameters if item[2].requires_grad)
        if self._missing:
            missing, self._missing = self._missing, 0
            run.left_out(
                f"The sums lack {missing} updates between the last turn and the checkpoint, of which the checkpoint "
                f"holds one rank's part only. Save checkpoints of a sharded model at steps where this probe is due."
            )
        norms, errors, degrees, how = self._feature_norms(run)
        size = 1 + len(self._layers)
        if self._total is None:
            self._total = PathComplexitySum(size)
        # Where the features are not finite there is no knot: the segment goes on to the next one where they are.
        finite = bool(norms.isfinite().all())
        if finite:
            self._total.knot(norms, errors.square(), self._segment or Segment.empty(size), degrees)
            self._segment = None
        if recorded:
            self._tell_undefined(run)
            undefined = torch.full((size,), torch.nan, dtype=torch.float64)
            total = (self._total.value, self._total.standard_error) if finite else (undefined, undefined)
            yield from self._recorded(batch.n, total, (norms, errors * widening(degrees)), how, self.is_first(run))

    def _recorded(
        self, n: int, total: tuple[Tensor, Tensor], feature_norms: tuple[Tensor, Tensor], how: str, first: bool
    ) -> Iterator[Measurement]:
        """Yield the sum and what it is made of, values with their standard errors; of no batch if this is the first."""
        on_batch = partial(self._with_layers, num_samples=n)
        trace_words = f"{how} on {n} samples"
        yield from on_batch(
            f"path_complexity/{self.batch}",
            *total,
            unit="output",
            estimator=f"update norms of every step, feature norm {trace_words}, interpolated where it was not taken",
            description="sum of update norms times feature norms",
        )
        yield from on_batch(
            f"feature_norm/{self.batch}",
            *feature_norms,
            unit="output / parameter",
            estimator=trace_words,
            description="Frobenius norm of the tangent features",
        )
        if not first:
            return
        how = "difference of the parameters"
        moved = partial(self._with_layers, unit="parameter")
        yield from moved(
            "path_length", self._length(), estimator=f"{how}, every step", description="sum of update norms"
        )
        words = "distance from the initial parameters"
        distances = self._initial.distances(self._parameters, len(self._layers))
        yield from moved("displacement", distances, estimator=how, description=words)
        if self._update_norm is not None:
            last = self._update_norm[0].double()
            yield Measurement(
                "complexity/update_norm", last, unit="parameter", estimator=how, description="last update"
            )

    def _with_layers(
        self,
        name: str,
        values: Tensor,
        errors: Tensor | None = None,
        *,
        unit: str,
        estimator: str,
        description: str,
        num_samples: int | None = None,
    ) -> Iterator[Measurement]:
        """Yield a quantity of the whole, which stands first in ``values``, and that of each layer."""
        measured = partial(
            Measurement, unit=unit, estimator=estimator, num_samples=num_samples, description=description
        )
        yield measured(f"complexity/{name}", values[0], standard_error=None if errors is None else errors[0])
        yield measured(
            f"complexity/layer_{name}",
            values[1:],
            dims=("layer",),
            coords={"layer": Axis(np.array(self._layers))},
            standard_error=None if errors is None else errors[1:],
        )

    def _length(self) -> Tensor:
        """Length of the path up to now."""
        assert self._total is not None
        length: Tensor = self._total.length
        return length if self._segment is None else length + self._segment.length.double().cpu()

    def _tell_undefined(self, run: Run) -> None:
        count = 0 if self._undefined is None else int(self._undefined)
        self._undefined = None
        if count:
            run.left_out(f"{count} updates up to step {run.step} were not finite; the sums go on without them.")

    def on_detach(self, run: Run) -> None:
        """Let go of the model."""
        self._parameters, self._names, self._moving, self._before = [], [], [], []
        self._model, self._squares = None, []
        self._seen = {}
        self._initial.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": {}}  # a copy is of other parameters

    def state_dict(self) -> dict[str, Any]:
        """The sums, what has been added since the last of them, and the initial parameters."""
        return {
            "layers": list(self._layers),
            "initial": dict(self._initial.values),
            "total": self._total.state_dict() if self._total is not None else None,
            # A copy: the next step adds to the segment in place.
            "segment": dict(vars(copy.deepcopy(self._segment))) if self._segment is not None else None,
            "update_norm": self._update_norm,
            # Of several optimizers, what the later ones have done since the step began.
            "before": [parameter.clone() for parameter in self._before],
            "missing": self._missing + len(self._squares),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, to the last bit."""
        self._layers, self._initial.values = list(state["layers"]), dict(state["initial"])
        self._total = None
        if state["total"] is not None:
            self._total = PathComplexitySum(1 + len(self._layers))
            self._total.load_state_dict(state["total"])
        self._segment = Segment(**state["segment"]) if state["segment"] is not None else None
        self._update_norm = state["update_norm"]
        self._kept = list(state.get("before", ()))
        self._missing = state.get("missing", 0)

    def _find(self, model: nn.Module) -> None:
        """The model's parameters as they are now, and the layers of those there were at first."""
        named = list(held(model).items())
        if not self._layers:
            self._layers = list(dict.fromkeys(layer_of(model, name) for name, _ in named))
        index = {layer: number for number, layer in enumerate(self._layers)}
        # A layer that was not there at the first measurement counts in the whole alone: a stream keeps its axis.
        later = len(self._layers)
        self._parameters = [(name, index.get(layer_of(model, name), later), parameter) for name, parameter in named]
        self._names = []
        self._model = model

    def _feature_norms(self, run: Run) -> tuple[Tensor, Tensor, float, str]:
        """Norms of the features and of each layer's part, standard errors, degrees of freedom of these, and how."""
        try:
            traces, variances, degrees, how = self._traces(run)
        except CannotMeasure:
            raise
        except Exception:
            run.check_examples(self.batch)  # names what the model cannot be called with
            raise
        # The root of an estimate is too small on average: undone to first order.
        norms = traces.clamp_min(0).sqrt()
        relative = torch.where(traces > 0, variances / traces.square(), 0.0)
        norms = norms * (1 + relative / 8)
        return norms, norms * relative.sqrt() / 2, degrees, how

    def _traces(self, run: Run) -> tuple[Tensor, Tensor, float, str]:
        """Trace of the kernel and of each layer's part, their variances, the degrees of freedom of these, and how."""
        batch = run.batch(self.batch)
        about = {"output": run.output, "layers": True, "memory": self.memory, "plan": self._plan}
        if self.trace == "exact":
            exact = tangent_diagonal(run.model, batch, **about)
            self._plan = exact.plan
            parts = {layer: to_float64(part).sum() for layer, part in exact.layers.items()}
            traces = self._in_order(parts, to_float64(exact.diagonal).sum())
            return traces, torch.zeros(1 + len(self._layers)), math.inf, "exact"
        # A few examples twice: the variances of many steps are added, and of fewer than eight hardly anything is known.
        repeats = max(8, batch.n // 25)
        found = estimate_trace(run.model, batch, generator=run.generator, repeats=repeats, **about)
        self._plan = found.plan
        variances = self._in_order(found.layer_errors, found.standard_error).square()
        return self._in_order(found.layers, found.trace), variances, found.repeats, "estimated by random class signs"

    def _in_order(self, parts: Mapping[str, Tensor], whole: Tensor) -> Tensor:
        """The whole, then each layer; zero for a layer that the outputs do not depend on."""
        zero = torch.zeros_like(whole)
        values = torch.stack([whole, *(parts.get(layer, zero) for layer in self._layers)])
        return to_float64(values).cpu()
