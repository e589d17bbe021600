"""Discrete variables and mixtures: sums written out sample by sample, closed forms, bias and coverage measured."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import digamma

from probes_mine import ksg, mixed_mutual_information, normal_scores


def generator(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------- against loops


def plug_in(pairs):
    n = len(pairs)
    count = lambda value, place: sum(pair[place] == value for pair in pairs)  # noqa: E731
    return sum(math.log(n * pairs.count((a, b)) / (count(a, 0) * count(b, 1))) for a, b in pairs) / n


def test_two_discrete_sides_are_the_jackknife_of_the_plug_in():
    rng = generator()
    x = rng.integers(0, 4, 40)
    y = np.where(rng.random(40) < 0.4, x % 3, rng.integers(0, 3, 40))
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    whole = plug_in(pairs)
    pseudo = [40 * whole - 39 * plug_in(pairs[:i] + pairs[i + 1 :]) for i in range(40)]
    found = mixed_mutual_information(x, y, discrete_x=True, discrete_y=True)
    assert found.value == pytest.approx(np.mean(pseudo), rel=1e-10)
    assert found.standard_error == pytest.approx(np.std(pseudo, ddof=1) / math.sqrt(40), rel=1e-10)
    words = mixed_mutual_information(np.array(["a", "b", "c", "d"])[x], y, discrete_y=True)
    assert words.value == pytest.approx(found.value, rel=1e-12) and found.num_samples == 40


def test_a_class_and_numbers_match_distances_written_out():
    rng = generator(1)
    labels = rng.integers(0, 3, 60)
    numbers = labels[:, None] + rng.standard_normal((60, 2))
    labels = np.concatenate([labels, [8, 9, 9]])  # one alone, and two, fewer than neighbours
    numbers = np.concatenate([numbers, rng.standard_normal((3, 2))])
    scores = normal_scores(torch.from_numpy(numbers)).numpy()
    kept = [i for i in range(63) if labels[i] != 8]
    terms = []
    for i in kept:
        distance = {j: float(np.abs(scores[i] - scores[j]).max()) for j in kept if j != i}
        own = sorted(distance[j] for j in distance if labels[j] == labels[i])
        k = min(3, len(own))
        m = sum(d < own[k - 1] for d in distance.values()) + 1
        terms.append(digamma(62) + digamma(k) - digamma(len(own) + 1) - digamma(m))
    for found in (
        mixed_mutual_information(labels, numbers, discrete_x=True),
        mixed_mutual_information(numbers, labels, discrete_y=True),
    ):
        assert found.value == pytest.approx(np.mean(terms), rel=1e-10) and found.num_samples == 62
        assert found.standard_error == pytest.approx(1.3 * np.std(terms, ddof=1) / math.sqrt(62), rel=1e-10)


def mixture(n, rng):
    """Half of the samples at four atoms, half a Gaussian of correlation 0.9: a sample of either says which."""
    continuous, sign, same = rng.random(n) < 0.5, np.where(rng.random(n) < 0.5, 1.0, -1.0), rng.random(n) < 0.9
    z, noise = rng.standard_normal((2, n))
    x = np.where(continuous, z, sign)
    return x, np.where(continuous, 0.9 * z + math.sqrt(1 - 0.81) * noise, np.where(same, sign, -sign)), {}


def test_a_mixture_matches_distances_written_out():
    x, y, _ = mixture(80, generator(2))
    y[:14], x[:14] = np.linspace(5, 8, 14), 3.0  # an atom of one side alone
    scores = [normal_scores(torch.from_numpy(side)[:, None])[:, 0].tolist() for side in (x, y)]
    terms, tied = [], 0
    for i in range(80):
        a = [abs(scores[0][i] - scores[0][j]) for j in range(80) if j != i]
        b = [abs(scores[1][i] - scores[1][j]) for j in range(80) if j != i]
        both = [max(pair) for pair in zip(a, b, strict=True)]
        radius = sorted(both)[2]
        as_near = sum(d <= radius for d in both)
        if as_near > 3:
            tied += 1
            k, reached = as_near + 1, lambda side, r=radius: sum(d <= r for d in side) + 1
        else:
            k, reached = 3, lambda side, r=radius: sum(d < r for d in side) + 1
        terms.append(digamma(80) + digamma(k) - digamma(reached(a)) - digamma(reached(b)))
    assert 20 < tied < 60
    found = mixed_mutual_information(x, y)
    assert found.value == pytest.approx(np.mean(terms), rel=1e-10)
    assert found.standard_error == pytest.approx(1.3 * np.std(terms, ddof=1) / math.sqrt(80), rel=1e-10)


def correlated(n, rng, step=0.0):
    """Gaussians of correlation 0.8, perhaps rounded."""
    x, noise = rng.standard_normal((2, n))
    sides = x, 0.8 * x + 0.6 * noise
    return tuple(np.round(side / step) * step if step else side for side in sides)


@pytest.mark.parametrize(
    ("make", "truth"),
    [
        (lambda rng: (rng.poisson(30, 400), rng.poisson(30, 400)), 0.0),
        (lambda rng: (rng.integers(0, 100, 1000), rng.integers(0, 100, 1000)), 0.0),
        (lambda rng: (rng.integers(0, 256, (500, 1)) / 255, rng.integers(0, 256, (500, 1)) / 255), 0.0),
        (lambda rng: (rng.integers(0, 2, 500), rng.poisson(30, 500)), 0.0),
        *((lambda rng, step=step: correlated(1000, rng, step), -math.log(0.6)) for step in (0.02, 0.05, 0.1, 0.2)),
        (lambda rng: (same := rng.integers(0, 20, 1000), same), math.log(20)),
    ],
    ids=["counts", "integers", "pixels", "class", "0.02", "0.05", "0.1", "0.2", "the same"],
)
def test_counts_and_rounded_numbers_are_told_without_the_bias_of_ties(make, truth):
    """Which was 0.3 nats of the independent counts, and of numbers rounded to a tenth of their deviation."""
    found = [mixed_mutual_information(*make(generator(seed)), discrete_y=False) for seed in range(8)]
    assert np.mean([each.value for each in found]) == pytest.approx(truth, abs=0.04)
    errors = [(each.value - truth) / each.standard_error for each in found]
    assert np.sqrt(np.mean(np.square(errors))) < 1.8


def test_copies_count_once_and_a_number_that_follows_from_another_is_infinite():
    x, y = correlated(150, generator(0))
    found, again = mixed_mutual_information(x, y), mixed_mutual_information(np.tile(x, 3), np.tile(y, 3))
    assert found == again and again.num_samples == 150
    value, error, _ = mixed_mutual_information(x, np.exp(-x))
    assert value == math.inf and math.isnan(error)


def test_without_ties_it_is_that_of_kraskov():
    x, noise = generator(3).standard_normal((2, 200, 2))
    found = mixed_mutual_information(x, x + noise, neighbors=4)
    sides = (normal_scores(torch.from_numpy(side)) for side in (x, x + noise))
    # Ranks are symmetric about the middle, so that a few distances are equal, which count as ties.
    assert found.value == pytest.approx(ksg(*sides, k=4), abs=0.005)


def test_atoms_alone_are_the_plug_in_less_its_bias():
    rng = generator(4)
    x = rng.integers(0, 3, 2000)
    y = np.where(rng.random(2000) < 0.5, x, rng.integers(0, 3, 2000))
    numbers = mixed_mutual_information(x, y, discrete_x=False, discrete_y=False)
    classes = mixed_mutual_information(x, y, discrete_x=True, discrete_y=True)
    assert numbers.value == pytest.approx(classes.value, abs=1e-5)


# ------------------------------------------------------------------------------------------------- closed forms


def stairs(m):
    """y uniform in [x, x + 2], x one of m: Gao et al., section 5."""

    def draw(n, rng):
        x = rng.integers(0, m, n)
        return x, x + 2 * rng.random(n), {"discrete_x": True}

    return draw, math.log(m) - (m - 1) * math.log(2) / m


def poisson(p):
    """x exponential, y Poisson of mean x, or zero with probability p."""

    def draw(n, rng):
        x = rng.exponential(1, n)
        return x, np.where(rng.random(n) < p, 0, rng.poisson(x)), {"discrete_y": False}

    y = np.arange(120)
    zero = (y == 0) * p
    of_y = (1 - p) * 0.5 ** (y + 1.0) + zero

    def at(x):
        given = (1 - p) * stats.poisson.pmf(y, x) + zero
        seen = given > 0
        return math.exp(-x) * float((given[seen] * np.log(given[seen] / of_y[seen])).sum())

    return draw, integrate.quad(at, 0, 60, limit=500)[0]


def agreeing(k, p):
    """y is x, one of k, with probability p, or else any."""

    def draw(n, rng):
        x = rng.integers(0, k, n)
        return x, np.where(rng.random(n) < p, x, rng.integers(0, k, n)), {"discrete_x": True, "discrete_y": True}

    same, other = (p + (1 - p) / k) / k, (1 - p) / k**2
    return draw, k * same * math.log(same * k**2) + k * (k - 1) * other * math.log(max(other, 1e-300) * k**2)


CASES = {
    "two stairs": stairs(2),
    "five stairs": stairs(5),
    "five stairs as numbers": (lambda n, rng: (*stairs(5)[0](n, rng)[:2], {"discrete_x": False}), stairs(5)[1]),
    "Poisson": poisson(0.0),
    "zero-inflated Poisson": poisson(0.15),
    "atoms and a Gaussian": (
        mixture,
        math.log(2) - math.log(1 - 0.81) / 4 + (math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / 2,
    ),
    "class beside noise": (lambda n, rng: (rng.integers(0, 3, n), rng.standard_normal(n), {"discrete_x": True}), 0.0),
    "agreeing classes": agreeing(4, 0.5),
    "ten independent classes": agreeing(10, 0.0),
    "ten equal classes": agreeing(10, 1.0),
}


def test_the_poisson_case_is_the_closed_form_of_gao():
    series = sum(math.log(k) * 2.0**-k for k in range(2, 200))
    assert poisson(0.0)[1] == pytest.approx(2 * math.log(2) - np.euler_gamma - series, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case):
    draw, truth = CASES[case]
    x, y, settings = draw(2000, generator(5))
    found = mixed_mutual_information(x, y, **settings)
    assert abs(found.value - truth) < 3 * found.standard_error and found.standard_error < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bias_is_small_and_intervals_cover(case):
    draw, truth = CASES[case]
    found = [mixed_mutual_information(x, y, **more) for x, y, more in (draw(1000, generator(s)) for s in range(100))]
    errors = np.array([one.value for one in found]) - truth
    assert abs(errors.mean()) < 0.01 + 3 * errors.std() / 10
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 90


def test_the_plug_in_without_correction_would_not_pass():
    draw, _ = agreeing(10, 0.0)
    values = []
    for seed in range(5):
        x, y, _ = draw(1000, generator(seed))
        values.append(plug_in(list(zip(x.tolist(), y.tolist(), strict=True))))
    assert np.mean(values) > 0.03  # 81 / 2000


# ----------------------------------------------------------------------------------------------------------- the call


def test_a_constant_side_tells_nothing():
    assert mixed_mutual_information(np.zeros(50), generator().standard_normal(50)) == (0.0, 0.0, 50)


def test_tensors_modes_and_dtypes():
    x = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(200, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    with torch.inference_mode():
        first = mixed_mutual_information(x, y)
    assert first == mixed_mutual_information(x.numpy(), y.double()) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_names_that_are_large_numbers_are_different_classes(kind):
    names, labels = kind([2**60, 2**60 + 1] * 50), torch.tensor([0, 1] * 50)
    assert mixed_mutual_information(names, labels) == mixed_mutual_information(labels, labels)


def test_classes_that_are_missing_or_of_several_kinds_are_refused():
    numbers = torch.arange(10) % 2
    for missing in (math.nan, None):
        with pytest.raises(ValueError, match="`x` must be known, got None or NaN in 5 of 10 samples"):
            mixed_mutual_information(np.array([missing, "a"] * 5, dtype=object), numbers)
    with pytest.raises(TypeError, match="`x` must be classes of one kind, which can be ordered"):
        mixed_mutual_information(np.array([1, "a"] * 5, dtype=object), numbers)


@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        (torch.zeros(9), torch.zeros(8), {}, "of the same length, got 9 and 8 samples"),
        (torch.rand(3), torch.rand(3), {}, "At least 4 samples are needed, got 3"),
        (torch.rand(9), torch.rand(9), {"neighbors": 9}, "At least 10 samples are needed, got 9"),
        (torch.rand(9), torch.rand(9), {"neighbors": 0}, "`neighbors` must be an integer of at least 1, got 0"),
        (torch.arange(9), torch.rand(9), {"discrete_x": True}, "Every sample has a class of its own"),
        (torch.tensor([1.0, math.nan] * 5), torch.rand(10), {}, "`x` must be finite, got NaN or infinity in 5 of 10"),
    ],
)
def test_bad_input_is_refused(x, y, settings, message):
    with pytest.raises(ValueError, match=message):
        mixed_mutual_information(x, y, **settings)
