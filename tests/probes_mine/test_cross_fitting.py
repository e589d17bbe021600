"""Stacked networks against one at a time, folds, the average of weights, and when training ends."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from probes_mine.critics import StackedClassifiers, StackedCritics
from probes_mine.cross_fitting import WeightAverage, fit, split


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomized(module, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return module


def test_folds_are_a_partition():
    folds = split(23, 4, torch.Generator().manual_seed(0))
    assert folds.test.shape == (4, 5) and folds.train.shape == (4, 18)
    for train, test in zip(*folds, strict=True):
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(23))


@torch.no_grad()
def test_critics_match_each_pair_by_itself():
    critics = randomized(StackedCritics(2, 3, 4, torch.Generator().manual_seed(0), width=5))
    x, y = draw(2, 6, 3), draw(2, 6, 4, seed=1)
    a, b, c, v = draw(2, 6, seed=2), draw(2, 6, seed=3), draw(2, 6, 2, seed=4), draw(2, 6, 2, seed=5)
    joint, marginal = critics(x, y, (a, b, c, v), [2, 5])
    assert joint.shape == (2, 6) and marginal.shape == (2, 2, 6)

    def one(m, i, j):
        def linear(layer, values):
            return values @ layer.weight[m] + layer.bias[m, 0]

        f, g = (
            linear(critics.bypass[k], side[m, row])
            + linear(critics.sides[k], silu(linear(critics.hidden[k], side[m, row])))
            for k, (side, row) in enumerate(((x, i), (y, j)))
        )
        network = linear(critics.output, silu(linear(critics.joint, silu(f + g))))[0]
        return network + critics.scale[m, 0, 0] * (a[m, i] + b[m, j] + c[m, i] @ v[m, j])

    for m in range(2):
        for i in range(6):
            assert float(joint[m, i]) == pytest.approx(float(one(m, i, i)), abs=1e-4)
            assert float(marginal[m, 0, i]) == pytest.approx(float(one(m, i, (i - 2) % 6)), abs=1e-4)
            assert float(marginal[m, 1, i]) == pytest.approx(float(one(m, i, (i - 5) % 6)), abs=1e-4)


def test_they_start_at_the_gaussian():
    critics = StackedCritics(2, 3, 4, torch.Generator().manual_seed(0), offset=1.0)
    a, b, c, v = draw(2, 6, seed=2), draw(2, 6, seed=3), draw(2, 6, 2, seed=4), draw(2, 6, 2, seed=5)
    joint, _ = critics(draw(2, 6, 3), draw(2, 6, 4), (a, b, c, v), [1])
    assert torch.allclose(joint, 1 + a + b + (c * v).sum(2))
    assert StackedClassifiers(2, 3, 4, torch.Generator().manual_seed(0))(draw(2, 6, 3)).abs().max() == 0


def test_average_is_that_of_the_steps_and_is_put_back():
    layer = nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(layer, 0.9), layer.weight.item()
    for step in range(1, 60):
        with torch.no_grad():
            layer.weight.fill_(float(step % 7))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected, rel=1e-5)
    assert layer.weight.item() == 59 % 7


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2, 1))


def test_training_ends_when_nothing_improves_and_keeps_the_best():
    point, train = Point(), torch.arange(10).repeat(2, 1)
    seen = []

    def held_out():
        seen.append(float(point.at.detach().mean()))
        return -abs(seen[-1] - 0.25)

    done = fit(point, lambda rows: (point.at - 1).square().sum(), held_out, train, torch.Generator().manual_seed(0),
               learning_rate=0.02, every=5, patience=3)  # fmt: skip
    assert done.converged and done.steps == done.best_step + 15
    assert float(point.at.detach().mean()) == pytest.approx(seen[done.best_step // 5], abs=1e-6)
    assert 0 < done.best_step < done.steps


def test_training_that_does_not_end_says_so():
    point, train = Point(), torch.arange(10).repeat(2, 1)
    done = fit(point, lambda rows: (point.at - 1e6).square().sum(), lambda: float(point.at.detach().sum()), train,
               torch.Generator().manual_seed(0), max_steps=40, every=10)  # fmt: skip
    assert not done.converged and done.steps == 40


def test_a_loss_that_explodes_leaves_what_was_best():
    point, train = Point(), torch.arange(10).repeat(2, 1)
    done = fit(point, lambda rows: (point.at * float("nan")).sum(), lambda: float(point.at.detach().sum()), train,
               torch.Generator().manual_seed(0), every=5)  # fmt: skip
    assert done.best_step == 0 and not done.converged and point.at.isfinite().all()


def test_nothing_but_the_network_gets_a_gradient():
    point, train, outside = Point(), torch.arange(10).repeat(2, 1), torch.ones(1, requires_grad=True)
    fit(point, lambda rows: (point.at - outside).square().sum(), lambda: 0.0, train, torch.Generator().manual_seed(0),
        max_steps=2)  # fmt: skip
    assert outside.grad is None
