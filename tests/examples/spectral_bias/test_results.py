"""The criteria of Experiment 1 pass on networks that learn in order and fail on others."""

import math

import numpy as np

from examples.spectral_bias.learning_order import PRESETS
from examples.spectral_bias.results import Fit, concordance, judge

FREQUENCIES = np.arange(5.0, 35, 5)  # floats, as they come back from the files


def test_pairs_that_are_never_reached_or_reached_together_are_no_order():
    assert concordance(np.array([1, 3, 2, math.inf, math.inf])) == (8 / 9, 9)
    assert concordance(np.array([4, 3, 2, 1])) == (0, 6)
    assert concordance(np.array([1, 2, 2, 3])) == (1, 5)
    assert concordance(np.full(3, math.inf)) == (0, 0)


def fit(times: list[float], phase_error: float = 0.0, growth: float = 10.0) -> Fit:
    """A network that learns frequency i all at once, at ``times[i]``; the loss falls all the time."""
    n, steps = 100, np.arange(0, 6000, 25)
    z = np.arange(n) / n
    learned = 1 / (1 + np.exp(np.clip((np.array(times) - steps[:, None]) / 20, -50, 50)))  # (T, K), 0.5 at its time
    waves = np.sin(2 * np.pi * FREQUENCIES[:, None] * z)
    shifted = np.sin(2 * np.pi * FREQUENCIES[:, None] * z + phase_error)
    norms = np.ones((len(steps), 6)) * np.linspace(1, growth, len(steps))[:, None]
    learnt = learned @ shifted
    return Fit(FREQUENCIES, steps, learned, [f"linear{i}" for i in range(1, 7)], norms, learnt, waves.sum(0))


# A frequency in each eighth of training: the loss falls in each of them.
ORDERED = [200.0, 1000.0, 1800.0, 2500.0, 3300.0, 5600.0]


def verdicts(*fits: Fit) -> list[bool | None]:
    return [
        finding.passed
        for finding in judge(PRESETS["quick"].settings, [{"equal": one, "increasing": one} for one in fits])
    ]


def test_a_network_that_learns_low_frequencies_first_passes_the_order():
    assert verdicts(fit(ORDERED))[:4] == [True, True, True, True]


def test_a_shuffled_frequency_axis_fails_the_order():
    assert verdicts(fit([ORDERED[i] for i in (2, 0, 4, 1, 5, 3)]))[0] is False


def test_frequencies_of_which_most_are_never_reached_fail_the_order():
    assert verdicts(fit([200.0, 1800.0, 1e9, 1e9, 1e9, 1e9]))[0] is False


def test_frequencies_learned_at_once_fail_the_order():
    assert verdicts(fit([2000.0] * 6))[0] is False


def test_frequencies_learned_in_order_but_soon_after_each_other_fail_the_order():
    times = [1000.0, 1500.0, 2500.0, 4000.0, 5000.0, 5900.0]
    assert verdicts(fit(times))[0] is False and verdicts(fit([600.0, *times[1:]]))[0] is True


def test_a_lowest_amplitude_far_from_its_target_fails_for_equal_amplitudes_only():
    good = fit(ORDERED)
    off = Fit(**{**vars(good), "amplitude": good.amplitude * [1.2, 1, 1, 1, 1, 1]})
    assert [verdicts(off)[index] for index in (0, 2)] == [False, True]


def test_a_network_that_learns_nothing_fails_the_order():
    assert verdicts(fit([1e9] * 6))[0] is False


def test_norms_that_hardly_grow_fail():
    assert verdicts(fit(ORDERED, growth=2.9))[1] is False


def test_one_seed_in_five_may_fail_but_not_one_in_three():
    good, bad = fit(ORDERED), fit(ORDERED[::-1])
    assert verdicts(good, good, good, good, bad)[0] is True
    assert verdicts(good, good, bad)[0] is False


def test_a_learnt_function_out_of_phase_fails_the_low_pass_check():
    # Half the amplitude missing is a quarter of the energy, at the moment the first frequency is reached.
    assert fit(ORDERED).missing_energy()[-1] < 0.01 and verdicts(fit(ORDERED))[4] is True
    assert verdicts(fit(ORDERED, phase_error=0.8))[4] is False


def test_a_loss_that_rises_fails():
    rising = fit(ORDERED)
    assert verdicts(Fit(**{**vars(rising), "learnt": rising.learnt[::-1]}))[5:] == [False, False]
