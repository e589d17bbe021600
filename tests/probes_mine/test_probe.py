"""MutualInformation of layers: its streams, their limits, warm starts, a resume, and a training left as it was."""

import math

import numpy as np
import pytest
import torch
from loops import Memory
from torch import nn

from probes import CannotMeasure, ProbeManager, at, every
from probes.batches import Batch
from probes.budget.clock import OwnTime
from probes.run import Run
from probes_mine import MutualInformation, noisy_channel_information
from probes_mine.labels import label_information
from probes_mine.layer_information import LayerInformation, Samples
from probes_mine.reduction import Reduced
from probes_mine.turn import Costs, affordable


def data(n=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    centres = 2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + torch.randn(n, 6, generator=generator), labels


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))


def run_of(model, x, y=None, step=0):
    return Run(
        model.eval(), "unused", seed=0, output=lambda out: out, batches={"train": Batch((x,), targets=y)}, step=step
    )


def measured(probe, run):
    return {m.name.removeprefix("information/").removesuffix("/train"): m for m in probe.measure(run, run.step)}


def train(model, steps=1):
    x, y = data(seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_streams_and_limits():
    x, y = data()
    found = measured(MutualInformation(noise=0.3), run_of(mlp(), x, y))
    assert set(found) == {"inputs_lower", "inputs_upper", "noise", "targets", "plane"}
    assert found["targets"].coords["layer"].values.tolist() == ["0", "2", "4"]
    entropy = -sum(p * math.log(p) for p in (y.bincount() / len(y)).tolist())
    assert (found["inputs_lower"].value <= math.log(300) + 1e-12).all()
    assert (found["inputs_upper"].value >= found["inputs_lower"].value).all()
    assert (found["targets"].value <= entropy).all() and (found["targets"].value > 0.3).all()
    assert found["plane"].value.tolist() == np.stack([found["inputs_lower"].value, found["targets"].value], 1).tolist()
    assert found["targets"].unit == "nats" and "noise of 0.3" in found["targets"].estimator
    assert (found["targets"].standard_error > 0).all()


def test_noise_is_relative_to_the_layer():
    x, _ = data()
    found = measured(MutualInformation(noise=0.3), run_of(model := mlp(), x))
    assert set(found) == {"inputs_lower", "inputs_upper", "noise"}
    features = model[0](x).detach().double()
    std = 0.3 * float(features.var(0).mean().sqrt())
    assert found["noise"].value[0] == pytest.approx(std)
    noise = torch.randn(features.shape, generator=run_of(model, x).generator, dtype=torch.float64)
    assert found["inputs_lower"].value[0] == pytest.approx(float(noisy_channel_information(features, noise, std).lower))
    with torch.no_grad():
        model[0].weight.mul_(1e3)
        model[0].bias.mul_(1e3)
    assert measured(MutualInformation(noise=0.3), run_of(model, x))["inputs_lower"].value[0] == pytest.approx(
        found["inputs_lower"].value[0], rel=1e-6
    )


def test_shuffled_labels_are_not_told():
    x, y = data(n=1000)
    shuffled = y[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    probe = MutualInformation(noise=0.3, cold_every=2)
    run = run_of(model := mlp(), x, shuffled)
    for _ in range(4):  # warm starts must not have seen what they are told of either
        found = measured(probe, run)
        train(model, 3)
        assert (found["targets"].value <= 0.02).all()


def test_targets_that_are_numbers():
    x, _ = data()
    y = x[:, :1] + 0.5 * torch.randn(300, 1, generator=torch.Generator().manual_seed(3))
    found = measured(MutualInformation(layers=["0"]), run_of(mlp(), x, y))
    # Some of log(1 + var / 0.25) / 2.
    assert 0.3 < found["targets"].value[0] < math.log(1 + float(x[:, 0].var()) / 0.25) / 2 + 0.2


def test_a_dead_layer_tells_nothing():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    x, y = data()
    found = measured(MutualInformation(), run_of(model, x, y))
    assert found["inputs_upper"].value[1] == 0 and found["targets"].value[1] == 0 and found["noise"].value[1] == 0


def test_layers_that_give_no_rows_are_named():
    x, y = data()
    with pytest.raises(ValueError, match="names of modules of the model, got 'nine'"):
        measured(MutualInformation(layers=["nine"]), run_of(mlp(), x, y))

    class Turned(nn.Module):
        def forward(self, x):
            return x.T

    model = nn.Sequential(nn.Linear(6, 3), Turned(), Turned())
    with pytest.raises(ValueError, match="got '1'"):
        measured(MutualInformation(layers=["0", "1"]), run_of(model, x, y))


def test_batches_of_few_samples_are_left_out_or_named():
    (x, y), probe = data(), MutualInformation(layers=["0"])
    run = run_of(mlp(), x, y)
    run.batches["few"] = Batch((x[:10],), targets=y[:10])
    assert "information/targets/few" not in {m.name for m in probe.measure(run, 0)}
    del run.batches["train"]
    for one in (probe, MutualInformation(batches=["few"])):
        with pytest.raises(CannotMeasure, match=r"'few'.* 10\. Pass batches="):
            list(one.measure(run, 0))


def test_the_targets_are_told_from_the_noisy_layer():
    x, y = data(n=600)
    run = run_of(mlp(), x, y)
    little, much = (measured(MutualInformation(layers=["0"], noise=noise), run)["targets"].value for noise in (0.1, 30))
    assert little[0] > 0.3 and much[0] < 0.05


def test_classifiers_go_on_from_the_last_ones(monkeypatch):
    starts = []

    def spy(*args, start=None, **kwargs):
        starts.append((start, result := label_information(*args, start=start, **kwargs)))
        return result

    monkeypatch.setattr("probes_mine.layer_information.label_information", spy)
    probe, run = MutualInformation(layers=["0"]), run_of(mlp(), *data())
    measured(probe, run)
    measured(probe, run)
    (nothing, first), (start, _) = starts
    assert nothing is None and all(torch.equal(start[name], first.state[name]) for name in first.state)


def test_many_components_are_reduced_to_those_that_vary_most():
    x, y = data(n=600)
    model = nn.Sequential(nn.Linear(6, 100), nn.Linear(100, 700), nn.Linear(700, 6))
    torch.manual_seed(0)
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    found = measured(MutualInformation(noise=0.05), run_of(model, x, y))
    # Turned into more dimensions and back, with little noise, the inputs tell as much as before.
    assert np.ptp(found["targets"].value) < 0.2 and (found["targets"].value > 0.6).all()


def test_a_warm_start_goes_on_where_it_was():
    x, y = data()
    cold = label_information(x.double(), y, torch.Generator().manual_seed(0), max_steps=300)
    warm = label_information(x.double(), y, torch.Generator().manual_seed(0), start=cold.state, max_steps=1)
    assert float(warm.terms.mean()) == pytest.approx(float(cold.terms.mean()), abs=1e-6)
    assert float(warm.terms.mean()) > 0.3


def test_a_stale_classifier_is_replaced():
    x, y = data()
    probe = MutualInformation(noise=0.1, layers=["0"], cold_every=1)
    run = run_of(model := mlp(), x, y)
    before = measured(probe, run)["targets"].value[0]
    with torch.no_grad():  # another function from one step to the next, and a frame that does not see it
        model[0].weight.copy_(model[0].weight.flip(0) * torch.linspace(-1, 1, 12)[:, None])
    key, held = next(iter(probe._information.learned.items()))
    probe._information.learned[key] = held._replace(components=torch.zeros_like(held.components))
    assert measured(probe, run)["targets"].value[0] == pytest.approx(before, abs=0.15)


def test_resumed_measurements_are_the_same_to_the_last_bit():
    x, y = data()

    def go(split):
        model = mlp()
        probe, found = MutualInformation(noise=0.3, cold_every=2), []
        for step in range(3):
            if step == split:
                fresh = MutualInformation(noise=0.3, cold_every=2)
                fresh.load_state_dict(torch.load(_saved(probe.state_dict()), weights_only=True))
                probe = fresh
            train(model)
            found.append(measured(probe, run_of(model, x, y, step))["targets"].value.tolist())
        return found

    assert go(None) == go(1)


def _saved(state):
    torch.save(state, "state.pt")
    return "state.pt"


def test_training_is_not_changed():
    x, y = data()

    def go(probes):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        sink = Memory()
        manager = ProbeManager(model, probes=probes, batches={"train": (x, y)}, sinks=[sink], overhead=None).attach(
            optimizer
        )
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        manager.detach()
        assert not any(module._forward_hooks for module in model.modules())
        return model.state_dict(), sink

    (expected, _), (found, sink) = go([]), go([MutualInformation(every(2))])
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {m.name for m in sink.rows} >= {"information/plane/train", "information/targets/train"}


def test_one_layer_without_numbers_leaves_the_others_theirs_and_recovers():
    (x, y), model, probe = data(), mlp(), MutualInformation(noise=0.3)
    expected = measured(probe, run_of(model, x, y))
    probe = MutualInformation(noise=0.3)
    with torch.no_grad():
        weight = float(model[2].weight[0, 0])
        for broken in (math.nan, math.inf):
            model[2].weight[0, 0] = broken
            found = measured(probe, run_of(model, x, y))
            for name in ("inputs_lower", "inputs_upper", "noise", "targets"):
                assert np.isnan(found[name].value).tolist() == [False, True, math.isnan(broken)]  # tanh(inf) = 1
                assert found[name].value[0] == pytest.approx(expected[name].value[0], abs=0.1)
        model[2].weight[0, 0] = weight
    found = measured(probe, run_of(model, x, y))
    assert found["targets"].value == pytest.approx(expected["targets"].value, abs=0.1)


def test_ignored_labels_are_left_out():
    (x, y), model = data(), mlp()
    y[::3] = -100
    found = measured(MutualInformation(layers=["0"]), run_of(model, x, y))["targets"].value[0]
    kept = y != -100
    alone = measured(MutualInformation(layers=["0"]), run_of(model, x[kept], y[kept]))["targets"].value[0]
    # Other noise and folds; two hundred samples of a value of 0.8 have an error of about 0.03.
    assert found == pytest.approx(alone, abs=0.15)
    y[20:] = -100
    assert np.isnan(measured(MutualInformation(layers=["0"]), run_of(model, x, y))["targets"].value).all()


def test_labels_or_numbers_that_are_all_alike_tell_nothing():
    x, y = data()
    for targets in (torch.zeros_like(y), torch.ones(len(y))):
        found = measured(MutualInformation(layers=["0"]), run_of(mlp(), x, targets))
        assert found["targets"].value.tolist() == [0.0] and found["inputs_lower"].value[0] > 1


def test_numbers_that_are_not_finite_leave_the_inputs_theirs():
    x, y = data()
    found = measured(MutualInformation(layers=["0"]), run_of(mlp(), x, y.float().masked_fill(y == 0, math.nan)))
    assert np.isnan(found["targets"].value).all() and np.isfinite(found["inputs_upper"].value).all()


def test_inputs_that_repeat_tell_nothing_of_random_targets():
    x, _ = data(n=200)
    generator = torch.Generator().manual_seed(1)
    for targets in (torch.randint(0, 3, (200,), generator=generator), torch.randn(200, generator=generator)):
        run = run_of(mlp(), x.repeat(4, 1), targets.repeat(4, *[1] * (targets.ndim - 1)))
        found = measured(MutualInformation(layers=["0"], noise=0.05), run)
        assert found["targets"].value[0] < 0.05
        # 200 inputs, however often: of the 800 samples one knows which of 200 they come from.
        assert found["inputs_lower"].value[0] == pytest.approx(math.log(200), abs=0.05)
        assert found["inputs_upper"].value[0] > math.log(200) + 1


class Sampling(nn.Module):
    """Draws a code that only a head beside the output sees; or that all see."""

    def __init__(self, aside):
        super().__init__()
        self.code, self.head, self.out, self.aside = nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(4, 3), aside

    def forward(self, x):
        code = self.code(x)
        noisy = code + torch.randn_like(code)
        self.head(noisy)
        return self.out(code if self.aside else noisy)


def test_a_layer_that_is_random_has_no_information_and_is_named():
    (x, y), told = data(), []
    torch.manual_seed(0)
    run = run_of(Sampling(aside=True), x, y)
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    found = measured(MutualInformation(), run)
    assert found["targets"].coords["layer"].values.tolist() == ["code", "head", "out"]
    assert np.isnan(found["targets"].value).tolist() == [False, True, False]
    assert len(told) == 1 and "Layers head give other activations for the same samples" in told[0]


def test_a_model_that_is_random_is_refused():
    with pytest.raises(CannotMeasure, match="The output is random"):
        measured(MutualInformation(), run_of(Sampling(aside=False), *data()))


def test_one_batch_that_is_refused_leaves_the_others_theirs():
    (x, y), told = data(), []
    run = run_of(mlp(), x, y)
    run.batches["wide"] = Batch((torch.zeros(50, 7),))
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    names = {m.name for m in MutualInformation(layers=["0"]).measure(run, 0)}
    assert "information/targets/train" in names and not any(name.endswith("wide") for name in names)
    assert len(told) == 1 and "cannot be called with batch 'wide'" in told[0]
    with pytest.raises(CannotMeasure, match="`batches` names 'none', which is no batch; there are: train, wide"):
        list(MutualInformation(batches=["none"]).measure(run, 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"noise": 0.0}, "infinite"), ({"num_samples": 5}, "at least 20"), ({"cold_every": 0}, "at least 1")],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        MutualInformation(at([1]), **arguments)


def limited(run, seconds):
    told = []
    run.bind(lambda plugin, needed: True, lambda plugin, message: told.append(message), lambda: seconds)
    return told


@pytest.fixture
def slow_layers(monkeypatch):
    """Layers that take 0.1 s each, and a millisecond for each step of training, as far as the probe can see."""
    monkeypatch.setattr(LayerInformation, "costs", lambda *args: Costs(0.0, 0.1, 1e-3))


def deep(width=12):
    return nn.Sequential(*[module for _ in range(9) for module in (nn.Linear(width, width), nn.Tanh())])


@pytest.mark.usefixtures("slow_layers")
def test_a_first_turn_that_is_limited_takes_fewer_layers_for_good_and_says_so():
    x, y = data(n=100)
    x = x.repeat(1, 2)
    probe, run = MutualInformation(), run_of(model := deep(), x, y)
    told = limited(run, 0.8)
    first = measured(probe, run)["targets"]
    assert first.coords["layer"].values.tolist() == ["0", "4", "8", "12", "16"]
    assert "5 of 9 layers" in first.estimator and "5 of 9 layers" in told[0]
    resumed = MutualInformation()
    resumed.load_state_dict(torch.load(_saved(probe.state_dict()), weights_only=True))
    for again in (probe, resumed):
        found = measured(again, later := run_of(model, x, y, 1))["targets"]
        assert (
            found.coords["layer"].values.tolist() == ["0", "4", "8", "12", "16"] and found.estimator == first.estimator
        )
    told = limited(later, math.inf)
    measured(resumed, later)
    assert told == []


@pytest.mark.usefixtures("slow_layers")
def test_what_was_asked_for_is_measured_at_any_cost():
    x, y = data(n=600)
    run = run_of(mlp(), x, y)
    limited(run, 0.01)
    found = measured(MutualInformation(layers=["0", "2"], num_samples=600), run)["inputs_lower"]
    assert found.coords["layer"].values.tolist() == ["0", "2"] and found.num_samples == 600
    found = measured(MutualInformation(), run)["inputs_lower"]
    assert found.coords["layer"].values.tolist() == ["4"] and found.num_samples == 300
    assert "300 of 600 samples" in found.estimator


def test_without_a_limit_or_within_it_nothing_is_left_out():
    x, y = data(n=100)
    free, ample = run_of(model := mlp(), x, y), run_of(model, x, y)
    told = limited(ample, 1000.0)
    values = [measured(MutualInformation(), run)["targets"] for run in (free, ample)]
    assert values[0].value.tolist() == values[1].value.tolist() and values[0].estimator == values[1].estimator
    assert told == []


def test_a_trial_predicts_what_a_layer_takes():
    x, y = torch.randn(400, 60), torch.arange(400) % 3
    probe, clock = MutualInformation(), OwnTime()
    samples = Samples.of(Batch((x,), targets=y))
    costs = min((probe._information.costs(x, samples, clock) for _ in range(3)), key=lambda costs: costs.step)
    assert probe.state_dict()["learned"] == {}
    seconds = []
    for _ in range(3):
        start = clock()
        probe._information.look(x, samples, torch.Generator(), "", 150)
        probe._information.learned.clear()
        seconds.append(clock() - start)
    predicted = affordable([60], 400, costs, math.inf)
    assert predicted.steps == 600
    expected = predicted.seconds - 450 * costs.step
    assert expected / 3 < min(seconds) < expected * 3


@pytest.mark.parametrize("width", [300, 3000])
def test_fewer_dimensions_than_components_keep_distances_and_the_largest_components(width):
    generator = torch.Generator().manual_seed(0)
    scales = 0.9 ** torch.arange(width, dtype=torch.float64)
    features = torch.randn(200, width, generator=generator, dtype=torch.float64) * scales + 5
    layer = Reduced.of(features)
    assert layer.scores.shape == (200, min(200, width))
    distances, expected = (
        torch.cdist(one, one, compute_mode="donot_use_mm_for_euclid_dist") for one in (layer.scores, features)
    )
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=1e-6)  # eigenvalues are to 1e-16 of the largest
    centred = features - features.mean(0)
    largest = torch.linalg.svd(centred, full_matrices=False).S[:10].square()
    torch.testing.assert_close(layer.frame.project(features).square().sum(0).flip(0), largest)
    basis = layer.frame.components
    torch.testing.assert_close(basis.T @ basis, torch.eye(10, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_a_layer_that_gives_a_nested_tensor_is_left_out():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.parts, self.last = nn.Linear(6, 4), nn.Identity(), nn.Linear(4, 3)

        def forward(self, x):
            nested = torch.nested.as_nested_tensor(list(self.first(x)[:, None]))
            return self.last(self.parts(nested).to_padded_tensor(0)[:, 0])

    x, y = data(100)
    with pytest.raises(CannotMeasure, match="row for each of the 100 samples, got 'parts'"):
        measured(MutualInformation(layers=["first", "parts"]), run_of(Parts(), x, y))
    found = measured(MutualInformation(), run_of(Parts(), x, y))
    assert found["targets"].coords["layer"].values.tolist() == ["first", "last"]


class Recurrent(nn.Module):
    """A recurrent layer with time first, and a layer of it at each time."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.batch_first = batch_first
        self.gru, self.each, self.last = nn.GRU(6, 4, batch_first=batch_first), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):  # (n, time, 6)
        found = self.each(self.gru(x if self.batch_first else x.transpose(0, 1))[0])
        return self.last(found[:, -1] if self.batch_first else found[-1])


@pytest.mark.parametrize("time", [5, 40])
def test_samples_of_sequences_with_time_first_are_no_steps_of_time(time):
    """The same model with the batch first has the same information, where it can be told which axis is which."""
    x, y = data(40)
    x = x[:, None] * torch.rand(40, time, 6, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    first, second = Recurrent(batch_first=True), Recurrent()
    second.load_state_dict(first.state_dict())
    expected = measured(MutualInformation(), run_of(first, x, y))["inputs_lower"]
    found = measured(MutualInformation(), run_of(second, x, y))["inputs_lower"]
    layers = found.coords["layer"].values.tolist()
    # With as many steps as samples, it cannot be told of a linear layer.
    assert layers == (["gru", "each", "last"] if time == 5 else ["gru", "last"])
    assert float(found.value[0]) == pytest.approx(float(expected.value[0]), rel=1e-3)


def test_of_a_layer_that_is_called_several_times_the_first_call_is_taken():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.both, self.last = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x, calls=3):
            x = self.first(x)
            for _ in range(calls):
                x = torch.tanh(self.both(x))
            return self.last(x)

    class Once(Twice):
        def forward(self, x):
            return super().forward(x, 1)

    (x, y), model, once = data(100), Twice(), Once()
    once.load_state_dict(model.state_dict())
    run = run_of(model, x, y)
    found, expected = (measured(MutualInformation(), each)["inputs_lower"] for each in (run, run_of(once, x, y)))
    assert found.coords["layer"].values.tolist() == ["first", "both", "last"]
    assert found.value[:2].tolist() == expected.value[:2].tolist() and np.isfinite(found.value).all()
