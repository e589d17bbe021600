"""The gradient noise scale beside plain loops, its expectation over samples, and what is refused."""

import math

import pytest
import torch
from curvature_matrices import explicit
from torch import nn
from torch.nn import functional as F

from probes.batches import MicroBatches
from probes_curvature import accumulated_noise_scale, gradient_noise_scale, noise_scale, rank_noise_scale
from probes_ntk import spread


def rows(model, loss, inputs, targets):
    found = []
    for x, y in zip(inputs, targets, strict=True):
        value = loss(model(x[None]), y[None])
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))]))
    return torch.stack(found)


def test_it_is_that_of_the_gradients_of_single_examples(tanh):
    model, inputs, targets = tanh
    targets = torch.zeros_like(targets)  # so that the gradients have something in common
    gradients = rows(model, F.cross_entropy, inputs, targets)
    covariance, mean = torch.cov(gradients.T), gradients.mean(0)
    found = gradient_noise_scale(model, F.cross_entropy, inputs, targets, products=12)
    assert found.trace.value == pytest.approx(float(covariance.trace()))
    square = float(mean @ mean - covariance.trace() / 12)
    assert found.square_norm.value == pytest.approx(square)
    assert found.simple.value == pytest.approx(float(covariance.trace()) / square)
    whole, _ = explicit(model, F.cross_entropy, inputs, targets)
    scatter = float((whole @ covariance).trace())
    assert found.critical.value == pytest.approx(scatter / (float(mean @ whole @ mean) - scatter / 12))


def test_groups_are_unbiased(tanh):
    model, inputs, targets = tanh
    exact = gradient_noise_scale(model, F.cross_entropy, inputs, targets)
    found = [
        gradient_noise_scale(
            model, F.cross_entropy, inputs, targets, group_size=3, generator=torch.Generator().manual_seed(seed)
        )
        for seed in range(200)
    ]
    for name in ("trace", "square_norm"):
        values = torch.tensor([getattr(each, name).value for each in found])
        error = float(values.std()) / 200**0.5
        assert abs(float(values.mean()) - getattr(exact, name).value) <= 4 * error


@pytest.mark.slow
def test_errors_cover_over_samples():
    """A linear model of Gaussian inputs: both are known, and each sample states how far off it may be."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.ones(1, 5))
    # The gradient of (w - v) x x is of mean (w - v) = 1 and covariance |d|^2 I + d d^T: a trace of 5 * 5 + 5.
    covered = {"trace": 0, "square_norm": 0}
    for _ in range(200):
        x = torch.randn(300, 5).double()
        found = gradient_noise_scale(model, lambda f, y: (f - y).square().mean() / 2, x, torch.zeros(300, 1).double())
        for name, exact in (("trace", 30.0), ("square_norm", 5.0)):
            each = getattr(found, name)
            covered[name] += abs(each.value - exact) <= 1.96 * each.standard_error
    assert min(covered.values()) >= 180


def test_what_is_no_mean_is_refused(tanh):
    model, inputs, targets = tanh
    with pytest.raises(ValueError, match=r"must be the mean over the examples.*reduction='sum'"):
        gradient_noise_scale(model, nn.CrossEntropyLoss(reduction="sum"), inputs, targets)
    with pytest.raises(ValueError, match="at least three groups of 5 examples, got 12"):
        gradient_noise_scale(model, F.cross_entropy, inputs, targets, group_size=5)
    with pytest.raises(ValueError, match="`products` must be 0"):
        gradient_noise_scale(model, F.cross_entropy, inputs, targets, products=1)
    with pytest.raises(ValueError, match=r"one shape \(m,\)"):
        noise_scale(torch.ones(2), torch.ones(2))


def test_weights_are_seen_though_all_losses_are_alike(tanh):
    model, inputs, targets = tanh
    with torch.no_grad():
        model[-1].weight.zero_(), model[-1].bias.zero_()
    weight = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="are examples weighted"):
        gradient_noise_scale(model, nn.CrossEntropyLoss(weight), inputs, targets)


def products(gradients):
    return MicroBatches(gradients.square().sum(1), (gradients * (gradients.cumsum(0) - gradients)).sum(1))


@pytest.mark.parametrize("count", [4, 9])
def test_micro_batches_give_the_same_as_their_gradients(count):
    gradients = torch.randn(count, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.7
    expected, _, _ = noise_scale(gradients.square().sum(1), gradients @ gradients.mean(0))
    assert accumulated_noise_scale(products(gradients)).value == pytest.approx(expected.value, rel=1e-12)
    scaled = accumulated_noise_scale(products(1e3 * gradients))  # a gradient scaler's
    assert scaled == pytest.approx(accumulated_noise_scale(products(gradients)))


def test_too_few_micro_batches_and_none_that_differ():
    with pytest.raises(ValueError, match=r"at least four gradients, got \(3,\)"):
        accumulated_noise_scale(products(torch.ones(3, 2)))
    assert accumulated_noise_scale(products(torch.ones(4, 2))) == (0.0, 0.0)
    opposite = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert accumulated_noise_scale(products(opposite)) == (math.inf, math.inf)


def of_ranks(gradients):
    """Squares of rank 0's gradient and of the average. Shape of the gradients: (updates, ranks, parameters)."""
    return gradients[:, 0].square().sum(1), gradients.mean(1).square().sum(1), gradients.shape[1]


def test_ranks_in_closed_form():
    updates = torch.tensor([[[3.0, 1.0], [3.0, -1.0]], [[3.0, -2.0], [3.0, 2.0]]], dtype=torch.float64)
    gradients = updates.repeat(2, 1, 1)
    found = rank_noise_scale(*of_ranks(gradients))
    assert found.value == pytest.approx(5 / (9 - 2.5))  # variances 2 and 8, as |e|^2 of G + e and G - e is 1 and 4
    assert rank_noise_scale(*of_ranks(1e3 * gradients)) == pytest.approx(found)  # a gradient scaler's
    trace, norm = torch.tensor([2.0, 8.0, 2.0, 8.0]).double(), torch.tensor([8.0, 5.0, 8.0, 5.0]).double()
    bound = found.value + 1.96 * found.standard_error  # at which the mean is as far from 0 as its own error
    assert float((trace - bound * norm).mean()) == pytest.approx(-1.96 * spread(trace - bound * norm), rel=1e-6)


def test_ranks_that_see_the_same_and_ranks_without_a_common_gradient():
    one = torch.ones(4, 3, 2, dtype=torch.float64)
    assert rank_noise_scale(*of_ranks(one)) == (0.0, 0.0)
    opposite = torch.tensor([[[1.0], [-1.0]]] * 4)
    assert rank_noise_scale(*of_ranks(opposite)) == (math.inf, math.inf)
    with pytest.raises(ValueError, match=r"at least four updates, got \(3,\)"):
        rank_noise_scale(torch.ones(3), torch.ones(3), 2)
    with pytest.raises(ValueError, match="`ranks` must be an integer from 2 on, got 1"):
        rank_noise_scale(torch.ones(4), torch.ones(4), 1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("updates", [4, 8])
@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("size", [1, 8, 100])
def test_errors_of_ranks_cover(size, ranks, updates, scale):
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        mean = torch.randn(size, generator=generator).double()
        mean *= math.sqrt(size / scale) / mean.norm()
        found = rank_noise_scale(*of_ranks(mean + torch.randn(updates, ranks, size, generator=generator).double()))
        covered += found.standard_error == math.inf or abs(found.value - scale) <= 1.96 * found.standard_error
    assert covered >= 0.9 * 400


@pytest.mark.slow
@pytest.mark.parametrize("common", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("size", [30, 300])
@pytest.mark.parametrize("count", [4, 8, 32])
def test_errors_of_micro_batches_cover(count, size, common):
    """Of normal gradients, whose covariance has eigenvalues over three decades: a participation ratio from 8 on."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -1.5, size, dtype=torch.float64)
    mean = torch.randn(size, generator=generator, dtype=torch.float64)
    mean *= common * scale.norm() / mean.norm()
    truth, covered = float(scale.square().sum() / mean.square().sum()), 0
    for _ in range(400):
        found = accumulated_noise_scale(products(mean + scale * torch.randn(count, size, generator=generator).double()))
        covered += found.standard_error == math.inf or abs(found.value - truth) <= 1.96 * found.standard_error
    assert covered >= 0.9 * 400


def test_an_error_that_is_not_known_is_infinite():
    """Where without one of the groups the gradient is not told from 0."""
    inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, (24,), generator=torch.Generator().manual_seed(1))
    errors = []
    for seed in range(30):
        torch.manual_seed(seed)
        found = gradient_noise_scale(nn.Linear(6, 3), F.cross_entropy, inputs, targets).simple
        errors.append(found.standard_error)
    assert not any(map(math.isnan, errors)) and any(map(math.isinf, errors))
