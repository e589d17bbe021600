"""The criteria of Experiment 2."""

import numpy as np
import pytest

from examples.spectral_bias.robustness import EXPERIMENT, PRESETS, Retention

FREQUENCIES = np.arange(5.0, 35, 5)  # floats, as they come back from the files


@pytest.mark.parametrize(
    ("at_three", "unperturbed", "verdict"),
    [
        ([0.98, 0.6, 0.4, 0.3, 0.25, 0.2], 1.0, [True, True]),
        ([0.2, 0.25, 0.3, 0.4, 0.6, 0.98], 1.0, [False, True]),
        ([0.6, 0.5, 0.4, 0.3, 0.25, 0.2], 1.0, [False, True]),  # in order, but close together
        ([0.98, 0.2, 0.25, 0.3, 0.4, 0.45], 1.0, [False, True]),  # far apart, but not in order
        ([0.98, 0.6, 0.4, 0.3, 0.25, 0.2], 1 + 1e-7, [True, False]),
    ],
)
def test_retention_must_fall_with_the_frequency_and_be_one_without_perturbation(at_three, unperturbed, verdict):
    share = np.array([[unperturbed] * 6, [1.0] * 6, at_three])
    seed = Retention(np.array([0.0, 1.0, 3.0]), FREQUENCIES, share)
    assert [finding.passed for finding in EXPERIMENT.judge(PRESETS["quick"].settings, [seed])] == verdict
