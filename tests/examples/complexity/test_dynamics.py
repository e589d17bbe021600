"""The criteria of Lemma 4.1 and Props. B.3 and B.5."""

import numpy as np
import pytest

from examples.complexity.dynamics import EXPERIMENT, PRESETS, crossing

SETTINGS = PRESETS["quick"].settings
RATES = np.array(SETTINGS.rates)
STEPS = np.array([1.5, 5, 9, 20, 40, 70, 110, 150])


@pytest.mark.parametrize(
    ("errors", "other", "measured", "verdicts"),
    [
        (0.01 * RATES, 1.5, 1.1 * STEPS, [True, True, True]),
        (np.full(5, 0.5), 1.5, 1.1 * STEPS, [False, True, True]),  # a wrong kernel: no error of first order
        (np.full(5, 0.0009), 1.5, 1.1 * STEPS, [False, True, True]),  # small, and not of first order
        (0.01 * RATES, 1e-5, 1.1 * STEPS, [True, False, True]),  # a control that agrees as well
        (0.01 * RATES, 1.5, STEPS[::-1], [True, True, False]),  # modes in the wrong order
        (0.01 * RATES, 1.5, 1 / STEPS, [True, True, False]),  # the formula as printed
        (0.01 * RATES, 1.5, np.full(8, np.inf), [True, True, False]),  # nothing is learned
    ],
)
def test_modes_are_learned_at_the_rates_of_their_eigenvalues(errors, other, measured, verdicts):
    seed = {"errors": errors, "other": np.full(5, other), "measured": measured, "expected": STEPS}
    assert [finding.passed for finding in EXPERIMENT.judge(SETTINGS, [seed])] == verdicts


@pytest.mark.parametrize("constant", [0.4, 3.0, 17.3])
def test_a_residual_that_decays_as_exp_of_t_over_tau_has_shrunk_by_e_at_tau(constant):
    assert abs(crossing([-t / constant for t in range(40)]) - constant) < 1e-9


def test_a_residual_that_does_not_shrink_so_far_never_has():
    assert crossing([0.0, -0.9, -0.99]) == np.inf
