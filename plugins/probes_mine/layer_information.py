"""What one layer keeps of the inputs and of the targets, and the classifiers that are asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probes.batches import IGNORED, Batch, tensors
from probes.precision import to_float64

from .channel import ChannelInformation, noisy_channel_information
from .estimator import MIN_SAMPLES, mutual_information
from .labels import NUM_FOLDS, LabelInformation, label_information
from .reduction import Frame, Reduced, most_components
from .repeats import clustered_standard_error, repeated_rows
from .turn import MOST_STEPS, Costs, work

__all__ = ["Layer", "LayerInformation", "Learned", "Samples"]

STEPS_FOR_NUMBERS = 3
"""Steps of a classifier that one of a critic costs."""
TRIED = 5e8
"""Additions and multiplications of a trial."""
TRIED_STEPS = 50
UNDEFINED = (math.nan, math.nan)


class Samples(NamedTuple):
    """What a batch is besides its inputs."""

    targets: Tensor | None
    told: Tensor
    """The samples that have a target."""
    groups: Tensor
    """Which samples are copies of each other: told from the inputs, since the noise makes all activations different."""

    @classmethod
    def of(cls, batch: Batch) -> Samples:
        told, targets = torch.arange(batch.n), batch.targets
        if targets is not None and not targets.is_floating_point() and targets.dtype != torch.bool:
            told = told[(targets.reshape(batch.n, -1) != IGNORED).all(1).cpu()]
        leaves = [leaf for leaf in tensors((batch.args, batch.kwargs)) if leaf.ndim and len(leaf) == batch.n]
        rows = torch.cat([leaf.detach().reshape(batch.n, -1).cpu().double() for leaf in leaves], 1)
        other = rows if targets is None else targets.detach().reshape(batch.n, -1).cpu().double()
        return cls(targets, told, repeated_rows(rows, other))

    def first(self, n: int) -> Samples:
        if n >= len(self.groups):
            return self
        groups = torch.unique(self.groups[:n], return_inverse=True)[1]
        return Samples(None if self.targets is None else self.targets[:n], self.told[self.told < n], groups)


class Layer(NamedTuple):
    """What is known of one layer."""

    inputs: ChannelInformation
    std: float
    """Of the noise, in units of the activations."""
    targets: tuple[float, float]
    """Information about them, and its standard error."""

    @classmethod
    def undefined(cls) -> Layer:
        nan = torch.tensor(math.nan, dtype=torch.float64, device="cpu")
        return cls(ChannelInformation(nan, nan, nan, nan), math.nan, UNDEFINED)


class Learned(NamedTuple):
    """The classifiers of a layer, and the components they were trained on: those must not turn."""

    mean: Tensor
    components: Tensor
    state: dict[str, Tensor]
    age: int

    def fits(self, features: Tensor, num_classes: int) -> bool:
        return self.mean.shape == features.shape[1:] and self.state["output.bias"].shape[-1] == num_classes


class LayerInformation:
    """Looks at one layer after another; its classifiers go on from those of the measurement before.

    Args:
        noise: Standard deviation of the noise, in units of the root mean square deviation of the layer's activations.
        cold_every: Measurements from one start anew to the next.
    """

    def __init__(self, noise: float, cold_every: int) -> None:
        self.noise, self.cold_every = noise, cold_every
        self.learned: dict[str, Learned] = {}

    def look(self, features: Tensor, samples: Samples, generator: torch.Generator, key: str, steps: int) -> Layer:
        """Measure a layer by its activations ``(n, d)``; its classifiers are kept under ``key``."""
        if not bool(features.isfinite().all()):
            return Layer.undefined()
        layer = Reduced.of(to_float64(features))
        std = self.noise * float(layer.features.var(0).mean().sqrt())
        if std == 0:  # a dead layer tells nothing
            nothing = layer.features.new_zeros(())
            return Layer(ChannelInformation(nothing, nothing, nothing, nothing), 0.0, (0.0, 0.0))
        noise = torch.randn(layer.scores.shape, generator=generator, dtype=torch.float64).to(features.device)
        inputs = noisy_channel_information(layer.scores, noise, std, samples.groups)
        targets = (0.0, 0.0)
        if samples.targets is not None:
            targets = self._targets(layer, std, samples, generator, key, steps)
        return Layer(inputs, std, targets)

    def _targets(
        self, layer: Reduced, std: float, samples: Samples, generator: torch.Generator, key: str, steps: int
    ) -> tuple[float, float]:
        """Value and standard error of the information about the targets."""
        targets, rows = samples.targets, samples.told
        assert targets is not None
        if targets.is_floating_point() and not bool(targets.isfinite().all()):
            return UNDEFINED
        targets = targets[rows.to(targets.device)]
        # Groups of the samples that have a target, without gaps.
        groups = torch.unique(samples.groups[rows], return_inverse=True)[1]
        if len(groups) < MIN_SAMPLES or int(groups.max()) + 1 < 2 * NUM_FOLDS:
            return UNDEFINED
        device = targets.device

        def seen(frame: Frame) -> Tensor:
            """Components of the noisy layer; the noise of orthonormal ones is that of numbers. On the CPU."""
            clean = frame.project(layer.features)[rows]
            return clean + std * torch.randn(clean.shape, generator=generator, dtype=torch.float64)

        if targets.is_floating_point() or targets.numel() != len(targets):
            result = mutual_information(
                seen(layer.frame).to(device),
                targets,
                groups=groups,
                max_steps=min(500, max(1, steps // STEPS_FOR_NUMBERS)),
            )
            return result.value, result.standard_error
        classes, labels = torch.unique(targets.flatten().cpu(), return_inverse=True)
        if len(classes) < 2:
            return 0.0, 0.0

        def trained(frame: Frame, **how: Any) -> LabelInformation:
            own = torch.Generator().manual_seed(0)
            return label_information(seen(frame), labels, own, groups=groups, every=25, device=device, **how)

        held = self.learned.get(key)
        if held is not None and not held.fits(layer.features, len(classes)):
            held = None
        found = self._classified(layer, held, key, trained, steps, groups)
        return float(found.terms.mean()), clustered_standard_error(found.terms, groups[found.rows])

    def _classified(
        self,
        layer: Reduced,
        held: Learned | None,
        key: str,
        trained: Callable[..., LabelInformation],
        steps: int,
        groups: Tensor,
    ) -> LabelInformation:
        """Let the classifiers that are held go on, and others start anew where it is time; keep the better ones."""
        found = None
        if held is not None:
            start = Frame(held.mean, held.components)
            found = trained(start, start=held.state, max_steps=min(100, steps), patience=2)
            self.learned[key] = held = held._replace(state=found.state, age=held.age + 1)
            if held.age % self.cold_every:
                return found
        frame = layer.frame
        cold = trained(frame, max_steps=min(MOST_STEPS, steps), patience=6)
        error = clustered_standard_error(cold.terms, groups[cold.rows])
        if found is None or float(cold.terms.mean() - found.terms.mean()) > 3 * error:
            self.learned[key] = Learned(frame.mean, frame.components, cold.state, 0 if held is None else held.age)
            return cold
        return found

    def costs(self, features: Tensor, samples: Samples, clock: Callable[[], float]) -> Costs:
        """Try a layer, and leave nothing behind."""
        generator, (n, width) = torch.Generator().manual_seed(0), features.shape
        few = n
        while few > 2 * MIN_SAMPLES and work(few, width) > TRIED:
            few //= 2
        start, learned = clock(), dict(self.learned)
        self.look(features[:few], samples.first(few)._replace(targets=None), generator, "", 1)
        algebra = (clock() - start) / work(few, width)
        if samples.targets is None:
            return Costs(algebra, 0.0, 0.0)
        values = to_float64(features[:, : most_components(n)])  # any so many components
        layer, seconds = Reduced(values, None, values), []
        for steps in (1, TRIED_STEPS):
            start = clock()
            self._targets(layer, 1.0, samples, generator, "", steps)
            seconds.append(clock() - start)
            self.learned = dict(learned)
        step = max((seconds[1] - seconds[0]) / (TRIED_STEPS - 1), seconds[1] / TRIED_STEPS / 10)
        return Costs(algebra, max(0.0, min(seconds[0] - step, seconds[1] - TRIED_STEPS * step)), step)
