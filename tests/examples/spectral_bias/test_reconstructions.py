"""The criteria of Experiment 8."""

import numpy as np
import pytest

from examples.spectral_bias.manifolds import INPUTS, manifolds, reconstructions
from examples.spectral_bias.reconstructions import EXPERIMENT, PRESETS


@pytest.mark.parametrize(
    ("losses", "verdicts"),
    [
        ((0.3, 0.48, 0.42, 0.28), [True, True, True]),
        ((0.48, 0.3, 0.28, 0.42), [False, False, True]),  # manifolds exchanged
        ((0.3, 0.3, 0.3, 0.3), [False, False, True]),  # inputs make no difference
        ((0.3, 0.48, 0.3, 0.48), [True, False, False]),  # the norm explains it, the covariance does not
    ],
)
def test_reconstructions_must_be_easier_than_flat_inputs_and_no_easier_than_their_covariance(losses, verdicts):
    seed = {name: np.full(4, loss / 12) for name, loss in zip(INPUTS, losses, strict=True)}
    assert [finding.passed for finding in EXPERIMENT.judge(PRESETS["quick"].settings, [seed])] == verdicts


def test_controls_have_the_norm_and_the_mean_of_the_reconstructions():
    found = manifolds(reconstructions(0, 64, 0.3, 10, 200, 0), 64, 0)
    curved, flat, scaled, gaussian = (found[name] for name in INPUTS)
    assert float(scaled.square().sum()) == pytest.approx(float(curved.square().sum()), rel=1e-5)
    assert not flat[:, 64:].any() and float(flat.min()) >= 0 and float(flat.max()) <= 1
    assert float((gaussian.mean(0) - curved.mean(0)).abs().max()) < 0.1
