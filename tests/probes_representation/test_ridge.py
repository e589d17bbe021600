"""Ridge classifiers against scikit-learn's, fitted to each fold's others."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from probes_representation import as_features, ridge_accuracy, ridge_predictions, stratified_folds


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(n=90, d=5, apart=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + apart * normal(3, d, seed=9)[labels], labels


def folds_of(labels, seed=0):
    return stratified_folds(labels, 5, torch.Generator().manual_seed(seed))


def strength(features, penalty):
    return penalty * float((features - features.mean(0)).square().sum()) / len(features)


@pytest.mark.parametrize("d", [1, 5, 300])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_predictions_are_those_of_ridges_fitted_to_the_other_folds(d, penalty):
    features, labels = blobs(d=d)
    features, targets, folds = features + 4, normal(90, 2, seed=3), folds_of(labels)
    model = Ridge(alpha=strength(features, penalty), solver="svd")
    expected = cross_val_predict(model, features.numpy(), targets.numpy(), cv=PredefinedSplit(folds.numpy()))
    found = ridge_predictions(features, targets, folds, penalty)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-8)
    inner = as_features(features)  # the penalty is relative: the same in other units and another basis
    torch.testing.assert_close(ridge_predictions(inner.centred, targets, folds, penalty), found, rtol=1e-6, atol=1e-8)


def test_accuracy_is_that_of_a_ridge_classifier_and_near_that_of_a_logistic_regression():
    features, labels = blobs(300)
    folds, y = folds_of(labels), labels.numpy()
    split = PredefinedSplit(folds.numpy())
    found = ridge_accuracy(features, labels, folds, 0.1)
    classifier = RidgeClassifier(alpha=strength(features, 0.1), solver="svd")
    expected = np.mean(cross_val_predict(classifier, features.numpy(), y, cv=split) == y)
    assert 0.4 < found.value < 0.95 and found.value == pytest.approx(expected)
    logistic = np.mean(cross_val_predict(LogisticRegression(), features.numpy(), y, cv=split) == y)
    assert found.value == pytest.approx(logistic, abs=3 * found.standard_error)


def test_classes_that_lie_apart_are_told_apart():
    features, labels = blobs(apart=20)
    assert ridge_accuracy(features, labels, folds_of(labels), 0.1) == (1.0, 0.0)


def test_labels_that_have_nothing_to_do_with_many_features_are_not_learned():
    labels = torch.arange(200) % 2
    found = ridge_accuracy(normal(200, 500), labels, folds_of(labels), 0.1)
    assert abs(found.value - 0.5) < 3 * found.standard_error


def test_of_a_constant_layer_the_largest_class_is_known():
    labels = torch.tensor([0] * 12 + [1] * 28)
    assert ridge_accuracy(torch.full((40, 3), 0.1), labels, folds_of(labels), 0.1).value == 0.7


def test_folds_hold_as_many_of_each_class_as_can_be_and_are_drawn_from_the_generator():
    labels = torch.tensor([0] * 23 + [1] * 9 + [2])
    folds = folds_of(labels)
    for chosen in (labels >= 0, labels == 0, labels == 1):
        sizes = torch.bincount(folds[chosen], minlength=5)
        assert int(sizes.max() - sizes.min()) <= 1
    assert torch.equal(folds, folds_of(labels)) and not torch.equal(folds, folds_of(labels, seed=1))


def test_wrong_settings_are_refused():
    features, labels = blobs()
    for penalty in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="`penalty` must be a positive number, got"):
            ridge_predictions(features, features, folds_of(labels), penalty)
    with pytest.raises(ValueError, match="two different folds"):
        ridge_predictions(features, features, torch.zeros(90), 0.1)


@pytest.mark.slow
def test_the_standard_error_of_an_accuracy_covers_what_is_expected():
    found = [(r := blobs(100, seed=seed)) and ridge_accuracy(*r, folds_of(r[1], seed), 0.1) for seed in range(400)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([one.standard_error for one in found])
    coverage = float(((values - values.mean()).abs() < 1.96 * errors).double().mean())
    assert 0.9 <= coverage <= 0.98
    assert float(errors.mean() / values.std()) == pytest.approx(1, abs=0.15)


def test_of_constant_features_it_is_the_share_of_the_largest_class():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    folds = stratified_folds(labels, 5, torch.Generator().manual_seed(0))
    value, error = ridge_accuracy(torch.full((10, 3), 0.3), labels, folds, 0.1)
    assert value == pytest.approx(0.4) and error > 0.1
