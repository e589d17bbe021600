"""MutualInformation: what hidden layers keep of the inputs and of the labels during training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from probes.batches import Batch, tensors
from probes.measurement import Axis, Measurement
from probes.precision import to_float64
from probes.probe import Probe
from probes.refusal import CannotMeasure
from probes.run import Run
from probes.schedule import Schedule

from .channel import ChannelInformation, noisy_channel_information
from .estimator import MIN_SAMPLES, mutual_information
from .labels import NUM_FOLDS, label_information
from .repeats import clustered_standard_error, repeated_rows

__all__ = ["MutualInformation"]

MAX_COMPONENTS = 64
"""Principal components of a layer that a classifier is given, at most; and one for every so many samples."""
SAMPLES_PER_COMPONENT = 20
IGNORED = -100
"""The label of samples that losses leave out."""
STEPS_PER_TURN = 1500
"""Of training, shared by the layers: a turn costs seconds however many there are."""
STEPS_FOR_NUMBERS = 3
"""Steps of a classifier that one of a critic costs."""
COMPARED = 32
"""Samples that are evaluated twice to see whether a layer is random."""
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""By what two evaluations may differ, relative to the largest activation: other samples are summed in another order."""
UNDEFINED = (math.nan, math.nan)


class MutualInformation(Probe):
    r"""What each hidden layer T, plus noise, keeps of the inputs X and of the targets Y; the information plane.

    .. math:: I(X; T + \sigma \varepsilon), \quad I(T + \sigma \varepsilon; Y)

    Yields, in nats, per layer, with the batch's name at the end:
        ``information/inputs_lower`` and ``information/inputs_upper``: bounds of the first, from the known density of
        the noise, no critic (:func:`noisy_channel_information`). The lower one cannot exceed log n.
        ``information/noise``: :math:`\sigma`, in units of the activations.
        Where the batch has targets, ``information/targets``: a lower bound of the second on samples that were held out.
        For classes it sums over them exactly and is at most their entropy; for numbers it is
        :func:`mutual_information`. And ``information/plane``, both, drawn against each other.

    What it cannot say: a layer without noise is a function of the input, and its information about a continuous one is
    infinite, about n samples log n, whatever it has learned; numbers below that in the literature are of the binning or
    the noise that was added. So they are here: they depend on ``noise``, which is relative to the layer's own scale.
    Compare steps and layers at the same noise, and where the lower bound is near log n, trust neither bound. That of
    the targets is what classifiers find in these samples: it rises when the layer makes them easier to classify, and
    may be higher for a later layer, though what is there cannot be.

    Classifiers go on from those of the measurement before; every tenth starts anew, and replaces the other if it is
    better by three standard errors. They have their own random numbers, and never saw the samples they are told of, nor
    a copy of them: samples whose inputs are equal stay in one fold. Samples labelled -100, which losses leave out, are
    left out here. Labels that are all alike tell nothing: 0.

    A number that is not defined is NaN, and no other with it: that of a layer with activations that are NaN or
    infinite, or that draws random numbers; of the targets, where fewer than 20 samples have one or one is not finite. A
    layer that is constant tells nothing: 0.

    Runs when named. Give it a batch of a thousand samples or more: ``batches={"probe": (x, y)}``. Costs three forward
    passes, n^2 distances a layer, and some seconds of training in all, which the layers share: with many of them each
    is trained less at a time, and gets better from one measurement to the next.

    Args:
        schedule: When it is due; by default log-spaced.
        batches: Names of the batches; by default all of 20 samples or more.
        layers: Names of modules whose outputs are T; by default all with a weight matrix, the last one included.
        noise: Standard deviation of the noise, in units of the root mean square deviation of the layer's activations.
        num_samples: The first so many of each batch.
        cold_every: Measurements from one start anew to the next.

    Raises:
        ValueError: If ``noise`` is not positive, ``num_samples`` below 20, or ``cold_every`` below 1.

    Example:
        >>> MutualInformation(noise=0.5).name
        'mutual_information'

    Reference:
        The plane: Shwartz-Ziv & Tishby, "Opening the black box of deep neural networks via information", 2017. Why the
        noise: Saxe et al., "On the information bottleneck theory of deep learning", ICLR 2018; Goldfeld et al.,
        "Estimating information flow in deep neural networks", ICML 2019.
    """

    name = "mutual_information"
    needs = frozenset({"batch"})
    by_default = False
    any_rank = True

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batches: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        noise: float = 0.1,
        num_samples: int = 1000,
        cold_every: int = 10,
    ) -> None:
        super().__init__(schedule)
        if not 0 < noise < math.inf:
            raise ValueError(f"`noise` must be positive, got {noise}: without it the information is infinite.")
        if not num_samples >= MIN_SAMPLES:
            raise ValueError(f"`num_samples` must be at least {MIN_SAMPLES}, got {num_samples}.")
        if not cold_every >= 1:
            raise ValueError(f"`cold_every` must be at least 1, got {cold_every}.")
        self.batches = [batches] if isinstance(batches, str) else None if batches is None else list(batches)
        self.layers = None if layers is None else list(layers)
        self.noise, self.num_samples, self.cold_every = noise, num_samples, cold_every
        self._learned: dict[str, _Learned] = {}

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the layers keep now, batch by batch."""
        chosen = self.batches or [name for name, batch in run.batches.items() if batch.n >= MIN_SAMPLES]
        refused: list[str] = []
        for name in chosen:
            try:
                yield from self._measure(run, name)
            except CannotMeasure as error:
                refused.append(str(error))
        if not chosen:
            sizes = ", ".join(f"{name!r} of {batch.n}" for name, batch in run.batches.items()) or "none"
            refused.append(_too_few(f"there are batches: {sizes}"))
        if len(refused) == max(1, len(chosen)):
            raise CannotMeasure(refused[0])
        if refused:
            run.left_out(refused[0])

    def _measure(self, run: Run, name: str) -> Iterator[Measurement]:
        if name not in run.batches:
            raise CannotMeasure(
                f"`batches` names {name!r}, which is no batch; there are: {', '.join(run.batches) or 'none'}. "
                f"Pass batches={{{name!r}: (inputs, targets)}} to ProbeManager."
            )
        if run.batches[name].n < MIN_SAMPLES:
            raise CannotMeasure(_too_few(f"batch {name!r} has {run.batches[name].n}"))
        run.check_examples(name)
        batch = run.batch(name).first(self.num_samples)
        layers = self._activations(run, batch, name)
        axis = {"layer": Axis(np.array(list(layers)))}
        how = f"noise of {self.noise:g} of the layer's deviation, {batch.n} samples"
        found = list(layers.values())

        def stream(quantity: str, values: Any, estimator: str, **more: Any) -> Measurement:
            more = {"dims": ("layer",), "coords": axis, "unit": "nats", **more}
            return Measurement(f"information/{quantity}/{name}", np.array(values), estimator=estimator, **more)

        lower = [float(layer.inputs.lower) for layer in found]
        yield stream(
            "inputs_lower", lower, f"known density of the noise, at most log n; {how}", num_samples=batch.n,
            standard_error=np.array([float(layer.inputs.lower_error) for layer in found]),
            description="information about the inputs, at least",
        )  # fmt: skip
        yield stream(
            "inputs_upper", [float(layer.inputs.upper) for layer in found],
            f"known density of the noise, leaving one out; {how}", num_samples=batch.n,
            standard_error=np.array([float(layer.inputs.upper_error) for layer in found]),
            description="information about the inputs, at most",
        )  # fmt: skip
        yield stream("noise", [layer.std for layer in found], "", unit="activation",
                     description="standard deviation of the noise")  # fmt: skip
        if batch.targets is None:
            return
        targets = [layer.targets[0] for layer in found]
        yield stream("targets", targets, f"lower bound, held out; {how}", num_samples=batch.n,
                     standard_error=np.array([layer.targets[1] for layer in found]),
                     description="information about the targets, at least")  # fmt: skip
        plane = Axis(np.array(["I(X; T + noise), at least", "I(T + noise; Y), at least"]))
        yield stream("plane", np.array([lower, targets]).T, how, num_samples=batch.n, dims=("layer", "plane"),
                     coords={**axis, "plane": plane}, description="information plane")  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The classifiers, for a resume that goes on to the last bit."""
        return {"learned": {key: learned._asdict() for key, learned in self._learned.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._learned = {key: _Learned(**learned) for key, learned in state["learned"].items()}

    def _activations(self, run: Run, batch: Batch, batch_name: str) -> dict[str, _Layer]:
        """What is to be known of each layer, in order of execution; the activations of one at a time are held."""
        modules = dict(run.model.named_modules())
        unknown = [layer for layer in self.layers or [] if layer not in modules]
        if unknown:
            raise CannotMeasure(
                f"`layers` must be names of modules of the model, got {', '.join(map(repr, unknown))}. It has: "
                f"{', '.join(name for name in modules if name)}."
            )
        chosen = self.layers or [name for name, module in modules.items() if _has_matrix(module)]
        generator, found = run.generator, {}
        samples = _Samples.of(batch)
        steps = max(1, STEPS_PER_TURN // max(1, len(chosen)))
        few = torch.arange(batch.n).flip(0)[:COMPARED]
        kept: dict[str, Tensor] = {}
        random: list[str] = []

        def hook(name: str, again: bool) -> Any:
            label = name or type(modules[name]).__name__

            def see(module: nn.Module, args: Any, output: Any) -> None:
                output = output[0] if isinstance(output, tuple) else output
                n = len(few) if again else batch.n
                if not (isinstance(output, Tensor) and output.is_floating_point() and output.shape[:1] == (n,)):
                    return
                features = output.detach().flatten(1)
                if not again:
                    kept[label] = features[few.to(features.device)].clone()
                    found[label] = self._look(features, samples, generator, f"{batch_name}/{name}", steps)
                elif label in kept and _differ(features, kept[label]):
                    random.append(label)
                    found[label] = _Layer.undefined()

            return see

        for again in (False, True):
            handles = [modules[name].register_forward_hook(hook(name, again)) for name in chosen]
            try:
                with torch.no_grad():
                    run.forward(batch.select(few) if again else batch)
            finally:
                for handle in handles:
                    handle.remove()
        if random:
            run.left_out(
                f"Layers {', '.join(random)} give other activations for the same samples (they draw random numbers, or "
                f"look at the other samples of a batch), so that they are no function of an input: no information."
            )
        missing = [layer for layer in self.layers or [] if (layer or type(modules[layer]).__name__) not in found]
        if missing or not found:
            which = ", ".join(map(repr, missing)) or "none of those with a weight matrix"
            raise CannotMeasure(
                f"`layers` must be modules that return a tensor with a row for each of the {batch.n} samples, got "
                f"{which}. Name others."
            )
        return found

    def _look(self, features: Tensor, samples: _Samples, generator: torch.Generator, key: str, steps: int) -> _Layer:
        features = to_float64(features)
        noise = torch.randn(features.shape, generator=generator, dtype=torch.float64).to(features.device)
        if not bool(features.isfinite().all()):
            return _Layer.undefined()
        std = self.noise * float(features.var(0).mean().sqrt())
        if std == 0:  # a dead layer tells nothing
            nothing = features.new_zeros(())
            return _Layer(ChannelInformation(nothing, nothing, nothing, nothing), 0.0, (0.0, 0.0))
        inputs = noisy_channel_information(features, noise, std, samples.groups)
        targets = (0.0, 0.0)
        if samples.targets is not None:
            targets = self._targets(features + std * noise, samples, key, steps)
        return _Layer(inputs, std, targets)

    def _targets(self, features: Tensor, samples: _Samples, key: str, steps: int) -> tuple[float, float]:
        """Value and standard error of the information about the targets."""
        targets, rows = samples.targets, samples.told
        assert targets is not None
        if targets.is_floating_point() and not bool(targets.isfinite().all()):
            return UNDEFINED
        features, targets = features[rows.to(features.device)], targets[rows.to(targets.device)]
        # Groups of the samples that have a target, without gaps.
        groups = torch.unique(samples.groups[rows], return_inverse=True)[1]
        if len(groups) < MIN_SAMPLES or int(groups.max()) + 1 < 2 * NUM_FOLDS:
            return UNDEFINED
        device = targets.device
        if targets.is_floating_point() or targets.numel() != len(targets):
            components = _Frame.of(features)
            result = mutual_information(
                components.project(features).to(device),
                targets,
                groups=groups,
                max_steps=min(500, max(1, steps // STEPS_FOR_NUMBERS)),
            )
            return result.value, result.standard_error
        classes, labels = torch.unique(targets.flatten().cpu(), return_inverse=True)
        if len(classes) < 2:
            return 0.0, 0.0
        held = self._learned.get(key)
        if held is not None and not held.fits(features, len(classes)):
            held = None
        warm = None
        if held is not None:
            frame = _Frame(held.mean, held.components)
            warm = label_information(
                frame.project(features), labels, torch.Generator().manual_seed(0), groups=groups, start=held.state,
                max_steps=min(100, steps), every=25, patience=2, device=device,
            )  # fmt: skip
            self._learned[key] = held = held._replace(state=warm.state, age=held.age + 1)
        if held is None or held.age % self.cold_every == 0:
            frame = _Frame.of(features)
            cold = label_information(
                frame.project(features), labels, torch.Generator().manual_seed(0), groups=groups,
                max_steps=min(600, steps), every=25, patience=6, device=device,
            )  # fmt: skip
            error = clustered_standard_error(cold.terms, groups[cold.rows])
            if warm is None or float(cold.terms.mean() - warm.terms.mean()) > 3 * error:
                age = 0 if held is None else held.age
                self._learned[key] = _Learned(frame.mean, frame.components, cold.state, age)
                warm = cold
        assert warm is not None
        return float(warm.terms.mean()), clustered_standard_error(warm.terms, groups[warm.rows])


class _Samples(NamedTuple):
    """What a batch is besides its inputs."""

    targets: Tensor | None
    told: Tensor
    """The samples that have a target."""
    groups: Tensor
    """Which samples are copies of each other: told from the inputs, since the noise makes all activations different."""

    @classmethod
    def of(cls, batch: Batch) -> _Samples:
        told, targets = torch.arange(batch.n), batch.targets
        if targets is not None and not targets.is_floating_point() and targets.dtype != torch.bool:
            told = told[(targets.reshape(batch.n, -1) != IGNORED).all(1).cpu()]
        leaves = [leaf for leaf in tensors((batch.args, batch.kwargs)) if leaf.ndim and len(leaf) == batch.n]
        rows = torch.cat([leaf.detach().reshape(batch.n, -1).cpu().double() for leaf in leaves], 1)
        other = rows if targets is None else targets.detach().reshape(batch.n, -1).cpu().double()
        return cls(targets, told, repeated_rows(rows, other))


class _Layer(NamedTuple):
    inputs: ChannelInformation
    std: float
    targets: tuple[float, float]

    @classmethod
    def undefined(cls) -> _Layer:
        nan = torch.tensor(math.nan, dtype=torch.float64, device="cpu")
        return cls(ChannelInformation(nan, nan, nan, nan), math.nan, UNDEFINED)


class _Learned(NamedTuple):
    """The classifiers of a layer, and the components they were trained on: those must not turn."""

    mean: Tensor
    components: Tensor
    state: dict[str, Tensor]
    age: int

    def fits(self, features: Tensor, num_classes: int) -> bool:
        return self.mean.shape == features.shape[1:] and self.state["output.bias"].shape[-1] == num_classes


class _Frame(NamedTuple):
    """Principal components."""

    mean: Tensor
    components: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Frame:
        mean = features.mean(0)
        most = min(MAX_COMPONENTS, max(1, len(features) // SAMPLES_PER_COMPONENT))
        if features.shape[1] <= most:
            return cls(mean, torch.eye(features.shape[1], dtype=features.dtype, device=features.device))
        centred = features - mean
        if centred.shape[1] <= len(centred):
            vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors
            return cls(mean, vectors[:, -most:])
        vectors = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -most:]
        components = centred.T @ vectors
        return cls(mean, components / torch.linalg.vector_norm(components, dim=0).clamp_min(1e-300))

    def project(self, features: Tensor) -> Tensor:
        """On the CPU."""
        return ((features - self.mean) @ self.components).cpu()


def _too_few(found: str) -> str:
    return (
        f"At least {MIN_SAMPLES} samples are needed to hold some out; {found}. Pass batches={{'probe': (inputs, "
        f"targets)}} of a thousand to ProbeManager."
    )


def _differ(again: Tensor, features: Tensor) -> bool:
    """Beyond rounding, where both are finite."""
    both = again.isfinite() & features.isfinite()
    scale = features.abs().where(both, 0).max()
    return bool(((again - features).abs().where(both, 0) > ROUNDING.get(features.dtype, 1e-3) * scale).any())


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, parametrize.ParametrizationList):  # what it returns is the weight of the module that has it
        return False
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += [parameter for weight in module.parametrizations.values() for parameter in weight.parameters()]  # type: ignore[operator]
    return any(parameter.ndim >= 2 for parameter in own)
