"""The partition function over pairs, its limit of log n, and how a critic is made less sure of itself."""

import math

import pytest
import torch

from probes_mine.product import draw_product, log_partition, tempered


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_shifts_make_the_mean_over_all_pairs_of_different_samples():
    table = 3 * normal(8, 8)
    product = draw_product(torch.arange(8)[None], 64, 8, torch.Generator().manual_seed(0))
    assert sorted(product.shifts) == list(range(1, 8)) and product.copies is None
    marginal = torch.stack([torch.stack([table[i, i - s] for i in range(8)]) for s in product.shifts])
    found = log_partition(table.diagonal()[None], marginal[None], product)
    others = [float(table[i, j].exp()) for i in range(8) for j in range(8) if i != j]
    assert float(found) == pytest.approx(math.log(sum(others) / 56), abs=1e-12)
    steep = table + torch.diag(torch.full((8,), 9.0, dtype=torch.float64))
    found = log_partition(steep.diagonal()[None], marginal[None], product)
    assert float(found) == pytest.approx(math.log(float(steep.diagonal().exp().sum()) / 64), abs=1e-12)


@pytest.mark.parametrize("height", [1.0, 30.0, 1000.0])
def test_a_value_is_at_most_the_logarithm_of_the_number_of_samples(height):
    product = draw_product(torch.arange(10)[None], 64, 50, torch.Generator().manual_seed(0))
    joint, marginal = height * torch.ones(1, 10), -height * torch.ones(1, 9, 10)
    value = float(joint.mean() - log_partition(joint, marginal, product))
    assert value == pytest.approx(min(2 * height, math.log(50)), abs=1e-3)  # float32 at 1000


def test_pairs_of_copies_are_left_out():
    groups = torch.tensor([[0, 1, 0, 2, 3]])
    product = draw_product(groups, 64, 4, torch.Generator().manual_seed(0))
    joint, marginal = normal(1, 5), normal(1, 4, 5, seed=1)
    assert product.copies.sum() == 2
    wild = marginal.masked_fill(product.copies, 1e6)
    assert torch.equal(log_partition(joint, wild, product), log_partition(joint, marginal, product))
    others = [float(marginal[0, s, i].exp()) for s in range(4) for i in range(5) if not product.copies[0, s, i]]
    assert sum(others) / 18 > 0.25 * float(joint.exp().mean())
    expected = math.log(sum(others) / 18)
    assert float(log_partition(joint, marginal, product)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("best", [0.1, 0.5, 0.9])
def test_a_critic_is_scaled_to_where_its_value_is_greatest(best):
    assert tempered(lambda s: best**2 - (s - best) ** 2) == pytest.approx(best, abs=0.005)


def test_a_critic_of_no_use_becomes_the_trivial_one():
    assert tempered(lambda s: -s) == tempered(lambda s: 0.0) == 0.0
    assert tempered(lambda s: 2 * s) == 1.0
