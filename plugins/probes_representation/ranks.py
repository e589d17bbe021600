"""How many directions the features of a layer use: four numbers that count them."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["covariance_eigenvalues", "participation_ratio", "rankme", "stable_rank"]

EPSILON = 1e-7
"""What RankMe adds to each normalised singular value, as published for float32."""


def covariance_eigenvalues(centred: Tensor) -> Tensor:
    r"""Eigenvalues of the covariance of features, descending.

    .. math:: \Sigma = \frac{1}{n - 1} X_c^\top X_c

    From the singular values of the centred features, so that small ones keep their digits.

    Args:
        centred: Features less their mean, shape ``(n, d)``, n of at least 2.

    Returns:
        In the squared unit of the features, float64. Shape ``(min(n, d),)``; of n examples at most n - 1 are not zero.

    Cost: n d min(n, d) operations, times about ten.

    Example:
        >>> covariance_eigenvalues(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).round(decimals=9).tolist()
        [2.0, 0.0]
    """
    values: Tensor = torch.linalg.svdvals(to_float64(centred)).square() / (len(centred) - 1)
    return values


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    r"""The number of equal eigenvalues that would have the same sum and the same sum of squares.

    .. math:: \operatorname{PR} = \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}

    Between 1 (one eigenvalue) and their number (all equal); never above the effective rank.

    Args:
        eigenvalues: Of a covariance, not negative, any unit. Shape ``(k,)``.

    Returns:
        Dimensionless, scalar, float64; NaN where all are zero.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0

    Reference:
        Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 2017 (214262).
    """
    values = to_float64(eigenvalues)
    return values.sum().square() / values.square().sum()


def stable_rank(eigenvalues: Tensor) -> Tensor:
    r"""The squared Frobenius norm of the centred features over their squared spectral norm.

    .. math:: \operatorname{srank} = \frac{\|X_c\|_F^2}{\|X_c\|_2^2} = \frac{\sum_j \lambda_j}{\max_j \lambda_j}

    Between 1 and the rank; never above the participation ratio.

    Args:
        eigenvalues: Of a covariance, not negative, any unit. Shape ``(k,)``.

    Returns:
        Dimensionless, scalar, float64; NaN where all are zero.

    Example:
        >>> stable_rank(torch.tensor([4.0, 2.0])).item()
        1.5

    Reference:
        Rudelson and Vershynin, "Sampling from large matrices: an approach through geometric functional analysis",
        Journal of the ACM 54, 2007, section 1.
    """
    values = to_float64(eigenvalues)
    return values.sum() / values.amax()


def rankme(features: Tensor) -> Tensor:
    r"""RankMe: the exponential of the entropy of the normalised singular values of the features, not centred.

    .. math:: \operatorname{RankMe} = \exp\Big(-\sum_{k=1}^{\min(n, d)} p_k \log p_k\Big), \qquad
              p_k = \frac{\sigma_k}{\sum_j \sigma_j} + \epsilon, \qquad \epsilon = 10^{-7}

    It differs from the effective rank of the covariance twice: by singular values in place of their squares, and by
    the mean, which is one direction here.

    Args:
        features: Shape ``(n, d)``, any unit.

    Returns:
        Dimensionless, scalar, float64; NaN where all features are zero.

    Cost: n d min(n, d) operations, times about ten.

    Example:
        >>> round(rankme(torch.eye(8)).item(), 4)
        8.0

    Reference:
        Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
        their rank", ICML 2023 (arXiv 2210.02885), eq. 1 and 2. The effective rank of singular values is that of Roy &
        Vetterli, "The effective rank", EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(to_float64(features))
    shares = values / values.sum() + EPSILON
    rank: Tensor = (-(shares * shares.log()).sum()).exp()
    return rank
