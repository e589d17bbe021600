"""How many seeds must pass, standard deviation over seeds, and rank correlation."""

import math

import numpy as np
import pytest

from examples.frame.criteria import deviation, enough, spearman


def test_enough_is_all_but_one_fifth_rounded_down():
    least = [next(good for good in range(n + 1) if enough([True] * good + [False] * (n - good))) for n in range(1, 11)]
    assert least == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_deviation_is_unbiased_in_the_square_and_zero_of_one_seed():
    values = np.array([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]])
    assert deviation(values) == pytest.approx([math.sqrt((9 + 1 + 16) / 2), 0])
    assert deviation(values[:1]).tolist() == [0, 0]


def test_spearman_of_distinct_ranks_matches_the_textbook_formula():
    order = np.random.default_rng(0).permutation(9)
    expected = 1 - 6 * ((order - np.arange(9)) ** 2).sum() / (9 * (81 - 1))
    assert spearman(np.arange(9), order) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_ties_uses_mean_ranks():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert spearman([1, 2, 3, 4], [10, 20, 20, math.inf]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_spearman_of_a_constant_is_nan():
    assert math.isnan(spearman([1, 2, 3], [math.inf] * 3))
