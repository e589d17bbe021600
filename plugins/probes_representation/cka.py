"""Similarity of what two layers tell apart: linear CKA from unbiased estimates, with a standard error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["Similarity", "debiased_cka_matrix", "folded", "similarity_matrix", "unfolded"]

ROUNDING = 1e-12
"""What is left of a Gram matrix once it is centred is zero below this share of it."""
ROWS = 64
"""Examples that are worked on at a time."""


class Similarity(NamedTuple):
    """CKA and its standard error."""

    value: Tensor
    """At most 1, dimensionless."""
    standard_error: Tensor


def similarity_matrix(centred: Tensor) -> Tensor:
    r"""The Gram matrix of a layer as the unit vector whose inner products are debiased CKA.

    .. math:: \tilde K_{ij} = K_{ij} - \frac{k_i + k_j}{n - 2} + \frac{\sum_l k_l}{(n - 1)(n - 2)} \quad (i \ne j),
              \qquad \tilde K_{ii} = 0, \qquad k_i = \sum_{j \ne i} K_{ij}

    The rows of :math:`\tilde K` sum to zero, and :math:`\sum_{ij} \tilde K_{ij} \tilde L_{ij} / (n (n - 3))` is the
    unbiased estimate of HSIC of Song et al. It does not depend on the mean of the features.

    Args:
        centred: Features, centred for the sake of rounding, of magnitude about 1. Shape ``(n, d)``, n of at least 4.

    Returns:
        Norm 1, float64, shape ``(n, n)``; NaN where nothing is left of the Gram matrix.

    Raises:
        ValueError: If there are fewer than 4 examples.

    Cost: n^2 d operations.

    Example:
        >>> one = similarity_matrix(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]))
        >>> one.sum(0).abs().max().item() < 1e-12, round(one.square().sum().item(), 9)
        (True, 1.0)

    Reference:
        Szekely and Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42,
        2014, eq. 2.3 (U-centring); Song et al., "Feature selection via dependence maximization", JMLR 13, 2012, eq. 5.
    """
    n = len(centred)
    if n < 4:
        raise ValueError(f"`centred` must have at least 4 examples for an unbiased estimate, got {n}.")
    features = to_float64(centred)
    gram = features @ features.T
    size = gram.norm()
    gram.fill_diagonal_(0)
    rows = gram.sum(0) / (n - 2)
    gram = gram - (rows + rows[:, None]) + rows.sum() / (n - 1)
    gram = (gram + gram.T) / 2  # symmetric to the last bit, so that half of it is enough to keep
    gram.fill_diagonal_(0)
    norm = gram.norm()
    return gram / torch.where(norm > ROUNDING * size, norm, torch.nan)


def debiased_cka_matrix(layers: Tensor, others: Tensor) -> Similarity:
    r"""Debiased linear CKA of each layer with each other one, on the same examples, and its standard error.

    .. math:: \operatorname{CKA}(K, L) = \frac{\operatorname{HSIC}_u(K, L)}
              {\sqrt{\operatorname{HSIC}_u(K, K) \operatorname{HSIC}_u(L, L)}} = \sum_{ij} \tilde K_{ij} \tilde L_{ij}

    About 0 for independent features (negative by chance), at most 1. CKA of the usual, biased estimates is pushed
    towards 1 where there are few examples for the number of features.

    The standard error is that of the jackknife: with :math:`t_a = \sum_j \tilde K_{aj} \tilde L_{aj}`, HSIC without
    example a is proportional to :math:`\sum_{b} t_b - 2 \frac{n - 2}{n - 3} t_a`, so that all n values cost no more
    than one. It is of the examples as a sample, says nothing about the training, and is too large, by about
    :math:`\sqrt 2`, where the features are independent.

    Args:
        layers: From :func:`similarity_matrix`, shape ``(p, n, n)``.
        others: Of the same examples, shape ``(q, n, n)``.

    Returns:
        Both of shape ``(p, q)``, float64; NaN where one of the layers is; the error also of fewer than 5 examples.

    Raises:
        ValueError: If the examples differ in number.

    Cost: 2 p q n^2 operations, and p q n numbers.

    Example:
        >>> one = similarity_matrix(torch.randn(20, 3))[None]
        >>> [round(item.item(), 9) for item in debiased_cka_matrix(one, one)]
        [1.0, 0.0]

    Reference:
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, eq. 4; Nguyen, Raghu &
        Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021, eq. 1 to 3, for unbiased estimates.
    """
    n = layers.shape[-1]
    if layers.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"`others` must be on the same examples as `layers`, {n} of them, got matrices of shape "
            f"{tuple(others.shape[1:])}."
        )
    terms = torch.cat(
        [
            torch.einsum("paj,qaj->apq", layers[:, start : start + ROWS], others[:, start : start + ROWS])
            for start in range(0, n, ROWS)
        ]
    )  # t_a, shape (n, p, q)
    value = terms.sum(0)
    if n < 5:
        return Similarity(value, torch.full_like(value, torch.nan))
    factor = 2 * (n - 2) / (n - 3)
    own = _left_out(layers.square().sum(2), factor)  # (p, n)
    other = _left_out(others.square().sum(2), factor)
    norms = (own.T[:, :, None] * other.T[:, None, :]).sqrt()
    without = (value - factor * terms) / norms
    error = ((n - 1) / n * (without - without.mean(0)).square().sum(0)).sqrt()
    return Similarity(value, error)


def _left_out(terms: Tensor, factor: float) -> Tensor:
    """The squared norm of each layer without each example, NaN where nothing is left."""
    left = terms.sum(1, keepdim=True) - factor * terms
    return torch.where(left > ROUNDING, left, torch.nan)


def folded(matrix: Tensor) -> Tensor:
    """The entries above the diagonal of a symmetric matrix with a diagonal of zeros, to be kept.

    Example:
        >>> folded(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [1.0]
    """
    row, column = torch.triu_indices(len(matrix), len(matrix), offset=1, device=matrix.device)
    return matrix[row, column]


def unfolded(kept: Tensor, n: int) -> Tensor:
    """The symmetric matrix of which :func:`folded` has kept the entries. Shape ``(n, n)``.

    Example:
        >>> unfolded(torch.tensor([1.0]), 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    row, column = torch.triu_indices(n, n, offset=1, device=kept.device)
    matrix = kept.new_zeros(n, n)
    matrix[row, column] = kept
    matrix[column, row] = kept
    return matrix
