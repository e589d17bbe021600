"""Spectral bounds, against their formulas with every division written out, and against an elementary consequence."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from probes_complexity.layer_norms import matrix_norms, operator_norms
from probes_complexity.spectral_bounds import margin_bound, pac_bayes_bound, pac_bayes_spectral, spectral_complexity


def draw(seed=0, shapes=((6, 4), (5, 6), (3, 5))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("from_reference", [False, True])
def test_spectral_complexity_matches_its_formula(from_reference):
    weights, references, rho = draw(), draw(1), [1.0, 0.5, 3.0]
    norms = matrix_norms(weights, references)
    if not from_reference:
        references = [0 * weight for weight in weights]
        assert spectral_complexity(weights, rho) == spectral_complexity(norms, rho)
    product, total = 1.0, 0.0
    for a, m, r in zip(weights, references, rho, strict=True):
        sigma = np.linalg.norm(a.numpy(), 2)
        product *= r * sigma
        # The columns of the transposes are the rows.
        group = sum(np.linalg.norm((a - m).T.numpy()[:, j]) for j in range(len(a)))
        total += group ** (2 / 3) / sigma ** (2 / 3)
    found = spectral_complexity(norms, rho, from_reference=from_reference)
    assert float(found) == pytest.approx(product * total**1.5, rel=1e-12)


def test_pac_bayes_spectral_matches_its_formula():
    weights, references = draw(), draw(1)
    spectral = [np.linalg.norm(w.numpy(), 2) for w in weights]

    def formula(parts):
        ratios = [np.linalg.norm(part.numpy()) ** 2 / s**2 for part, s in zip(parts, spectral, strict=True)]
        return math.prod(s**2 for s in spectral) * sum(ratios)

    assert float(pac_bayes_spectral(weights)) == pytest.approx(formula(weights), rel=1e-12)
    norms = matrix_norms(weights, references)
    assert float(pac_bayes_spectral(norms)) == pytest.approx(formula(weights), rel=1e-12)
    apart = [w - m for w, m in zip(weights, references, strict=True)]
    assert float(pac_bayes_spectral(norms, from_reference=True)) == pytest.approx(formula(apart), rel=1e-12)


def test_a_layer_of_norm_zero_leaves_its_own_term_alone():
    weights = [3 * torch.eye(2), torch.zeros(2, 2), 5 * torch.eye(2)]
    norms = matrix_norms(weights, [torch.zeros(2, 2), torch.eye(2), torch.zeros(2, 2)])
    # 3 x 5 times the (2, 1) norm of the identity, and its squared Frobenius norm.
    assert float(spectral_complexity(norms, from_reference=True)) == pytest.approx(15 * 2, rel=1e-12)
    assert float(pac_bayes_spectral(norms, from_reference=True)) == pytest.approx(225 * 2, rel=1e-12)
    assert float(spectral_complexity([torch.zeros(2, 2)] * 2)) == 0


def test_spectral_complexity_scales_with_the_layers_and_not_with_rescaling():
    weights = draw()
    scaled = [2 * weights[0], weights[1] / 2, 3 * weights[2]]
    assert float(spectral_complexity(scaled)) == pytest.approx(3 * float(spectral_complexity(weights)), rel=1e-12)
    assert float(pac_bayes_spectral(scaled)) == pytest.approx(9 * float(pac_bayes_spectral(weights)), rel=1e-12)


def test_the_pac_bayes_measure_is_never_less_where_the_article_says_so():
    # Section 3.4: R_A <= prod(sigma) L (sum (sqrt(W) |A|_F / sigma)^2)^(1/2), for M = 0.
    for seed in range(5):
        norms = matrix_norms(draw(seed))
        above = len(norms.spectral) * math.sqrt(norms.units * float(pac_bayes_spectral(norms)))
        assert float(spectral_complexity(norms)) <= above


def test_a_fully_connected_model_is_its_matrices():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    weights = [model[0].weight, model[2].weight]
    norms = operator_norms(model, torch.zeros(1, 4, dtype=torch.float64))
    assert float(spectral_complexity(norms)) == pytest.approx(float(spectral_complexity(weights)), rel=1e-12)


def test_margin_bound_is_the_leading_term():
    found = float(margin_bound(torch.tensor(6.0), 2.0, margin=0.5, n=8, width=100))
    assert found == pytest.approx(2 * 6 / (0.5 * 8) * math.log(100), rel=1e-12)


def test_pac_bayes_bound_is_its_square_root():
    found = float(pac_bayes_bound(7.0, 2.0, margin=0.5, n=50, depth=3, units=10, delta=0.1))
    inside = (4 * 9 * 10 * math.log(30) * 7 + math.log(3 * 50 / 0.1)) / (0.25 * 50)
    assert found == pytest.approx(math.sqrt(inside), rel=1e-12)


def test_refused():
    with pytest.raises(ValueError, match="one number for each of 3 layers, got 2"):
        spectral_complexity(draw(), [1.0, 1.0])
    with pytest.raises(ValueError, match="one matrix for each layer"):
        pac_bayes_spectral([torch.ones(2, 2, 2)])
    with pytest.raises(ValueError, match="must be positive, got 0, 1 and 2"):
        margin_bound(1.0, 1.0, 0, 1, 2)
    with pytest.raises(ValueError, match="`delta` between 0 and 1"):
        pac_bayes_bound(1.0, 1.0, 1.0, 1, 1, 1, delta=2)
