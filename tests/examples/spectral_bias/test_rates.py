"""The criteria of Prop. A.3."""

import numpy as np
import pytest

from examples.spectral_bias.rates import EXPERIMENT, PRESETS

K = np.array(PRESETS["quick"].settings.frequencies, float)


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        (K**-2, True),
        (K**-1 * (1 + 0.001 * K), False),
        (K**-1.5, False),  # the bound holds, the measured power is another one
        (np.ones(7), False),  # no spectral bias
        (K[::-1] ** -2, False),  # frequencies in the wrong order
    ],
)
def test_rate_falls_as_one_over_the_square_of_the_frequency(rate, verdict):
    findings = EXPERIMENT.judge(PRESETS["quick"].settings, [{"k": K, "rate": rate, "rest": 1 / K}])
    assert [finding.passed for finding in findings] == [verdict, None, None]
