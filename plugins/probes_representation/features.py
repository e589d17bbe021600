"""The outputs of one layer as the matrix that all measures start from."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["Features", "Positions", "as_features", "as_rows"]

Positions = Literal["flatten", "mean"]


class Features(NamedTuple):
    """The outputs of a layer on n examples, in an orthonormal basis of what they span, in units of the largest one."""

    centred: Tensor
    """Deviations from the mean, float64. Shape ``(n, k)``, k the lesser of d and n + 1."""
    mean: Tensor
    """Mean over the examples, float64. Shape ``(k,)``."""

    @property
    def raw(self) -> Tensor:
        """The outputs themselves, not centred. Shape ``(n, k)``."""
        return self.centred + self.mean


def as_rows(output: Tensor, channel: int, positions: Positions) -> Tensor:
    """The output of a layer with one row for each example.

    Args:
        output: Shape ``(n, ...)``.
        channel: The dimension of the units: 1 after a convolution, -1 otherwise.
        positions: ``"flatten"`` takes each unit at each position for a feature, as Kornblith et al. (2019) do for CKA;
            ``"mean"`` takes the mean of each unit over its positions, as global average pooling does.

    Returns:
        Shape ``(n, d)``.

    Example:
        >>> as_rows(torch.ones(2, 3, 4, 4), 1, "flatten").shape, as_rows(torch.ones(2, 3, 4, 4), 1, "mean").shape
        (torch.Size([2, 48]), torch.Size([2, 3]))
        >>> as_rows(torch.ones(2, 5, 3), -1, "mean").shape
        torch.Size([2, 3])
    """
    if positions == "mean" and output.ndim > 2:
        pooled = [dim for dim in range(1, output.ndim) if dim != channel % output.ndim]
        return to_float64(output).mean(pooled)
    return output.reshape(len(output), -1)


def as_features(rows: Tensor) -> Features:
    r"""Centre features, and write them in a basis of as few numbers as there are examples.

    .. math:: X = X_c + 1 m^\top, \qquad [X_c; m^\top]^\top = Q R, \qquad [X_c; m^\top] Q = R^\top

    Inner products of examples, singular values and what a ridge classifier predicts are the same in every orthonormal
    basis. All measures here are the same at every scale too: the features are divided by their largest magnitude, so
    that no square overflows. Features that are equal for all examples are exactly zero once centred.

    Args:
        rows: Shape ``(n, d)``, any unit.

    Returns:
        Dimensionless; NaN where a feature is not finite.

    Cost: for d above n + 1, 2 d n^2 operations in float64.

    Example:
        >>> wide = as_features(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
        >>> wide.raw.shape, torch.allclose(wide.raw @ wide.raw.T, torch.eye(2, dtype=torch.float64))
        (torch.Size([2, 3]), True)
    """
    rows = to_float64(rows.detach())
    n, d = rows.shape
    k = min(d, n + 1)
    if not bool(rows.isfinite().all()):
        return Features(rows.new_full((n, k), torch.nan), rows.new_full((k,), torch.nan))
    largest = rows.abs().amax() if rows.numel() else rows.new_zeros(())
    rows = rows / torch.where(largest == 0, 1.0, largest)
    centred = rows - rows[:1]  # exactly zero where all rows are equal
    centred = centred - centred.mean(0)
    mean = (rows - centred).mean(0)
    if d <= n + 1:
        return Features(centred, mean)
    factor = torch.linalg.qr(torch.cat([centred, mean[None]]).T, mode="r").R
    return Features(factor.T[:n], factor.T[n])
