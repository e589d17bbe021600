"""MINE against one step written out, against sums over all pairs, and on Gaussians."""

import copy
import math

import pytest
import torch
from torch import nn

from probes_mine import (
    ConvolutionalStatistics,
    DenseStatistics,
    GaussianNoise,
    Mine,
    gaussian_mutual_information,
)


class Table(nn.Module):
    """A critic of a few numbers: T(x, z) = x^T W z."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.double().clone())

    def forward(self, x, z):
        return ((x @ self.w) * z).sum(1)


class LogRatio(nn.Module):
    """The log density ratio of correlated Gaussians, for which the bound is tight."""

    def __init__(self, rho):
        super().__init__()
        self.rho, self.unused = rho, nn.Parameter(torch.zeros(1))

    def forward(self, x, z):
        r = self.rho
        each = -math.log(1 - r**2) / 2 + (2 * r * x * z - r**2 * (x**2 + z**2)) / 2 / (1 - r**2)
        return each.sum(1)


def gaussians(rho, n, seed, d=1):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bound", ["donsker_varadhan", "f_divergence"])
def test_one_step_of_two_pairs_matches_the_gradient_written_out(bound):
    """Of two pairs there is one way to exchange partners."""
    x, z, w = draw(2, 3), draw(2, 2, 1), draw(3, 2, 2)
    mine = Mine(Table(w), bound=bound, rate=None, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    mine.update(x, z)
    product = [[float(x[i] @ w @ z[j]) for j in (0, 1)] for i in (0, 1)]
    weights = [math.exp(product[0][1]), math.exp(product[1][0])]
    scale = sum(weights) if bound == "donsker_varadhan" else 2 * math.e
    gradient = (torch.outer(x[0], z[0]) + torch.outer(x[1], z[1])) / 2
    gradient = gradient - (weights[0] * torch.outer(x[0], z[1]) + weights[1] * torch.outer(x[1], z[0])) / scale
    torch.testing.assert_close(mine.network.w.detach(), w + 0.1 * gradient, rtol=1e-10, atol=1e-12)
    assert mine.network.w.grad is None


@pytest.mark.parametrize("bound", ["donsker_varadhan", "f_divergence"])
def test_estimate_over_all_partners_matches_sums_written_out(bound):
    x, z = draw(7, 3), draw(7, 2, 1)
    w, offset = x.T @ z / 10, 1.0 if bound == "f_divergence" else 0.0
    network = Table(w)
    network.register_forward_hook(lambda module, args, output: output + offset)
    found = Mine(network, bound=bound).estimate(x, z, shuffles=6, batch_size=4)
    t = [[float(x[i] @ w @ z[j]) + offset for j in range(7)] for i in range(7)]
    others = [math.exp(t[i][j]) for i in range(7) for j in range(7) if i != j]
    mean = math.fsum(others) / 42
    own = math.fsum(math.exp(t[i][i]) for i in range(7)) / 7
    assert own / 7 < mean
    subtracted = math.log(mean) if bound == "donsker_varadhan" else mean / math.e
    exact = math.fsum(t[i][i] for i in range(7)) / 7 - subtracted
    assert exact > 0 and found.value == pytest.approx(exact, rel=1e-10)
    assert found.num_samples == 7


def test_an_estimate_is_no_number_that_information_cannot_be():
    x = torch.arange(20.0, dtype=torch.float64)[:, None]
    for bound in ("donsker_varadhan", "f_divergence"):
        narrow, wrong = Table(torch.ones(1, 1)), Table(-torch.ones(1, 1))
        narrow.forward = lambda x, z: -1000 * (x - z).square().sum(1) + 50
        found = Mine(narrow, bound=bound).estimate(x, x)
        assert 0 <= found.value <= math.log(20) + 1e-9
        if bound == "donsker_varadhan":
            assert found.value == pytest.approx(math.log(20)) and found.flags == ("saturated",)
        found = Mine(wrong, bound=bound).estimate(x, x)
        assert found.value == 0 and found.flags == ("useless",)
    assert Mine(LogRatio(0.6)).estimate(*gaussians(0.6, 500, 0)).flags == ()


def test_donsker_varadhan_is_above_the_f_divergence_for_one_critic():
    x, z, w = draw(50, 3), draw(50, 2, 1), draw(3, 2, 2)
    w = 0.1 * w + 0.2 * (x.T @ z / 50)
    values = [Mine(Table(w), bound=bound).estimate(x, z).value for bound in ("donsker_varadhan", "f_divergence")]
    assert values[0] > values[1]


@pytest.mark.parametrize("bound", ["donsker_varadhan", "f_divergence"])
def test_standard_error_is_that_of_samples(bound):
    network, truth = LogRatio(0.6), float(gaussian_mutual_information(0.6))
    if bound == "f_divergence":
        network = nn.Module()
        ratio = LogRatio(0.6)
        network.forward = lambda x, z: ratio(x, z) + 1
        network.unused = nn.Parameter(torch.zeros(1))
    found = [Mine(network, bound=bound).estimate(*gaussians(0.6, 500, seed)) for seed in range(200)]
    values = torch.tensor([estimate.value for estimate in found])
    stated = torch.tensor([estimate.standard_error for estimate in found])
    assert abs(values.mean() - truth) < 3 * values.std() / 200**0.5 + 1e-3
    assert stated.mean() == pytest.approx(values.std().item(), rel=0.2)


def test_mine_reaches_the_mutual_information_of_gaussians_on_fresh_pairs():
    torch.manual_seed(0)
    mine = Mine(DenseStatistics(1, 1, (64, 64), nn.ReLU, 0, 0))
    for step in range(800):
        mine.update(*gaussians(0.7, 256, step))
    found = mine.estimate(*gaussians(0.7, 20_000, 10**6))
    assert found.value == pytest.approx(float(gaussian_mutual_information(0.7)), abs=0.04)


def test_updates_draw_from_no_global_generator_and_give_inputs_no_gradients():
    torch.manual_seed(0)
    mine = Mine(DenseStatistics(2, 2, (8,)))  # with noise of its own
    x = torch.randn(16, 2, requires_grad=True)
    state = torch.get_rng_state()
    mine.update(x, x * 2)
    mine.estimate(x, x * 2)
    assert torch.equal(torch.get_rng_state(), state) and x.grad is None
    assert all(parameter.grad is None for parameter in mine.network.parameters())
    with torch.no_grad():
        mine.update(x, x)  # also from within a measurement


def test_a_resumed_run_is_the_same_to_the_last_bit():
    torch.manual_seed(0)
    network = DenseStatistics(1, 1, (8,))

    def train(mine, steps):
        for step in steps:
            mine.update(*gaussians(0.5, 32, step))
        return mine

    whole = train(Mine(copy.deepcopy(network)), range(10))
    state = copy.deepcopy(train(Mine(copy.deepcopy(network)), range(4)).state_dict())
    resumed = Mine(copy.deepcopy(network))
    resumed.load_state_dict(state)
    train(resumed, range(4, 10))
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_correction_by_a_moving_average_is_used():
    torch.manual_seed(0)
    network = DenseStatistics(1, 1, (8,), input_noise=0, hidden_noise=0)
    results = []
    for rate in (None, 1.0, 0.01):
        mine = Mine(copy.deepcopy(network), rate=rate, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
        for step in range(5):
            mine.update(*gaussians(0.9, 16, step))
        results.append(torch.cat([p.detach().flatten() for p in mine.network.parameters()]))
    torch.testing.assert_close(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-4)


def test_noise_is_for_training_only():
    noise = GaussianNoise(0.5)
    x = torch.zeros(10_000)
    assert noise(x).std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noise.eval()(x), x)


@pytest.mark.parametrize(
    ("network", "image", "z_size", "flat"),
    [
        (ConvolutionalStatistics((3, 28, 28), 100, dense=1024), (3, 28, 28), 100, 4 * 4 * 64),  # table C.3
        (ConvolutionalStatistics((1, 28, 28), 128, (64, 128, 256), nn.LeakyReLU), (1, 28, 28), 128, 4 * 4 * 256),
        (ConvolutionalStatistics((3, 64, 64), 256, (16, 32, 64, 128)), (3, 64, 64), 256, 4 * 4 * 128),  # C.11
    ],
    ids=["C.3", "C.7", "C.11"],
)
def test_convolutional_networks_have_the_shapes_of_the_tables(network, image, z_size, flat):
    assert next(layer for layer in network.output if isinstance(layer, nn.Linear)).in_features == flat
    x, z = torch.randn(2, *image), torch.randn(2, z_size)
    assert network(x, z).shape == (2,)
    assert not torch.equal(network(x, z), network(x, z + 1)) and not torch.equal(network(x, z), network(x + 1, z))


def test_dense_network_of_table_c_12():
    kinds = [type(layer).__name__ for layer in DenseStatistics(784, 256).layers]
    noise, dense = "GaussianNoise", ["Linear", "ELU", "GaussianNoise"]
    assert kinds == [noise, *dense, *dense, "Linear"]
    stds = [layer.std for layer in DenseStatistics(784, 256).layers if isinstance(layer, GaussianNoise)]
    assert stds == [0.3, 0.5, 0.5]


def test_bad_input_is_refused():
    network = Table(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="`bound` must be one of 'donsker_varadhan', 'f_divergence', got 'dv'"):
        Mine(network, bound="dv")
    mine = Mine(network)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        mine.update(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"`shuffles` must be from 1 to n - 1 = 2, got 3"):
        mine.estimate(torch.zeros(3, 1), torch.zeros(3, 1), shuffles=3)
    wide = nn.Module()
    wide.w, wide.forward = nn.Parameter(torch.zeros(1)), lambda x, z: x * wide.w
    with pytest.raises(ValueError, match=r"one number for each of 3 pairs.*got \(3, 2\)"):
        Mine(wide).update(torch.zeros(3, 2), torch.zeros(3, 1))
