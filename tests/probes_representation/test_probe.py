"""Representation in training: what it yields, what it refuses, what it keeps, and that training goes on unchanged."""

import copy
import io
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import CannotMeasure, ProbeManager, at, every
from probes_layers import LayerStatistics
from probes_representation import Representation, as_features, debiased_cka_matrix, rankme, similarity_matrix

PER_LAYER = ["effective_rank", "rankme", "participation_ratio", "stable_rank", "cka_to_start", "ridge_accuracy"]
SCALARS = [
    "nc1", "nc3", "nc4", "nc2_equinorm_means", "nc2_equinorm_weights", "nc2_equiangular_means",
    "nc2_equiangular_weights", "nc2_angle_means", "nc2_angle_weights",
]  # fmt: skip


class Memory:
    def __init__(self):
        self.rows, self.events = [], []

    def write(self, run, measurements):
        self.rows += [row for row in measurements if not row.name.startswith("probes/")]

    def on_event(self, run, event):
        self.events.append(event)

    def at(self, step):
        return {row.name.split("/")[1]: row for row in self.rows if row.step == step}

    def said(self, *kinds):
        return " ".join(event.message for event in self.events if event.kind in kinds)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def images():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.Flatten(),
        nn.Linear(72, 3),
    )  # fmt: skip


def data(n=60, shape=(4,)):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, *shape, generator=generator)
    return x, (x.flatten(1)[:, 0] > 0).long() + (x.flatten(1)[:, 1] > 0.5).long()


def train(probe, model, batch, steps=4, loss=F.cross_entropy, checkpoint=None, **settings):
    memory = Memory()
    settings = {"sinks": [memory], "overhead": None, "on_error": "raise", "batches": {"train": batch}, **settings}
    manager = ProbeManager(model, [probe], **settings)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    start = 0
    if checkpoint is not None:
        start = checkpoint["step"]
        manager.load_state_dict(checkpoint["manager"])
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    x, y = batch if isinstance(batch, tuple) else (batch, None)
    with manager.attach():
        for step in range(start, steps):
            optimizer.zero_grad()
            torch.manual_seed(step)
            loss(model(x), y).backward()
            optimizer.step()
        states = {"manager": manager.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        file = io.BytesIO()
        torch.save({**states, "step": steps}, file)
    file.seek(0)
    return memory, torch.load(file, weights_only=True)


def test_all_streams_have_their_axes_at_every_step():
    memory, _ = train(Representation(every(2)), network(), data())
    assert {row.step for row in memory.rows} == {0, 2, 4} and not memory.said("fault", "warning", "skipped")
    for step in (0, 2, 4):
        rows = memory.at(step)
        assert {*rows} == {*PER_LAYER, *SCALARS, "cka"}
        for name in PER_LAYER:
            assert rows[name].dims == ("layer",) and rows[name].coords["layer"].values.tolist() == ["0", "3", "5"]
        assert rows["cka"].dims == ("layer", "other") and rows["cka"].value.diagonal().tolist() == [1, 1, 1]
        assert rows["cka"].standard_error.diagonal().tolist() == [0, 0, 0]
        assert all(rows[name].value.shape == () for name in SCALARS)
    assert memory.at(0)["cka_to_start"].value.tolist() == [1, 1, 1]
    assert (memory.at(4)["cka_to_start"].value < 1).all() and "start: step 0" in memory.at(4)["cka_to_start"].estimator


def test_numbers_are_those_of_the_outputs_of_the_layers():
    model, batch = images(), data(40, (1, 8, 8))
    memory, _ = train(Representation(at([3]), layers=["2", "3", "5"]), model, batch, steps=3)
    rows = memory.at(3)
    model.eval()
    with torch.no_grad():
        outputs = [model[:3](batch[0]).flatten(1), model[:4](batch[0]).flatten(1), model(batch[0])]
    expected = [float(rankme(output)) for output in outputs]
    assert rows["rankme"].value.tolist() == pytest.approx(expected, rel=1e-4)  # float32 activations
    matrices = torch.stack([similarity_matrix(as_features(output).centred) for output in outputs])
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.tensor(rows["cka"].value)[off].tolist() == pytest.approx(
        debiased_cka_matrix(matrices, matrices).value[off].tolist(), abs=1e-5
    )
    logits, features = outputs[2].double(), outputs[1].double()
    means = torch.stack([features[batch[1] == c].mean(0) for c in range(3)])
    nearest = (features[:, None] - means).square().sum(2).argmin(1)
    assert float(rows["nc4"].value) == pytest.approx(float((nearest == logits.argmax(1)).double().mean()))


def test_positions_can_be_averaged():
    ranks = {}
    for positions in ("flatten", "mean"):
        probe = Representation(at([0]), positions=positions, layers="0")
        memory, _ = train(probe, images(), data(40, (1, 8, 8)), steps=1)
        ranks[positions] = float(memory.at(0)["rankme"].value[0])
    assert ranks["mean"] < 4.001 < ranks["flatten"]


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit():
    whole, _ = train(Representation(every(1)), network(), data())
    first, checkpoint = train(Representation(every(1)), network(), data(), steps=2)
    second, _ = train(Representation(every(1)), network(), data(), checkpoint=checkpoint)
    kept = [row for row in first.rows if row.step <= 2] + [row for row in second.rows if row.step > 2]
    assert [(row.name, row.step) for row in kept] == [(row.name, row.step) for row in whole.rows]
    for one, other in zip(kept, whole.rows, strict=True):
        assert one.value.tobytes() == other.value.tobytes() and one.estimator == other.estimator
        assert (one.standard_error is None) or one.standard_error.tobytes() == other.standard_error.tobytes()


def test_step_0_is_always_a_turn():
    probe = Representation(at([3]))
    memory, _ = train(probe, network(), data())
    assert {row.step for row in memory.rows} == {0, 3}


def test_without_a_checkpoint_of_the_probe_the_start_is_its_first_turn():
    _, checkpoint = train(LayerStatistics(every(1)), network(), data(), steps=2)
    memory, _ = train(Representation(every(1)), network(), data(), checkpoint=checkpoint)
    first = min(row.step for row in memory.rows)
    assert first >= 2 and memory.at(first)["cka_to_start"].value.tolist() == [1, 1, 1]
    assert f"start: step {first}" in memory.at(4)["cka_to_start"].estimator


@pytest.mark.parametrize("make", [network, images])
def test_training_is_unchanged_to_the_last_bit(make):
    batch = data() if make is network else data(60, (1, 8, 8))
    bare, probed = make(), make()
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(bare.parameters(), probed.parameters(), strict=True))
        train(Representation(at([10**6])), bare, batch)
        train(Representation(every(1)), probed, batch)
    for one, other in zip(bare.state_dict().values(), probed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks for module in probed.modules())


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.dead, self.body, self.head = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(6, 3)
        nn.init.zeros_(self.dead.weight)

    def forward(self, x):
        return 0 * self.dead(x).sum(1, keepdim=True) + self.head(self.body(x).relu())


def test_a_constant_layer_is_nan_and_no_other_is():
    memory, _ = train(Representation(at([0])), Flat(), data(), steps=1)
    rows = memory.at(0)
    for name in ("effective_rank", "participation_ratio", "stable_rank", "cka_to_start"):
        assert [math.isnan(value) for value in rows[name].value] == [True, False, False]
    assert rows["rankme"].value[0] == pytest.approx(1, abs=1e-4)  # the mean is one direction
    largest = float(torch.bincount(data()[1]).max()) / 60
    assert rows["ridge_accuracy"].value[0] == pytest.approx(largest)
    assert torch.tensor(rows["cka"].value).isnan().tolist() == [[True] * 3, [True, False, False], [True, False, False]]


def test_a_layer_that_is_not_finite_is_nan_and_no_other_is():
    model = Flat()
    with torch.no_grad():
        model.dead.bias[0] = math.inf
    model.forward = lambda x: (model.dead(x), model.head(model.body(x).relu()))[1]
    memory, _ = train(Representation(at([0])), model, data(), steps=1)
    for name in PER_LAYER:
        assert [math.isnan(value) for value in memory.at(0)[name].value] == [True, False, False]


def undefined(batch, **settings):
    memory, _ = train(Representation(at([0]), **settings), network(), batch, steps=1)
    return memory.at(0), memory.said("skipped", "warning", "refused")


def test_of_one_class_what_needs_two_is_nan():
    rows, said = undefined((data()[0], torch.ones(60, dtype=torch.long)))
    assert all(math.isnan(rows[name].value) for name in SCALARS)
    assert all(map(math.isnan, rows["ridge_accuracy"].value)) and not any(map(math.isnan, rows["rankme"].value))
    assert "all samples are of one class" in said and "\n" not in said


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_samples(n):
    rows, said = undefined((data()[0][:n], torch.arange(n) % 2))
    assert math.isnan(rows["cka"].value[0, 1]) == (n < 4) and math.isnan(rows["cka"].standard_error[0, 1]) == (n < 5)
    assert math.isnan(rows["nc1"].value) == (n < 4)
    assert ("CKA is NaN: it needs 4 samples" in said) == (n < 4)


def test_samples_without_a_class_are_left_out_of_what_needs_one():
    x, y = data()
    y = y.clone()
    y[::3] = -100
    rows, _ = undefined((x, y))
    assert rows["ridge_accuracy"].num_samples == rows["nc1"].num_samples == 40 and rows["rankme"].num_samples == 60
    assert math.isfinite(rows["nc1"].value)


def test_classes_that_the_batch_lacks_are_named():
    x, y = data()
    rows, said = undefined((x[y < 2], y[y < 2]))
    assert "neural collapse of 2 of 3 classes" in said and math.isfinite(rows["nc3"].value)


def test_numbers_as_targets_have_no_classes():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    memory, _ = train(Representation(at([0])), model, (data()[0], torch.randn(60, 1)), steps=1, loss=F.mse_loss)
    assert {*memory.at(0)} == {*PER_LAYER, "cka"} - {"ridge_accuracy"}
    assert "targets are not one class for each sample" in memory.said("skipped")


def test_what_cannot_be_measured_is_refused_in_one_line():
    for settings, batch, words in [
        ({"layers": ["nope"]}, data(), "names of modules of the model, got 'nope'. It has: 0, 1"),
        ({"layers": ["2", "other"]}, data(), "names of modules of the model, got 'other'"),
        ({}, (data()[0][:1], data()[1][:1]), "At least 2 samples are needed to compare"),
    ]:
        memory, _ = train(Representation(at([0]), **settings), network(), batch, steps=1, on_error="log")
        said = memory.said("refused")
        assert words in said and "\n" not in said and not memory.rows and not memory.said("fault")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"positions": "max"}, "`positions` must be 'flatten' or 'mean', got 'max'."),
        ({"num_samples": 1}, "`num_samples` must be an integer of at least 2, got 1."),
        ({"penalty": 0}, "`penalty` must be a positive number, got 0."),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Representation(**settings)


def test_fewer_samples_are_measured_where_the_first_turn_is_limited(monkeypatch):
    monkeypatch.setattr("probes.run.Run.first_turn_limit", property(lambda run: 1e-9))
    probe = Representation(every(1))
    memory, checkpoint = train(probe, network(), data(60))
    assert {row.num_samples for row in memory.rows} == {32} and "measured on 32 of 60 samples" in memory.said("skipped")
    monkeypatch.undo()
    resumed, _ = train(Representation(every(1)), network(), data(60), steps=6, checkpoint=checkpoint)
    assert {row.num_samples for row in resumed.rows} == {32}


def test_the_first_samples_are_taken_when_asked_for():
    rows, _ = undefined(data(), num_samples=20)
    few, _ = undefined(tuple(part[:20] for part in data()))
    assert rows["rankme"].num_samples == 20 and rows["rankme"].value.tolist() == few["rankme"].value.tolist()


def test_a_copy_measures_on_its_own():
    probe = Representation(every(1))
    train(probe, network(), data(), steps=1)
    state = copy.deepcopy(probe).state_dict()
    assert set(state["start"]) == {"0", "3", "5"} and state["start"]["0"].shape == (60 * 59 // 2,)


class Padded(nn.Module):
    """A transformer that is told of padding, which torch evaluates with nested tensors; and a nested tensor besides."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.embedding, self.encoder, self.head = nn.Embedding(9, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)
        self.parts = nn.Identity()

    def forward(self, x):
        found = self.encoder(self.embedding(x), src_key_padding_mask=x == 0)
        self.parts(torch.nested.as_nested_tensor(list(found)))
        return self.head(found.mean(1))


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_layers_of_a_transformer_that_is_told_of_padding_are_measured():
    torch.manual_seed(0)
    x = torch.randint(1, 9, (40, 5))
    x[::2, 3:] = 0
    memory, _ = train(Representation(every(1)), Padded(), (x, x[:, 0] % 3), steps=2)
    layers = memory.at(1)["rankme"].coords["layer"].values.tolist()
    assert layers[0] == "embedding" and layers[-1] == "head" and "encoder.layers.1.linear2" in layers
    with pytest.raises(CannotMeasure, match="must return a tensor with a row for each sample, got 'parts'"):
        train(Representation(every(1), layers=["parts"]), Padded(), (x, x[:, 0] % 3), steps=2)
