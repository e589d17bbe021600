"""The criteria of Theorem 3.3 and Prop. A.2 on a segment."""

import numpy as np
import pytest

from examples.spectral_bias.decay import EXPERIMENT, PRESETS

K = np.arange(128.0, 2048.0)


@pytest.mark.parametrize(
    ("function", "derivative", "control", "verdicts"),
    [
        (-2, -1, -3, [True, True, True]),
        (-1, -2, -3, [False, False, True]),  # the two exchanged
        (0, 0, 0, [False, False, False]),  # white noise
        (-3, -3, -3, [False, False, True]),  # what is smooth has no such decay
        (-2, -1, -2, [True, True, False]),  # a control with kinks
    ],
)
def test_slopes_are_those_of_kinks(function, derivative, control, verdicts):
    seed = {
        "k": K,
        "function": K**function,
        "derivative": np.stack([K**derivative] * 2),
        "control": K**control,
        "pieces": np.array(9.0),
    }
    assert [finding.passed for finding in EXPERIMENT.judge(PRESETS["quick"].settings, [seed])] == verdicts


def test_slopes_of_a_permuted_spectrum_fail():
    rng = np.random.default_rng(0)
    spectra = {name: rng.permutation(K**power) for name, power in (("function", -2.0), ("control", -3.0))}
    seed = {"k": K, **spectra, "derivative": rng.permutation(1 / K)[None], "pieces": np.array(9.0)}
    assert not any(finding.passed for finding in EXPERIMENT.judge(PRESETS["quick"].settings, [seed]))
