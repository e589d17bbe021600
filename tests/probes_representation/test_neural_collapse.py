"""NC1 to NC4 of simplex frames, and against numpy written as the paper has it."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from probes_representation import (
    class_means,
    distance_from_maximal_angle,
    equiangularity,
    equinormness,
    nearest_mean_agreement,
    self_duality_distance,
    within_class_variability,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex(c, d):
    """Vertices of a simplex frame in d dimensions, as rows."""
    frame = torch.eye(c, dtype=torch.float64) - 1 / c
    return frame @ torch.linalg.qr(normal(d, c)).Q.T


@pytest.mark.parametrize(("c", "d"), [(2, 3), (4, 4), (10, 64)])
def test_collapsed_features_have_no_distance_from_collapse(c, d):
    labels = torch.arange(c).repeat(5)
    features = 3 * simplex(c, d)[labels] + normal(d, seed=1)
    weight = simplex(c, d)
    found = class_means(features, labels)
    assert float(within_class_variability(found)) == pytest.approx(0, abs=1e-20)
    for vectors in (found.centred, weight):
        for distance in (equinormness, equiangularity, distance_from_maximal_angle):
            assert float(distance(vectors)) == pytest.approx(0, abs=1e-12)
    assert float(self_duality_distance(7 * weight, found)) == pytest.approx(0, abs=1e-12)
    assert float(self_duality_distance(-weight, found)) == pytest.approx(4)
    bias = -weight @ found.means.mean(0)
    assert nearest_mean_agreement(features, weight, bias, found) == (1.0, 0.0)


def example(counts=(12, 5, 9), d=6):
    labels = torch.cat([torch.full((n,), 2 * c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(4))]
    return normal(len(labels), d) + normal(5, d, seed=2)[labels], labels


@pytest.mark.parametrize("d", [2, 6, 40])
def test_variability_matches_the_pseudo_inverse(d):
    features, labels = example(d=d)
    h, y = features.numpy(), labels.numpy()
    means = np.stack([h[y == c].mean(0) for c in (0, 2, 4)])
    within = np.mean([np.cov(h[y == c], rowvar=False, bias=True) for c in (0, 2, 4)], axis=0)
    between = np.cov(means, rowvar=False, bias=True)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)) / 3
    assert float(within_class_variability(class_means(features, labels))) == pytest.approx(expected)


def test_every_class_counts_alike():
    features, labels = example()
    twice = torch.cat([torch.arange(len(labels)), (labels == 2).nonzero()[:, 0]])
    one, other = class_means(features, labels), class_means(features[twice], labels[twice])
    torch.testing.assert_close(one.centred, other.centred)
    assert float(within_class_variability(one)) == pytest.approx(float(within_class_variability(other)))


def test_frame_distances_match_loops_over_pairs():
    vectors = normal(5, 7).numpy()
    cosines = [
        vectors[i] @ vectors[j] / (np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j]))
        for i in range(5) for j in range(5) if i != j
    ]  # fmt: skip
    lengths = [np.linalg.norm(vector) for vector in vectors]
    given = torch.tensor(vectors)
    assert float(equinormness(given)) == pytest.approx(np.std(lengths) / np.mean(lengths))
    assert float(equiangularity(given)) == pytest.approx(np.std(cosines))
    assert float(distance_from_maximal_angle(given)) == pytest.approx(np.mean(np.abs(np.array(cosines) + 1 / 4)))


def test_self_duality_matches_normalised_matrices():
    features, labels = example()
    found, weight = class_means(features, labels), normal(3, 6, seed=5)
    w, m = weight.numpy(), found.centred.numpy()
    expected = np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2
    assert float(self_duality_distance(weight, found)) == pytest.approx(expected)


def test_the_nearest_class_mean_is_that_of_scikit_learn():
    features, labels = example(counts=(30, 20, 25))
    features = features + 100
    weight, bias = normal(3, 6, seed=6), normal(3, seed=7)
    nearest = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(features.numpy())
    given = np.array([0, 2, 4])[(features @ weight.T + bias).argmax(1).numpy()]
    found = nearest_mean_agreement(features, weight, bias, class_means(features, labels))
    share = np.mean(nearest == given)
    assert 0 < share < 1 and found.value == pytest.approx(share)
    assert found.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 74))


def test_what_is_not_defined_is_nan():
    one = class_means(normal(6, 3), torch.zeros(6, dtype=torch.long))
    for distance in (equinormness, equiangularity, distance_from_maximal_angle):
        assert distance(one.centred).isnan()
    assert within_class_variability(one).isnan() and self_duality_distance(torch.ones(1, 3), one).isnan()
    equal = class_means(torch.full((6, 3), 0.1), torch.tensor([0, 1] * 3))
    assert within_class_variability(equal).isnan() and equiangularity(equal.centred).isnan()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one class for each of the 6 examples, got shape \(5,\)"):
        class_means(normal(6, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"a row for each class and a column for each feature, \(2, 3\), got \(4, 3\)"):
        self_duality_distance(normal(4, 3), class_means(normal(6, 3), torch.tensor([0, 1] * 3)))


def test_of_equal_class_means_none_is_nearest():
    found = class_means(torch.ones(12, 5), torch.arange(12) % 3)
    value, error = nearest_mean_agreement(torch.ones(12, 5), torch.randn(3, 5), None, found)
    assert math.isnan(value) and math.isnan(error)
