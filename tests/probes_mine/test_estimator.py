"""mutual_information: closed forms, independence, maps of a side, discrete sides, bad input, the caller's state."""

import math

import numpy as np
import pytest
import torch

from probes_mine import donsker_varadhan_bound, f_divergence_bound, mutual_information
from probes_mine.estimator import _terms


def gaussians(rho, d=1, n=2000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def truth(rho, d=1):
    return -d / 2 * math.log(1 - rho**2)


@pytest.mark.parametrize(("rho", "d"), [(0.5, 1), (0.9, 1), (0.6, 3)])
def test_gaussians(rho, d):
    found = mutual_information(*gaussians(rho, d))
    assert found.value == pytest.approx(truth(rho, d), abs=0.05)
    assert found.gaussian == pytest.approx(truth(rho, d), abs=0.05)
    assert found.held_out and found.flags == () and found.num_samples == 2000
    low, high = found.interval
    assert low == pytest.approx(found.value - 1.96 * found.standard_error) and low < found.value < high


def test_independent_samples_have_none():
    generator = torch.Generator().manual_seed(3)
    found = mutual_information(*torch.randn(2, 2000, 3, generator=generator))
    assert abs(found.value) <= 0.01


def test_what_is_no_gaussian_dependence_is_learned():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, 4000, 1, generator=generator, dtype=torch.float64)
    y = (x + noise) % 1 + 10 * (noise > 2)  # independent of x and of the noise, and no shift of it is seen
    assert abs(mutual_information(x, y).value) <= 0.02
    angle, jitter = 2 * math.pi * x, 0.1 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    circle = torch.cat([angle.cos(), angle.sin()], 1) + jitter
    found = mutual_information(x, circle)
    # About log(2 pi / (0.1 sqrt(2 pi e))): the angle is blurred by a tenth, the radius says nothing.
    assert found.value == pytest.approx(math.log(2 * math.pi / (0.1 * math.sqrt(2 * math.pi * math.e))), abs=0.15)
    assert found.gaussian < 1


def test_maps_of_each_component_change_nothing():
    x, y = gaussians(0.8, 2, n=1000)
    found = mutual_information(x, y, max_steps=100)
    mapped = mutual_information((x * torch.tensor([1e200, 1e-200])).sinh().clamp(-1e300, 1e300), y.exp(), max_steps=100)
    assert math.isfinite(mapped.value)
    # The ranks of the second component are those of the first call; the first overflows in part.
    assert mutual_information(1e-250 * x, 1e250 * y, max_steps=100).value == pytest.approx(found.value, abs=0.02)


def test_seed_decides():
    x, y = gaussians(0.5, n=300)
    first, again, other = (mutual_information(x, y, seed=seed, max_steps=60) for seed in (1, 1, 2))
    assert first == again
    assert first.value != other.value


@pytest.mark.parametrize("method", ["nwj", "smile", "info_nce", "jensen_shannon", "ksg"])
def test_other_methods(method):
    found = mutual_information(*gaussians(0.7, 2, n=2000), method=method)
    assert found.value == pytest.approx(truth(0.7, 2), abs=0.08)
    assert found.method == method and found.held_out == (method != "ksg") and found.standard_error > 0


def test_info_nce_cannot_exceed_the_logarithm_of_its_partners():
    x, _ = gaussians(0.5)
    assert mutual_information(x, x + 1e-4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
                              method="info_nce", max_steps=100).value <= math.log(65)  # fmt: skip


def test_a_large_value_is_flagged_and_the_anchor_holds():
    found = mutual_information(*gaussians(0.95, 20, n=5000), max_steps=200)
    assert "saturated" in found.flags
    assert found.gaussian == pytest.approx(truth(0.95, 20), rel=0.02)
    assert "saturated" in str(found) and "nats" in str(found)


def test_what_ends_early_is_flagged():
    x, y = gaussians(0.5, n=200)
    assert mutual_information(x, y, max_steps=1).flags == ("few_samples", "not_converged")


def classes(n=3000, seed=0):
    """A class and a Gaussian around its number: the information is an integral in one dimension."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    x = 2.0 * labels + torch.randn(n, generator=generator)
    t = torch.linspace(-8, 12, 20_001, dtype=torch.float64)
    densities = torch.stack([(-((t - 2 * c) ** 2) / 2).exp() / math.sqrt(2 * math.pi) for c in range(3)])
    mixture = densities.mean(0)
    exact = (densities * (densities / mixture).clamp_min(1e-300).log()).mean(0).sum() * float(t[1] - t[0])
    return x, labels, float(exact)


def test_a_discrete_side():
    x, labels, exact = classes()
    found = mutual_information(x, labels)
    assert found.value == pytest.approx(exact, abs=0.04)
    assert found.gaussian is None
    assert mutual_information(labels, x).value == found.value
    words = np.array(["red", "green", "blue"])[labels.numpy()]
    assert mutual_information(words, x.numpy()).value == pytest.approx(found.value, abs=0.02)
    # As indicators, for the bounds of continuous variables.
    assert mutual_information(x, labels, method="nwj").value == pytest.approx(exact, abs=0.08)


def test_two_discrete_sides():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (20_000,), generator=generator)
    y = torch.where(
        torch.rand(20_000, generator=generator) < 0.5, x, torch.randint(0, 4, (20_000,), generator=generator)
    )
    p = torch.full((4, 4), 0.125 / 4) + torch.eye(4) * 0.125
    exact = float((p * (16 * p).log()).sum())
    assert mutual_information(x, y).value == pytest.approx(exact, abs=0.02)
    assert abs(mutual_information(x, y[torch.randperm(20_000, generator=generator)]).value) < 0.002


def test_integers_are_classes_unless_there_are_many_or_it_is_said():
    x, labels, _ = classes(n=400)
    assert mutual_information(x, labels.bool(), max_steps=10).gaussian is None
    assert mutual_information(x, torch.arange(400), max_steps=10).gaussian is not None
    assert mutual_information(x, labels, discrete_y=False, max_steps=10).gaussian is not None
    assert mutual_information(x, labels.double(), discrete_y=True, max_steps=10).gaussian is None


SHAPES = {
    "heavy tails": lambda x: torch.tan(math.pi * (torch.special.ndtr(x) - 0.5)) ** 3,
    "constant columns": lambda x: torch.cat([x, torch.ones_like(x)], 1),
    "duplicates": lambda x: torch.cat([x, x, -x], 1),
    "ties": lambda x: x.round(),
    "mostly zero": lambda x: x.clamp_min(1.5) - 1.5,
    "tiny": lambda x: 1e-300 * x,
    "huge": lambda x: 1e300 * x,
    "half": lambda x: x.half(),
    "images": lambda x: x.reshape(-1, 1, 1, 2).repeat(1, 3, 4, 1),
}


@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_the_shape_it_is_finite(shape, n):
    x, y = gaussians(0.6, 2, n=n)
    found = mutual_information(SHAPES[shape](x), SHAPES[shape](y), max_steps=60)
    assert math.isfinite(found.value) and math.isfinite(found.standard_error)
    # Enough to tell that there is something, if there is a thousand; a bound of half a nat cannot be far above.
    assert -0.5 < found.value < truth(0.6, 2) + 4 * found.standard_error + 0.05
    assert n < 1000 or shape == "mostly zero" or found.value > 0.2


def test_a_constant_side_has_none():
    x, _ = gaussians(0.5, n=100)
    found = mutual_information(x, torch.ones(100))
    assert found.value == 0 and found.standard_error == 0
    assert mutual_information(torch.zeros(100, dtype=torch.long), x).value == 0


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.tensor([[0.0], [math.nan]] * 50), torch.randn(100), ValueError, "`x` must be finite.*50 of 100"),
        (torch.randn(100), np.array([math.inf] + [0.0] * 99), ValueError, "`y` must be finite"),
        (torch.randn(100), torch.randn(99), ValueError, "got 100 and 99"),
        (torch.randn(10), torch.randn(10), ValueError, "At least 20 samples"),
        (torch.tensor(1.0), torch.randn(10), ValueError, "single number"),
        (torch.randn(50, dtype=torch.complex64), torch.randn(50), TypeError, "complex64"),
        (np.array(["2020-01-01"] * 50, dtype="datetime64[D]"), torch.randn(50), TypeError, "datetime64"),
        (np.array([["a", "b"]] * 50), torch.randn(50), TypeError, "one column of classes"),
    ],
)
def test_bad_input_is_refused(x, y, error, words):
    with pytest.raises(error, match=words):
        mutual_information(x, y)


def test_bad_arguments_are_refused():
    x = torch.randn(50, 2)
    with pytest.raises(ValueError, match="`method` must be one of 'mine'"):
        mutual_information(x, x, method="dv")
    with pytest.raises(ValueError, match="one column to be discrete"):
        mutual_information(x, x, discrete_x=True)
    with pytest.raises(ValueError, match="`max_steps`"):
        mutual_information(x, x, max_steps=0)
    with pytest.raises(ValueError, match="ksg"):
        mutual_information(x, torch.arange(50) % 2, method="ksg")


def test_the_caller_is_left_as_it_was():
    x, y = gaussians(0.5, n=100)
    expected = mutual_information(x, y, max_steps=20)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    x.requires_grad_()
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            assert mutual_information(x, y, max_steps=20) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    torch.set_default_dtype(torch.float64)
    try:  # the same but for how initial weights are rounded
        assert mutual_information(x, y, max_steps=20).value == pytest.approx(expected.value, abs=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):  # a default device that holds nothing
        assert mutual_information(x, y, max_steps=20) == expected


@pytest.mark.slow
def test_the_interval_covers_gaussians_in_nine_of_ten_seeds():
    cases = [(0.3, 1), (0.75, 1), (0.5, 2), (0.8, 2), (0.4, 5)]
    covered = []
    for rho, d in cases:
        for seed in range(8):
            low, high = mutual_information(*gaussians(rho, d, n=5000, seed=seed), seed=seed).interval
            covered.append(low <= truth(rho, d) <= high)
    assert sum(covered) >= 0.9 * len(covered)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 5, 25])
def test_ten_thousand_independent_samples_have_none(d):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        assert abs(mutual_information(*torch.randn(2, 10_000, d, generator=generator), seed=seed).value) <= 0.01


def test_terms_count_each_sample_through_its_x_and_its_y():
    generator = torch.Generator().manual_seed(0)
    table, shifts = torch.randn(7, 7, generator=generator, dtype=torch.float64), [2, 3, 6]
    joint = table.diagonal()
    marginal = torch.stack([torch.stack([table[i, (i - shift) % 7] for i in range(7)]) for shift in shifts])
    mean = sum(float(table[i, (i - s) % 7].exp()) for i in range(7) for s in shifts) / 21
    found = _terms(joint, marginal, shifts, "mine")
    for i in range(7):
        with_x = sum(float(table[i, (i - s) % 7].exp()) for s in shifts) / 3 / mean
        with_y = sum(float(table[(i + s) % 7, i].exp()) for s in shifts) / 3 / mean
        assert float(found[i]) == pytest.approx(float(joint[i]) - math.log(mean) - with_x - with_y + 2, abs=1e-12)
    assert float(found.mean()) == pytest.approx(float(donsker_varadhan_bound(joint, marginal)), abs=1e-12)
    assert float(_terms(joint, marginal, shifts, "nwj").mean()) == pytest.approx(
        float(f_divergence_bound(joint, marginal)), abs=1e-12
    )
