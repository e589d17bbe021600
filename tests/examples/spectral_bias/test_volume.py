"""The criteria of Def. A.1 and Prop. A.6."""

import dataclasses

import numpy as np
import pytest
import torch

from examples.spectral_bias import volume
from examples.spectral_bias.volume import EXPERIMENT, PRESETS, amplitudes

SETTINGS = PRESETS["quick"].settings
K = np.arange(1, 65)


@pytest.mark.parametrize(
    ("at", "beyond", "verdicts"),
    [
        (1 / K**3, np.where(K < 20, 1 / K**3, 0), [True, True, True]),
        (1 / K**3, np.where(K < 20, 0.4 / K, 0), [True, False, True]),  # slower than the bound
        (np.ones(64), np.ones(64), [False, False, False]),  # white noise
        (K / 64, K[::-1] / 640, [False, False, False]),  # high frequencies are the common ones
    ],
)
def test_share_falls_with_the_frequency(at, beyond, verdicts):
    seed = {"k": K, "at": at, "beyond": beyond}
    assert [finding.passed for finding in EXPERIMENT.judge(SETTINGS, [seed])] == verdicts


def test_criteria_fail_for_functions_of_white_noise(monkeypatch):
    settings = dataclasses.replace(SETTINGS, num_networks=200, num_points=256)
    noise = lambda settings, count, generator: torch.randn(count, settings.num_points + 1, generator=generator)  # noqa: E731
    monkeypatch.setattr(volume, "random_functions", noise)
    seed = {name: np.asarray(array) for name, array in volume.measure(settings, 0).items()}
    assert not any(finding.passed for finding in EXPERIMENT.judge(settings, [seed]))


def test_amplitude_of_a_sine_on_a_line_is_that_of_the_sine():
    z = torch.linspace(0, 1, 65, dtype=torch.float64)
    measured = amplitudes((3 + 5 * z + 0.25 * torch.sin(2 * torch.pi * 4 * z))[None])[0]
    expected = torch.zeros(33, dtype=torch.float64)
    expected[4] = 0.25
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-12)
