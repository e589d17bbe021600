"""Findings: sick trainings are named by what ails them, healthy ones raise no alarm, and each has its evidence."""

import json
import math

import numpy as np
import pytest
import torch
import warm
import xarray
from torch import nn
from torch.nn import functional as F

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.summary import findings
from probes_layers import LayerStatistics

STEPS = 60


def network(activation=nn.ReLU, width=24, depth=3, norm=False):
    torch.manual_seed(0)
    layers, before = [], 8
    for _ in range(depth - 1):
        layers += [nn.Linear(before, width), *([nn.BatchNorm1d(width)] if norm else []), activation()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 3))


def trained(tmp_path, model, optimizer=None, change=lambda step, loss: loss, scheduler=None):
    optimizer = optimizer or torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    generator = torch.Generator().manual_seed(0)
    with ProbeManager(model, [LayerStatistics(every(5))], log_dir=tmp_path / "run", overhead=None).attach(optimizer):
        for step in range(STEPS):
            x = torch.randn(32, 8, generator=generator)
            y = (x[:, 0] > 0.4).long() + (x[:, 0] > -0.4).long()
            loss = change(step, F.cross_entropy(model(x), y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return findings(open_run(tmp_path / "run"))


@torch.no_grad()
def dead():
    model = network()
    model[2].bias.fill_(-100)
    return model


@torch.no_grad()
def saturated():
    model = network(nn.Tanh)
    for layer in (model[0], model[2]):
        layer.weight.mul_(100)
    return model


@torch.no_grad()
def collapsed():
    model = network()
    model[0].weight.mul_(1e-6)
    return model


def frozen():
    model = network()
    model[2].requires_grad_(False)
    return model


def sgd(rate):
    return lambda model: torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def breaks(step, loss):
    return loss * math.nan if step == 30 else loss


RISEN = "The kernel's alignment with the labels has risen from 0.1 to 0.4"
FALLEN = "The kernel's alignment with the labels has fallen from 0.4 to 0.1 (standard error 0.014)"


@pytest.mark.parametrize(
    ("make", "optimizer", "change", "stream", "words"),
    [
        (dead, None, None, "layers/dead_share/train", "ReLU 3: 95 % of the units or more are zero on the whole batch"),
        (saturated, None, None, "layers/saturated_share/train", "Tanh 1, Tanh 3: 80 % of the activations or more"),
        (collapsed, sgd(1e-9), None, "layers/activation_variation/train", "Linear 0, ReLU 1, Linear 2, ReLU 3 and 1"),
        (network, sgd(0.0), None, "loop/learning_rate/SGD", "The learning rate is 0"),
        (network, sgd(0.0), None, "layers/update_norm", "No layer is trained: every update is exactly zero"),
        (network, sgd(200.0), None, "layers/total_weight_norm", "The norm of all weights has grown from"),
        (network, None, breaks, "loop/loss", "The loss is nan from"),
        (network, None, breaks, "layers/weight_norm", "Weights of Linear 0, "),
        (network, None, lambda step, loss: loss * 0, "layers/update_norm", "No layer is trained"),
    ],
)  # fmt: skip
def test_a_sick_training_is_named_by_what_ails_it(make, optimizer, change, stream, words, tmp_path):
    model = make()
    found = trained(tmp_path, model, optimizer and optimizer(model), change or (lambda step, loss: loss))
    alarms = [item for item in found if item.alarm]
    assert found[: len(alarms)] == alarms  # they come first
    assert any(item.stream == stream and item.text.startswith(words) and item.advice for item in alarms), found


def test_frozen_layers_are_named_without_an_alarm(tmp_path):
    found = trained(tmp_path, frozen())
    assert not any(item.alarm for item in found)
    assert "1 of 3 layers are frozen: Linear 2" in [item.text for item in found]


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize("rate", [None, 0.05], ids=["Adam", "SGD"])
def test_a_healthy_training_raises_no_alarm(activation, rate, norm, tmp_path):
    model = network(activation, norm=norm)
    found = trained(tmp_path, model, rate and sgd(rate)(model))
    assert not [str(item) for item in found if item.alarm]


def tree(**streams):
    """A run with streams of one number a step."""
    groups = {}
    for name, (values, errors) in streams.items():
        data = {"value": ("step", np.asarray(values, float))}
        if errors is not None:
            data["standard_error"] = ("step", np.full(len(values), errors))
        groups[name.replace("__", "/")] = xarray.Dataset(data, {"step": np.arange(len(values)) * 10})
    return xarray.DataTree.from_dict(groups)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ([0.1, 0.2, 0.4], None, RISEN),
        ([0.4, 0.2, 0.1], 0.01, FALLEN),
        ([0.1, 0.2, 0.4], 0.2, None),  # no more than three standard errors
        ([0.4, 0.2, 0.41], None, None),
        ([math.nan, 0.2, 0.4], None, None),
    ],
)  # fmt: skip
def test_a_change_is_told_where_it_is_more_than_its_error(values, error, text):
    found = findings(tree(ntk__alignment__train=(values, error)))
    assert [item.text for item in found] == ([] if text is None else [text])
    if found:
        assert found[0].steps == (0, 20) and found[0].stream == "ntk/alignment/train"


LAYERS = ["Linear 0", "Sigmoid 1"]


def layer_tree(layers=LAYERS, **streams):
    """A run with streams of one number a step and layer."""
    groups = {
        name.replace("__", "/"): xarray.Dataset(
            {"value": (("step", "layer"), np.asarray(values, float))},
            {"step": np.arange(len(values)) * 10, "layer": layers},
        )
        for name, values in streams.items()
    }
    return xarray.DataTree.from_dict(groups)


def told(run):
    return [item.text for item in findings(run) if item.stream != "loop/loss" or item.alarm]


def test_outputs_and_gates_at_a_bound_are_healthy():
    run = layer_tree(layers__activation_rms__train=[[1, 1]] * 3, layers__saturated_share__train=[[0.1, 0.9]] * 3)
    assert not told(run)
    run = layer_tree(layers__activation_rms__train=[[1, 1]] * 3, layers__saturated_share__train=[[0.9, 0.1]] * 3)
    assert told(run) == ["Linear 0: 80 % of the activations or more are at a bound"]


@pytest.mark.parametrize(
    ("variation", "size", "lost"),
    [
        ([[0.0, 0.5]] * 3, [[1, 1]] * 3, []),  # an embedding of positions
        ([[0.5, 0.5], [0, 0.5], [0, 0.5], [0, 0.5]], [[1, 1]] * 4, ["Linear 0"]),
        ([[0.0, 0.0]] * 3, [[1, 1]] * 3, LAYERS),  # the batch itself is of one sample
        ([[0.5, 0.5], *[[0.5, 1e-3]] * 3], [[1, 1], *[[1, 1e3]] * 3], []),  # a regression far from 0
    ],
)  # fmt: skip
def test_a_layer_that_varied_and_does_not_any_more_has_collapsed(variation, size, lost):
    run = layer_tree(layers__activation_variation__train=variation, layers__activation_rms__train=size)
    assert told(run) == ([f"{', '.join(lost)}: all samples of the batch give the same"] if lost else [])


def test_layers_that_no_optimizer_was_given_are_named_without_an_alarm():
    moving = [[1.0, 1.0], [1.0, 1.1], [1.0, 1.2]]
    run = layer_tree(
        layers__weight_norm=moving, layers__update_norm=[[0, 1]] * 3, layers__gradient_zero_share=[[np.nan, 0]] * 3
    )
    found = findings(run)
    assert not any(item.alarm for item in found)
    assert found[0].text == "1 of 2 layers had no optimizer, or no gradient: Linear 0"
    run = layer_tree(
        layers__weight_norm=moving, layers__update_norm=[[0, 1]] * 3, layers__gradient_zero_share=[[1, 0]] * 3
    )
    assert findings(run)[0].text == "Linear 0: not trained: every update is exactly zero"


def test_a_layer_that_is_trained_later_is_not_called_frozen():
    run = layer_tree(layers__weight_norm=[[1.0, 1.0], [1.0, 1.1], [1.3, 1.1]])
    run["layers/update_norm"] = layer_tree(["Sigmoid 1"], a=[[1.0]] * 3)["a"]
    assert "Linear 0: frozen at first and trained later, its updates are not recorded" in told(run)


def test_weights_of_a_layer_that_is_gone_raise_no_alarm():
    norms = [[1.0, 1.0], [1.0, math.nan], [1.1, math.nan]]
    gone = layer_tree(layers__weight_norm=norms)
    gone["layers/total_weight_norm"] = tree(a=([1.4, 1.0, 1.1], None))["a"]
    assert not any(finding.alarm for finding in findings(gone))
    broken = layer_tree(layers__weight_norm=norms)
    broken["layers/total_weight_norm"] = tree(a=([1.4, math.nan, math.nan], None))["a"]
    assert "Weights of Sigmoid 1 are not finite" in told(broken)


def test_a_loss_that_was_nan_once_and_one_that_stays():
    assert told(tree(loop__loss=([2, math.nan, 1, 1], None))) == ["The loss is nan at 1 of 4 rows, first at step 10"]
    assert told(tree(loop__loss=([2, 1, math.nan, math.nan], None))) == ["The loss is nan from step 20 on"]


def test_a_rate_that_becomes_0():
    assert told(tree(loop__learning_rate__SGD=([1, 0, 0, 0], None))) == ["The learning rate is 0 from step 10 on"]
    assert not told(tree(loop__learning_rate__SGD=([1, 1, 0, 0], None)))


@pytest.mark.parametrize(
    ("last", "words"), [(0.995, "has hardly changed:"), (0.5, "has fallen"), (1.5, "has not fallen:")]
)
def test_how_the_loss_has_changed(last, words):
    (found,) = findings(tree(loop__loss=([1, 1, 1, last, last, last], None)))
    assert found.text.startswith(f"The loss {words} from 1 to {last:.3g}")


def test_weights_grow_from_the_first_row_and_those_of_a_linear_classifier_may():
    run = layer_tree(layers__weight_norm=[[1.0, 1.0]] * 5)
    run["layers/total_weight_norm"] = tree(a=([1, 50, 50, 60, 60], None))["a"]
    assert "The norm of all weights has grown from 1 to 60" in told(run)
    run["layers/weight_norm"] = layer_tree(["Linear 0"], a=[[1.0]] * 5)["a"]
    assert not told(run)


def test_the_command_prints_findings_or_says_that_there_are_none(tmp_path):
    trained(tmp_path, dead())
    code = "from probes.commands.cli import main; main()"
    shown = warm.run(code, "summary", tmp_path / "run")
    assert shown.returncode == 0 and "\n! ReLU 3: 95 % of the units" in shown.stdout, shown.stderr
    found = json.loads(warm.run(code, "summary", tmp_path / "run", "--json").stdout)
    (units,) = [item for item in found if item["stream"] == "layers/dead_share/train"]
    assert units["alarm"] is True and units["steps"] == [50, 60]


class Broken(Probe):
    def measure(self, run, step):
        yield Measurement("broken/fine", 1.0)
        raise ValueError("is broken")


class Growing(Probe):
    def measure(self, run, step):
        if step:
            yield Measurement("growing/x", np.ones(1 + step), ("k",))


def by_hand(log_dir, steps, *probes):
    model = nn.Linear(1, 1)
    with ProbeManager(model, probes, sinks=["hdf5"], log_dir=log_dir, overhead=None).attach() as manager:
        for _ in range(steps):
            manager.step()
    return findings(open_run(log_dir))


def test_probes_that_failed_are_named_with_the_reason(tmp_path):
    broken, growing = by_hand(tmp_path, 5, Broken(every(1)), Growing(every(1)))
    assert "'Broken'" in broken.text and "ValueError('is broken') (3 times); it was called no more" in broken.text
    assert (broken.stream, broken.steps, broken.alarm) == ("events", (1, 3), False)
    assert "'Growing'" in growing.text and "shape changed from (2,) to (3,)" in growing.text
    assert "Training goes on" not in broken.text + growing.text
    told = by_hand(tmp_path / "fine", 5)
    assert [item.text for item in told] == ["Nothing was measured"]


def test_a_run_that_ended_without_a_step_says_why(tmp_path):
    (found,) = by_hand(tmp_path / "none", 0, Growing(every(1)))
    assert found.text.startswith("Nothing was measured. No optimizer step was seen.") and not found.text.endswith(".")
    assert str(found).endswith("makes [events, step 0]")
    model = nn.Linear(1, 1)
    with ProbeManager(model, [Growing(every(1))], sinks=["hdf5"], log_dir=tmp_path / "on").attach() as manager:
        manager.state_dict()
        assert findings(open_run(tmp_path / "on")) == []  # it may still begin


def test_few_samples_are_told_of_mutual_information(tmp_path):
    run = tree(information__targets__train=([1.0, 2.0], None))
    run["information/targets/train"]["value"].attrs["num_samples"] = 7
    (found,) = findings(run)
    assert found.text == "1 stream rests on 7 samples" and found.stream == "information/targets/train"
