"""The criteria of Experiment 5."""

import numpy as np
import pytest

from examples.spectral_bias.manifold import PRESETS, Learning, judge

SETTINGS = PRESETS["quick"].settings
FREQUENCIES = np.array(SETTINGS.frequencies)


def learning(high: float, error: float, low: float = 0.9) -> Learning:
    amplitude = np.where(FREQUENCIES >= 60, high, low) * np.ones((2, 1)) * [[0.0], [1.0]]
    return Learning(FREQUENCIES, np.array([0, 1000]), amplitude, np.array([error, error]))


def seed(circle: Learning, flower: Learning) -> dict[int, Learning]:
    return {0: circle, 4: circle, 10: flower, 16: flower}


CIRCLE, FLOWER = learning(0.08, 3.3), learning(0.7, 0.7)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (seed(CIRCLE, FLOWER), [True, True]),
        (seed(FLOWER, CIRCLE), [False, False]),  # the curves exchanged
        (seed(CIRCLE, CIRCLE), [False, False]),  # the shape of the curve does not matter
        (seed(CIRCLE, learning(0.45, 0.7)), [False, True]),
        (seed(CIRCLE, learning(0.7, 2.0)), [True, False]),
    ],
)
def test_more_petals_must_help_high_frequencies_and_the_error(found, verdict):
    assert [finding.passed for finding in judge(SETTINGS, [found])] == verdict


def test_a_reversed_frequency_axis_fails():
    reversed_axis = [Learning(one.frequencies, one.steps, one.amplitude[:, ::-1], one.loss) for one in (CIRCLE, FLOWER)]
    assert judge(SETTINGS, [seed(*reversed_axis)])[0].passed is False


def test_a_loss_that_leaps_at_one_step_counts_as_those_beside_it():
    loss = np.r_[np.full(10, 5.0), np.full(9, 1.0), 3.0, 0.1]
    found = Learning(FREQUENCIES, np.arange(0, 1050, 50), np.ones((21, len(FREQUENCIES))), loss)
    assert found.loss_until(950) == 1.0


def test_every_seed_must_pass():
    good, bad = seed(CIRCLE, FLOWER), seed(CIRCLE, learning(0.3, 2.0))
    assert [finding.passed for finding in judge(SETTINGS, [good] * 9 + [bad])] == [False, False]
