"""mutual_information: closed forms, independence, maps of a side, discrete sides, bad input, the caller's state."""

import math

import numpy as np
import pytest
import torch

from probes_mine import mutual_information
from probes_mine.critic_terms import _bounds, _terms
from probes_mine.labels import NUM_FOLDS
from probes_mine.product import Product


def gaussians(rho, d=1, n=2000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def truth(rho, d=1):
    return -d / 2 * math.log(1 - rho**2)


HARDER = [pytest.param(rho, 1, marks=pytest.mark.slow) for rho in (0.5, 0.9)]


@pytest.mark.parametrize(("rho", "d"), [*HARDER, (0.6, 3)])
def test_gaussians(rho, d):
    found = mutual_information(*gaussians(rho, d))
    assert found.value == pytest.approx(truth(rho, d), abs=0.05)
    assert found.gaussian == pytest.approx(truth(rho, d), abs=0.05)
    assert found.held_out and found.flags == () and found.num_samples == 2000
    low, high = found.interval
    assert low == pytest.approx(found.value - 1.96 * found.standard_error) and low < found.value < high
    assert low < truth(rho, d) < high < found.value + 0.15


def test_independent_samples_have_none():
    generator = torch.Generator().manual_seed(3)
    found = mutual_information(*torch.randn(2, 2000, 3, generator=generator))
    assert abs(found.value) <= 0.01


@pytest.mark.slow
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
    found = mutual_information(x, y, max_steps=40)
    mapped = mutual_information((x * torch.tensor([1e200, 1e-200])).sinh().clamp(-1e300, 1e300), y.exp(), max_steps=40)
    assert math.isfinite(mapped.value)
    # The ranks of the second component are those of the first call; the first overflows in part.
    assert mutual_information(1e-250 * x, 1e250 * y, max_steps=40).value == pytest.approx(found.value, abs=0.02)


def test_seed_decides():
    x, y = gaussians(0.5, n=300)
    first, again, other = (mutual_information(x, y, seed=seed, max_steps=60) for seed in (1, 1, 2))
    assert first == again
    assert first.value != other.value


@pytest.mark.parametrize(
    "method",
    ["ksg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nwj", "smile", "info_nce", "jensen_shannon"))],
)
def test_other_methods(method):
    found = mutual_information(*gaussians(0.7, 2, n=2000), method=method)
    assert found.value == pytest.approx(truth(0.7, 2), abs=0.08)
    assert found.method == method and found.held_out == (method != "ksg") and found.standard_error > 0


def test_info_nce_cannot_exceed_the_logarithm_of_its_partners():
    x, _ = gaussians(0.5)
    assert mutual_information(x, x + 1e-4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
                              method="info_nce", max_steps=100).value <= math.log(65)  # fmt: skip


@pytest.mark.slow
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
    brief = mutual_information(x, labels, max_steps=30).value
    assert mutual_information(labels, x, max_steps=30).value == brief
    words = np.array(["red", "green", "blue"])[labels.numpy()]
    assert mutual_information(words, x.numpy(), max_steps=30).value == pytest.approx(brief, abs=0.02)
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
    assert 0 <= mutual_information(x, y[torch.randperm(20_000, generator=generator)]).value < 0.002
    # Copies of independent pairs: a table that has seen them would tell them apart.
    x, y = torch.randint(0, 20, (2, 50), generator=generator)
    groups = torch.arange(50).repeat(10)
    assert mutual_information(x.repeat(10), y.repeat(10), groups=groups).value < 0.05


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


def dependent(kind, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    both = torch.cat([x, noise], 1)
    return {"x": (x, x), "-x": (x, -x), "noisy": (x, x + 0.1 * noise), "pair": (both, both)}[kind]


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize("kind", ["x", "-x", "pair"])
def test_without_noise_it_saturates_near_the_logarithm_of_n(kind, n):
    found = mutual_information(*dependent(kind, n), max_steps=50)
    # At least what the held-out samples of one fold can certify; beyond log n nothing can be.
    assert math.log(n / NUM_FOLDS) < found.value <= math.log(n) + 1e-9
    assert "saturated" in found.flags and found.interval[1] == found.gaussian == math.inf


@pytest.mark.parametrize("n", [20, 60, 200])
def test_strong_dependence_of_few_samples_is_not_missed(n):
    # Gaussian: log(1 + 1 / 0.01) / 2, which is beyond half the logarithm of the n / 5 samples of a fold.
    exact = math.log(101) / 2
    for seed in range(3):
        found = mutual_information(*dependent("noisy", n, seed), seed=seed, max_steps=50)
        assert 0 < found.value <= math.log(n)
        assert found.interval[0] <= exact <= found.interval[1] == math.inf and "saturated" in found.flags
    assert n == 20 or found.value == pytest.approx(exact, abs=0.5)


@pytest.mark.parametrize("method", ["nwj", "smile", "info_nce", "jensen_shannon", "ksg"])
@pytest.mark.parametrize("kind", ["x", "noisy"])
def test_no_method_is_negative_or_beyond_the_logarithm_of_n(kind, method):
    found = mutual_information(*dependent(kind, 60), method=method, max_steps=50)
    assert 1 < found.value <= math.log(60) + 1e-9
    for seed in (6, 8):  # of which neighbours alone say -0.1
        independent = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(seed))
        assert 0 <= mutual_information(*independent, method=method, max_steps=20).value < 0.4


@pytest.mark.parametrize("n", [20, 60, 200])
def test_few_independent_samples_show_nothing_significant(n):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        found = mutual_information(*torch.randn(2, n, 3, generator=generator), seed=seed, max_steps=50)
        assert found.value >= 0 and found.interval[0] <= 0 <= found.interval[1]
        # What so many samples cannot tell from nothing is not excluded.
        assert found.interval[1] > 0.01


def test_one_nonlinear_pair_of_twenty_is_found():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2000, 20, generator=generator)
    y[:, 0] = x[:, 0].abs() + 0.2 * torch.randn(2000, generator=generator)
    found = mutual_information(x, y, max_steps=100)
    # h(y) - h(noise): the density of |x| + 0.2 e is an integral in one dimension.
    t = torch.linspace(-2, 8, 20_001, dtype=torch.float64)
    a = torch.linspace(0, 8, 4001, dtype=torch.float64)
    folded = 2 * (-a.square() / 2).exp() / math.sqrt(2 * math.pi) * (8 / 4000)
    folded[0] /= 2
    density = sum(
        (w * (-(t - v).square() / 0.08).exp() / (0.2 * math.sqrt(2 * math.pi))) for v, w in zip(a, folded, strict=True)
    )
    exact = -float(torch.special.xlogy(density, density).sum() * (10 / 20_000))
    exact -= math.log(0.2 * math.sqrt(2 * math.pi * math.e))
    assert exact == pytest.approx(1.077, abs=0.001)
    # After a hundred steps; a Gaussian sees nothing, and without the screening the critic learns noise.
    assert exact - 0.25 < found.value < exact + 2 * found.standard_error
    assert found.gaussian == 0
    # A part of it is missed, and more than the interval says may be: that is told.
    assert "sparse" in found.flags


@pytest.mark.slow
@pytest.mark.parametrize("d", [10, 20])
def test_one_nonlinear_pair_among_many_is_told_almost_whole(d):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2000, d, generator=generator)
    y[:, 0] = x[:, 0].abs() + 0.2 * torch.randn(2000, generator=generator)
    assert mutual_information(x, y).value == pytest.approx(1.077, abs=0.12)


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_copies_do_not_inflate(times):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 300, 1, generator=generator)
    rows = torch.arange(300).repeat(times)
    found = mutual_information(x[rows], y[rows], max_steps=150)
    assert "repeated_rows" in found.flags and found.num_samples == 300 * times
    assert abs(found.value) < 0.03 and found.interval[0] <= 0
    dependent = 0.8 * x + 0.6 * y
    once, more = (mutual_information(x[r], dependent[r], max_steps=150) for r in (torch.arange(300), rows))
    assert "repeated_rows" not in once.flags
    # Other folds: within errors; which are those of 300 samples.
    assert more.value == pytest.approx(once.value, abs=2 * once.standard_error)
    assert more.standard_error == pytest.approx(once.standard_error, rel=0.35)


def test_an_oversampled_minority_tells_nothing_of_itself():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(600, 4, generator=generator), (torch.rand(600, generator=generator) < 0.1).long()
    rows = torch.cat([torch.arange(600), labels.nonzero()[:, 0].repeat(8)])
    found = mutual_information(x[rows], labels[rows], max_steps=200)
    assert "repeated_rows" in found.flags and found.value < 0.03 and found.interval[0] <= 0


def test_groups_may_be_given():
    x, y = gaussians(0.8, n=300)
    rows = torch.arange(300).repeat(2)
    jittered = x[rows] + 1e-9 * torch.arange(600)[:, None]  # copies that are not equal
    expected = mutual_information(x[rows], y[rows], max_steps=20)
    found = mutual_information(jittered, y[rows], groups=rows, max_steps=20)
    assert found.flags == expected.flags and found.standard_error == pytest.approx(expected.standard_error, rel=0.1)
    with pytest.raises(ValueError, match="`groups` must hold one number or name for each of the 600 samples"):
        mutual_information(jittered, y[rows], groups=rows[:5])


@pytest.mark.parametrize("own", [0.1, 0.99])
@pytest.mark.parametrize("copies", [False, True])
def test_terms_count_each_sample_through_its_x_and_its_y(copies, own):
    generator = torch.Generator().manual_seed(0)
    table, shifts = torch.randn(7, 7, generator=generator, dtype=torch.float64), [2, 3, 6]
    table.diagonal().add_(2.0)
    group = [0, 1, 0, 2, 3, 4, 5] if copies else list(range(7))  # rows 0 and 2 are copies
    pairs = [(i, (i - s) % 7) for s in shifts for i in range(7)]
    kept = [(i, j) for i, j in pairs if group[i] != group[j]]
    assert len(kept) == (20 if copies else 21)
    joint = table.diagonal()
    marginal = torch.stack([torch.stack([table[i, (i - shift) % 7] for i in range(7)]) for shift in shifts])
    mask = torch.tensor([group[i] == group[j] for i, j in pairs]).view(1, 3, 7) if copies else None
    product = Product(shifts, mask, own)

    # Of each pair in the mean over the product: those drawn together in their share, where that is more.
    together = sum(own / 7 * float(value.exp()) for value in joint)
    limited = together > sum(float(table[pair].exp()) for pair in kept) / len(kept)
    assert limited == (own == 0.99)
    weight = {(i, i): own / 7 for i in range(7)} if limited else {pair: 1 / len(kept) for pair in kept}
    mean = sum(w * float(table[pair].exp()) for pair, w in weight.items())
    found = _terms(joint[None], marginal[None], product, "mine")[0]
    for i in range(7):
        with_x = sum(7 * w * float(table[pair].exp()) for pair, w in weight.items() if pair[0] == i) / mean
        with_y = sum(7 * w * float(table[pair].exp()) for pair, w in weight.items() if pair[1] == i) / mean
        assert float(found[i]) == pytest.approx(float(joint[i]) - math.log(mean) - with_x - with_y + 2, abs=1e-12)
    assert float(found.mean()) == pytest.approx(float(joint.mean()) - math.log(mean), abs=1e-12)
    for method in ("mine", "nwj", "smile", "info_nce"):
        assert float(_terms(joint[None], marginal[None], product, method).mean()) == pytest.approx(
            float(_bounds(joint[None], marginal[None], product, method)), abs=1e-12
        )
    nwj = float(joint.mean()) - mean / math.e
    assert float(_bounds(joint[None], marginal[None], product, "nwj")) == pytest.approx(nwj, abs=1e-12)


@pytest.mark.parametrize("which", ["counts", "rectified"])
def test_neighbours_know_values_that_come_again(which):
    """Ties are no distances: they made 0.65 nats of the 0.51 that counts share."""
    generator = torch.Generator().manual_seed(0)
    shared, one, other = torch.randn(3, 1000, 1, generator=generator, dtype=torch.float64)
    sides = [2 * shared + one, 2 * shared + other]  # of correlation 0.8
    if which == "counts":
        sides, truth = [(3 * side).round() for side in sides], 0.51
    else:
        sides, truth = [side.relu() for side in sides], 0.346
    found = mutual_information(*sides, method="ksg")
    assert found.value == pytest.approx(truth, abs=0.08)
