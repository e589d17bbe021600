"""Closed forms against determinants, ranks against sorting by hand, canonical correlations against a regression."""

import math
from statistics import NormalDist

import pytest
import torch

from probes_mine import canonical_correlations, gaussian_anchor, gaussian_mutual_information, ksg, normal_scores


def pairs(rho, d=1, n=10_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def test_gaussian_matches_determinants_of_covariances():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    covariance = root @ root.T
    parts = covariance[:2, :2], covariance[2:, 2:]
    expected = (parts[0].logdet() + parts[1].logdet() - covariance.logdet()) / 2
    whiten = [torch.linalg.inv(torch.linalg.cholesky(part)) for part in parts]
    rho = torch.linalg.svdvals(whiten[0] @ covariance[:2, 2:] @ whiten[1].T)
    assert float(gaussian_mutual_information(rho)) == pytest.approx(float(expected), rel=1e-10)
    assert gaussian_mutual_information(1.0) == torch.inf and gaussian_mutual_information(0.0) == 0


def test_correlations_above_one_are_refused():
    with pytest.raises(ValueError, match="between -1 and 1"):
        gaussian_mutual_information(1.1)


def test_normal_scores_match_ranks_counted_by_hand():
    values = torch.tensor([[2.0, 1.0], [1.0, 1.0], [2.0, 5.0], [1e30, -3.0]])
    ranks = []
    for column in values.T.tolist():
        each = [sum(b < a for b in column) + (sum(b == a for b in column) + 1) / 2 for a in column]
        ranks.append([NormalDist().inv_cdf((rank - 0.5) / 4) for rank in each])
    torch.testing.assert_close(
        normal_scores(values), torch.tensor(ranks, dtype=torch.float64).T, rtol=1e-10, atol=1e-10
    )


def test_normal_scores_are_invariant_to_increasing_maps_and_refuse_nan():
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normal_scores(values), normal_scores(values.exp()))
    with pytest.raises(ValueError, match="must be finite: NaN"):
        normal_scores(torch.tensor([[1.0], [math.nan]]))
    with pytest.raises(ValueError, match=r"shape \(n, d\), got \(3,\)"):
        normal_scores(torch.zeros(3))


def test_canonical_correlations_match_the_eigenvalues_of_regressions():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(3, 2, generator=generator, dtype=torch.float64) + torch.randn(60, 2, generator=generator)
    cx, cy = x - x.mean(0), y - y.mean(0)
    there, back = torch.linalg.lstsq(cx, cy).solution, torch.linalg.lstsq(cy, cx).solution
    expected = torch.linalg.eigvals(there @ back).real.sort(descending=True).values[:2].sqrt()
    torch.testing.assert_close(canonical_correlations(x, y), expected, rtol=1e-8, atol=1e-10)
    doubled = torch.cat([x, x[:, :1], torch.ones(60, 1)], 1)  # a column twice, and a constant one
    torch.testing.assert_close(canonical_correlations(doubled, y), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("rho", "d"), [(0.5, 1), (0.9, 2), (0.5, 20), (0.9, 20)])
def test_anchor_of_gaussians_behind_increasing_maps(rho, d):
    x, y = pairs(rho, d)
    truth = -d / 2 * math.log(1 - rho**2)
    # Three standard errors, rho / sqrt(n) for each pair, and what d^2 correlations fit by chance.
    tolerance = 3 * rho * math.sqrt(d / len(x)) + d**2 / 2 / len(x)
    assert float(gaussian_anchor(x.exp(), y**3).value) == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("d", [1, 5, 25])
def test_anchor_of_independent_samples_is_zero(d):
    generator = torch.Generator().manual_seed(d)
    x, y = torch.randn(2, 2000, d, generator=generator)
    assert gaussian_anchor(x, y).value == 0


def test_anchor_of_constant_columns_is_zero():
    x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    assert gaussian_anchor(x, torch.ones(100, 2)).value == 0


def brute(x, y, k):
    """Equation 8 of Kraskov et al., distances and digamma written out."""
    n, euler = len(x), 0.5772156649015329

    def psi(m):
        return -euler + sum(1 / j for j in range(1, m))

    total = 0.0
    for i in range(n):
        dx = [max(abs(a - b) for a, b in zip(x[i], x[j], strict=True)) for j in range(n) if j != i]
        dy = [max(abs(a - b) for a, b in zip(y[i], y[j], strict=True)) for j in range(n) if j != i]
        radius = sorted(max(a, b) for a, b in zip(dx, dy, strict=True))[k - 1]
        total += psi(sum(a < radius for a in dx) + 1) + psi(sum(b < radius for b in dy) + 1)
    return psi(k) + psi(n) - total / n


@pytest.mark.parametrize("k", [1, 3])
def test_ksg_matches_distances_written_out(k):
    x, y = pairs(0.7, 2, n=40)
    assert ksg(x, y, k) == pytest.approx(brute(x.tolist(), y.tolist(), k), rel=1e-10)


def test_ksg_of_gaussians_in_one_dimension():
    x, y = pairs(0.9, n=4000)
    assert ksg(x, y) == pytest.approx(-math.log(1 - 0.81) / 2, abs=0.04)


@pytest.mark.parametrize("estimate", [ksg, gaussian_anchor, canonical_correlations])
def test_complex_samples_are_refused(estimate):
    with pytest.raises(TypeError, match=r"must be real numbers, got torch\.complex64"):
        estimate(torch.zeros(20, 1), torch.zeros(20, 1, dtype=torch.complex64))


def test_ksg_refuses_too_few_samples():
    with pytest.raises(ValueError, match="n > k = 5"):
        ksg(torch.zeros(5, 1), torch.zeros(5, 1))
