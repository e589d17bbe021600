"""What the tangent kernel says of the next step of gradient descent."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from probes.precision import to_float64

from .centering import as_blocks
from .spectrum import eigenfunctions

__all__ = ["FunctionUpdate", "function_update"]


class FunctionUpdate(NamedTuple):
    """The next update of the function, mode by mode."""

    speeds: Tensor
    """Learning speed of each mode, the share of a residual that a step of the squared loss takes away, descending.
    Shape ``(nc,)``."""
    coefficients: Tensor
    """Change of the function along each mode, in its unit. Shape ``(nc,)``."""
    functions: Tensor
    """The modes: eigenfunctions of the kernel. Shape ``(nc, c, n)``."""


def function_update(kernel: Tensor, gradient: Tensor, learning_rate: float) -> FunctionUpdate:
    r"""Decompose the next update of the function by gradient descent in the eigenbasis of the tangent kernel.

    .. math:: \delta f_{GD} = \sum_j \delta f_j \, \mathbf u_j, \qquad
              \delta f_j = -\eta \lambda_j \, \mathbf u_j^\top \nabla_f L

    To first order in the learning rate, for plain gradient descent on these examples. On other examples the modes are
    :func:`~probes_ntk.extend_eigenfunctions`.

    Args:
        kernel: As it is, not centred: shape ``(c, n, c, n)`` or ``(n, n)``.
        gradient: Of the loss by the outputs, shape ``(n, c)``, or ``(n,)`` for one output; with the loss' own factor
            (1/n for a mean).
        learning_rate: :math:`\eta`, positive.

    Returns:
        In float64.

    Raises:
        ValueError: If the shapes do not fit or the learning rate is not positive.

    Cost: the eigenvectors, (nc)^3 operations.

    Example:
        >>> import torch
        >>> update = function_update(torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 1.0]), 0.1)
        >>> update.speeds.tolist(), update.coefficients.tolist()
        ([0.4, 0.1], [-0.4, -0.1])

    Reference:
        Baratin (2021), lemma 4.1, eq. 4, and proposition B.3, eq. 30.
    """
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate!r}.")
    c, n = as_blocks(kernel).shape[:2]
    if gradient.reshape(len(gradient), -1).shape != (n, c):
        raise ValueError(f"`gradient` must have shape ({n}, {c}), as the outputs have, got {tuple(gradient.shape)}.")
    values, functions = eigenfunctions(kernel)
    speeds = learning_rate * values
    slopes = functions.flatten(1) @ to_float64(gradient.detach()).reshape(n, c).T.flatten().to(functions.device)
    return FunctionUpdate(speeds, -speeds * slopes, functions)
