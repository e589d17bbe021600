"""Bounds of the mutual information from the values of a critic on joint and on independent pairs.

A critic T gives a number for a pair (x, y). ``joint`` are its values on pairs drawn together, ``marginal`` those on
pairs whose x and y were drawn independently. Every exponential is taken relative to the largest: a critic may give
hundreds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "donsker_varadhan_bound",
    "f_divergence_bound",
    "info_nce_bound",
    "jensen_shannon_bound",
    "log_mean_exp",
    "smile_estimate",
]


def log_mean_exp(values: Tensor) -> Tensor:
    r"""Logarithm of the mean of exponentials, :math:`\log \frac 1 m \sum_j e^{t_j}`, without overflow.

    Args:
        values: Any shape.

    Returns:
        Shape ``()``.

    Example:
        >>> log_mean_exp(torch.tensor([1000.0, 1000.0])).item()
        1000.0
    """
    return torch.logsumexp(_single(values).flatten(), 0) - math.log(values.numel())


def _single(values: Tensor) -> Tensor:
    """In single precision at least: in half precision a sum of 65,536 ones is infinite."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def donsker_varadhan_bound(joint: Tensor, marginal: Tensor) -> Tensor:
    r"""The bound of Donsker and Varadhan, which MINE maximizes.

    .. math:: I(X; Y) \ge \mathbb E_{P_{XY}}[T] - \log \mathbb E_{P_X \otimes P_Y}[e^T]

    A bound for the expectations. From m samples the logarithm misses the tail of :math:`e^T` that they do not reach, so
    that far above :math:`\log m` the value exceeds the mutual information rather than bounding it.

    Args:
        joint: Shape ``(n,)``.
        marginal: Any shape.

    Returns:
        In nats. Shape ``()``.

    Example:
        >>> donsker_varadhan_bound(torch.tensor([2.0, 4.0]), torch.zeros(3)).item()
        3.0

    Reference:
        Belghazi et al., "Mutual information neural estimation", ICML 2018; Baratin (2021), chapter 5, eq. 6.
    """
    return _single(joint).mean() - log_mean_exp(marginal)


def f_divergence_bound(joint: Tensor, marginal: Tensor) -> Tensor:
    r"""The bound of the f-divergence representation, that of MINE-f and of NWJ.

    .. math:: I(X; Y) \ge \mathbb E_{P_{XY}}[T] - \mathbb E_{P_X \otimes P_Y}[e^{T - 1}]

    For one critic and the same samples it is never above :func:`donsker_varadhan_bound`; its gradient from a batch is
    unbiased.

    Args, returns: as :func:`donsker_varadhan_bound`.

    Example:
        >>> f_divergence_bound(torch.tensor([2.0, 4.0]), torch.ones(3)).item()
        2.0

    Reference:
        Nguyen, Wainwright & Jordan, "Estimating divergence functionals and the likelihood ratio by convex risk
        minimization", IEEE Trans. Inf. Theory 2010; Baratin (2021), chapter 5, eq. 8.
    """
    return _single(joint).mean() - (log_mean_exp(marginal) - 1).exp()


def smile_estimate(joint: Tensor, marginal: Tensor, clip: float = 5.0) -> Tensor:
    r"""The Donsker-Varadhan value with the exponentials clipped: less variance, and no bound any more.

    .. math:: \mathbb E_{P_{XY}}[T] - \log \mathbb E_{P_X \otimes P_Y}[\min(\max(e^T, e^{-\tau}), e^\tau)]

    Args:
        clip: :math:`\tau`.

    Other arguments, returns: as :func:`donsker_varadhan_bound`.

    Raises:
        ValueError: If ``clip`` is not positive.

    Example:
        >>> smile_estimate(torch.tensor([2.0]), torch.full((3,), 9.0), clip=1.0).item()
        1.0

    Reference:
        Song & Ermon, "Understanding the limitations of variational mutual information estimators", ICLR 2020.
    """
    if not clip > 0:
        raise ValueError(f"`clip` must be positive, got {clip!r}.")
    return _single(joint).mean() - log_mean_exp(marginal.clamp(-clip, clip))


def info_nce_bound(joint: Tensor, marginal: Tensor) -> Tensor:
    r"""The contrastive bound: how well the partner of x is told from k others. At most :math:`\log(k + 1)`.

    .. math:: I(X; Y) \ge \mathbb E \Big[ T(x, y_0)
              - \log \frac{1}{k + 1} \Big( e^{T(x, y_0)} + \sum_{j = 1}^k e^{T(x, y_j)} \Big) \Big]

    Args:
        joint: T(x, y_0). Shape ``(n,)``.
        marginal: T(x, y_j), the same x in each column. Shape ``(k, n)``.

    Returns:
        In nats. Shape ``()``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> round(info_nce_bound(torch.full((1,), 99.0), torch.zeros(3, 1)).item(), 4)  # log 4
        1.3863

    Reference:
        van den Oord, Li & Vinyals, "Representation learning with contrastive predictive coding", 2018; as a bound:
        Poole et al., "On variational bounds of mutual information", ICML 2019.
    """
    if joint.ndim != 1 or marginal.ndim != 2 or marginal.shape[1:] != joint.shape:
        raise ValueError(
            f"`joint` must have shape (n,) and `marginal` (k, n), got {tuple(joint.shape)} and {tuple(marginal.shape)}."
        )
    joint, marginal = _single(joint), _single(marginal)
    scores = torch.cat([joint[None], marginal])
    return (joint - torch.logsumexp(scores, 0)).mean() + math.log(len(scores))


def jensen_shannon_bound(joint: Tensor, marginal: Tensor) -> Tensor:
    r"""A bound of the Jensen-Shannon divergence between joint and product, not of the mutual information.

    .. math:: \mathrm{JSD} \ge \log 2 - \tfrac 1 2 \mathbb E_{P_{XY}}[\log(1 + e^{-T})]
              - \tfrac 1 2 \mathbb E_{P_X \otimes P_Y}[\log(1 + e^T)]

    At its maximum T is the logarithm of the density ratio, as for the bounds of the mutual information, and it is the
    most stable to maximize. Between 0 and log 2.

    Args, returns: as :func:`donsker_varadhan_bound`.

    Example:
        >>> jensen_shannon_bound(torch.zeros(2), torch.zeros(2)).item()
        0.0

    Reference:
        Nowozin, Cseke & Tomioka, "f-GAN", NeurIPS 2016; Hjelm et al., "Learning deep representations by mutual
        information estimation and maximization", ICLR 2019.
    """
    return math.log(2) - (softplus(-_single(joint)).mean() + softplus(_single(marginal)).mean()) / 2
