"""Coordinates: what each map promises, against references written otherwise; and that no test row is looked at."""

import math

import pytest
import torch

from probes_mine.coordinates import coordinates, gaussian_terms, noise_edge
from probes_mine.cross_fitting import split
from probes_mine.features import independent_components, radial_features, standardized, whitened_features
from probes_mine.product import Product, draw_product

OWN = 1e-6  # hardly any pair of the product is one that was drawn together


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spiral(z, speed):
    angle = speed * z.square().sum(1, keepdim=True)
    return torch.cat(
        [angle.cos() * z[:, :1] - angle.sin() * z[:, 1:2], angle.sin() * z[:, :1] + angle.cos() * z[:, 1:2]], 1
    )


def test_gaussian_terms_are_the_logarithm_of_the_density_ratio():
    u, v, rho = normal(4, 2), normal(4, 2, seed=1), torch.tensor([[0.7, -0.3]], dtype=torch.float64)
    a, b, c = gaussian_terms(u, v, rho)
    for i in range(4):
        for j in range(4):
            expected = 0.0
            for k in range(2):
                r = float(rho[0, k])
                joint = torch.distributions.MultivariateNormal(
                    torch.zeros(2, dtype=torch.float64), torch.tensor([[1, r], [r, 1]], dtype=torch.float64)
                )
                one = torch.distributions.Normal(0.0, 1.0)
                pair = torch.stack([u[i, k], v[j, k]])
                expected += float(joint.log_prob(pair) - one.log_prob(pair).sum())
            assert float((a[i] + b[j] + c[i] * v[j]).sum()) == pytest.approx(expected, abs=1e-12)


def test_independent_components_of_a_mixture():
    s = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.6, 0.0], [-0.4, 1.0, 0.3], [0.2, 0.0, 1.0]], dtype=torch.float64)
    found = independent_components(s @ mixing)
    correlations = torch.corrcoef(torch.cat([s, found], 1).T)[:3, 3:].abs()
    assert (correlations.amax(1) > 0.98).all() and (correlations.amax(0) > 0.98).all()


def test_standardized_uses_medians_and_survives_zeros():
    values = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1e200, 5.0]], dtype=torch.float64)
    found = standardized(values)
    assert found.isfinite().all()
    assert found[:3, 0].tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert found[3, 1] == pytest.approx(4.0)  # most are equal: in units of the mean deviation


def test_radial_features_see_scale_free_distance():
    x = normal(500, 3)
    plain = radial_features(x)
    assert radial_features(x * torch.tensor([1.0, 1e3, 1e-3])).equal(plain)
    order = x.sub(x.median(0).values).div(x.sub(x.median(0).values).abs().median(0).values).square().sum(1).argsort()
    assert plain[:, 0].argsort().equal(order)
    assert radial_features(x.sinh())[:, 2].equal(plain[:, 2])  # only ranks of the components
    assert radial_features(x[:, :1]).shape == (500, 0)


def test_whitened_rows_have_covariance_one():
    mixed = normal(400, 3) @ normal(3, 3, seed=4)
    folds = split(400, 4, torch.Generator().manual_seed(0))
    found = whitened_features(mixed, folds.train)
    for one, rows in zip(found, folds.train, strict=True):
        assert torch.allclose(torch.cov(one[rows, :3].T, correction=0), torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_a_spiral_is_unwound():
    z, noise = normal(6000, 2), normal(6000, 2, seed=1)
    w = 0.8 * z + 0.6 * noise
    folds = split(6000, 5, torch.Generator().manual_seed(0))
    found = coordinates(spiral(z, 0.25), spiral(w, -0.25), *folds, Product([1, 7, 50], None, OWN))
    assert found.pairs_x.shape[2] == 2
    assert float((found.correlations - 0.8).abs().max()) < 0.05
    flat = coordinates(spiral(z, 0.0), spiral(w, 0.0), *folds, Product([1, 7, 50], None, OWN))
    # Without a spiral the variates are linear: normal scores of a linear map have no radius in them.
    assert float((flat.correlations - 0.8).abs().max()) < 0.03


def test_a_mixture_of_what_is_no_gaussian_is_taken_apart(monkeypatch):
    z, noise = normal(6000, 2), normal(6000, 2, seed=1)
    w = 0.95 * z + math.sqrt(1 - 0.95**2) * noise
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    x, y = torch.special.ndtr(z) @ turn, torch.special.ndtr(w) @ turn.T
    folds = split(6000, 5, torch.Generator().manual_seed(0))
    apart = coordinates(x, y, *folds, Product([1, 7, 50], None, OWN)).correlations
    monkeypatch.setattr("probes_mine.coordinates.independent_components", lambda values: values)
    mixed = coordinates(x, y, *folds, Product([1, 7, 50], None, OWN)).correlations
    assert float((apart - 0.95).abs().max()) < 0.005
    assert float((apart - mixed).min()) > 0.001


def test_independent_sides_have_no_pairs():
    folds = split(1000, 5, torch.Generator().manual_seed(0))
    found = coordinates(normal(1000, 4), normal(1000, 4, seed=1), *folds, Product([1, 7], None, OWN))
    assert found.pairs_x.shape == (5, 1000, 0) and found.correlations.shape == (5, 1, 0)


def test_independent_correlations_stay_below_the_edge():
    for seed in range(20):
        x, y = normal(500, 6, seed=seed), normal(500, 3, seed=100 + seed)
        q, r = (torch.linalg.qr(side - side.mean(0)).Q for side in (x, y))
        assert float(torch.linalg.svdvals(q.T @ r).max()) < noise_edge(6, 3, 500)


def test_a_fit_does_not_look_at_which_y_its_test_rows_have(monkeypatch):
    # Of one component, and without what the held-out value chooses among: shrinkage, and functions of the components.
    monkeypatch.setattr("probes_mine.coordinates.SHRINKAGE", ())
    monkeypatch.setattr("probes_mine.coordinates.MAX_SCREENED", 0)
    x, y = normal(300, 1), normal(300, 1, seed=1)
    y = 0.9 * x + 0.4 * y
    folds = split(300, 3, torch.Generator().manual_seed(0))
    before = coordinates(x, y, *folds, Product([1, 2], None, OWN))
    swapped = y.clone()
    swapped[folds.test[0]] = y[folds.test[0].roll(1)]
    after = coordinates(x, swapped, *folds, Product([1, 2], None, OWN))
    assert torch.allclose(before.x[0], after.x[0])
    assert torch.allclose(before.correlations[0], after.correlations[0])
    assert torch.allclose(before.pairs_x[0].abs(), after.pairs_x[0].abs())
    assert not math.isclose(float(before.correlations[1, 0, 0]), float(after.correlations[1, 0, 0]), rel_tol=1e-6)


@pytest.mark.parametrize(("kind", "picked"), [("sparse", True), ("one each", False), ("linear", False)])
def test_components_are_picked_where_few_of_many_matter_and_it_gains(kind, picked):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1000, 6, generator=generator, dtype=torch.float64)
    if kind == "linear":  # two of six, but nothing that the plain variates do not see
        y[:, :2] += x[:, :2]
    else:
        few = 1 if kind == "sparse" else 6
        y[:, :few] = x[:, :few].square() + 0.3 * y[:, :few]
    folds = split(1000, 5, generator)
    product = draw_product(folds.test, 8, 1000, generator)
    found = coordinates(x, y, *folds, product)
    assert found.screened == picked
    spread = found.x[..., :6].square().mean((0, 1))
    assert (spread.max() > 100 * spread.min()) == picked
