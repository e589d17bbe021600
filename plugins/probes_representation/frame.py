"""NC2: how near class means, or the weights of a classifier, are to a simplex equiangular tight frame."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["distance_from_maximal_angle", "equiangularity", "equinormness"]


def equinormness(vectors: Tensor) -> Tensor:
    r"""Coefficient of variation of the lengths of vectors: 0 where all are of one length (NC2).

    .. math:: \frac{\operatorname{Std}_c \|v_c\|}{\operatorname{Avg}_c \|v_c\|}

    Std divides by C.

    Args:
        vectors: The centred class means or the weights of a classifier, one a row, any unit. Shape ``(C, d)``.

    Returns:
        Dimensionless, scalar, float64; NaN of fewer than two vectors, or where all are zero.

    Example:
        >>> equinormness(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).item()
        0.5

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC2) and figure 2.
    """
    lengths: Tensor = torch.linalg.vector_norm(to_float64(vectors), dim=1)
    if len(lengths) < 2:
        return lengths.new_tensor(torch.nan)
    return lengths.std(correction=0) / lengths.mean()


def equiangularity(vectors: Tensor) -> Tensor:
    r"""Standard deviation of the cosines between pairs of vectors: 0 where all angles are equal (NC2).

    .. math:: \operatorname{Std}_{c \ne c'} \cos(v_c, v_{c'})

    Args:
        vectors: As for :func:`equinormness`.

    Returns:
        Dimensionless, scalar, float64; NaN of fewer than two vectors, or where one is zero.

    Example:
        >>> equiangularity(torch.eye(3)).item()
        0.0

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC2) and figure 3.
    """
    cosines = _cosines(vectors)
    return cosines.std(correction=0) if len(cosines) else cosines.new_tensor(torch.nan)


def distance_from_maximal_angle(vectors: Tensor) -> Tensor:
    r"""Mean distance of the cosines from the smallest that C vectors can all have: 0 of a simplex frame (NC2).

    .. math:: \operatorname{Avg}_{c \ne c'} \Big|\cos(v_c, v_{c'}) + \frac{1}{C - 1}\Big|

    Args:
        vectors: As for :func:`equinormness`.

    Returns:
        Dimensionless, scalar, float64; NaN of fewer than two vectors, or where one is zero.

    Example:
        >>> distance_from_maximal_angle(torch.eye(3)).item()  # cosines of 0, not of -1/2
        0.5

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC2) and figure 4.
    """
    cosines = _cosines(vectors)
    if not len(cosines):
        return cosines.new_tensor(torch.nan)
    return (cosines + 1 / (len(vectors) - 1)).abs().mean()


def _cosines(vectors: Tensor) -> Tensor:
    """Of all pairs of two different ones, each once."""
    vectors = to_float64(vectors)
    units = vectors / vectors.norm(dim=1, keepdim=True)
    row, column = torch.triu_indices(len(units), len(units), offset=1, device=units.device)
    cosines: Tensor = (units @ units.T)[row, column]
    return cosines
