"""Information of two classes against counts taken sample by sample, the plug-in, and independence."""

import math

import pytest
import torch

from probes_mine import categorical_information


def draw(n, k, seed=0):
    return torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(seed))


def test_each_term_leaves_its_sample_out():
    x, y = draw(30, 3), draw(30, 4, seed=1)
    found = categorical_information(x, y, smoothing=0.5)
    for i in range(30):
        others = [j for j in range(30) if j != i]
        p = sum(int(y[j]) == int(y[i]) for j in range(30)) / 30
        same = [j for j in others if int(x[j]) == int(x[i])]
        q = (sum(int(y[j]) == int(y[i]) for j in same) + 0.5 * p) / (len(same) + 0.5)
        assert float(found[i]) == pytest.approx(math.log(q / p), rel=1e-12)


def test_independent_classes_do_not_look_dependent_however_many():
    x, y = draw(5000, 30), draw(5000, 30, seed=1)
    counts = torch.bincount(30 * x + y, minlength=900).view(30, 30).double() / 5000
    outer = counts.sum(1, keepdim=True) * counts.sum(0)
    plug_in = float(torch.special.xlogy(counts, counts / outer).sum())
    assert plug_in > 0.07
    assert -0.15 < float(categorical_information(x, y, smoothing=1.0).mean()) < 0.01
    assert 0 <= float(categorical_information(x, y).mean()) < 0.01


def test_approaches_the_plug_in_for_many_samples():
    x = draw(50_000, 3)
    y = torch.where(draw(50_000, 2, seed=1) == 0, x, draw(50_000, 3, seed=2))
    counts = torch.bincount(3 * x + y, minlength=9).view(3, 3).double() / 50_000
    plug_in = float(torch.special.xlogy(counts, counts / (counts.sum(1, keepdim=True) * counts.sum(0))).sum())
    assert float(categorical_information(x, y).mean()) == pytest.approx(plug_in, abs=3e-4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="same shape"):
        categorical_information(draw(5, 2), draw(4, 2))


def test_independent_classes_are_never_below_zero():
    for seed in range(20):
        x, y = draw(50 + 30 * seed, 8, seed), draw(50 + 30 * seed, 5, seed + 100)
        terms = categorical_information(x, y)
        assert 0 <= float(terms.mean()) < 2.5 * float(terms.std()) / math.sqrt(len(x)) + 1e-12


def test_groups_are_left_out_whole():
    x, y, groups = draw(40, 3), draw(40, 2, seed=1), draw(40, 15, seed=2)
    found = categorical_information(x, y, smoothing=2.0, groups=groups)
    for i in range(40):
        others = [j for j in range(40) if groups[j] != groups[i]]
        p = sum(int(y[j] == y[i]) for j in range(40)) / 40
        same = [j for j in others if x[j] == x[i]]
        q = (sum(int(y[j] == y[i]) for j in same) + 2 * p) / (len(same) + 2)
        assert float(found[i]) == pytest.approx(math.log(q / p), rel=1e-12)
    # Pairs of independent classes, ten times: each pair says itself unless its copies are left out with it.
    x, y, groups = draw(50, 20).repeat(10), draw(50, 20, seed=1).repeat(10), torch.arange(50).repeat(10)
    assert float(categorical_information(x, y).mean()) > 0.5
    assert float(categorical_information(x, y, groups=groups).mean()) < 0.05
