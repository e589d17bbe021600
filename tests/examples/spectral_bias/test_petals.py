"""The criteria of Experiment 6."""

import numpy as np
import pytest
import torch

from examples.spectral_bias.fitting import flower
from examples.spectral_bias.petals import PRESETS, Result, judge
from examples.spectral_bias.waves import samples, square

SETTINGS = PRESETS["quick"].settings


def result(circle: float = 0.6, petals: float = 0.8, larger: float = 0.5, flipped: float = 0.2) -> Result:
    """Accuracies at the judged frequency, and the share of the square on which the two maps differ."""
    accuracy = np.full((3, 3), 0.9)
    accuracy[[0, -1], -1] = circle, petals
    maps = np.ones((2, 10, 10))
    maps[1].flat[: round(100 * flipped)] = -1
    return Result(accuracy, np.full(3, larger), [0.97, 0.9], maps, samples(20, 2, 4, 0))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (result(), [True, True]),
        (result(circle=0.8, petals=0.6), [False, True]),  # the curves exchanged
        (result(petals=0.69), [False, True]),
        (result(circle=0.5, petals=0.6, larger=0.6), [False, True]),  # it predicts the larger class
        (result(circle=0.5, petals=0.52), [False, True]),  # as with shuffled labels
        (result(flipped=0.05), [True, False]),
        (result(flipped=0.0), [True, False]),  # the same initialization twice
    ],
)
def test_petals_must_help_and_initializations_must_differ(found, verdict):
    assert [finding.passed for finding in judge(SETTINGS, [found])] == verdict


def test_a_frequency_of_which_ten_samples_make_a_period_has_equal_classes_and_a_small_odd_number_has_not():
    assert samples(500, 50, 0, 0).labels.mean() == 0.5
    assert samples(500, 100, 0, 0).labels.mean() in (torch.tensor(0.4), torch.tensor(0.6))


def test_curves_lie_within_the_square_on_which_functions_are_shown():
    assert flower(torch.arange(1000) / 1000, 20).abs().max() < square(4).abs().max() == 1.6
