"""How well a ridge classifier tells the classes apart from one layer, on examples it was not fitted to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probes.precision import to_float64

from .classifier import Share

__all__ = ["ridge_accuracy", "ridge_predictions", "stratified_folds"]


def stratified_folds(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The fold of each example: as many of each class in each fold as can be, at random.

    Args:
        labels: Shape ``(n,)``.
        count: Number of folds.
        generator: On the CPU.

    Returns:
        Integers from 0 to ``count - 1``, shape ``(n,)``, on the CPU. Sizes differ by one at most.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> folds = stratified_folds(labels, 2, torch.Generator().manual_seed(0))
        >>> torch.bincount(folds[labels == 0]).tolist(), torch.bincount(folds[labels == 1]).tolist()
        ([2, 2], [1, 1])
    """
    labels = labels.cpu()
    mixed = torch.randperm(len(labels), generator=generator, device="cpu")
    ordered = mixed[labels[mixed].argsort(stable=True)]
    folds = torch.empty(len(labels), dtype=torch.long, device="cpu")
    folds[ordered] = torch.arange(len(labels), device="cpu") % count
    return folds


def ridge_predictions(features: Tensor, targets: Tensor, folds: Tensor, penalty: float) -> Tensor:
    r"""What ridge regressions predict for examples of a fold when fitted to those of all others.

    .. math:: \min_{A, b} \sum_{i \notin F} \|A x_i + b - y_i\|^2 + \lambda \|A\|_F^2, \qquad
              \lambda = \frac{\text{penalty}}{n} \sum_i \|x_i - \bar x\|^2

    in closed form, without a fit for each fold: with the hat matrix H of all examples, the residuals of those in F are
    :math:`(I - H_{FF})^{-1} (y_F - \hat y_F)`. The penalty is of the whole batch, and uses no targets.

    Args:
        features: Shape ``(n, d)``, any unit.
        targets: Shape ``(n, c)``.
        folds: Integers, shape ``(n,)``, two different ones at least.
        penalty: Positive, in units of the mean squared length of the centred features.

    Returns:
        In the unit of the targets, shape ``(n, c)``, float64.

    Raises:
        ValueError: If ``penalty`` is not positive, or there is one fold only.

    Cost: n d^2 + d^3 + n^2 d operations.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> ridge_predictions(x, 2 * x + 1, torch.tensor([0, 0, 1, 1]), 1e-9).flatten().round(decimals=4).tolist()
        [1.0, 3.0, 5.0, 7.0]

    Reference:
        An and Liu, "Fast cross-validation algorithms for least squares support vector machine and kernel ridge
        regression", Pattern Recognition 40, 2007.
    """
    if not penalty > 0:
        raise ValueError(f"`penalty` must be a positive number, got {penalty!r}.")
    features, targets, folds = to_float64(features), to_float64(targets), folds.to(features.device)
    n = len(features)
    centred = features - features[:1]
    centred = centred - centred.mean(0)
    strength = penalty * centred.square().sum() / n
    strength = torch.where(strength == 0, 1.0, strength)  # of constant features: the intercept alone
    gram = centred.T @ centred
    gram.diagonal().add_(strength)
    hat = centred @ torch.cholesky_solve(centred.T.contiguous(), torch.linalg.cholesky(gram)) + 1 / n
    residuals = targets - hat @ targets
    predictions = torch.empty_like(targets)
    numbers = torch.unique(folds)
    if len(numbers) < 2:
        raise ValueError("`folds` must hold two different folds at least: nothing would be left to fit to.")
    for number in numbers:
        rows = (folds == number).nonzero()[:, 0]
        inner = torch.eye(len(rows), dtype=hat.dtype, device=hat.device) - hat[rows[:, None], rows]
        predictions[rows] = targets[rows] - torch.linalg.solve(inner, residuals[rows])
    return predictions


def ridge_accuracy(features: Tensor, labels: Tensor, folds: Tensor, penalty: float) -> Share:
    """Accuracy of a ridge classifier on examples that were held out: what the literature calls a linear probe.

    The targets are the one-hot labels, the class is the largest prediction. Of features that are constant it is the
    share of the largest class.

    Args:
        features: Shape ``(n, d)``.
        labels: Integers, shape ``(n,)``.
        folds: From :func:`stratified_folds`.
        penalty: See :func:`ridge_predictions`.

    Returns:
        Between 0 and 1, with the standard error of n independent examples, as if the classifiers of the folds were
        one that is given; NaN where a prediction is not finite.

    Raises:
        ValueError: As :func:`ridge_predictions`.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> ridge_accuracy(features, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), 0.1).value
        1.0

    Reference:
        Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017 workshop.
    """
    classes, index = torch.unique(labels, return_inverse=True)
    if bool((features == features[:1]).all()):  # a fit would give the largest class of all folds but one
        return Share.of(index == index.bincount().argmax())
    targets = torch.nn.functional.one_hot(index, len(classes)).to(features.device)
    predictions = ridge_predictions(features, targets, folds, penalty)
    if not bool(predictions.isfinite().all()):
        return Share(math.nan, math.nan)
    return Share.of(predictions.argmax(1) == index.to(features.device))
