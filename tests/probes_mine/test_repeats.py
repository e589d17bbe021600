"""Copies of samples: told from values that repeat by themselves, kept in one fold, and counted once in an error."""

import math

import pytest
import torch

from probes_mine import repeated_rows
from probes_mine.cross_fitting import split
from probes_mine.repeats import clustered_standard_error


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count(x, y):
    return int(repeated_rows(x, y).max()) + 1


@pytest.mark.parametrize("d", [1, 3])
def test_copies_of_whole_samples_are_found(d):
    x, y, order = (
        normal(200, d),
        normal(200, d, seed=1),
        torch.randperm(600, generator=torch.Generator().manual_seed(0)),
    )
    rows = torch.arange(200).repeat(3)[order]
    groups = repeated_rows(x[rows], y[rows])
    assert torch.equal(groups[:, None] == groups, rows[:, None] == rows)
    assert sorted(set(groups.tolist())) == list(range(200))


def test_an_oversampled_minority_is_found():
    x, label = normal(500, 2), (normal(500, 1, seed=1) > 1.3).double()
    rows = torch.cat([torch.arange(500), label[:, 0].nonzero()[:, 0].repeat(8)])
    assert count(x[rows], label[rows]) == 500
    assert count(x[rows, :1], label[rows]) == 500


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (normal(1000, 1), normal(1000, 1, seed=1)),
        (normal(1000, 1).round(), normal(1000, 1, seed=1).round()),
        ((10 * normal(1000, 1)).round(), (10 * normal(1000, 1, seed=1)).round()),
        (normal(1000, 2).round(), normal(1000, 2, seed=1).round()),
        (normal(1000, 1).clamp_min(1.5), normal(1000, 1, seed=1).clamp_min(1.5)),
        (normal(1000, 1).clamp_min(1.5), normal(1000, 1).clamp_min(1.5)),
        ((10 * normal(1000, 1)).round(), (normal(1000, 1, seed=1) > 0).double()),
    ],
    ids=["continuous", "integers", "fine integers", "lattice", "mostly zero", "both mostly zero", "labels"],
)
def test_values_that_repeat_by_themselves_are_no_copies(x, y):
    assert count(x, y) == 1000


def test_one_row_with_two_labels_is_one_sample():
    x = normal(300, 4).repeat(2, 1)
    assert count(x, torch.arange(600).double()[:, None] % 2) == 300


def test_folds_share_no_group():
    groups = torch.cat([torch.arange(50), torch.arange(10).repeat(7), torch.full((20,), 3)])
    folds = split(len(groups), 5, torch.Generator().manual_seed(0), groups)
    assert folds.test.shape == (5, 28) and folds.test.flatten().unique().numel() == 140
    for train, test in zip(*folds, strict=True):
        assert not set(groups[train].tolist()) & set(groups[test].tolist())
        assert train.unique().numel() == len(train) == 112


def test_groups_of_one_are_no_groups():
    one, other = (split(33, 4, torch.Generator().manual_seed(2), groups) for groups in (None, torch.arange(33)))
    assert torch.equal(one.test, other.test) and torch.equal(one.train, other.train)


def test_an_error_is_that_of_the_means_of_groups():
    terms = normal(60)
    assert clustered_standard_error(terms, torch.arange(60)) == pytest.approx(float(terms.std()) / math.sqrt(60))
    sums = terms.view(20, 3).sum(1)
    # The mean is the mean of sums of three, over three: all as large.
    expected = float(sums.std()) / 3 / math.sqrt(20)
    assert clustered_standard_error(terms, torch.arange(20).repeat_interleave(3)) == pytest.approx(expected)
    assert math.isnan(clustered_standard_error(terms, torch.zeros(60, dtype=torch.long)))
