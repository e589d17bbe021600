"""LayerStatistics: what training does to each layer, from its weights, gradients, updates and activations."""

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

from probes.loop.sharding import distributed, local_part
from probes.measurement import Axis, CannotMeasure, Measurement, first_line
from probes.names import plain_name
from probes.picking import picked
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule
from probes_ntk import layer_of

from .activations import activations, output_entropy, summarize
from .updates import GRADIENT, UPDATE, UpdateWatch, square_sum

__all__ = ["LayerStatistics"]


class LayerStatistics(Probe):
    r"""Norms of each layer's weights, gradients and updates, and what its activations are on a fixed batch.

    A gradient is the one the optimizer is given: accumulated over micro-batches, unscaled and clipped. An update is the
    difference of the weights, exactly. Of several optimizers that share a step, each layer's is the last one that was
    over; where a layer was not updated since the step before, it is NaN, and 0 where no optimizer is known to hold it:
    none has stepped yet, or none does.

    Yields, by layer in the order of depth, where a layer is a module with parameters of its own:
        ``layers/weight_norm`` and ``layers/weight_rms``; of the last update ``layers/gradient_norm``,
        ``layers/update_norm``, ``layers/update_ratio`` (update / weights before it), ``layers/update_cosine`` (with the
        update before), ``layers/gradient_zero_share`` and ``layers/gradient_nonfinite_share``. The same of all layers
        together: ``layers/total_weight_norm`` and so on.

        On the batch, of layers and of activations: ``layers/activation_rms/train``, ``layers/activation_mean/train``,
        ``layers/activation_max/train`` (largest magnitude), ``layers/activation_variation/train`` (deviation from the
        mean of the batch / RMS: 0 where all samples are alike); of activations ``layers/zero_share/train`` and
        ``layers/dead_share/train`` (units that are zero on the whole batch; NaN where it cannot be told which axis
        theirs is); and of bounded ones ``layers/saturated_share/train`` (values within 1 % of a bound; of a clipped
        ReLU, of the upper one). Of a classifier, ``layers/output_entropy/train``, in nats.

        ``loop/loss``, what the loop called ``backward()`` on for the last update, and of each optimizer
        ``loop/learning_rate/Adam``, by parameter group.

    Runs by default, and needs no batch for all but the activations. It looks at the two updates before it is due, and
    costs nothing in between: twice a copy of the parameters and ten passes over them, one forward pass on the batch
    and four passes over the activations, five over bounded ones. While it looks, it holds two copies of the trainable
    parameters.

    Args:
        schedule: When it is due.
        batch: The name of the batch.

    Example:
        >>> LayerStatistics().name
        'layers'

    Reference:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
        section 3 (saturation), and Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic
        models", ICML 2013 (dead units).
    """

    name = "layers"
    watched_updates = 2

    def __init__(self, schedule: Schedule | None = None, *, batch: str = "train") -> None:
        super().__init__(schedule)
        self.batch = batch
        self._layers: list[str] = []
        """Those of the first turn: a stream keeps its axis."""
        self._later: list[str] = []
        """Those that came after it."""
        self._trained: list[str] = []
        """Those of which gradients and updates are recorded."""
        self._free: set[str] = set()
        """Those that were not frozen when the run began."""
        self._active: list[str] = []
        """Those of which activations are."""
        self._some: dict[str, list[str]] = {}
        """Those of which a quantity is that others do not have."""
        self._rates: dict[str, list[Any]] = {}
        """By optimizer, the learning rates of its parameter groups."""
        self._owners: dict[str, set[str]] = {}
        """By optimizer, the names of the parameters that it held then."""
        self._groups: dict[str, int] = {}
        """How many there were at first."""
        self._watch, self._sharded = UpdateWatch(), False
        self._index: dict[int, int] = {}
        """The layer of each parameter, by its id."""
        self._names: dict[int, str] = {}
        self._part: tuple[Tensor, Tensor] | None = None
        """What this rank has seen of the last update of a sharded model."""
        self._joined: list[Tensor] = []
        """When due, what all ranks have of the weights and have seen of the update."""
        self._held: set[str] = set()
        """Parameters that an optimizer holds, by name: after a resume, before it has stepped."""
        self._resumed: dict[str, Any] = {}
        """What was looked at of parameters before a resume, by their names."""

    def on_attach(self, run: Run) -> None:
        """See what is trained before the loop freezes some for an update of others."""
        self.is_first(run)
        named = run.model.named_parameters()
        self._free = {layer_of(run.model, name) for name, parameter in named if parameter.requires_grad}

    def before_step(self, run: Run, optimizer: Optimizer | None, closure: bool) -> None:
        """Copy the parameters, and look at their gradients."""
        if not self.is_first(run):
            return
        parameters = self._find(run)
        if self._sharded != _is_in_parts(run.model):
            self._sharded = not self._sharded
            self._watch = UpdateWatch(sharded=self._sharded)
        self._take_up(parameters)
        groups = [] if optimizer is None else optimizer.param_groups
        mine = {id(parameter) for group in groups for parameter in group["params"]}
        held = {id(p) for other in run.optimizers for group in other.param_groups for p in group["params"]}
        self._held.update(name for name, parameter, _ in parameters if id(parameter) in held)
        trained = [parameter for _, parameter, _ in parameters if parameter.requires_grad]
        another = self.schedule.next(run.step) == run.step + 2  # which is the one that is recorded
        own = trained if optimizer is None else [p for p in trained if id(p) in mine]
        self._watch.before(own, getattr(optimizer, "grad_scale", None), closure, only_update=another)
        # Those of no optimizer that is known: it may step later, or never.
        if optimizer is not None:
            rest = [p for name, p, _ in parameters if p.requires_grad and id(p) not in mine and name not in self._held]
            self._watch.before(rest, only_update=another, owned=False)
        if groups and all("lr" in group for group in groups):
            rates = [rate.clone() if isinstance(rate := group["lr"], Tensor) else rate for group in groups]
            self._take_rates(_name(run, optimizer), {name for name, p, _ in parameters if id(p) in mine}, rates)

    def _take_rates(self, optimizer: str, names: set[str], rates: list[Any]) -> None:
        replaced = [other for other, theirs in self._owners.items() if not names.isdisjoint(theirs)]  # also by a resume
        for other in replaced:
            self._rates.pop(other, None), self._owners.pop(other)
        self._rates[optimizer], self._owners[optimizer] = rates, names

    def _take_up(self, parameters: list[tuple[str, nn.Parameter, str]]) -> None:
        for name, parameter, _ in parameters if self._resumed else ():
            if name in self._resumed:
                self._watch.resume(parameter, self._resumed[name])
        self._resumed = {}

    def on_step(self, run: Run, step: int) -> None:
        """See what the update was."""
        self._watch.after(step)
        if self._sharded:
            self._part = self._watch.sums(self._index, len(self._layers) + 1, step)

    def _find(self, run: Run) -> list[tuple[str, nn.Parameter, str]]:
        """The parameters as they are now, by name and with their layers."""
        model = run.model
        found = [(plain_name(name), p, layer_of(model, name)) for name, p in model.named_parameters() if _is_weight(p)]
        if not self._layers:
            self._layers = list(dict.fromkeys(layer for _, _, layer in found))
        if not self._trained:
            trained = {layer for _, parameter, layer in found if parameter.requires_grad}
            # Those of an optimizer whose turn it is not (as in a GAN) may be frozen now. Not so beside trained ones.
            groups = [[p for group in other.param_groups for p in group["params"]] for other in run.optimizers]
            beside = {id(p) for group in groups if any(p.requires_grad for p in group) for p in group}
            trained |= {layer for _, parameter, layer in found if layer in self._free and id(parameter) not in beside}
            self._trained = [layer for layer in self._layers if layer in trained]
        order = {layer: index for index, layer in enumerate(self._layers)}
        self._later = list(dict.fromkeys(layer for _, _, layer in found if layer not in order))
        self._index = {id(parameter): order.get(layer, len(order)) for _, parameter, layer in found}
        self._names = {id(parameter): name for name, parameter, _ in found}
        return found

    def rank_part(self, run: Run) -> Any:
        """What this rank has of the weights and has seen of the last update: matrices with a column for each layer."""
        parameters = [(name, local_part(p), layer) for name, p, layer in self._find(run)]
        part, self._part = self._part, None
        return [self._squares(parameters), *(part or ())]

    def join_parts(self, parts: list[Any]) -> None:
        """Add up what all ranks have seen; of the weights alone where not all have seen the last update."""
        whole = all(len(part) == len(parts[0]) for part in parts)
        seen = zip(*(part if whole else part[:1] for part in parts), strict=True)
        self._joined = [torch.stack(items).sum(0) for items in seen]

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the layers are now, and what the last update was."""
        if self.is_first(run):
            yield from self._of_training(run, step)
        if not _is_in_parts(run.model):
            yield from self._on_batch(run)
        else:
            run.left_out("The activations are not measured: a forward pass of this model is one of all ranks.")

    def _of_training(self, run: Run, step: int) -> Iterator[Measurement]:
        """What is of no batch: the weights, the last update, its loss and learning rates."""
        parameters = self._find(run)
        if meta := [name for name, p in run.model.named_parameters() if p.device.type == "meta"]:
            run.left_out(f"On the meta device, without numbers, and not measured: {', '.join(map(plain_name, meta))}.")
        if self._joined:
            (weights, *part), self._joined = self._joined, []
        else:
            weights = self._squares(parameters)
            part = [*self._watch.sums(self._index, len(self._layers) + 1, step)]
            self._name_missing(run, step, weights[1], updated=bool(part[1][UPDATE.index("count")].any()))
        yield from self._weights(weights)
        if part and bool(part[1][UPDATE.index("count")].any()):
            yield from self._update(*part)
        if run.loss is not None:
            yield Measurement("loop/loss", run.loss, description="loss of the last update, as the loop computes it")
        for optimizer, rates in self._rates.items():
            count = self._groups.setdefault(optimizer, len(rates))
            values = [*map(float, rates[:count]), *[math.nan] * (count - len(rates))]
            words = "learning rate of the last update, by parameter group"
            groups = {"group": Axis(np.arange(count), description="parameter group of the optimizer")}
            yield Measurement(f"loop/learning_rate/{optimizer}", values, ("group",), groups, description=words)
        following = self.schedule.next(step)
        if following is None or following - self.watched_updates > step:  # no need to hold the last update
            self._watch.clear()

    def _squares(self, parameters: Sequence[tuple[str, Tensor, str]]) -> Tensor:
        """Sums of the squares of the weights of each layer, and their number, and of those that came later, together.
        Shape ``(2, layers + 1)``."""
        order = {layer: index for index, layer in enumerate(self._layers)}
        sums = torch.zeros(2, len(order) + 1, dtype=torch.float64, device="cpu")
        if parameters:
            columns = torch.tensor([order.get(layer, len(order)) for *_, layer in parameters], device="cpu")
            sums[0].index_add_(0, columns, torch.stack([square_sum(p).cpu() for _, p, _ in parameters]))
            counts = torch.tensor([p.numel() for _, p, _ in parameters], dtype=torch.float64, device="cpu")
            sums[1].index_add_(0, columns, counts)
        return sums

    def _weights(self, sums: Tensor) -> Iterator[Measurement]:
        total = sums[0].sum().sqrt()
        squares, counts = sums[:, :-1]
        squares = squares.where(counts > 0, torch.nan)  # of a layer that is gone
        measured = partial(_by_layer, layers=self._layers, estimator="parameters as they are")
        yield measured("weight_norm", squares.sqrt(), description="norm of the parameters")
        yield measured("weight_rms", (squares / counts).sqrt(), description="root mean square of the parameters")
        words = "norm of the parameters of all layers, of those that came later too"
        yield Measurement("layers/total_weight_norm", total, description=words)

    def _update(self, gradient: Tensor, update: Tensor) -> Iterator[Measurement]:
        """What the last update was: of each layer, and of all together."""
        columns = [self._layers.index(layer) for layer in self._trained]
        measured = partial(_by_layer, layers=self._trained, estimator="the last update before the step")
        for name, words, values in _quantities(gradient, update):
            if values.isnan().all():
                continue  # of the first update there is none before
            yield measured(name, values[columns], description=f"{words}, of each layer")
        for name, words, values in _quantities(gradient.sum(1, keepdim=True), update.sum(1, keepdim=True)):
            if not values.isnan():
                yield Measurement(f"layers/total_{name}", values[0], description=f"{words}, of all layers updated")

    def _on_batch(self, run: Run) -> Iterator[Measurement]:
        batch = run.batch(self.batch) if self.batch in run.batches else None
        if batch is None and self.batch == "train" and run.shown is not None:
            batch = run.shown.to(run.device)  # its output cannot be used, the layers can
        if batch is None:
            return
        try:
            seen, result = activations(run.model, lambda: run.model(*batch.args, **batch.kwargs), batch.n)
        except Exception as error:
            run.left_out(
                f"The activations are not measured: the model cannot be called with batch {self.batch!r} in eval mode "
                f"({type(error).__name__}: {first_line(error)})."
            )
            return
        if not self._active:
            self._active = list(seen)
            gated = [name for name, item in seen.items() if item.gated]
            bounded = [name for name, item in seen.items() if item.bounds is not None]
            self._some = {"zero_share": gated, "dead_share": gated, "saturated_share": bounded}
        if not self._active:
            return
        known = [name for name in self._active if name in seen]
        table = torch.full((len(self._active), len(SUMMARY)), torch.nan, dtype=torch.float64)
        if known:
            table[[self._active.index(name) for name in known]] = summarize([seen[name] for name in known])
        about: dict[str, Any] = {"estimator": f"{batch.n} samples, in eval mode", "num_samples": batch.n}
        for column, (name, words) in enumerate(SUMMARY.items()):
            layers, values = self._active, table[:, column]
            if name == "activation_variation" and batch.n < 2:
                continue
            if name in self._some:
                layers = self._some[name]
                values = values[[self._active.index(layer) for layer in layers]]
            if layers:
                yield _by_layer(f"{name}/{self.batch}", values, layers=layers, description=words, **about)
        if (logits := _logits(run, result, batch.targets)) is not None:
            yield Measurement(
                f"layers/output_entropy/{self.batch}", output_entropy(logits), unit="nats",
                description="mean entropy of the distribution of classes", **about,
            )  # fmt: skip

    def _name_missing(self, run: Run, step: int, counts: Tensor, updated: bool) -> None:
        """Say which layers came or went, which parameters were updated without a gradient that could be seen, and
        that no loss was."""
        notes = []
        gone = [layer for layer, count in zip(self._layers, counts, strict=False) if not count]
        for which, layers in (
            ("Layers that have no weights of their own any more (replaced, removed or tied) and are NaN", gone),
            ("Layers that came after the first turn and are in the totals alone", self._later),
        ):
            if layers:
                notes.append(f"{which}: {', '.join(layers[:5])}{', ...' if len(layers) > 5 else ''}.")
        more = {name: len(rates) - self._groups.get(name, len(rates)) for name, rates in self._rates.items()}
        if later := [f"{count} of {name}" for name, count in more.items() if count > 0]:
            notes.append(
                f"Parameter groups that came later, and whose learning rates are not recorded: {', '.join(later)}."
            )
        missing = [self._names.get(id(parameter), "") for parameter in self._watch.without_gradient(step)]
        if missing:
            notes.append(
                f"{len(missing)} parameters had no gradient when the optimizer stepped, and theirs is not recorded: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Either the loss does not depend on "
                f"them, or their gradients are freed before the step."
            )
        if updated and run.loss is None:
            notes.append(
                "The loss is not recorded: no call of backward() was seen that the gradients of the last update came "
                "from. They were computed in another way (torch.autograd.grad, in what is compiled), assigned by the "
                "loop after others were discarded, or by more than 1000 calls."
            )
        if notes:
            run.left_out(" ".join(notes))

    def on_detach(self, run: Run) -> None:
        """Let go of the model."""
        self._watch.clear()
        self._index, self._names, self._part, self._joined = {}, {}, None, []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_watch": UpdateWatch(), "_index": {}, "_names": {}}  # a copy is of other parameters

    def state_dict(self) -> dict[str, Any]:
        """The layers, and the last update while one is looked at."""
        names = {} if self._sharded else self._names
        updates = {names[key]: state for key, state in self._watch.state().items() if key in names}
        return {
            "layers": list(self._layers), "trained": list(self._trained), "active": list(self._active),
            "some": dict(self._some), "groups": dict(self._groups),
            "rates": {name: [float(rate) for rate in rates] for name, rates in self._rates.items()},
            "owners": {name: sorted(held) for name, held in self._owners.items()},
            "held": sorted(self._held), "updates": updates,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._layers, self._trained = list(state["layers"]), list(state["trained"])
        self._active, self._some = list(state["active"]), dict(state["some"])
        self._rates, self._groups = dict(state["rates"]), dict(state["groups"])
        self._owners = {name: set(held) for name, held in state.get("owners", {}).items()}
        self._held, self._resumed = set(state["held"]), dict(state["updates"])


SUMMARY = {
    "activation_rms": "root mean square of a layer's outputs",
    "activation_mean": "mean of a layer's outputs",
    "activation_max": "largest magnitude of a layer's outputs",
    "activation_variation": "root mean square of what differs from the batch's mean / that of all",
    "zero_share": "share of a layer's outputs that are zero",
    "dead_share": "share of a layer's units that are zero on the whole batch",
    "saturated_share": "share of outputs within 1 % of a bound of the activation",
}


def _quantities(gradient: Tensor, update: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Names, words and values, NaN where nothing was seen, from sums of :data:`GRADIENT` and :data:`UPDATE`."""
    grad, new = dict(zip(GRADIENT, gradient, strict=True)), dict(zip(UPDATE, update, strict=True))

    def where(seen: Tensor, values: Tensor) -> Tensor:
        return torch.where(seen > 0, values, torch.nan)

    cosine = new["product"] / (new["last"] * new["followed"]).sqrt()
    yield (
        "gradient_norm",
        "norm of the gradient as the optimizer sees it",
        where(grad["count"], grad["gradient"].sqrt()),
    )
    yield "update_norm", "norm of the update", where(new["count"], new["update"].sqrt())
    yield "update_ratio", "norm of the update / norm of the parameters", (new["update"] / new["before"]).sqrt()
    yield "update_cosine", "cosine of the update with the one before", where(new["last"], cosine.clamp(-1, 1))
    yield "gradient_zero_share", "share of the gradient that is zero", grad["zeros"] / grad["count"]
    yield "gradient_nonfinite_share", "share of the gradient that is not finite", grad["nonfinite"] / grad["count"]


def _is_weight(parameter: nn.Parameter) -> bool:
    """Whether it holds numbers; integers are no weights."""
    if is_lazy(parameter) or parameter.is_meta or not parameter.numel():
        return False
    return parameter.is_floating_point() or parameter.is_complex()


def _is_in_parts(model: nn.Module) -> bool:
    return any(True for _ in distributed(model))


def _name(run: Run, optimizer: Optimizer | None) -> str:
    """An optimizer's class, with a number where others of the run are of the same."""
    kind = type(optimizer).__name__
    same = [other for other in run.optimizers if type(other).__name__ == kind]
    number = next((index for index, other in enumerate(same, 1) if other is optimizer), 1)
    return kind if number == 1 else f"{kind}-{number}"


def _by_layer(name: str, values: Tensor, *, layers: list[str], **about: Any) -> Measurement:
    return Measurement(f"layers/{name}", values, dims=("layer",), coords={"layer": Axis(np.array(layers))}, **about)


def _logits(run: Run, result: Any, targets: Tensor | None) -> Tensor | None:
    """The output, if it is one of a classifier."""
    if targets is None or targets.is_floating_point() or targets.dtype == torch.bool:
        return None
    try:
        output = picked(run.output, result)
    except CannotMeasure:
        return None
    return output if output.ndim > 1 and output.shape[-1] > 1 and output.is_floating_point() else None
