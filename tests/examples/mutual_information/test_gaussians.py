"""The criteria of Fig. 5.1: what MINE must find, and what it must not be taken for."""

import math

import pytest

from examples.mutual_information.gaussians import METHODS, PRESETS, cells, judge

SETTINGS = PRESETS["quick"].settings


def seed(mine=lambda truth: truth, near=lambda truth: 0.3 * truth, settings=SETTINGS):
    """The estimates of one seed; only MINE and the nearest neighbours are judged."""
    found = {}
    for d, rho in cells(settings):
        truth = -d * math.log(1 - rho**2) / 2
        found[f"{d}, {rho:g}"] = (
            {"truth": truth} | dict.fromkeys(METHODS, truth) | {"MINE": mine(truth), "KSG": near(truth)}
        )
    return found


def verdicts(*seeds):
    return [finding.passed for finding in judge(SETTINGS, seeds)]


def test_estimates_near_the_truth_pass():
    assert all(verdicts(seed(), seed(lambda truth: 0.97 * truth), seed()))


@pytest.mark.parametrize(
    ("mine", "near"),
    [
        (lambda truth: 0.0, lambda truth: 0.0),  # shuffled pairs: no information
        (lambda truth: 0.3 * truth, lambda truth: 0.3 * truth),  # the nearest neighbours in MINE's place
        (lambda truth: truth, lambda truth: 0.9 * truth),  # neighbours that find as much
        (
            lambda truth: 2 * truth,
            lambda truth: 0.3 * truth,
        ),  # the natural logarithm of the square, or a bound exceeded
        (lambda truth: truth / math.log(2), lambda truth: 0.3 * truth),  # bits
    ],
)
def test_a_mutation_fails(mine, near):
    assert not all(verdicts(seed(mine, near), seed(mine, near), seed(mine, near)))


def test_what_mine_loses_of_much_information_is_judged_too():
    settings = PRESETS["paper"].settings
    short = seed(lambda truth: min(truth, 5.0), lambda truth: min(0.3 * truth, 4.0), settings)
    found = {finding.quantity: finding.passed for finding in judge(settings, [short] * 3)}
    assert [found[f"Fig. 5.1: 20 dimensions, correlation {rho}"] for rho in (0.5, 0.9)] == [True, False]


def test_a_bound_above_the_truth_fails_at_every_correlation():
    *cells_, above = judge(SETTINGS, [seed(lambda truth: truth + 0.11)] * 3)
    assert (
        above.passed is False
        and above.values
        and not any(finding.passed for finding in cells_ if finding.quantity.startswith("Fig. 5.1: 1 "))
    )
