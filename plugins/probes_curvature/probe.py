"""Curvature: how sharp the loss is where training is, beside what its optimizer can stand."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import Axis, CannotMeasure, Measurement, first_line
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule
from probes_ntk import Estimate

from .batch_sharpness import batch_sharpness
from .criterion import criterion_of
from .critical import critical_sharpness_of
from .density import density_of
from .eigenvalues import Eigenvalues, largest_eigenvalues, least_vectors
from .gradient_noise import accumulated_noise_scale, gradient_noise_scale_of, rank_noise_scale
from .objective import MEMORY, Loss, Objective, check_loss
from .stability import Stability, last_update, stability
from .trace import trace_of

__all__ = ["Curvature"]

CURVATURE = "loss / parameter^2"
GROUPS = 20
"""Of the batch, whose gradients are compared."""
AFFORDED = 3
"""Eigenvalues that are measured unasked, where the first turn affords them."""
PRODUCTS = 40
"""That they are predicted to take."""
RANKS_UPDATES = 8
"""That are looked at before a turn, where several ranks train together."""
POINTS = 97
"""Of the density: two are as far from each other as half the width of what smoothes it."""


class Curvature(Probe):
    r"""Sharpness of the loss on one batch, the noise of its gradient, and the sharpness that the optimizer can stand.

    Yields, with the batch's name at the end:
        ``curvature/critical_sharpness``: 2 over the step along the gradient from which on the loss rises; and, where
        the optimizer has momentum or is adaptive, ``curvature/critical_sharpness_of_update``, along its last update:
        the next step makes the loss rise where it is above 2 / lr.
        ``curvature/directional_sharpness``, ``curvature/directional_sharpness_of_update``: the exact curvature along
        both.
        ``curvature/noise_scale``, in examples, and what it is the ratio of, ``curvature/noise_trace`` and
        ``curvature/gradient_square_norm``; from groups of a twentieth of the batch. Not for a loss that is no mean over
        the examples. Where the loop accumulates four or more micro-batches, ``curvature/accumulated_noise_scale`` too,
        in micro-batches, from the gradients that the loop itself computes for the update before: in train mode, for two
        inner products each as it arrives. Of several ranks, those of rank 0. Under DDP, ``curvature/rank_noise_scale``,
        in batches of one rank, from the gradients of rank 0 and their averages in the last eight updates.
        ``curvature/eigenvalues``: the largest of the Hessian, with their residuals as errors: as many as asked for, or
        three if the first turn affords them.
        ``curvature/sharpness``: the first of them, of the Hessian that the optimizer preconditions where it does (Adam,
        RMSprop; from its first step on), and beside it ``threshold``, above which it is unstable on a quadratic: 2 / lr
        of gradient descent, 38 / lr of Adam. Not while all learning rates are 0. Without eigenvalues
        ``curvature/threshold`` alone.
        Where they are asked for: ``curvature/ggn_eigenvalues``; ``curvature/trace``; ``curvature/density``, of all
        eigenvalues, smoothed, in units of the largest in magnitude, ``curvature/largest_magnitude``;
        ``curvature/layer_sharpness``, the
        largest eigenvalue of the block of each layer; ``curvature/batch_sharpness``, of mini-batches along their
        gradients.

    The loss is that of the loop where it was seen, a loss module or a function of ``torch.nn.functional``, with its
    arguments and its reduction, on whose result, or its share where batches are accumulated, ``backward()`` was called;
    else cross-entropy for classes and the mean squared error for numbers, as the estimator says. It is of the model in
    eval mode. Where the loop computes its loss by other means, or the batch "train" is given, pass ``loss``. What needs
    second derivatives is left out, and said, where an operation has none.

    Runs when named. Costs, beside ten forward passes for each critical sharpness, two forward and two backward passes
    for each product with the Hessian, some 40 of them for the eigenvalues; and about seventy vectors as long as the
    parameters, or fewer under ``memory``. One vector is kept, in checkpoints too: the eigenvalues' next search starts
    from where the last one ended.

    Args:
        schedule: When it is due.
        batch: Name of the batch.
        eigenvalues: How many of the Hessian; 0 for none; by default as the budget allows.
        ggn_eigenvalues: How many of the generalized Gauss-Newton matrix.
        trace: Whether to estimate the trace of the Hessian.
        density: Of how many random vectors the spectral density is estimated, with 30 products each; 0 for none.
        layers: Whether to measure the sharpness of each layer's block.
        batch_size: Of mini-batches, for the batch sharpness; None for none.
        loss: Of outputs and targets, a scalar.
        memory: Bytes for graphs, and as much for vectors.

    Raises:
        ValueError: If a number is negative.
        TypeError: If ``loss`` is no function.

    Example:
        >>> Curvature(eigenvalues=5).name
        'curvature'

    References:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability. Kalra et al.
        (2026), arXiv:2601.16979. McCandlish et al. (2018), arXiv:1812.06162.
    """

    name = "curvature"
    needs = frozenset({"targets"})
    by_default = False
    sees_micro_batches = True

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        eigenvalues: int | None = None,
        ggn_eigenvalues: int = 0,
        trace: bool = False,
        density: int = 0,
        layers: bool = False,
        batch_size: int | None = None,
        loss: Loss | None = None,
        memory: float = MEMORY,
    ) -> None:
        super().__init__(schedule)
        for name, count in (
            ("eigenvalues", eigenvalues or 0),
            ("ggn_eigenvalues", ggn_eigenvalues),
            ("density", density),
            ("batch_size", 0 if batch_size is None else batch_size),
        ):
            if isinstance(count, bool) or not (hasattr(count, "__index__") and count >= 0):
                raise ValueError(f"`{name}` must be an integer, not negative, got {count!r}.")
        if batch_size == 0:
            raise ValueError("`batch_size` must be at least 1, or None, got 0.")
        if density == 1:
            raise ValueError("`density` must be 0 or at least 2 random vectors, for its error, got 1.")
        for name, flag in (("trace", trace), ("layers", layers)):
            if not isinstance(flag, bool):
                raise TypeError(f"`{name}` must be True or False, got {flag!r}.")
        if not isinstance(batch, str):
            raise TypeError(f"`batch` must be the name of a batch, got {batch!r}.")
        if loss is not None:
            check_loss(loss)
        if not (hasattr(memory, "__float__") and 0 < memory < math.inf):
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
        self.batch, self.eigenvalues, self.ggn_eigenvalues = batch, eigenvalues, ggn_eigenvalues
        self.trace, self.density, self.layers = trace, density, layers
        self.batch_size, self.memory = batch_size, memory
        self._loss = loss
        self._count = eigenvalues
        """Of eigenvalues, once it is known."""
        self._starts: dict[str, Tensor] = {}
        """By operator, the sum of the eigenvectors of the last turn."""
        self._layers: list[str] = []
        """Those of the first turn."""
        self._updates: deque[tuple[int, float, float, int]] = deque(maxlen=RANKS_UPDATES)
        """Under DDP, of each of the last its step, the squares of rank 0's gradient and of the average, the ranks."""

    @property
    def watched_updates(self) -> int:  # type: ignore[override]
        """One before each turn; more where several ranks train together, which is known when it is attached."""
        dist: Any = torch.distributed
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return RANKS_UPDATES if several else 1

    def on_step(self, run: Run, step: int) -> None:
        """Of the update before a turn, the host shows how its micro-batches and ranks relate."""
        if (seen := run.micro_batches) is not None and seen.ranks > 1:
            own = float((seen.squares + 2 * seen.with_earlier).sum())
            self._updates.append((step, own, seen.averaged_square, seen.ranks))

    def rank_part(self, run: Run) -> Any:
        """Of a sharded model, nothing is seen of an update."""
        return 0

    def join_parts(self, parts: list[Any]) -> None:
        """Nothing is to be joined."""

    def state_dict(self) -> dict[str, Any]:
        """How many eigenvalues are measured, and where their search starts."""
        updates = [list(each) for each in self._updates]
        return {"count": self._count, "starts": dict(self._starts), "layers": list(self._layers), "updates": updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._count, self._starts, self._layers = state["count"], dict(state["starts"]), list(state["layers"])
        self._updates.extend((int(a), b, c, int(d)) for a, b, c, d in state.get("updates", ()))

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield how sharp the loss is now."""
        run.check_examples(self.batch)
        batch = run.batch(self.batch)
        loss, words = criterion_of(run, batch, run.evaluate(self.batch), self._loss)
        assert batch.targets is not None or self._loss is not None
        turn = _Turn([], self, run, batch, self._objective(run, batch, loss), words)
        start = time.perf_counter()
        gradient = turn.objective.finite(turn.objective.gradient())
        seconds = time.perf_counter() - start
        ways = {"gradient": gradient}
        if (update := last_update(run.optimizers, self._own(run, turn.objective))) is not None:
            ways["update"] = turn.objective.join(list(update.values()))
        refused: set[str] = set()
        failure: Exception | None = None
        for measured in (
            turn.critical(ways),
            turn.directional(ways),
            turn.noise(),
            turn.accumulated(),
            turn.ranks(step),
            turn.hessian(self._affordable(run, seconds, turn)),
            turn.others(loss),
        ):
            try:
                yield from measured
            except CannotMeasure as error:
                refused.add(str(error))
            except Exception as error:  # what cannot be measured costs none of the others
                failure = failure or error
        if failure is not None:
            raise failure
        if notes := [*turn.notes, *sorted(refused)]:
            run.left_out(" ".join(notes))

    def _objective(self, run: Run, batch: Batch, loss: Loss, parameters: list[str] | None = None) -> Objective:
        targets = batch.targets if batch.targets is not None else torch.zeros(batch.n, device=run.device)
        return Objective(run.model, loss, batch, targets, output=run.output, parameters=parameters, memory=self.memory)

    def _own(self, run: Run, objective: Objective) -> dict[str, Tensor]:
        """The model's own parameters that the objective is a function of, which the optimizer knows."""
        named = dict(run.model.named_parameters())
        return {name: named[name] for name in objective.parameters}

    def _affordable(self, run: Run, seconds: float, turn: _Turn) -> int:
        """How many eigenvalues, given the seconds of a gradient, of which a product takes about two."""
        if self._count is None:
            needed, held = 2 * PRODUCTS * seconds, 2 * least_vectors(AFFORDED) * turn.objective.size * 4
            self._count = AFFORDED if needed <= run.first_turn_limit and held <= self.memory else 0
            if not self._count:
                turn.notes.append(
                    f"Eigenvalues of the Hessian: some {PRODUCTS} products with it would take about {needed:.0f} s and "
                    f"{held / 1e9:.1f} GB for vectors, more than a first turn or `memory` allow. Ask for them: "
                    f"eigenvalues=1."
                )
        elif self.eigenvalues not in (None, self._count):
            turn.notes.append(
                f"Eigenvalues: {self._count} as in the run that this one continues, whose stream has so many; "
                f"{self.eigenvalues} were asked for. Begin another run for them."
            )
        return self._count

    def search(
        self, run: Run, name: str, objective: Objective, product: Callable[[Tensor], Tensor], count: int
    ) -> Eigenvalues:
        """Eigenvalues, from where the last search of that name ended; here the next one will start."""
        start = self._starts.get(name)
        if start is not None and start.shape != (objective.size,):
            start = None
        found = largest_eigenvalues(
            objective, product, count, generator=run.generator, memory=self.memory,
            start=None if start is None else start[None].to(objective.device, objective.dtype),
        )  # fmt: skip
        self._starts[name] = found.vectors.sum(0).detach().float().cpu()
        return found


class _Turn(NamedTuple):
    """What one turn of the probe measures."""

    notes: list[str]
    """What is left out, and why."""

    probe: Curvature
    run: Run
    batch: Batch
    objective: Objective
    words: str

    def measured(self, name: str, value: Any, how: str, **more: Any) -> Measurement:
        made: Callable[..., Measurement] = partial(
            Measurement,
            f"curvature/{name}/{self.probe.batch}",
            value,
            estimator=f"{how}; loss: {self.words}",
            num_samples=self.batch.n,
        )
        return made(**{"unit": CURVATURE, **more})

    def critical(self, ways: dict[str, Tensor]) -> Iterator[Measurement]:
        rate = next((float(g["lr"]) for o in self.run.optimizers for g in o.param_groups), None)
        rate = rate if rate and math.isfinite(rate) else None
        for name, way in ways.items():
            # An adaptive step is no multiple of the gradient.
            known = name == "update" or all(isinstance(each, torch.optim.SGD) for each in self.run.optimizers)
            found = critical_sharpness_of(self.objective, way, learning_rate=rate if known else None)
            yield self.measured(
                "critical_sharpness" if name == "gradient" else f"critical_sharpness_of_{name}",
                found.value,
                f"at most ten forward passes along the {'last ' if name == 'update' else ''}{name}; error: half the "
                f"bracket",
                standard_error=found.standard_error,
                description=f"2 over the step along the {name} from which on the loss rises",
                unit=CURVATURE if name == "gradient" else "1 / learning rate",
            )

    def directional(self, ways: dict[str, Tensor]) -> Iterator[Measurement]:
        for name, way in ways.items():
            norm = way.double().norm()
            along = way / norm.to(way) if norm > 0 else way
            product = self.objective.finite(self.objective.hessian_product(along))
            yield self.measured(
                "directional_sharpness" if name == "gradient" else f"directional_sharpness_of_{name}",
                float(torch.dot(along.double(), product.double())) if norm > 0 else math.nan,
                f"product with the Hessian, along the {'last ' if name == 'update' else ''}{name}",
                description=f"curvature of the loss along the {name}",
            )

    def noise(self) -> Iterator[Measurement]:
        size = max(1, self.objective.n // GROUPS)
        try:
            found = gradient_noise_scale_of(self.objective, group_size=size, generator=self.run.generator)
        except Exception as error:  # of a loss that knows how many examples there are
            self.notes.append(f"The gradient noise scale: {type(error).__name__}: {first_line(error)}.")
            return
        how = f"unbiased, from {self.objective.n // size} groups of {size} examples; jackknife error"
        norms = "loss^2 / parameter^2"
        for name, each, unit, description in (
            ("noise_scale", found.simple, "examples", "simple gradient noise scale"),
            ("noise_trace", found.trace, norms, "variance of the gradient of one example"),
            ("gradient_square_norm", found.square_norm, norms, "squared norm of the gradient of the expected loss"),
        ):
            yield self.measured(
                name, each.value, how if name != "noise_scale" else f"ratio of estimates that are {how}",
                standard_error=each.standard_error, unit=unit, description=description,
            )  # fmt: skip

    def accumulated(self) -> Iterator[Measurement]:
        seen = self.run.micro_batches
        if seen is not None and len(seen.squares) >= 4:
            found = accumulated_noise_scale(seen)
            yield Measurement(
                f"curvature/accumulated_noise_scale/{self.probe.batch}",
                found.value,
                standard_error=found.standard_error,
                estimator=f"from the {len(seen.squares)} micro-batches of the last update; Student's error",
                num_samples=len(seen.squares),
                unit="micro-batches",
                description="simple gradient noise scale of the loop's own gradients",
            )

    def ranks(self, step: int) -> Iterator[Measurement]:
        updates = [each for each in self.probe._updates if each[0] > step - RANKS_UPDATES]
        seen = [each for each in updates if each[3] == updates[-1][3]]  # a resumed run may have another number of ranks
        if len(seen) >= 4:
            count = seen[-1][3]
            own, averaged = torch.tensor([each[1:3] for each in seen], dtype=torch.float64).T
            found = rank_noise_scale(own, averaged, count)
            yield Measurement(
                f"curvature/rank_noise_scale/{self.probe.batch}",
                found.value,
                standard_error=found.standard_error,
                estimator=f"from rank 0 of {count} and the average, of the last {len(seen)} updates; Student's error",
                num_samples=len(seen),
                unit="batches of one rank",
                description="simple gradient noise scale of the loop's own gradients, from ranks",
            )

    def hessian(self, count: int) -> Iterator[Measurement]:
        own = self.probe._own(self.run, self.objective)
        limit = stability(self.run.optimizers, own)
        found = None
        if count:
            found = self.probe.search(self.run, "hessian", self.objective, self.objective.hessian_product, count)
            yield self._eigenvalues("eigenvalues", found, count, "the Hessian")
        sharpest, what = math.nan, "largest eigenvalue of the Hessian"
        if limit is not None and (limit.adaptive or limit.preconditioner is not None):
            what = "largest eigenvalue of the preconditioned Hessian"
        if found is not None and limit is not None and limit.preconditioner is not None:
            sharpest = float(self._preconditioned(limit).values[0])
        elif found is not None and what.endswith("the Hessian"):
            sharpest = float(found.values[0])
        threshold = math.nan if limit is None else limit.threshold
        rates = [float(group["lr"]) for optimizer in self.run.optimizers for group in optimizer.param_groups]
        if found is not None and (not any(rates) or (limit and limit.adaptive and limit.preconditioner is None)):
            return  # nothing moves; and what an adaptive one divides by comes from its first step
        if found is None:
            if limit is not None:
                words = f"of the optimizer: {limit.words}"
                yield self.measured("threshold", threshold, words, description="sharpness up to which it is stable")
            return
        yield self.measured(
            "sharpness",
            [sharpest, threshold],
            f"{what}; threshold of the optimizer: {'not known' if limit is None else limit.words}",
            dims=("line",),
            coords={"line": Axis(np.array(["sharpness", "threshold"]))},
            description="sharpness, and the threshold of the optimizer",
        )

    def _preconditioned(self, limit: Stability) -> Eigenvalues:
        assert limit.preconditioner is not None
        scale = self.objective.join([limit.preconditioner[name] for name in self.objective.parameters]).rsqrt()

        def product(vector: Tensor) -> Tensor:
            return scale * self.objective.hessian_product(scale * vector)

        return self.probe.search(self.run, "preconditioned", self.objective, product, 1)

    def _eigenvalues(self, name: str, found: Eigenvalues, count: int, of: str) -> Measurement:
        values, errors = (torch.full((count,), torch.nan, dtype=torch.float64) for _ in range(2))
        values[: len(found.values)], errors[: len(found.values)] = found.values, found.residuals
        return self.measured(
            name,
            values,
            f"Rayleigh-Ritz from {found.products} products; error: the residual, a bound",
            standard_error=errors,
            dims=("eigenvalue",),
            coords={"eigenvalue": Axis(np.arange(1, count + 1))},
            description=f"largest eigenvalues of {of} of the loss",
        )

    def others(self, loss: Loss) -> Iterator[Measurement]:
        probe, run, objective = self.probe, self.run, self.objective
        if probe.ggn_eigenvalues:
            found = probe.search(run, "ggn", objective, objective.ggn_product, probe.ggn_eigenvalues)
            yield self._eigenvalues("ggn_eigenvalues", found, probe.ggn_eigenvalues, "the Gauss-Newton matrix")
        if probe.trace:
            summed = trace_of(objective, objective.hessian_product, generator=run.generator, memory=probe.memory)
            yield self._estimate("trace", summed, "Hutch++ with 60 products", "trace of the Hessian of the loss")
        if probe.density:
            yield from self.density()
        if probe.batch_size is not None:
            size = min(probe.batch_size, objective.n)
            try:
                sharp = batch_sharpness(objective, size, generator=run.generator)
            except Exception as error:  # of a loss that knows how many examples there are
                self.notes.append(f"The batch sharpness: {type(error).__name__}: {first_line(error)}.")
            else:
                how = f"ten mini-batches of {size} examples"
                yield self._estimate("batch_sharpness", sharp, how, "curvature of mini-batches along their gradients")
        if probe.layers:
            yield self._layers(loss)

    def density(self) -> Iterator[Measurement]:
        found = density_of(
            self.objective, self.objective.hessian_product, vectors=self.probe.density, generator=self.run.generator
        )
        largest = float(np.nanmax(found.nodes.abs()))
        axis = np.linspace(-1.2, 1.2, POINTS)  # of what is largest now: it may sharpen a hundredfold
        width = 2 * (axis[1] - axis[0])
        scale = largest or 1.0
        values, errors = found.density(torch.from_numpy(axis * scale), width * scale)
        how = f"stochastic Lanczos quadrature of {self.probe.density} vectors"
        yield self.measured(
            "density",
            values * scale,
            f"{how}, smoothed by {width:.2g}",
            standard_error=errors * scale,
            dims=("relative_curvature",),
            coords={"relative_curvature": Axis(axis, description="curvature (eigenvalue) / largest magnitude")},
            unit="1",
            description="density of the eigenvalues of the Hessian",
        )
        words = "largest magnitude of an eigenvalue of the Hessian"
        yield self.measured("largest_magnitude", largest, f"{how}: a lower bound", description=words)

    def _estimate(self, name: str, found: Estimate, how: str, description: str) -> Measurement:
        return self.measured(name, found.value, how, standard_error=found.standard_error, description=description)

    def _layers(self, loss: Loss) -> Measurement:
        trained = set(self.objective.parameters)
        names = {id(parameter): name for name, parameter in self.run.model.named_parameters()}
        axis = self.probe._layers = self.probe._layers or list(self.run.layers)  # a stream keeps its axis
        values, errors = [math.nan] * len(axis), [math.nan] * len(axis)
        for index, layer in enumerate(axis):
            module = self.run.layers.get(layer)
            own = () if module is None else module.parameters(recurse=False)
            chosen = [name for parameter in own if (name := names.get(id(parameter), "")) in trained]
            if chosen:
                part = self.probe._objective(self.run, self.batch, loss, chosen)
                found = self.probe.search(self.run, f"layer {layer}", part, part.hessian_product, 1)
                values[index], errors[index] = float(found.values[0]), float(found.residuals[0])
        return self.measured(
            "layer_sharpness",
            values,
            "largest eigenvalue of the block of each layer; error: the residual, a bound",
            standard_error=errors,
            dims=("layer",),
            coords={"layer": Axis(np.array(axis))},
            description="largest eigenvalue of the Hessian of the loss by the parameters of one layer",
        )
