"""Debiased CKA against the sums of Song et al., its jackknife against n computations, and both against simulation."""

import math

import numpy as np
import pytest
import torch

from probes_ntk import debiased_cka
from probes_representation import as_features, debiased_cka_matrix, similarity_matrix
from probes_representation.cka import folded, unfolded


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cka(one, other):
    return debiased_cka_matrix(*(similarity_matrix(as_features(rows).centred)[None] for rows in (one, other)))


def hsic(k, m):
    """Song et al. (2012), eq. 5, with every sum over different indices written out by its terms."""
    n = len(k)
    first = second = third = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            first += k[i, j] * m[i, j]
            for q in range(n):
                if q not in (i, j):
                    second += k[i, j] * m[i, q]
                    third += sum(k[i, j] * m[q, r] for r in range(n) if r not in (i, j, q))
    falling = lambda count: math.perm(n, count)  # noqa: E731
    return first / falling(2) - 2 * second / falling(3) + third / falling(4)


def naive(x, y):
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("n", [4, 5, 9])
def test_cka_and_its_jackknife_match_sums_over_different_examples(n):
    x, y = normal(n, 3).numpy() + 2, normal(n, 6, seed=1).numpy()
    y[:, :2] += x[:, :2]
    found = cka(torch.tensor(x), torch.tensor(y))
    assert float(found.value) == pytest.approx(naive(x, y), abs=1e-10)
    if n < 5:
        assert found.standard_error.isnan()
        return
    without = [naive(np.delete(x, row, 0), np.delete(y, row, 0)) for row in range(n)]
    expected = math.sqrt((n - 1) / n * sum((value - np.mean(without)) ** 2 for value in without))
    assert float(found.standard_error) == pytest.approx(expected, abs=1e-9)


def test_cka_matches_that_of_kernels():
    x, y = normal(30, 5), normal(30, 80, seed=1)
    x = torch.cat([x, y[:, :3]], 1)
    assert float(cka(x, y).value) == pytest.approx(float(debiased_cka(x @ x.T, y @ y.T)), abs=1e-10)


@pytest.mark.parametrize("d", [8, 90])
def test_cka_is_invariant_to_rotation_scale_and_shift(d):
    x = normal(40, d)
    rotation = torch.linalg.qr(normal(d, d, seed=1)).Q
    found = cka(x, 3 * x @ rotation + 7)
    assert float(found.value) == pytest.approx(1, abs=1e-12) and float(found.standard_error) < 1e-9
    y = x[:, :4] + normal(40, 4, seed=2)
    assert float(cka(x @ rotation, y).value) == pytest.approx(float(cka(x, y).value), abs=1e-12)


def test_independent_features_are_not_similar_though_the_biased_estimate_says_so():
    x, y = normal(50, 200), normal(50, 200, seed=1)
    found = cka(x, y)
    assert abs(float(found.value)) < 2 * float(found.standard_error)
    one, other = (rows - rows.mean(0) for rows in (x, y))
    one, other = one @ one.T, other @ other.T
    assert float((one * other).sum() / (one.norm() * other.norm())) > 0.7


def test_all_pairs_are_what_each_pair_is():
    layers = [normal(70, 3), normal(70, 3, seed=1), normal(70, 100, seed=2)]  # more than one block of rows
    layers[1] = layers[1] + layers[0]
    matrices = torch.stack([similarity_matrix(as_features(rows).centred) for rows in layers])
    found = debiased_cka_matrix(matrices, matrices[:2])
    for i in range(3):
        for j in range(2):
            one = cka(layers[i], layers[j])
            assert float(found.value[i, j]) == pytest.approx(float(one.value))
            assert float(found.standard_error[i, j]) == pytest.approx(float(one.standard_error), abs=1e-9)


def test_a_layer_of_which_nothing_is_left_is_nan_and_no_other():
    one = torch.zeros(6, 3)
    one[2] = 1  # a single example differs: no pair of others says anything
    matrices = torch.stack([similarity_matrix(as_features(x).centred) for x in (one, torch.ones(6, 3), normal(6, 3))])
    found = debiased_cka_matrix(matrices, matrices)
    assert found.value.isfinite().tolist() == [[False] * 3, [False] * 3, [False, False, True]]


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="at least 4 examples for an unbiased estimate, got 3"):
        similarity_matrix(normal(3, 2))
    with pytest.raises(ValueError, match=r"same examples as `layers`, 5 of them, got matrices of shape \(6, 6\)"):
        debiased_cka_matrix(similarity_matrix(normal(5, 2))[None], similarity_matrix(normal(6, 2))[None])


def test_a_matrix_that_is_kept_comes_back_to_the_last_bit():
    matrix = similarity_matrix(normal(9, 4))
    assert torch.equal(matrix, matrix.T) and folded(matrix).shape == (36,)
    assert torch.equal(unfolded(folded(matrix), 9), matrix)


def related(n, generator):
    z = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    first = (z @ normal(5, 40, seed=11)).relu()
    return first, (first @ normal(40, 40, seed=12)).relu()


def independent(n, generator):
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (5, 20))


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "low", "high"), [(related, 0.91, 0.98), (independent, 0.97, 1.0)])
@pytest.mark.parametrize("n", [30, 100])
def test_cka_is_unbiased_and_its_error_covers_the_truth(draw, low, high, n):
    generator = torch.Generator().manual_seed(n)
    large = [float(cka(*draw(3000, generator)).value) for _ in range(5)]
    truth = 0.0 if draw is independent else sum(large) / 5
    found = [cka(*draw(n, generator)) for _ in range(400)]
    values = torch.tensor([float(one.value) for one in found])
    errors = torch.tensor([float(one.standard_error) for one in found])
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 20 + 0.01  # a ratio: biased by 1 / n
    coverage = float(((values - truth).abs() < 1.96 * errors).double().mean())
    assert low <= coverage <= high
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert ratio == pytest.approx(math.sqrt(2) if draw is independent else 1.1, abs=0.15)
