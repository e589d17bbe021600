"""The information bottleneck: its networks, its terms, its bounds, and when its criteria pass."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from examples.frame.task import Task
from examples.mutual_information.bottleneck.experiment import PRESETS
from examples.mutual_information.bottleneck.information import moment_information, sandwich
from examples.mutual_information.bottleneck.network import Network, codes
from examples.mutual_information.bottleneck.results import judge
from examples.mutual_information.bottleneck.settings import ENCODERS, MODELS, Settings
from examples.mutual_information.bottleneck.training import data, divergence, entropy, fit

SMALL = Settings(units=16, code=5, epochs=1, batch_size=50, samples=2, statistics=(8,), propagated=3, mnist=False)


@pytest.mark.parametrize(
    ("noise", "inputs", "outputs", "drawn"),
    [
        ("", 784, 256, 0),
        ("gaussian", 784, 256, 256),
        ("gaussian, learned", 784, 512, 256),
        ("gaussian, learned, additive", 784, 512, 784 + 256),
        ("additive", 784, 256, 784),
        ("propagated", 784 + 256, 256, 256),
    ],
)
def test_the_encoder_of_the_paper_preset_has_two_layers_of_1024(noise, inputs, outputs, drawn):
    network = Network(noise, PRESETS["paper"].settings)
    layers = [layer for layer in network.encoder if isinstance(layer, torch.nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    assert sizes == [(inputs, 1024), (1024, 1024), (1024, outputs)]
    assert network.draw(2, torch.Generator()).shape == (2, drawn)
    z, mean, std = network(torch.zeros(2, 784), torch.zeros(2, drawn))
    assert z.shape == mean.shape == std.shape == (2, 256) and network.classifier(z).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.noise])
def test_every_stochastic_code_depends_on_all_of_its_noise(name):
    torch.manual_seed(0)
    network = Network(MODELS[name].noise, SMALL)
    noise = network.draw(2, torch.Generator().manual_seed(0)).requires_grad_()
    z, mean, std = network(torch.rand(2, 784), noise)
    (gradient,) = torch.autograd.grad(z.sum(), noise)
    assert (gradient != 0).all()
    if "gaussian" in MODELS[name].noise:
        torch.testing.assert_close(z, mean + std * noise[:, -SMALL.code :])


def test_entropy_and_divergence_match_torch_distributions():
    torch.manual_seed(0)
    logits, mean, std = torch.randn(7, 10), torch.randn(7, 4), torch.rand(7, 4) + 0.1
    torch.testing.assert_close(entropy(logits), Categorical(logits=logits).entropy().mean())
    expected = kl_divergence(Normal(mean, std), Normal(0, 1)).sum(1).mean()
    torch.testing.assert_close(divergence(mean, std), expected)


def channel(n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    std = torch.tensor([0.5, 1.0]).double().expand(n, 2)
    return mean + std * noise, mean, std


def test_sandwich_holds_the_closed_form_of_a_gaussian_channel():
    truth = (math.log(1 + 1 / 0.5**2) + math.log(2)) / 2
    lower, upper = sandwich(*channel(4000))
    assert lower < upper and lower == pytest.approx(truth, abs=0.05) and upper == pytest.approx(truth, abs=0.05)


def test_sandwich_matches_the_sums_written_out():
    z, mean, std = channel(6)
    log_p = Normal(mean[None], std[None]).log_prob(z[:, None]).sum(2)
    lower = sum(log_p[i, i] - log_p[i].exp().mean().log() for i in range(6)) / 6
    upper = sum(log_p[i, i] - log_p[i][torch.arange(6) != i].exp().mean().log() for i in range(6)) / 6
    assert sandwich(z, mean, std) == pytest.approx((float(lower), float(upper)))


def test_sandwich_of_a_channel_without_noise_is_at_most_log_n_below():
    mean = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    lower, upper = sandwich(mean, mean, torch.full_like(mean, 1e-4))
    assert lower == pytest.approx(math.log(50)) and upper > 1e4


def test_moment_information_of_a_gaussian_code_is_just_below_its_lower_bound():
    torch.manual_seed(0)
    network = Network("gaussian", SMALL)
    torch.nn.init.normal_(network.encoder[-1].weight, std=5)  # far more signal than noise
    x = torch.randn(1000, 784, generator=torch.Generator().manual_seed(1))
    lower, _ = sandwich(*codes(network, x, torch.Generator().manual_seed(2)))
    found = moment_information(network, x, seed=0, spread=1.0)
    assert 0.5 * lower < found < lower + 0.05


def seed(baseline=2.0, mine=2.1, without=9.0, with_mine=6.0, critic=2.0):
    found = {name: {"error": baseline} for name in MODELS}
    for encoder in ENCODERS:
        found[f"{encoder}, beta = 0"] = {"error": 2.0, "critic": 3.0, "lower": without}
        found[f"MINE ({encoder})"] = {"error": mine, "critic": critic, "lower": with_mine}
    found["Gaussian, beta = 0"]["upper"] = 99.0
    found["MINE (Gaussian)"] |= {"lower": with_mine - 1, "upper": with_mine}
    return found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True] * 3),
        ({"mine": 2.3}, [False, True] * 3),
        ({"critic": 2.2}, [True, False] * 3),
    ],
)
def test_judge(changed, expected):
    findings = judge(Settings(), [seed(**changed)] * 2)
    assert [finding.passed for finding in findings if finding.passed is not None] == expected


def test_training_with_mine_goes_on_to_the_same_weights(tmp_path):
    images, labels, *_ = data(SMALL)
    fits = {}
    for name, epochs in {"whole": (2,), "broken": (1, 2)}.items():
        for some in epochs:
            part = Task(tmp_path / name, 3, torch.device("cpu"))
            settings = dataclasses.replace(SMALL, epochs=some)
            fits[name] = fit(settings, part, MODELS["MINE (additive)"], images, labels)
    whole, broken = (fits[name].state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.parametrize("name", ["dropout", "confidence penalty", "label smoothing", "DVB", "MINE (Gaussian)"])
def test_every_regularizer_changes_the_training(name, tmp_path):
    images, labels, *_ = data(SMALL)
    plain = dataclasses.replace(MODELS[name], compression="", dropout=0.0, label_smoothing=0.0, confidence_penalty=0.0)
    models = {"plain": plain, "regularized": MODELS[name]}
    fits = [
        fit(SMALL, Task(tmp_path / label, 0, torch.device("cpu")), model, images, labels)
        for label, model in models.items()
    ]
    assert not torch.equal(*(network.encoder[0].weight for network in fits))
