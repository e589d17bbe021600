"""The regularizer: whose gradients it changes, by how much, and that it does what it says to a small encoder."""

import copy
import math

import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager, every
from probes_mine import DenseStatistics, MutualInformationRegularizer


def make(mode="max", beta=0.5, scale=1.0, **arguments):
    torch.manual_seed(0)
    critic = DenseStatistics(2, 3, (8,), nn.Tanh, 0, 0)
    with torch.no_grad():
        critic.layers[-1].weight.mul_(scale)
    generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    return MutualInformationRegularizer(critic, mode=mode, beta=beta, **arguments), generator, torch.randn(16, 2)


@pytest.mark.parametrize("scale", [1e-3, 1e3], ids=["short", "long"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_backward_matches_appendix_c_1_1_written_out(mode, scale):
    regularizer, generator, c = make(mode, scale=scale)
    other = nn.Linear(3, 1)  # a discriminator, which the main loss goes through
    z = generator(c)
    loss = other(z).square().mean()
    same = copy.deepcopy(regularizer)
    regularizer.backward(loss, c, z, generator.parameters())
    found = [p.grad.clone() for p in generator.parameters()]

    z = generator(c)
    u = torch.autograd.grad(other(z).square().mean(), list(generator.parameters()), retain_graph=True)
    m = torch.autograd.grad(same.information(c, z), list(generator.parameters()))
    flat_u, flat_m = (torch.cat([g.flatten() for g in gs]).tolist() for gs in (u, m))
    norm_u, norm_m = (math.sqrt(math.fsum(value**2 for value in vector)) for vector in (flat_u, flat_m))
    sign = -1 if mode == "max" else 1
    expected = [a + 0.5 * sign * min(norm_u, norm_m) * b / norm_m for a, b in zip(flat_u, flat_m, strict=True)]
    assert torch.cat([g.flatten() for g in found]).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert (norm_m > norm_u) == (scale == 1e3)  # clipped in one case, not in the other
    assert other.weight.grad is None and all(p.grad is None for p in regularizer.mine.network.parameters())


class Twice(nn.Module):
    """A critic whose hidden layer stands in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)
        self.hidden = nn.Sequential(self.first, nn.Tanh(), self.first)

    def forward(self, x, z):
        return self.last(torch.tanh(self.hidden(torch.cat([x, z], 1))))


def test_a_critic_whose_layer_stands_in_two_places_learns_on():
    critic, (x, z) = Twice(), (torch.randn(16, 2), torch.randn(16, 3))
    regularizer, own = MutualInformationRegularizer(critic), list(critic.parameters())
    before = [parameter.clone() for parameter in own]
    for _ in range(2):
        regularizer.information(x, z)
        regularizer.update(x, z)
    assert all(one is other for one, other in zip(critic.parameters(), own, strict=True))
    assert not any(torch.equal(parameter, old) for parameter, old in zip(own, before, strict=True))


def test_backward_adds_to_gradients_that_are_there():
    regularizer, generator, c = make()
    parameters = list(generator.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    z = generator(c)
    regularizer.backward(z.square().mean(), c, z, parameters)
    with_ones = [p.grad.clone() for p in parameters]
    regularizer, generator, c = make()
    z = generator(c)
    regularizer.backward(z.square().mean(), c, z, generator.parameters())
    for a, p in zip(with_ones, generator.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad + 1)


@pytest.mark.parametrize("scale", [1e-3, 1e3], ids=["short", "long"])
def test_tap_clips_where_the_gradients_meet(scale):
    regularizer, generator, c = make(scale=scale)
    same = copy.deepcopy(regularizer)
    z = generator(c)
    z.retain_grad()
    z_main, z_term = regularizer.tap(z)
    (z_main.square().mean() + regularizer(c, z_term)).backward()
    leaf = z.detach().requires_grad_()
    u = torch.autograd.grad(leaf.square().mean(), leaf)[0]
    m = -torch.autograd.grad(same.information(c, leaf), leaf)[0]
    torch.testing.assert_close(z.grad, u + 0.5 * m * min(1.0, float(u.norm() / m.norm())))
    assert all(p.grad is None for p in regularizer.mine.network.parameters())


@pytest.mark.parametrize("level", [-500.0, 500.0])
def test_critics_of_hundreds_give_finite_gradients(level):
    regularizer, generator, c = make(scale=200.0)
    with torch.no_grad():
        regularizer.mine.network.layers[-1].bias.fill_(level)
    z = generator(c)
    term = regularizer(c, z)
    regularizer.update(c, z)
    term.backward()
    assert term.isfinite() and all(p.grad.isfinite().all() for p in generator.parameters())
    assert all(p.isfinite().all() for p in regularizer.mine.network.parameters())


def test_randomness_is_its_own_and_a_resume_goes_on_to_the_last_bit():
    def train(regularizer, encoder, c, steps):
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        for _ in range(steps):
            z = encoder(c)
            regularizer.update(c, z)
            optimizer.zero_grad()
            (z.square().mean() + regularizer(c, z)).backward()
            optimizer.step()

    regularizer, encoder, c = make("min")
    state = torch.get_rng_state()
    train(regularizer, encoder, c, 3)
    assert torch.equal(torch.get_rng_state(), state)
    saved, weights = copy.deepcopy(regularizer.state_dict()), copy.deepcopy(encoder.state_dict())
    train(regularizer, encoder, c, 3)
    resumed, again, _ = make("min")
    resumed.load_state_dict(saved)
    again.load_state_dict(weights)
    train(resumed, again, c, 3)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))


def test_manager_records_it_like_a_probe():
    regularizer, generator, c = make(schedule=every(2))
    memory, optimizer = Memory(), torch.optim.SGD(generator.parameters(), lr=0.1)
    manager = ProbeManager(generator, [regularizer], {"train": c}, sinks=[memory], overhead=None, on_error="raise")
    with manager.attach(optimizer):
        for _ in range(4):
            z = generator(c)
            regularizer.update(c, z)
            optimizer.zero_grad()
            regularizer.backward(z.square().mean(), c, z, generator.parameters())
            optimizer.step()
        assert manager.state_dict()["plugins"]["mutual_information_regularizer"]["mine"]["steps"] == 4
    assert memory.steps("mine/information") == memory.steps("mine/clip_ratio") == [0, 2, 4]
    assert manager.run.step == 4  # the critic's own steps are no steps of the model


@pytest.mark.parametrize(("scale", "told"), [(-1, 0), (1000, math.log(16))])
def test_what_is_recorded_is_a_number_that_information_can_be(scale, told):
    critic = nn.Module()
    critic.forward = lambda x, z: -scale * (x - z).square().sum(1)
    critic.unused = nn.Parameter(torch.zeros(1))
    regularizer, x = MutualInformationRegularizer(critic), torch.arange(16.0)[:, None]
    term = regularizer.information(x, x)
    (measurement, *_) = regularizer.measure(None, 0)
    assert measurement.value.item() == pytest.approx(told) and measurement.num_samples == 16
    assert term < 0 if scale < 0 else term > 100  # what is added to the loss is not cut off


@pytest.mark.parametrize(("mode", "grows"), [("max", True), ("min", False)])
def test_it_raises_or_lowers_the_information_of_a_noisy_channel(mode, grows):
    """z = w x + noise, with a loss that holds w to 1: I = log(1 + w^2) / 2 goes up or down from there."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.ones(1))
    critic = DenseStatistics(1, 1, (32,), nn.ReLU, 0, 0)
    regularizer = MutualInformationRegularizer(critic, mode=mode, beta=0.3)
    optimizer = torch.optim.Adam([w], lr=0.02)
    for _ in range(200):
        x, noise = torch.randn(2, 128, 1)
        z = w * x + noise
        regularizer.update(x, z)
        optimizer.zero_grad()
        (0.05 * (w - 1).square().sum() + regularizer(x, z)).backward()
        optimizer.step()
    assert (w.item() > 1.2) if grows else (w.item() < 0.8)


def test_bad_settings_are_refused():
    network = DenseStatistics(1, 1, (2,))
    with pytest.raises(ValueError, match="`mode` must be 'max' or 'min', got 'up'"):
        MutualInformationRegularizer(network, mode="up")
    with pytest.raises(ValueError, match="`beta` must not be negative, got -1"):
        MutualInformationRegularizer(network, beta=-1)
    with pytest.raises(ValueError, match="`critic_steps` must be at least 1, got 0"):
        MutualInformationRegularizer(network, critic_steps=0)
    regularizer, generator, c = make()
    with pytest.raises(ValueError, match="depends on none of these parameters"):
        regularizer.backward(generator(c).sum(), c, torch.randn(16, 3, requires_grad=True), generator.parameters())
