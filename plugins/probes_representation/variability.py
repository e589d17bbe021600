"""NC1: how much examples of one class differ, beside how much the classes do."""

from __future__ import annotations

import torch
from torch import Tensor

from .class_means import ClassMeans

__all__ = ["within_class_variability"]


def within_class_variability(found: ClassMeans) -> Tensor:
    r"""Within-class covariance in units of the between-class covariance: 0 once classes have collapsed (NC1).

    .. math:: \frac{1}{C} \operatorname{Tr}\big(\Sigma_W \Sigma_B^\dagger\big), \qquad
              \Sigma_W = \operatorname{Ave}_{i,c} (h_{i,c} - \mu_c)(h_{i,c} - \mu_c)^\top, \qquad
              \Sigma_B = \operatorname{Ave}_c (\mu_c - \mu_G)(\mu_c - \mu_G)^\top

    The pseudo-inverse is of rank C - 1 at most. Averages give each class the same weight, see :func:`class_means`;
    that over the n_c examples of a class divides by n_c, so that few examples make it too small.

    Args:
        found: From :func:`class_means`.

    Returns:
        Dimensionless, not negative, scalar, float64; NaN of one class, or where all class means are equal.

    Cost: n d C operations, and a singular value decomposition of C by d numbers.

    Example:
        >>> from probes_representation import class_means
        >>> features = torch.tensor([[3.0], [1.0], [-1.0], [-3.0]])
        >>> within_class_variability(class_means(features, torch.tensor([0, 0, 1, 1]))).round(decimals=9).item()
        0.125

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC1) and figure 6.
    """
    number, d = found.centred.shape
    if number < 2 or not found.centred.isfinite().all():
        return found.centred.new_tensor(torch.nan)
    _, sizes, directions = torch.linalg.svd(found.centred, full_matrices=False)
    if not sizes.isfinite().all():
        return found.centred.new_tensor(torch.nan)
    rounding = max(number, d) * torch.finfo(torch.float64).eps * sizes[0]
    rank = min(number - 1, int((sizes > rounding).sum()))
    if not rank:
        return found.centred.new_tensor(torch.nan)
    spread = found.weights @ (found.within @ directions[:rank].T).square()  # of the examples, in each direction
    ratio: Tensor = (spread / (sizes[:rank].square() / number)).sum() / number
    return ratio
