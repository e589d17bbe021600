"""Sliced information: determinants, derivatives by weights, integrals over directions, coverage of the intervals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from probes_mine import sliced_mutual_information
from probes_mine.slices import canonical_variates, gaussian_slices, neighbor_slice, projected


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n, d, rho, seed=0):
    x, noise = normal(2, n, d, seed=seed)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def over_directions(rho, d, of_one_side=False):
    """The mean of -log(1 - rho^2 c^2) / 2 over the cosine c of two random directions, or of one to an axis, as one."""
    density = stats.beta(0.5, (d - 1) / 2).pdf
    return integrate.quad(lambda s: 2 * s * density(s * s) * -0.5 * math.log1p(-((rho * s) ** 2)), 0, 1)[0]


def log_determinants(x, y):
    """-1/2 log det of the joint covariance over those of the sides, by numpy, from deviations."""
    covariance = np.cov(np.hstack([x, y]).T, bias=True)
    a = x.shape[1]
    parts = covariance[:a, :a], covariance[a:, a:], covariance
    return (
        sum(sign * np.linalg.slogdet(np.atleast_2d(part))[1] for sign, part in zip((1, 1, -1), parts, strict=True)) / 2
    )


# ------------------------------------------------------------------------------------------------------ one projection


def test_projections_prefer_no_direction_and_span_k_dimensions():
    samples = torch.eye(3, dtype=torch.float64)
    found = projected(samples, 2, 4000, torch.Generator().manual_seed(0))
    assert found.shape == (4000, 3, 2) and bool((torch.linalg.matrix_rank(found) == 2).all())
    basis = torch.linalg.qr(found).Q
    torch.testing.assert_close((basis @ basis.mT).mean(0), 2 / 3 * torch.eye(3).double(), rtol=0, atol=0.03)


def test_variates_are_white_and_correlated_one_by_one():
    x, y = normal(3, 50, 2), normal(3, 50, 3, seed=1)
    y[..., :2] += x @ normal(2, 2, seed=2)
    u, v, rho, ranks = canonical_variates(x, y)
    for i in range(3):
        together = np.cov(torch.cat([u[i], v[i]], 1).numpy().T, bias=True)
        expected = np.eye(5)
        expected[[0, 1, 2, 3], [2, 3, 0, 1]] = np.tile(rho[i].numpy(), 2)
        np.testing.assert_allclose(together, expected, atol=1e-12)
    assert ranks.tolist() == [[2] * 3, [3] * 3]


def test_a_component_that_others_determine_counts_for_nothing():
    x, y = correlated(200, 2, 0.6)
    doubled = torch.cat([x, x.sum(1, keepdim=True)], 1)
    for one, other in ((x, doubled), (y, torch.cat([y, torch.ones(200, 1)], 1))):
        sides = (one, y) if one is x else (x, one)
        wider = (other, y) if one is x else (x, other)
        expected, found = (gaussian_slices(a[None], b[None])[0] for a, b in (sides, wider))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gaussian_value_matches_determinants_less_their_bias():
    x, y = normal(1, 30, 2), normal(1, 30, 3, seed=1)
    y[..., :2] += x
    value, terms = gaussian_slices(x, y)
    plug_in = log_determinants(x[0].numpy(), y[0].numpy())
    wishart = [sum(special.digamma((29 - i) / 2) for i in range(d)) for d in (2, 3, 5)]
    assert float(value) == pytest.approx(plug_in - (wishart[0] + wishart[1] - wishart[2]) / 2, rel=1e-10)
    assert float(terms.mean()) == pytest.approx(plug_in, rel=1e-10)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_gaussian_value_is_unbiased_for_few_samples(rho):
    x, y = correlated(12, 2 * 4000, rho, seed=3)  # twelve samples of pairs of components, four thousand times
    sides = (side.view(12, 4000, 2).transpose(0, 1) for side in (x, y))
    values = gaussian_slices(*sides)[0]
    assert float(values.mean()) == pytest.approx(-math.log(1 - rho**2), abs=4 * float(values.std()) / 4000**0.5)
    assert 4 * float(values.std()) / 4000**0.5 < 0.06  # the plug-in is 0.27 too large


def test_terms_are_the_derivative_by_the_weights_of_samples():
    x, y = normal(40, 2), normal(40, 1, seed=1)
    y += x[:, :1]
    terms = gaussian_slices(x[None], y[None])[1][0]

    def weighted(i, weight):
        rows = np.hstack([x, y])
        weights = np.ones(40)
        weights[i] = weight
        covariance = np.cov(rows.T, aweights=weights, bias=True)
        parts = covariance[:2, :2], covariance[2:, 2:], covariance
        return sum(s * np.linalg.slogdet(np.atleast_2d(p))[1] for s, p in zip((1, 1, -1), parts, strict=True)) / 2

    for i in (0, 7, 39):
        slope = (weighted(i, 1 + 1e-5) - weighted(i, 1 - 1e-5)) / 2e-5
        assert float(terms[i] - terms.mean()) / 40 == pytest.approx(slope, abs=1e-8)


def test_what_nearest_neighbours_miss_of_a_gaussian_is_added():
    from probes_mine import ksg

    truth, generator = -math.log(1 - 0.9**2), torch.Generator().manual_seed(0)
    draws = [correlated(200, 2, 0.9, seed=seed) for seed in range(20)]
    plain = sum(ksg(x, y) for x, y in draws) / 20
    corrected = sum(neighbor_slice(x, y, 5, generator)[0] for x, y in draws) / 20
    assert plain < truth - 0.15  # or there would be nothing to correct
    assert corrected == pytest.approx(truth, abs=0.06)  # three standard errors


# -------------------------------------------------------------------------------------------------------- the average


@pytest.mark.parametrize(
    ("method", "d", "tolerance"), [("gaussian", 3, 0.01), ("gaussian", 20, 1e-3), ("ksg", 3, 0.02)]
)
def test_sliced_information_matches_the_integral_over_directions(method, d, tolerance):
    found = sliced_mutual_information(*correlated(2000, d, 0.9), method=method)
    assert abs(found.value - over_directions(0.9, d)) < 3 * found.standard_error and found.standard_error < tolerance


@pytest.mark.parametrize("project", ["x", "y"])
def test_one_side_alone_may_be_projected(project):
    x, y = correlated(2000, 5, 0.9)
    sides = (x, y[:, :1]) if project == "x" else (x[:, :1], y)
    found = sliced_mutual_information(*sides, method="gaussian", project=project)
    assert found.value == pytest.approx(over_directions(0.9, 5), abs=3 * found.standard_error)
    both = sliced_mutual_information(*sides, method="gaussian")
    assert both.value == pytest.approx(found.value, abs=0.01)  # one component is its own projection


def test_dependence_without_correlation_is_found_by_neighbours_alone():
    x = normal(1000, 2)
    y = x.square() + 0.1 * normal(1000, 2, seed=1)
    assert abs(sliced_mutual_information(x, y, method="gaussian").value) < 0.01
    found = sliced_mutual_information(x, y, projections=32)
    assert found.value > 0.1 and found.interval[0] > 0.05


def test_uniform_noise_is_told_by_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, 2000, 1, generator=generator, dtype=torch.float64)
    found = sliced_mutual_information(x, x + 0.2 * (noise - 0.5), projections=8)
    assert found.value == pytest.approx(0.1 - math.log(0.2), abs=0.08)


def test_heavy_tails_do_not_matter_in_one_dimension():
    x, y = correlated(500, 1, 0.8)
    plain, heavy = (sliced_mutual_information(a, b, projections=16) for a, b in ((x, y), (x**5, y.exp())))
    assert plain.value == pytest.approx(heavy.value, abs=0.02)


def test_a_constant_side_has_no_information_and_a_copy_without_noise_has_infinite():
    x = normal(100, 2)
    for method in ("ksg", "gaussian"):
        still = sliced_mutual_information(x, torch.full((100, 2), 0.1), projections=4, method=method)
        assert still.value == 0 and still.standard_error == 0
        copied = sliced_mutual_information(x[:, :1], 3 * x[:, :1], projections=4, method=method)
        assert copied.value == math.inf and math.isnan(copied.standard_error)


@pytest.mark.parametrize(
    "make",
    [
        lambda draw: (torch.randn(500, 3, generator=draw) - 1.3).relu(),
        lambda draw: torch.eye(10)[torch.randint(10, (500,), generator=draw)],
        lambda draw: torch.randint(2, (300, 3), generator=draw),
        lambda draw: torch.randint(3, (300, 4), generator=draw),
    ],
    ids=["sparse", "one-hot", "binary", "ternary"],
)
def test_values_that_come_again_are_no_dependence(make):
    """Of independent samples neighbours at the same place made -2.4 to 0.06 nats, ten standard errors from zero."""
    draw, found = torch.Generator().manual_seed(0), []
    for _ in range(6):
        x, y = make(draw), make(draw)
        found.append(sliced_mutual_information(x, y, projections=32))
    errors = torch.tensor([each.value / each.standard_error for each in found])
    assert errors.square().mean().sqrt() < 1.8
    assert all(abs(each.value) < 0.08 for each in found)


def test_where_nothing_is_left_to_project_the_error_is_that_of_the_samples():
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 500, 1, generator=draw)
    found = sliced_mutual_information(x, x + noise, projections=32)
    assert abs(found.value - math.log(2) / 2) < 0.1 and 0 < found.standard_error < 0.06


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales_mean_nothing(scale):
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 500, 3, generator=draw, dtype=torch.float64)
    one, other = (sliced_mutual_information(by * x, x + noise, method="gaussian") for by in (1.0, scale))
    assert one.value == pytest.approx(other.value, rel=1e-9) and one.value > 0.05


def test_copies_of_samples_count_once():
    x, y = correlated(100, 3, 0.7)
    once, thrice = (
        sliced_mutual_information(a, b, projections=8) for a, b in ((x, y), (x.repeat(3, 1), y.repeat(3, 1)))
    )
    assert once == thrice and thrice.num_samples == 100


def test_the_same_call_gives_the_same_value_and_touches_nothing():
    x, y = correlated(100, 3, 0.7)
    state = torch.get_rng_state()
    with torch.inference_mode():
        first = sliced_mutual_information(x.numpy(), y.float(), projections=8)
    other = sliced_mutual_information(x, y.float(), projections=8)
    assert first == other and torch.equal(torch.get_rng_state(), state)
    drawn = sliced_mutual_information(x, y, projections=8, generator=torch.Generator().manual_seed(1))
    assert drawn.value != first.value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "`k` must be an integer of at least 1, got 0"),
        ({"k": 4}, r"`x` has 3 components and cannot be projected to `k` = 4; pass a smaller k, or project='y'"),
        ({"projections": 1}, "`projections` must be an integer of at least 2, got 1"),
        ({"neighbors": 2.5}, "`neighbors` must be an integer of at least 1, got 2.5"),
        ({"neighbors": 200}, "At least 201 different samples are needed, got 100 among 100"),
        ({"method": "mine"}, "`method` must be one of 'ksg', 'gaussian', got 'mine'"),
        ({"project": "z"}, "`project` must be one of 'both', 'x', 'y', got 'z'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sliced_mutual_information(normal(100, 3), normal(100, 3, seed=1), **settings)


def test_bad_samples_are_refused():
    x = normal(100, 3)
    with pytest.raises(ValueError, match="of the same length, got 100 and 99 samples"):
        sliced_mutual_information(x, x[1:])
    with pytest.raises(ValueError, match="`y` must be finite, got NaN or infinity in 1 of 100 samples"):
        sliced_mutual_information(x, torch.where(torch.arange(100)[:, None] == 3, torch.inf, x))
    with pytest.raises(ValueError, match="30 different samples are too few for 15 and 15 components"):
        sliced_mutual_information(normal(30, 60), normal(30, 60, seed=1), k=15, method="gaussian", projections=4)
    with pytest.raises(TypeError, match="`x` must be real numbers, got <U1"):
        sliced_mutual_information(np.array(["a"] * 100), x)
    with pytest.raises(TypeError, match=r"`x` must be real numbers, got torch.complex"):
        sliced_mutual_information(x + 1j, x)
    with pytest.raises(ValueError, match="`x` must be samples, shape"):
        sliced_mutual_information(3.0, x)


# ------------------------------------------------------------------------------------------------------------ coverage


def factors(kind, d):
    """Loadings on common factors: none; as many as components, correlation 1/2; or two, strong."""
    if kind == "independent":
        return torch.zeros(2, d, 1, dtype=torch.float64)
    return torch.eye(d, dtype=torch.float64).expand(2, d, d) if kind == "weak" else 2 * normal(2, d, 2, seed=d)


def averaged(loadings, k, number=40_000, at_once=2000):
    """The closed form, averaged over orthonormal projections."""
    generator, total = torch.Generator().manual_seed(1), 0.0
    for _ in range(number // at_once):
        a, b = (
            torch.linalg.qr(torch.randn(at_once, len(one), k, generator=generator, dtype=torch.float64)).Q.mT @ one
            for one in loadings
        )
        eye = torch.eye(k, dtype=torch.float64)
        x, y, between = a @ a.mT + eye, b @ b.mT + eye, a @ b.mT
        joint = torch.cat([torch.cat([x, between], 2), torch.cat([between.mT, y], 2)], 1)
        total += float((x.logdet() + y.logdet() - joint.logdet()).sum()) / 2
    return total / number


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kind", ["independent", "weak", "strong"])
@pytest.mark.parametrize(
    ("method", "d"), [("gaussian", 10), ("gaussian", 100), ("gaussian", 500), ("ksg", 10), ("ksg", 500)]
)
def test_intervals_cover_the_sliced_information_of_gaussians(method, d, kind, k):
    loadings = factors(kind, d)
    truth, found = averaged(loadings, k), []
    for seed in range(20):
        common = normal(500, loadings.shape[2], seed=seed)
        x, y = (common @ one.T + normal(500, d, seed=1000 * side + seed) for side, one in enumerate(loadings, 1))
        generator = torch.Generator().manual_seed(seed)
        found.append(
            sliced_mutual_information(
                x, y, k=k, method=method, projections=64 if method == "ksg" else None, generator=generator
            )
        )
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 18
    errors = torch.tensor([one.value for one in found], dtype=torch.float64) - truth
    assert abs(float(errors.mean())) < 3 * max(float(errors.std()), found[0].standard_error) / 20**0.5
    # Not by intervals that are too wide for anything: at most three times what the values vary by.
    assert sum(one.standard_error for one in found) / 20 < 3 * float(errors.std())
