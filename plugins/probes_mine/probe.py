"""MutualInformation: what hidden layers keep of the inputs and of the labels during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from probes.batches import Batch
from probes.budget.clock import OwnTime
from probes.measurement import Axis, CannotMeasure, Measurement
from probes.names import check_layers, hookable_modules, own_parameters
from probes.outputs import ExampleAxis, differ
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .estimator import MIN_SAMPLES
from .labels import label_information
from .layer_information import Layer, LayerInformation, Learned, Samples
from .turn import MOST_STEPS, STEPS_PER_TURN, affordable

__all__ = ["MutualInformation"]

MOST_SAMPLES = 1000
COMPARED = 32
"""Samples that are evaluated twice to see whether a layer is random."""


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

    Of a layer that is called several times, T is what its first call gives; of sequences with time first
    (``batch_first=False``), what it gives for each sample.

    A number that is not defined is NaN, and no other with it: that of a layer with activations that are NaN or
    infinite, or that draws random numbers; of the targets, where fewer than 20 samples have one or one is not finite. A
    layer that is constant tells nothing: 0.

    Runs when named. Give it a batch of a thousand samples or more: ``batches={"probe": (x, y)}``. Costs three forward
    passes, n^2 inner products and n^3 operations a layer, and some seconds of training in all, which the layers share:
    with many of them each is trained less at a time, and gets better from one measurement to the next. Where a budget
    limits the first turn, one layer is tried, and what does not fit is left out, once for all turns: steps of training,
    then layers, those that are measured being spread over the depth, then samples. What is asked for by ``layers`` and
    ``num_samples`` is measured at any cost.

    Args:
        schedule: When it is due; by default log-spaced.
        batches: Names of the batches; by default all of 20 samples or more.
        layers: Names of modules whose outputs are T; by default all with a weight matrix, the last one included.
        noise: Standard deviation of the noise, in units of the root mean square deviation of the layer's activations.
        num_samples: The first so many of each batch; by default at most 1,000.
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

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batches: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        noise: float = 0.1,
        num_samples: int | None = None,
        cold_every: int = 10,
    ) -> None:
        super().__init__(schedule)
        if not (hasattr(noise, "__float__") and 0 < noise < math.inf):
            raise ValueError(
                f"`noise` must be a positive number, got {noise!r}: without it the information is infinite."
            )
        if num_samples is not None and not (hasattr(num_samples, "__index__") and num_samples >= MIN_SAMPLES):
            raise ValueError(f"`num_samples` must be an integer of at least {MIN_SAMPLES}, got {num_samples!r}.")
        if not (hasattr(cold_every, "__index__") and cold_every >= 1):
            raise ValueError(f"`cold_every` must be an integer of at least 1, got {cold_every!r}.")
        self.batches = [batches] if isinstance(batches, str) else None if batches is None else list(batches)
        self.layers = None if layers is None else list(layers)
        self.noise, self.num_samples, self.cold_every = noise, num_samples, cold_every
        self._information = LayerInformation(noise, cold_every)
        self._turns: dict[str, dict[str, Any]] = {}
        """What a turn does, by batch, where a first turn was limited."""
        self._axes: dict[str, list[str]] = {}
        """The layers of the first turn, by batch: a stream keeps its axis."""

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the layers keep now, batch by batch."""
        chosen = self.batches or [name for name, batch in run.batches.items() if batch.n >= MIN_SAMPLES]
        refused: list[str] = []
        for name in chosen:
            try:
                yield from self._measure(run, name, run.first_turn_limit / len(chosen))
            except CannotMeasure as error:
                refused.append(str(error))
        if not chosen:
            sizes = ", ".join(f"{name!r} of {batch.n}" for name, batch in run.batches.items()) or "none"
            refused.append(_too_few(f"there are batches: {sizes}"))
        if len(refused) == max(1, len(chosen)):
            raise CannotMeasure(refused[0])
        if refused:
            run.left_out(refused[0])

    def _measure(self, run: Run, name: str, limit: float) -> Iterator[Measurement]:
        if name not in run.batches:
            raise CannotMeasure(
                f"`batches` names {name!r}, which is no batch; there are: {', '.join(run.batches) or 'none'}. "
                f"Pass batches={{{name!r}: (inputs, targets)}} to ProbeManager."
            )
        if run.batches[name].n < MIN_SAMPLES:
            raise CannotMeasure(_too_few(f"batch {name!r} has {run.batches[name].n}"))
        run.check_examples(name)
        turn = self._turns.get(name)
        batch = run.batch(name).first(self.num_samples or MOST_SAMPLES if turn is None else turn["samples"])
        seen = self._activations(run, batch, name, limit)
        first = self._axes.setdefault(name, list(seen))
        if later := [layer for layer in seen if layer not in first]:
            run.left_out(f"Layers that came after the first turn are not measured: {', '.join(later)}.")
        layers = {layer: seen.get(layer, Layer.undefined()) for layer in first}
        axis = {"layer": Axis(np.array(list(layers)))}
        turn = self._turns.get(name)
        n = batch.n if turn is None else turn["samples"]
        how = f"noise of {self.noise:g} of the layer's deviation, {n} samples"
        if turn is not None and turn["told"]:
            how += f", {turn['told']}"
        found = list(layers.values())
        per_layer = partial(Measurement, dims=("layer",), coords=axis)
        information = partial(per_layer, unit="nats", num_samples=n)
        lower = [float(layer.inputs.lower) for layer in found]
        yield information(
            f"information/inputs_lower/{name}",
            lower,
            standard_error=[float(layer.inputs.lower_error) for layer in found],
            estimator=f"known density of the noise, at most log n; {how}",
            description="information about the inputs, at least",
        )
        yield information(
            f"information/inputs_upper/{name}",
            [float(layer.inputs.upper) for layer in found],
            standard_error=[float(layer.inputs.upper_error) for layer in found],
            estimator=f"known density of the noise, leaving one out; {how}",
            description="information about the inputs, at most",
        )
        stds = [layer.std for layer in found]
        words = "standard deviation of the noise"
        yield per_layer(f"information/noise/{name}", stds, unit="activation", description=words)
        if batch.targets is None:
            return
        targets = [layer.targets[0] for layer in found]
        yield information(
            f"information/targets/{name}",
            targets,
            standard_error=[layer.targets[1] for layer in found],
            estimator=f"lower bound, held out; {how}",
            description="information about the targets, at least",
        )
        plane = Axis(np.array(["I(X; T + noise), at least", "I(T + noise; Y), at least"]))
        yield information(
            f"information/plane/{name}",
            np.array([lower, targets]).T,
            dims=("layer", "plane"),
            coords={**axis, "plane": plane},
            estimator=how,
            description="information plane",
        )

    def state_dict(self) -> dict[str, Any]:
        """The classifiers, and what a turn does, for a resume that goes on to the last bit."""
        learned = {key: learned._asdict() for key, learned in self._information.learned.items()}
        axes = {name: list(layers) for name, layers in self._axes.items()}
        return {"learned": learned, "turns": {name: dict(turn) for name, turn in self._turns.items()}, "axes": axes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._information.learned = {key: Learned(**learned) for key, learned in state["learned"].items()}
        self._turns = {name: dict(turn) for name, turn in state["turns"].items()}
        self._axes = {name: list(layers) for name, layers in state.get("axes", {}).items()}  # older ones have none

    def _activations(self, run: Run, batch: Batch, batch_name: str, limit: float) -> dict[str, Layer]:
        """What is to be known of each layer, in order of execution; the activations of one at a time are held."""
        modules = dict(hookable_modules(run.model))
        check_layers(self.layers or [], modules)
        turn = self._turns.get(batch_name)
        chosen = self.layers or [name for name, module in modules.items() if _has_matrix(module)]
        if turn is not None:
            chosen = [name for name in chosen if name in turn["layers"]]
        few = torch.arange(batch.n).flip(0)[:COMPARED]
        kept: dict[str, Tensor] = {}
        found: dict[str, Layer] = {}
        random: list[str] = []
        generator, samples = run.generator, Samples.of(batch)

        def keep(name: str, features: Tensor) -> None:
            kept[name] = features.clone()

        def look(name: str, features: Tensor) -> None:
            nonlocal turn
            if name not in kept or name in random:
                return
            if differ(features[few.to(features.device)], kept[name]):
                random.append(name)
                found[name] = Layer.undefined()
                return
            varies = bool(features.isfinite().all()) and bool((features != features[:1]).any())
            if turn is None and limit < math.inf and varies:
                widths = {name: value[0].numel() for name, value in kept.items()}
                turn = self._turns[batch_name] = self._turn(run, features, samples, widths, limit)
            if turn is None:
                steps = max(1, min(MOST_STEPS, STEPS_PER_TURN // max(1, len(chosen))))
                found[name] = self._information.look(features, samples, generator, f"{batch_name}/{name}", steps)
            elif name in turn["layers"]:
                features, told = features[: turn["samples"]], samples.first(turn["samples"])
                found[name] = self._information.look(features, told, generator, f"{batch_name}/{name}", turn["steps"])

        _visit(run, batch.select(few), modules, chosen, keep)
        _visit(run, batch, modules, chosen, look)
        if random:
            labels = ", ".join(name or type(modules[name]).__name__ for name in random)
            run.left_out(
                f"Layers {labels} give other activations for the same samples (they draw random numbers, or look at "
                f"the other samples of a batch), so that they are no function of an input: no information."
            )
        missing = [layer for layer in self.layers or [] if layer not in found]
        if missing or not found:
            which = ", ".join(map(repr, missing)) or "none of those with a weight matrix"
            raise CannotMeasure(
                f"`layers` must be modules that return a tensor with a row for each of the {batch.n} samples, got "
                f"{which}. Name others."
            )
        return {name or type(modules[name]).__name__: layer for name, layer in found.items()}

    def _turn(
        self, run: Run, features: Tensor, samples: Samples, widths: dict[str, int], limit: float
    ) -> dict[str, Any]:
        """Choose, once, what a turn does: from the time that one layer takes."""
        names, n, clock = list(widths), len(features), OwnTime()
        # What a process does once is no part of the time.
        label_information(torch.eye(40, 2), torch.arange(40) % 2, torch.Generator().manual_seed(0), max_steps=2)
        begin = clock()
        costs = self._information.costs(features, samples, clock)
        left = max(0.0, limit - (clock() - begin))
        given = {"all_layers": self.layers is not None, "all_samples": self.num_samples is not None}
        turn = affordable(list(widths.values()), n, costs, left, **given)
        whole = affordable(list(widths.values()), n, costs, math.inf, all_layers=True, all_samples=True)
        layers, told = [names[i] for i in turn.layers], []
        if len(layers) < len(names):
            told.append(f"{len(layers)} of {len(names)} layers")
        if turn.samples < n:
            told.append(f"{turn.samples} of {n} samples")
        if turn.steps < whole.steps:
            told.append(f"{turn.steps} instead of {whole.steps} steps of training a layer and turn")
        if told:
            run.left_out(
                f"Measured with {', '.join(told)}: all would take {whole.seconds:.0f} s a turn. `layers` and "
                f"`num_samples` that are given are measured at any cost; overhead=None measures all."
            )
        return {"layers": layers, "samples": turn.samples, "steps": turn.steps, "told": ", ".join(told)}


def _visit(
    run: Run,
    batch: Batch,
    modules: dict[str, nn.Module],
    names: Sequence[str],
    see: Callable[[str, Tensor], None],
) -> None:
    """Call ``see`` with the activations ``(n, d)`` of each layer that has them for each sample, of its first call."""

    axis, seen = ExampleAxis(run.model, batch.n), set[str]()

    def hook(name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            rows = None if name in seen else axis.rows(module, output)
            if rows is not None:
                seen.add(name)
                see(name, rows.reshape(len(rows), -1))

        return after

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        with torch.no_grad():
            run.forward(batch)
    finally:
        for handle in handles:
            handle.remove()


def _too_few(found: str) -> str:
    return (
        f"At least {MIN_SAMPLES} samples are needed to hold some out; {found}. Pass batches={{'probe': (inputs, "
        f"targets)}} of a thousand to ProbeManager."
    )


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, parametrize.ParametrizationList):  # what it returns is the weight of the module that has it
        return False
    own = list(own_parameters(module).values())
    if parametrize.is_parametrized(module):
        own += [parameter for weight in module.parametrizations.values() for parameter in weight.parameters()]  # type: ignore[operator]
    return any(parameter.ndim >= 2 for parameter in own)
