"""What a run has found, in words: each finding with its evidence, and what to look at next.

The rules are the list :data:`RULES`: an alarm is what no healthy training shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing.events import troubles
from .drawing.words import counted, named
from .measurement import printable

if TYPE_CHECKING:
    import xarray

__all__ = ["RULES", "Finding", "Rule", "findings"]

SHOWN = 4
"""Layers that are named."""
SAME = 2e-3
"""Deviation over samples, relative to the size, up to which they are taken to be the same."""
FEW = 10
"""Samples that a row should not rest on less than."""


@dataclass(frozen=True)
class Finding:
    """One thing that a run shows."""

    text: str
    stream: str
    """Where it is seen."""
    steps: tuple[int, int]
    """The first and the last step at which it is."""
    alarm: bool
    advice: str
    """What to look at next."""

    def __str__(self) -> str:
        first, last = self.steps
        when = f"step {first}" if first == last else f"steps {first} to {last}"
        more = f" {self.advice}" if self.advice else ""
        return f"{'! ' if self.alarm else ''}{self.text} [{self.stream}, {when}]{more}"


Found = tuple[str, str, Any]
"""A text, the stream, and the steps at which it is seen."""


@dataclass(frozen=True)
class Rule:
    """Looks at a run and says what it finds."""

    name: str
    look: Callable[[Run], Iterator[Found]]
    alarm: bool
    advice: str = ""


class Run:
    """The streams of a run, as the rules look at them.

    Args:
        tree: As :func:`probes.open_run` returns it.
    """

    def __init__(self, tree: xarray.DataTree) -> None:
        self.tree = tree
        self._streams = {
            node.path.strip("/").removesuffix("/self"): node.to_dataset()
            for node in tree.leaves
            if "value" in node and node.sizes["step"]
        }

    def named(self, *starts: str) -> Iterator[tuple[str, xarray.Dataset]]:
        """The streams whose names are these, or begin with them and a slash."""
        for name, data in self._streams.items():
            if any(name == start or name.startswith(f"{start}/") for start in starts):
                yield name, data

    def curves(self, *starts: str) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The same that have one real number a row: name, steps, values; a loss for each task is no such."""
        for name, data in self.named(*starts):
            if data["value"].dims == ("step",) and not np.iscomplexobj(data["value"].values):
                yield name, data["step"].values, np.asarray(data["value"].values, float)

    def layers(self, *starts: str) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]]:
        """The same by layer: name, steps, values of shape ``(steps, layers)``, layers with their classes where these
        are recorded; without those whose weights are gone: NaN, and in no sum."""
        for name, data in self.named(*starts):
            if data["value"].dims == ("step", "layer"):
                layers = [printable(str(layer)) for layer in named(data["value"], self.tree)["layer"].values]
                values = np.asarray(data["value"].values, float)
                total = next((v for *_, v in self.curves("layers/total_weight_norm") if len(v) == len(values)), np.nan)
                gone = (np.isnan(values) & np.isfinite(total).reshape(-1, 1)).any(axis=0) & name.endswith("weight_norm")
                yield name, data["step"].values, values[:, ~gone], _those(layers, ~gone)


def findings(tree: xarray.DataTree) -> list[Finding]:
    """What the rules find in a run, the alarms first: ``print(*findings(open_run("runs/mine")), sep="\\n")``.

    Args:
        tree: As :func:`probes.open_run` returns it.
    """
    run = Run(tree)
    found = [
        Finding(text, stream, (int(steps[0]), int(steps[-1])), rule.alarm, rule.advice)
        for rule in RULES
        for text, stream, steps in rule.look(run)
    ]
    return sorted(found, key=lambda finding: not finding.alarm)


def _names(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
    return ", ".join(layers[:SHOWN]) + more


def _those(layers: Sequence[str], chosen: Any) -> list[str]:
    return [layer for layer, is_chosen in zip(layers, np.asarray(chosen).tolist(), strict=True) if is_chosen]


def _undefined_loss(run: Run) -> Iterator[Found]:
    for name, data in run.named("loop/loss"):
        values, steps = data["value"].values, data["step"].values
        bad = ~np.isfinite(values)
        rows = bad.reshape(len(bad), -1).any(axis=1)
        if rows.any():
            first, number = steps[rows][0], f"The loss is {values[bad][0]:g}"
            lasts = rows[np.argmax(rows) :].all()
            when = f"from step {first} on" if lasts else f"at {rows.sum()} of {len(rows)} rows, first at step {first}"
            yield f"{number} {when}", name, steps[rows]


def _undefined_layers(run: Run) -> Iterator[Found]:
    for name, steps, values, layers in run.layers("layers/weight_norm", "layers/gradient_nonfinite_share"):
        bad = np.asarray(~np.isfinite(values) if name.endswith("norm") else values > 0)
        if (rows := bad.any(axis=1)).any():
            those = _names(_those(layers, bad[rows].any(axis=0)))
            yield f"{'Weights' if 'weight' in name else 'Gradients'} of {those} are not finite", name, steps[rows]


def _still(run: Run) -> Iterator[Found]:
    for name, steps, values, layers in run.layers("layers/update_norm"):
        still = _those(layers, (values == 0).all(axis=0))
        which = still if len(still) == len(layers) else [layer for layer in still if layer not in _left_out(run)]
        if which and len(steps) >= 3:
            whose = "No layer is" if len(which) == len(layers) else f"{_names(which)}: not"
            yield f"{whose} trained: every update is exactly zero", name, steps


def _left_out(run: Run) -> set[str]:
    """Layers of whose gradients no optimizer was given one, at any turn."""
    found = run.layers("layers/gradient_zero_share")
    return {layer for _, _, shares, layers in found for layer in _those(layers, np.isnan(shares).all(axis=0))}


def _no_rate(run: Run) -> Iterator[Found]:
    for name, data in run.named("loop/learning_rate"):
        values = np.asarray(data["value"].values, float)
        if len(values) >= 3 and np.all(values[-3:] == 0):
            last = np.flatnonzero(values.reshape(len(values), -1).any(axis=1))
            steps = data["step"].values[last[-1] + 1 if len(last) else 0 :]
            yield f"The learning rate is 0{f' from step {steps[0]} on' if len(last) else ''}", name, steps


def _frozen(run: Run) -> Iterator[Found]:
    trained = [layers for _, _, _, layers in run.layers("layers/update_norm")]
    for name, steps, values, layers in run.layers("layers/weight_norm"):
        which = [layer for layer in layers if trained and layer not in trained[0]]
        moved = _those(layers, (values[1:] != values[:-1]).any(axis=0))
        if frozen := [layer for layer in which if layer not in moved]:
            yield f"{len(frozen)} of {len(layers)} layers are frozen: {_names(frozen)}", name, steps
        if left := [layer for layer in layers if layer in _left_out(run) and layer not in which]:
            yield f"{len(left)} of {len(layers)} layers had no optimizer, or no gradient: {_names(left)}", name, steps
        if later := [layer for layer in which if layer in moved]:
            yield f"{_names(later)}: frozen at first and trained later, its updates are not recorded", name, steps


def _lasting(run: Run, share: float, stream: str) -> Iterator[tuple[list[str], str, Any]]:
    """Layers whose value is a share or more in the last three rows or more."""
    for name, steps, values, layers in run.layers(stream):
        which = _those(layers, (values[-3:] >= share).all(axis=0))
        if which and len(steps) >= 3:
            yield which, name, steps[-3:]


def _dead(run: Run) -> Iterator[Found]:
    for which, name, steps in _lasting(run, 0.95, "layers/dead_share"):
        yield f"{_names(which)}: 95 % of the units or more are zero on the whole batch", name, steps


def _saturated(run: Run) -> Iterator[Found]:
    outputs = {layers[-1] for *_, layers in run.layers("layers/activation_rms") if layers}
    for which, name, steps in _lasting(run, 0.8, "layers/saturated_share"):
        # What tells classes for sure is at a bound, and so is a gate that is open or shut.
        if inner := [layer for layer in which if layer not in outputs and not layer.startswith("Hardsigmoid")]:
            yield f"{_names(inner)}: 80 % of the activations or more are at a bound", name, steps


def _collapsed(run: Run) -> Iterator[Found]:
    sizes = {name: values for name, _, values, _ in run.layers("layers/activation_rms")}
    for name, steps, values, layers in run.layers("layers/activation_variation"):
        size = sizes.get(name.replace("variation", "rms"), values)
        first, last = (values * size if size.shape == values.shape else values)[[0, -1]]
        # What never varied, as the embedding of positions, is meant so, unless the outputs do not vary either; and what
        # varies little about a large mean, as the outputs of a regression far from 0, varies as before.
        same = np.where(values[0] > SAME, last < first / 10, (values[-1, -1:] <= SAME) & (last <= 2 * first))
        which = _those(layers, same & (values[-3:] <= SAME).all(axis=0))
        if which and len(steps) >= 3:
            yield f"{_names(which)}: all samples of the batch give the same", name, steps[-3:]


def _exploding(run: Run) -> Iterator[Found]:
    for name, steps, values in run.curves("layers/total_weight_norm", "layers/total_gradient_norm", "loop/loss"):
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
        times = 10 if name.endswith("weight_norm") else 100
        one = times == 10 and any(len(layers) == 1 for *_, layers in run.layers("layers/weight_norm"))
        if one or len(values) < 5:  # of a linear classifier that is right everywhere they grow for ever
            continue
        start = float(values[0] if times == 10 else np.median(values[:3]))
        if start > 0 and values[-1] > times * start and values[-1] >= values[:-1].max() / 2:
            what = {"loop/loss": "The loss"}.get(name, f"The norm of all {'weights' if times == 10 else 'gradients'}")
            yield f"{what} has grown from {start:.2g} to {values[-1]:.2g}", name, steps


def _loss(run: Run) -> Iterator[Found]:
    for name, steps, values in run.curves("loop/loss"):
        if len(values) >= 6 and np.isfinite(values).all():
            first, last = np.median(values[:3]), np.median(values[-3:])
            words = "has fallen" if last < first else "has not fallen:"
            words = "has hardly changed:" if abs(last - first) < 0.01 * abs(first) else words
            yield f"The loss {words} from {first:.3g} to {last:.3g}, medians of its first and last three", name, steps


def _moved_most(run: Run) -> Iterator[Found]:
    for name, steps, values, layers in run.layers("layers/weight_norm"):
        if len(steps) >= 3 and len(layers) > 1 and (values[0] > 0).all() and (values[-1] > 0).all():
            change = values[-1] / values[0]
            most = int(np.argmax(np.abs(np.log(change))))
            if abs(change[most] - 1) > 0.05:
                text = f"The weights of {layers[most]} have changed most, to {change[most]:.3g} times their norm"
                yield text, name, steps


def _drifted(run: Run) -> Iterator[Found]:
    words = {
        "fourier/centroid": "The mean frequency of the function",
        "ntk/alignment": "The kernel's alignment with the labels",
        "ntk/effective_rank": "The effective rank of the tangent kernel",
    }
    for start, what in words.items():
        for name, data in run.named(start):
            if data["value"].dims != ("step",) or len(data["step"]) < 3:
                continue
            values = np.asarray(data["value"].values, float)
            first, last = values[0], values[-1]
            if not np.isfinite([first, last]).all():
                continue
            error = data["standard_error"].values[[0, -1]] if "standard_error" in data else np.zeros(2)
            sigma = float(np.sqrt(np.nansum(np.square(error))))
            if abs(last - first) > max(0.1 * abs(first), 3 * sigma):
                told = f" (standard error {sigma:.2g})" if sigma else ""
                verb = "has risen" if last > first else "has fallen"
                yield f"{what} {verb} from {first:.3g} to {last:.3g}{told}", name, data["step"].values


def _few(run: Run) -> Iterator[Found]:
    few = {}
    for name, data in run.named("fourier", "ntk", "layers", "information", "complexity"):
        number = data["value"].attrs.get("num_samples") or data.attrs.get("num_samples")
        if number is not None and len(data["step"]) and 0 < int(np.min(number)) < FEW:
            few[name] = int(np.min(number)), data["step"].values
    if few:
        name, (number, steps) = next(iter(few.items()))
        yield f"{counted(len(few), 'stream')} rest{'s' * (len(few) == 1)} on {counted(number, 'sample')}", name, steps


RULES = (
    Rule("undefined loss", _undefined_loss, True, "Look at loop/learning_rate and layers/activation_max before it."),
    Rule("undefined layers", _undefined_layers, True, "Look at layers/update_ratio and layers/activation_max before."),
    Rule("learning rate 0", _no_rate, True, "Look at the scheduler and its order with the optimizer."),
    Rule("no updates", _still, True, "Look at loop/learning_rate, layers/gradient_norm, and what the optimizer holds."),
    Rule("exploding", _exploding, True, "Look at layers/gradient_norm and layers/update_ratio: which came first."),
    Rule("dead units", _dead, True, "Look at layers/activation_mean of the layer before: large negative numbers."),
    Rule("saturation", _saturated, True, "Look at layers/activation_rms of the layer before."),
    Rule("collapse", _collapsed, True, "Look at which layer came first, and at layers/gradient_norm."),
    Rule("failed", lambda run: troubles(run.tree), False),
    Rule("frozen", _frozen, False),
    Rule("loss", _loss, False),
    Rule("moved most", _moved_most, False),
    Rule("drift", _drifted, False),
    Rule("few samples", _few, False, "Pass batches={'train': (inputs, targets)} of more."),
)
"""In the order in which findings are told."""
