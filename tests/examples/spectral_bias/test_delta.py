"""The criteria of Experiment 7."""

import numpy as np
import pytest
import torch

from examples.spectral_bias.delta import PRESETS, judge, title
from examples.spectral_bias.peaks import Learning, peak

SETTINGS = PRESETS["quick"].settings
N = SETTINGS.num_points


def learning(error: float) -> Learning:
    """A peak without its high frequencies, which lacks about this share of its energy."""
    spectrum = torch.fft.rfft(peak(N).double())
    spectrum[round((1 - error) * N / 2) + 1 :] = 0
    return Learning(np.array([0, 10_000]), np.stack([np.zeros(N), torch.fft.irfft(spectrum, n=N).numpy()]))


def seed(depth=(0.8, 0.0), width=(0.8, 0.5), clip=(0.83, 0.3)):
    ends = {"depth": depth, "width": width, "clip": clip}
    return {
        row: {value: learning(ends[row][0 if index == 0 else 1]) for index, value in enumerate(fittings)}
        for row, fittings in SETTINGS.rows.items()
    }


def verdicts(*seeds):
    return [finding.passed for finding in judge(SETTINGS, seeds)]


def spread(**changed):
    """Five seeds that differ a little."""
    ends = {"depth": (0.8, 0.0), "width": (0.8, 0.5), "clip": (0.83, 0.3)} | changed
    return [
        seed(**{row: (first * (1 - 0.01 * k), last * (1 + 0.01 * k)) for row, (first, last) in ends.items()})
        for k in range(-2, 3)
    ]


def test_the_spectrum_of_a_peak_is_one_over_the_number_of_points():
    found = learning(0.0)
    assert found.magnitude[-1] == pytest.approx(np.full(N // 2 + 1, 1 / N)) and found.reach(10_000) == N // 2


def test_a_low_passed_peak_reaches_up_to_its_cutoff_and_lacks_the_energy_above():
    spectrum = torch.fft.rfft(peak(N).double())
    spectrum[26:] = 0
    found = Learning(np.array([0]), torch.fft.irfft(spectrum, n=N)[None].numpy())
    assert found.reach(10_000) == 25 and found.error(10_000) == pytest.approx(1 - 51 / N)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, [True, True, True]),
        ({"depth": (0.6, 0.25)}, [False, True, True]),
        ({"depth": (0.0, 0.8)}, [False, False, True]),
        ({"width": (0.8, 0.65)}, [True, False, True]),  # as seeds alone differ
        ({"width": (0.5, 0.8)}, [True, False, True]),
        ({"width": (0.8, 0.05)}, [True, False, True]),  # no weaker than depth
        ({"clip": (0.6, 0.0)}, [True, True, False]),  # the tightest clip fits after all
        ({"clip": (0.83, 0.7)}, [True, True, False]),
        ({"clip": (0.3, 0.83)}, [True, True, False]),
    ],
)
def test_depth_width_and_clip_must_each_help(changed, verdict):
    assert verdicts(*spread(**changed)) == verdict


def test_a_row_that_fits_no_higher_frequencies_fails(monkeypatch):
    monkeypatch.setattr(Learning, "reach", lambda self, step: 20)
    assert verdicts(*spread()) == [False, False, False]


def test_frequencies_are_those_where_the_error_is_least():
    fitted = learning(0.0).values[-1]
    found = Learning(np.array([0, 5_000, 10_000]), np.stack([0 * fitted, fitted, 0 * fitted]))  # thrown off at the end
    assert found.error(10_000) == pytest.approx(0) and found.reach(10_000) == N // 2 and found.reach(0) == 0


def test_panels_have_the_letters_of_the_values_in_the_thesis():
    assert title("depth", 6) == "(d) depth = 6" and title("clip", 0.2) == "(c) clip = 0.2"


def test_a_mean_that_one_seed_makes_is_no_effect():
    assert verdicts(seed(depth=(0.9, 0.0)), *[seed(depth=(0.5, 0.5))] * 4)[0] is False
    assert verdicts(seed(), *spread(), seed(depth=(0.3, 0.5)))[0] is True  # nor does one seed against it undo one


def test_an_error_is_the_least_up_to_the_judged_step():
    early, late = learning(0.8), learning(0.0)
    values = np.stack([0 * early.values[-1], early.values[-1], early.values[0], late.values[-1]])
    found = Learning(np.array([0, 5_000, 10_000, 60_000]), values)
    assert found.error(10_000) == pytest.approx(0.8, abs=0.01) and found.error(60_000) == pytest.approx(0)
