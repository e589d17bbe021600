"""The criteria of Lemma 3.2 in the plane."""

import numpy as np
import pytest
import torch

from examples.spectral_bias.planar_network import SQUARE, compact_network, lemma_3_1
from examples.spectral_bias.polytopes import EXPERIMENT, PRESETS, measure
from probes_fourier import planar_pieces, planar_transform

SETTINGS = PRESETS["quick"].settings


def seed(faces=-2.0, generic=-3.0, errors=(1e-5, 2e-6), lemma=1e-15):
    k = 2 ** np.arange(14, 19, 1 / 32)
    return {
        "k": k,
        "faces": k**faces * np.ones((5, 1)),
        "generic": k**generic * np.ones((9, 1)),
        "errors": np.array(errors),
        "lemma": np.array([lemma]),
        "pieces": np.array([100.0]),
    }


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ({}, [True, True]),
        ({"faces": -3.0, "generic": -2.0}, [False, False]),  # directions exchanged
        ({"faces": 0.0, "generic": 0.0}, [False, False]),  # white noise
        ({"generic": -2.0}, [True, False]),
    ],
)
def test_decay_is_slow_along_face_normals_alone(changed, verdicts):
    assert [finding.passed for finding in EXPERIMENT.judge(SETTINGS, [seed(**changed)])] == [None, None, *verdicts]


@pytest.mark.parametrize("number", [0, 1])
def test_the_transform_is_that_of_the_grid_and_that_of_lemma_3_1(number):
    measured = measure(PRESETS["smoke"].settings, number)
    coarse, fine = measured["errors"]
    assert fine <= 1e-2 and coarse >= 3 * fine  # a wrong formula does not approach the grid
    assert measured["lemma"][0] <= 1e-9  # with the published sign it is 2


def test_compact_network_is_zero_at_the_boundary_and_the_published_sign_is_wrong_for_it():
    pieces = planar_pieces(compact_network(6, 5, 0), SQUARE)
    for piece in pieces:
        if bool((piece.vertices.abs().amax(1) > 1 - 1e-9).any()):
            assert not piece.gradient.any() and not piece.offset
    k = torch.tensor([[3.0, 1.0], [-20.0, 11.0]], dtype=torch.float64)
    exact = planar_transform(pieces, k)
    torch.testing.assert_close(lemma_3_1(pieces, k), exact, rtol=1e-10, atol=1e-13)
    assert bool(((-lemma_3_1(pieces, k) - exact).abs() > 1.9 * exact.abs()).all())
