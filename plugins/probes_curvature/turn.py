"""What one turn of the curvature probe measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import Axis, Measurement, first_line
from probes.names import own_parameters
from probes.run import Run
from probes_ntk import Estimate

from .batch_sharpness import batch_sharpness
from .critical import critical_sharpness_of
from .density import density_of
from .eigenvalues import Eigenvalues
from .gradient_noise import accumulated_noise_scale, gradient_noise_scale_of, rank_noise_scale
from .objective import Loss, Objective
from .stability import Stability, stability
from .trace import trace_of

if TYPE_CHECKING:
    from .probe import Curvature

__all__ = ["RANKS_UPDATES", "Turn"]

CURVATURE = "loss / parameter^2"
GROUPS = 20
"""Of the batch, whose gradients are compared."""
RANKS_UPDATES = 8
"""That are looked at before a turn, where several ranks train together."""
POINTS = 97
"""Of the density: two are as far from each other as half the width of what smoothes it."""


class Turn(NamedTuple):
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
        rate = next((float(g.get("lr", math.nan)) for o in self.run.optimizers for g in o.param_groups), None)
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
            self.notes.append(f"The gradient noise scale: {type(error).__name__}: {first_line(error).rstrip('.')}.")
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
                estimator="from the micro-batches of the last update, four or more; Student's error",
                unit="micro-batches",
                description="simple gradient noise scale of the loop's own gradients",
            )

    def ranks(self, step: int) -> Iterator[Measurement]:
        updates = [each for each in self.probe.updates if each[0] > step - RANKS_UPDATES]
        seen = [each for each in updates if each[3] == updates[-1][3]]  # a resumed run may have another number of ranks
        if len(seen) >= 4:
            count = seen[-1][3]
            own, averaged = torch.tensor([each[1:3] for each in seen], dtype=torch.float64).T
            found = rank_noise_scale(own, averaged, count)
            yield Measurement(
                f"curvature/rank_noise_scale/{self.probe.batch}",
                found.value,
                standard_error=found.standard_error,
                estimator=f"from rank 0 of {count} and the average, of the last {RANKS_UPDATES} updates, "
                f"or of those so far; Student's error",
                unit="batches of one rank",
                description="simple gradient noise scale of the loop's own gradients, from ranks",
            )

    def hessian(self, count: int) -> Iterator[Measurement]:
        own = self.probe.own(self.run, self.objective)
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
        groups = [group for optimizer in self.run.optimizers for group in optimizer.param_groups]
        rates = [float(group.get("lr", math.nan)) for group in groups]
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
            "Rayleigh-Ritz, products until it has converged; error: the residual, a bound",
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
                self.notes.append(f"The batch sharpness: {type(error).__name__}: {first_line(error).rstrip('.')}.")
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
        axis = self.probe.layer_axis = self.probe.layer_axis or list(self.run.layers)  # a stream keeps its axis
        values, errors = [math.nan] * len(axis), [math.nan] * len(axis)
        for index, layer in enumerate(axis):
            module = self.run.layers.get(layer)
            own = () if module is None else own_parameters(module).values()
            chosen = [name for parameter in own if (name := names.get(id(parameter), "")) in trained]
            if chosen:
                part = self.probe.objective_of(self.run, self.batch, loss, chosen)
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
