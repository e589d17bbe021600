"""Screening of components: what is found, what is not, what a critic sees larger, and that no test row is looked at."""

import math

import pytest
import torch

from probes_mine.cross_fitting import split
from probes_mine.screening import NUM_COSINES, cosines, dependent_components, emphasis


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def screened(x, y, seed=0):
    folds = split(len(x), 5, torch.Generator().manual_seed(seed))
    return dependent_components(x.expand(5, -1, -1), y.expand(5, -1, -1), folds.train)


def test_cosines_are_orthonormal_for_normal_scores():
    # At the quantiles of equal parts, sums of cosines vanish but for rounding.
    scores = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)[:, None]
    functions = cosines(scores)
    torch.testing.assert_close(functions.T @ functions / 1000, torch.eye(NUM_COSINES, dtype=torch.float64))
    assert functions.mean(0).abs().max() < 1e-12


@pytest.mark.parametrize(
    "function",
    [lambda x: x[:, 2], lambda x: x[:, 2].abs(), lambda x: (3 * x[:, 2]).sin(), lambda x: x[:, 2] * x[:, 2]],
    ids=["linear", "absolute", "sine", "square"],
)
def test_the_one_pair_that_depends_is_found(function):
    x, y = normal(1000, 10), normal(1000, 12, seed=1)
    y[:, 5] = torch.special.ndtri((function(x).argsort().argsort() + 0.5) / 1000) + 0.3 * y[:, 5]
    of_x, of_y = screened(x, y)
    assert (of_x > 0).nonzero()[:, 1].tolist() == [2] * 5
    assert (of_y > 0).nonzero()[:, 1].tolist() == [5] * 5


def test_among_independent_components_something_is_found_in_few_of_a_hundred_draws():
    found = 0
    for seed in range(100):
        x, y = normal(1, 400, 6, seed=seed), normal(1, 400, 6, seed=1000 + seed)
        found += bool(dependent_components(x, y, torch.arange(400)[None])[0].any())
    assert found <= 5  # one in a hundred is expected: more than five in less than one of a thousand sets of draws


def test_a_strength_is_that_of_the_squared_correlations_of_the_training_rows():
    x, y = normal(500, 2), normal(500, 1, seed=1)
    y = 0.9 * x[:, 1:] + math.sqrt(0.19) * y
    folds = split(500, 5, torch.Generator().manual_seed(0))
    of_x, of_y = dependent_components(x.expand(5, -1, -1), y.expand(5, -1, -1), folds.train)
    for rows, one, other in zip(folds.train, of_x, of_y, strict=True):
        u, v = (math.pi * torch.special.ndtr(side[rows]) for side in (x[:, 1], y[:, 0]))
        expected = 0.0
        for j in range(1, NUM_COSINES + 1):
            for k in range(1, NUM_COSINES + 1):
                expected += float(torch.corrcoef(torch.stack([(j * u).cos(), (k * v).cos()]))[0, 1]) ** 2
        assert one.tolist() == [0.0, pytest.approx(expected)]
        assert other.tolist() == [pytest.approx(expected)]


def test_copies_do_not_count_twice():
    x, y = normal(100, 3), normal(100, 3, seed=1)
    rows = torch.arange(100).repeat(20)
    alone = dependent_components(x[rows][None], y[rows][None], torch.arange(2000)[None])
    assert alone[0].any()  # as if all of them were different
    assert not dependent_components(x[rows][None], y[rows][None], torch.arange(2000)[None], 1 / 20)[0].any()


def test_emphasis_is_one_where_all_or_none_depend():
    for strength in (torch.zeros(2, 3), torch.ones(2, 3)):
        torch.testing.assert_close(emphasis(strength, 2), torch.ones(2, 1, 5))
    weights = emphasis(torch.tensor([[1.0, 0.0]]), 1, others_matter=False)[0, 0]
    assert weights[0] == pytest.approx(100 * float(weights[1])) and weights[2] == weights[1]
