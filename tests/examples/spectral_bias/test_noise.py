"""The criterion of Experiment 3 passes on curves as published and fails on others."""

import math

import pytest
import torch

from examples.frame.classification import Samples
from examples.spectral_bias.noise import PRESETS, Curves, judge, target

SETTINGS = PRESETS["quick"].settings
LOW, HIGH = SETTINGS.frequencies[0], SETTINGS.frequencies[-1]


def curves(lowest: float, last: float) -> Curves:
    validation = torch.tensor([1.0, lowest, last]).numpy()
    return Curves(torch.tensor([0, 90, 400]).numpy(), validation, validation)


def seed(low: tuple[float, float] = (0.215, 0.306), high: tuple[float, float] = (0.187, 0.496)):
    """Validation errors at the dip and at the end, under noise of the lowest and of the highest frequency."""
    between = [noise for noise in SETTINGS.noises if noise[0] not in (LOW, HIGH)]
    noisy = {(k, beta): curves(*pair) for k, pair in ((LOW, low), (HIGH, high)) for beta in SETTINGS.amplitudes}
    return {noise: curves(0.1, 0.1) for noise in between} | noisy


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"low": (0.187, 0.496), "high": (0.215, 0.306)}, False),  # the frequencies exchanged
        ({"low": (0.187, 0.496)}, False),  # white noise at both
        ({"low": (0.187, 0.187), "high": (0.187, 0.27)}, False),
        ({"low": (0.187, 0.187), "high": (0.187, 0.29)}, True),
    ],
)
def test_high_frequency_noise_must_be_learned_after_a_deeper_dip(changed, passed):
    assert [finding.passed for finding in judge(SETTINGS, [seed(**changed)])] == [passed, None]


def test_a_wave_is_added_to_the_target_whose_period_is_one_over_k():
    samples = Samples(torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]), torch.tensor([[-1.0], [1.0], [1.0]]))
    noisy = target(samples, (0.5, 2.0))  # norms 0, 1/2, 1: no period, a quarter, a half
    torch.testing.assert_close(noisy, torch.tensor([[-1.0], [3.0], [1.0 + 2 * math.sin(math.pi)]]))


def test_panels_take_the_lowest_and_highest_frequency_and_the_two_highest_amplitudes():
    panels = PRESETS["paper"].settings.panels
    assert {k for k, _ in panels["a"]} == {0.05} and {k for k, _ in panels["b"]} == {1.0}
    assert {beta for _, beta in panels["c"]} == {0.5} and {beta for _, beta in panels["d"]} == {1.0}
