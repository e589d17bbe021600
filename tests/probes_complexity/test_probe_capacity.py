"""Capacity: every stream against the function it comes from, in a real loop, and what is absent where."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import Memory
from torch import nn
from torch.nn import functional as F

from probes import ProbeManager, at, every, open_run
from probes.batches import Batch
from probes.run import Run
from probes_complexity import PathComplexity
from probes_complexity.fisher_rao import fisher_rao_norm
from probes_complexity.layer_norms import operator_norms
from probes_complexity.margin import margins
from probes_complexity.norms import distance_from_initialization, frobenius_norm
from probes_complexity.path_norm import path_norm
from probes_complexity.probe_capacity import Capacity
from probes_complexity.sharpness import sharpness
from probes_complexity.spectral_bounds import pac_bayes_spectral, spectral_complexity
from probes_complexity.two_layer import two_layer_capacity, two_layer_matrices, unit_wise_capacity

ALWAYS = {"parameter_count", "frobenius_norm", "distance_from_initialization"}
PAIR = ["spectral_complexity", "pac_bayes_spectral"]
CHAIN = {"spectral_norm_product", *PAIR, *(f"{name}_from_initialization" for name in PAIR)}
TWO = {"two_layer", "two_layer_by_unit"}
FISHER = {"fisher_rao", "fisher_rao_empirical"}
MARGINS = {"margin", "margins", "input_norm"}
OF_BATCH = {*TWO, *FISHER, *MARGINS, "normalized_margins", "sharpness"}


def run_of(model, inputs, targets):
    batch = Batch((inputs,), targets=targets)
    return Run(model.eval(), Path("unused"), seed=0, output=lambda out: out, batches={"train": batch})


def measured(probe, run, step=0):
    return {m.name.removeprefix("capacity/").removesuffix("/train"): m for m in probe.measure(run, step)}


def mlp(seed=0, outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


def convolutional(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def data(*shape, n=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def moved(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


def test_every_stream_is_the_quantity_of_its_name():
    model, (x, y) = mlp(), data(4)
    probe = Capacity(sharpness=True, epsilon=0.01, margin_quantile=0.25, path_norms=[1, 2, 3])
    run = run_of(model, x, y)
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    probe.on_attach(run)
    moved(model)
    result = measured(probe, run, 7)
    assert set(result) == ALWAYS | CHAIN | TWO | FISHER | MARGINS | {"path_norm", "normalized_margins", "sharpness"}

    def check(name, expected, unit):
        np.testing.assert_allclose(result[name].value, expected, rtol=1e-6)
        assert result[name].unit == unit and result[name].estimator

    check("parameter_count", 4 * 8 + 8 + 8 * 3 + 3, "parameters")
    check("frobenius_norm", frobenius_norm(model), "parameter")
    check("distance_from_initialization", distance_from_initialization(model, initial), "parameter")
    norms = operator_norms(model, x, initial)
    check("spectral_norm_product", norms.spectral.prod(), "output per input")
    check("spectral_complexity", spectral_complexity(norms), "output per input")
    check("pac_bayes_spectral", pac_bayes_spectral(norms), "output^2 per input^2")
    apart = spectral_complexity(norms, from_reference=True)
    check("spectral_complexity_from_initialization", apart, "output per input")
    apart = pac_bayes_spectral(norms, from_reference=True)
    check("pac_bayes_spectral_from_initialization", apart, "output^2 per input^2")
    check("path_norm", [path_norm(model, x, p) for p in (1, 2, 3)], "output per input")
    assert result["path_norm"].dims == ("p",) and result["path_norm"].coords["p"].values.tolist() == [1, 2, 3]
    network = two_layer_matrices(model, x, initial)
    check("two_layer", two_layer_capacity(network), "output")
    check("two_layer_by_unit", unit_wise_capacity(network), "output")
    check("fisher_rao", fisher_rao_norm(model, x), "nats")
    check("fisher_rao_empirical", fisher_rao_norm(model, x, y), "nats")
    with torch.no_grad():
        values = margins(model(x), y).numpy()
    levels = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    check("margin", np.quantile(values, 0.25), "output")
    check("margins", np.quantile(values, levels), "output")
    assert result["margins"].coords["quantile"].values.tolist() == levels
    scale = float(spectral_complexity(norms)) * float(x.norm()) / 12
    check("normalized_margins", np.quantile(values, levels) / scale, "1")
    check("input_norm", x.square().sum(1).mean().sqrt(), "input")
    check("sharpness", sharpness(model, x, y, epsilon=0.01), "percent")
    assert result["margin"].num_samples == result["two_layer"].num_samples == 12
    assert "from the weights at step 0" in result["distance_from_initialization"].estimator


class Forward(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_what_a_model_of_unknown_structure_lacks_is_absent_until_it_is_said():
    (x, y), model = data(4), Forward(mlp())
    unknown = measured(Capacity(), run_of(model, x, y))
    assert set(unknown) == ALWAYS | FISHER | MARGINS
    known = measured(Capacity(chain=True), run_of(model, x, y))
    assert set(known) == set(unknown) | CHAIN | TWO | {"path_norm", "normalized_margins"}
    plain = measured(Capacity(), run_of(model.inner, x, y))
    assert set(plain) == set(known)
    for name, measurement in plain.items():
        np.testing.assert_allclose(measurement.value, known[name].value, rtol=1e-6)
    paths = measured(Capacity(feedforward=True), run_of(model, x, y))
    assert set(paths) == set(unknown) | {"path_norm"}


def test_a_convolutional_network_is_a_chain_of_more_than_two_layers():
    result = measured(Capacity(), run_of(convolutional(), *data(1, 6, 6)))
    assert set(result) == ALWAYS | CHAIN | FISHER | MARGINS | {"path_norm", "normalized_margins"}


def test_a_network_with_other_activations_has_no_paths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    assert set(measured(Capacity(), run_of(model, *data(4)))) == ALWAYS | CHAIN | FISHER | MARGINS | {
        "normalized_margins"
    }


def test_one_output_of_two_classes_and_of_a_regression():
    x, y = data(4)
    chain = ALWAYS | CHAIN | TWO | FISHER | {"path_norm", "input_norm", "sharpness"}
    model = mlp(outputs=1)
    labels = (y > 0).long()
    result = measured(Capacity(sharpness=True), run_of(model, x, labels))
    assert set(result) == chain | MARGINS | {"normalized_margins"}
    assert result["fisher_rao"].estimator.startswith("cross_entropy")

    def logistic(f, t):
        return F.binary_cross_entropy_with_logits(f[:, 0], t.float())

    np.testing.assert_allclose(result["sharpness"].value, sharpness(model, x, labels, loss=logistic), rtol=1e-3)
    values = torch.randn(12, generator=torch.Generator().manual_seed(3))
    result = measured(Capacity(sharpness=True), run_of(model, x, values))
    assert set(result) == chain and result["fisher_rao"].estimator.startswith("square")
    expected = fisher_rao_norm(model, x, values, loss="square")
    np.testing.assert_allclose(result["fisher_rao_empirical"].value, expected, rtol=1e-6)

    def square(f, t):
        return F.mse_loss(f[:, 0], t) / 2

    np.testing.assert_allclose(result["sharpness"].value, sharpness(model, x, values, loss=square), rtol=1e-3)
    given = measured(Capacity(sharpness=True, loss=lambda f, t: 1 + f.square().mean()), run_of(model, x, values))
    assert given["sharpness"].value != result["sharpness"].value


def test_token_ids_have_no_paths_and_no_length():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    tokens = torch.randint(0, 5, (6, 3))
    result = measured(Capacity(), run_of(model, tokens, torch.tensor([0, 1, 2] * 2)))
    assert set(result) == ALWAYS | FISHER | {"margin", "margins"}


def train(model, optimizer, start, stop, inputs):
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(0, len(inputs[0]), (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[0][index]), inputs[1][index]).backward()
        optimizer.step()


def test_a_run_writes_all_streams_and_a_resumed_one_equals_it(tmp_path):
    inputs = data(1, 6, 6, n=30)

    def fresh(seed=0):
        model = convolutional(seed)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def manager(model, name):
        probe = Capacity(every(4), sharpness=True)
        return ProbeManager(
            model, [probe], batches={"train": inputs}, log_dir=tmp_path / name, overhead=None, on_error="raise"
        )

    model, optimizer = fresh()
    torch.manual_seed(5)  # of the dropout
    with manager(model, "whole").attach(optimizer):
        train(model, optimizer, 0, 12, inputs)
        random = torch.get_rng_state()
        train(model, optimizer, 12, 20, inputs)
    whole = open_run(tmp_path / "whole")

    model, optimizer = fresh()
    torch.manual_seed(5)
    first = manager(model, "cut").attach(optimizer)
    train(model, optimizer, 0, 12, inputs)
    assert torch.equal(random, torch.get_rng_state())
    torch.save([model.state_dict(), optimizer.state_dict(), first.state_dict()], tmp_path / "checkpoint")
    train(model, optimizer, 12, 14, inputs)
    first.detach()
    states = torch.load(tmp_path / "checkpoint", weights_only=True)
    model, optimizer = fresh(seed=1)  # as a script makes it before it loads its checkpoint
    model.load_state_dict(states[0]), optimizer.load_state_dict(states[1])
    torch.set_rng_state(random)
    second = manager(model, "cut")
    second.load_state_dict(states[2])
    with second.attach(optimizer):
        train(model, optimizer, 12, 20, inputs)
    resumed = open_run(tmp_path / "cut")

    names = [*ALWAYS, *CHAIN, *FISHER, *MARGINS, "path_norm", "normalized_margins", "sharpness"]
    for name in names:
        stream = f"capacity/{name}/train" if name in OF_BATCH else f"capacity/{name}"
        one, other = whole[stream], resumed[stream]
        assert one["step"].values.tolist() == other["step"].values.tolist() == [0, 4, 8, 12, 16, 20]
        np.testing.assert_array_equal(one["value"].values, other["value"].values)
        assert np.isfinite(one["value"].values).all()
    apart = whole["capacity/distance_from_initialization"]["value"].values
    assert apart[0] == 0 and (np.diff(apart) > 0).all()
    for name in PAIR:
        apart = whole[f"capacity/{name}_from_initialization"]["value"].values
        assert apart[0] == 0 and (apart[1:] > 0).all()
    assert set(whole["capacity"].children) == set(names)


def test_weights_loaded_after_attach_are_the_initial_ones():
    model, (x, y) = mlp(), data(4)
    memory = Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(
        model, [Capacity(at([0, 3]))], batches={"train": (x, y)}, sinks=[memory], overhead=None, on_error="raise"
    )
    with manager.attach(optimizer):
        model.load_state_dict(mlp(seed=9).state_dict())
        initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, optimizer, 0, 3, (x, y))
        expected = distance_from_initialization(model, initial)
        train(model, optimizer, 3, 4, (x, y))
    rows = [row for row in memory.rows if row.name == "capacity/distance_from_initialization"]
    assert [row.step for row in rows] == [0, 3] and rows[0].value == 0
    assert float(rows[1].value) == pytest.approx(float(expected), rel=1e-6) and expected > 0


def test_a_run_resumed_without_its_state_says_from_where_it_measures():
    model, (x, y) = mlp(), data(4)
    run = run_of(model, x, y)
    run.step = 40
    probe = Capacity()
    probe.on_attach(run)
    assert "from the weights at step 40" in measured(probe, run, 40)["distance_from_initialization"].estimator


@pytest.mark.parametrize("make", [mlp, convolutional])
def test_training_is_bitwise_the_same_with_and_without(make):
    shape = (4,) if make is mlp else (1, 6, 6)
    inputs = data(*shape, n=30)

    def result(probes):
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        sink = Memory()
        manager = ProbeManager(model, probes, batches={"train": inputs}, sinks=[sink], overhead=None, on_error="raise")
        manager.attach(optimizer)
        train(model, optimizer, 0, 15, inputs)
        manager.detach()
        hooks = [len(module._forward_hooks) for module in model.modules()]
        gradients = [p.grad.clone() for p in model.parameters()]
        return [*model.state_dict().values(), *gradients, torch.get_rng_state()], hooks, len(sink.rows)

    bare, hooks, _ = result([])
    probed, others, measured = result([Capacity(every(2), sharpness=True)])
    assert hooks == others and measured
    assert all(torch.equal(one, other) for one, other in zip(bare, probed, strict=True))


def test_the_initial_weights_are_a_copy():
    model, (x, y) = mlp(), data(4)
    probe = Capacity()
    probe.on_attach(run_of(model, x, y))
    before = copy.deepcopy(probe.state_dict()["initial"])
    moved(model)
    assert all(torch.equal(before[name], kept) for name, kept in probe.state_dict()["initial"].items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin_quantile": 1.5}, r"between 0 and 1, got 1\.5"),
        ({"path_norms": [0.5, 1]}, r"at least 1, got \[0\.5, 1\]"),
        ({"max_pool": "mean"}, "'sum' or 'max', got 'mean'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Capacity(**arguments)


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_two_batches_have_streams_of_their_own_and_what_is_of_no_batch_is_there_once(order):
    model, (x, y) = mlp(), data(4, n=40)
    batches = {"train": (x[:20], y[:20]), "test": (x[20:], y[20:])}
    probes = [Capacity(every(3), batch=batch, sharpness=True) for batch in order]
    probes += [PathComplexity(every(3), batch=batch) for batch in order]
    optimizer, memory = torch.optim.SGD(model.parameters(), lr=0.1), Memory()
    with ProbeManager(model, probes, batches, sinks=[memory], overhead=None, on_error="raise").attach(optimizer):
        train(model, optimizer, 0, 7, batches["train"])
    names = [row.name for row in memory.rows if row.step == 3 and row.name.startswith("c")]
    assert len(names) == len(set(names))
    for name in batches:
        assert {f"capacity/{stream}/{name}" for stream in OF_BATCH} <= set(names)
        assert {f"complexity/path_complexity/{name}", f"complexity/layer_feature_norm/{name}"} <= set(names)
    assert {*(f"capacity/{name}" for name in {*ALWAYS, *CHAIN, "path_norm"}), "complexity/path_length"} <= set(names)
    found = {
        row.name: float(row.value) for row in memory.rows if row.step == 0 and row.name.startswith("capacity/margin/")
    }
    for name, given in batches.items():
        value = margins(mlp()(given[0]).detach().double(), given[1]).quantile(0.05)
        assert found[f"capacity/margin/{name}"] == pytest.approx(float(value), rel=1e-4)
