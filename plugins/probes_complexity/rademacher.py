"""Bounds of the empirical Rademacher complexity of linear classes and of learning flows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

from .linear_regression import _modes

__all__ = ["OptimalRescaling", "flow_bound", "linear_bound", "multiclass_bound", "optimal_rescaling"]


def linear_bound(norm: Tensor | float, trace: Tensor | float, n: int) -> Tensor:
    r"""Bound of the complexity of linear functions whose weights have at most some norm.

    .. math:: \widehat{\mathcal R}(\{x \mapsto \langle w, \Phi(x) \rangle : \|w\|_A \le M_A\})
              \le \frac{M_A}{n} \|A^{-1} \Phi^\top\|_F = \frac{M_A}{n} \sqrt{\operatorname{Tr} K_A}

    Args:
        norm: :math:`M_A`.
        trace: Of the kernel of the (rescaled) features on the samples.
        n: Number of samples.

    Returns:
        In the unit of the outputs.

    Raises:
        ValueError: If ``norm`` or ``trace`` is negative or ``n`` is below 1.

    Example:
        >>> linear_bound(2.0, 9.0, 3).item()
        2.0

    Reference:
        Baratin (2021), eq. 10 and proposition B.6, eq. 42.
    """
    norm, trace = torch.as_tensor(norm, dtype=torch.float64), torch.as_tensor(trace, dtype=torch.float64)
    if n < 1 or bool((norm < 0).any()) or bool((trace < 0).any()):
        raise ValueError(f"`norm` and `trace` must not be negative and `n` be positive, got {norm}, {trace}, {n}.")
    return norm * trace.sqrt() / n


def flow_bound(update_norms: Tensor, feature_norms: Tensor, n: int) -> Tensor:
    r"""Bound of the complexity of functions learned by updates of given norms with given sequences of features.

    .. math:: \widehat{\mathcal R}(\mathcal F_m^\Phi) \le \sum_t \frac{m_t}{n} \|\Phi_t\|_F

    n times it is the path complexity C (eq. 18) when the norms are those of a run.

    Args:
        update_norms: :math:`m_t`, shape ``(steps,)``.
        feature_norms: :math:`\|\Phi_t\|_F` of the features that each update met, shape ``(steps,)``.
        n: Number of samples.

    Raises:
        ValueError: If the shapes differ, or ``n`` is below 1.

    Example:
        >>> flow_bound(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]), 5).item()
        1.0

    Reference:
        Baratin (2021), theorem 4.2, eq. 12 and 14.
    """
    if update_norms.shape != feature_norms.shape or n < 1:
        raise ValueError(
            f"`update_norms` and `feature_norms` must have one shape and `n` be positive, got "
            f"{tuple(update_norms.shape)}, {tuple(feature_norms.shape)} and {n}."
        )
    return (to_float64(update_norms) * to_float64(feature_norms)).sum() / n


def multiclass_bound(norm: Tensor | float, trace: Tensor | float, n: int, c: int, margin: float) -> Tensor:
    r"""Bound of the complexity of the margin loss of linear classifiers of c classes.

    .. math:: \widehat{\mathcal R}(\ell_\gamma(\mathcal F))
              \le \frac{c^{3/2} M_A}{\gamma n} \sqrt{\operatorname{Tr} K_A}

    Args:
        norm: :math:`M_A`.
        trace: Of the nc by nc kernel.
        n: Number of samples.
        c: Number of classes.
        margin: :math:`\gamma`, in the unit of the outputs.

    Returns:
        Dimensionless.

    Raises:
        ValueError: As :func:`linear_bound`, or if ``c`` is below 1 or ``margin`` not positive.

    Example:
        >>> multiclass_bound(2.0, 9.0, 3, c=4, margin=2.0).item()
        8.0

    Reference:
        Baratin (2021), theorem B.2, eq. 60. For a scalar output and two classes, eq. 42 over the margin (eq. 40).
    """
    if c < 1 or not margin > 0:
        raise ValueError(f"`c` and `margin` must be positive, got {c} and {margin}.")
    return linear_bound(norm, trace, n) * math.sqrt(c**3) / margin


class OptimalRescaling(NamedTuple):
    """The rescaling of features for which the bound of the minimum-norm interpolator is least."""

    factors: Tensor
    r"""Of each eigenvalue, :math:`1 / \nu_j^*`, scaled so that the largest is 1. Shape ``(r,)``."""
    bound: Tensor
    """The least bound."""
    bound_before: Tensor
    """That with the features as they are, A = Id."""


def optimal_rescaling(features: Tensor, targets: Tensor) -> OptimalRescaling:
    r"""Rescale the singular values of a feature matrix so that the minimum-norm interpolator has the least bound.

    .. math:: \nu_j^* = \kappa \frac{\lambda_j}{|\mathbf u_j^\top \mathbf y|}, \qquad
              \frac{\|w^*\|_{A_\nu}}{n} \sqrt{\operatorname{Tr} K_{A_\nu}}
              = \frac 1 n \sqrt{\sum_j \frac{\nu_j}{\lambda_j} (\mathbf u_j^\top \mathbf y)^2
                \sum_j \frac{\lambda_j}{\nu_j}}
              \ge \frac 1 n \sum_j |\mathbf u_j^\top \mathbf y|

    Args:
        features: Shape ``(n, P)``.
        targets: Shape ``(n,)``; what of them is outside the span of the features is not interpolated.

    Raises:
        ValueError: If the shapes do not fit, or the features tell nothing of the targets.

    Cost: one singular value decomposition.

    Example:
        >>> optimal_rescaling(torch.diag(torch.tensor([2.0, 1.0])), torch.tensor([3.0, 4.0])).bound.item()
        3.5

    Reference:
        Baratin (2021), proposition B.7, eq. 64 and 65. The optimum depends on the samples: it is no bound of the
        generalization error by itself.
    """
    u, s, _ = _modes(features, targets, 1.0)
    projections = (u.T @ to_float64(targets.detach()).to(u.device)).abs()
    if not bool((projections > 0).any()):
        raise ValueError("`targets` has no part in the span of the features: there is nothing to interpolate.")
    scaled = projections / s.square()
    norm = (projections / s).norm()
    n = len(targets)
    return OptimalRescaling(scaled / scaled.max(), projections.sum() / n, linear_bound(norm, s.square().sum(), n))
