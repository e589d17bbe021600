"""The centred kernels that go by the name of "the" tangent kernel: which one is always said."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from probes import CannotMeasure
from probes.precision import rounding, to_float64

__all__ = ["Centering", "as_blocks", "as_matrix", "center", "center_targets", "center_where"]

Centering = Literal["none", "outputs", "all"]


def center(kernel: Tensor, how: Centering) -> Tensor:
    r"""The kernel of centred features.

    =============  =======================================================================================
    ``how``        the features
    =============  =======================================================================================
    ``"none"``     K itself.
    ``"outputs"``  From the features of each output their mean over the examples is taken away:
                   :math:`H K^{ab} H` in each block, :math:`H = I_n - \frac1n 1 1^\top`. What the
                   figures of the article show.
    ``"all"``      From all nc features their common mean: :math:`C K C`,
                   :math:`C = I_{nc} - \frac{1}{nc} 1 1^\top`. What its equation 7 says.
    =============  =======================================================================================

    With one output the last two are the same. With several, alignments differ between them: with ten, by 10 % to more
    than twofold. Of a kernel of equal features nothing is left: what rounding leaves, in the dtype of the kernel, is
    taken for zero.

    Args:
        kernel: Shape ``(c, n, c, n)``, or ``(n, n)`` for one output.
        how: One of the above.

    Returns:
        In float64, shape ``(c, n, c, n)``.

    Raises:
        ValueError: If ``how`` is none of these, or the kernel is not square or holds NaN or infinite numbers (then it
            is a CannotMeasure).

    Cost: five passes over the kernel.

    Example:
        >>> center(torch.eye(2), "outputs").reshape(2, 2).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]

    Reference:
        Baratin (2021), section 4.3.1 and eq. 7.
    """
    blocks = as_blocks(kernel)
    if how not in get_args(Centering):
        raise ValueError(f"`how` (centering) must be one of {', '.join(map(repr, get_args(Centering)))}, got {how!r}.")
    if how == "none":
        return blocks
    rows, columns = ((1,), (3,)) if how == "outputs" else ((0, 1), (2, 3))
    least = rounding(kernel.dtype) * blocks.norm()
    means = blocks.mean(rows, keepdim=True)
    # In its place where it is a copy: of thousands of rows each pass over new memory takes longer than the sums.
    centered = blocks.sub_(means) if blocks.data_ptr() != kernel.data_ptr() else blocks - means
    centered.sub_(centered.mean(columns, keepdim=True))
    return centered.zero_() if bool(centered.norm() <= least) else centered  # NaN stays NaN


def center_targets(targets: Tensor, how: Centering) -> Tensor:
    """The targets, shape ``(c, n)``, centred as :func:`center` centres the features.

    Example:
        >>> center_targets(torch.tensor([[0.0, 1.0]]), "outputs").tolist()
        [[-0.5, 0.5]]
    """
    if how not in get_args(Centering):
        raise ValueError(f"`how` (centering) must be one of {', '.join(map(repr, get_args(Centering)))}, got {how!r}.")
    if how == "none":
        return targets
    return targets - (targets.mean(1, keepdim=True) if how == "outputs" else targets.mean())


def center_where(rows: Tensor, how: Centering, where: Tensor) -> Tensor:
    """Features or targets centred as :func:`center` does it, those of some outputs of some examples alone.

    Args:
        rows: Shape ``(c, n, ...)``.
        how: As above.
        where: Which of them, shape ``(c, n)``; the others are 0 in the result.

    Example:
        >>> center_where(torch.tensor([[0.0, 1.0, 9.0]]), "outputs", torch.tensor([[True, True, False]])).tolist()
        [[-0.5, 0.5, 0.0]]
    """
    mask = where.to(rows.device).reshape(*where.shape, *(1,) * (rows.ndim - 2))
    rows = rows.where(mask, 0)
    if how == "none":
        return rows
    dims = (1,) if how == "outputs" else (0, 1)
    return (rows - rows.sum(dims, keepdim=True) / mask.sum(dims, keepdim=True).clamp(min=1)).where(mask, 0)


def as_blocks(kernel: Tensor) -> Tensor:
    """The kernel in float64 with shape ``(c, n, c, n)``, once it is known to be a kernel of finite numbers.

    Example:
        >>> as_blocks(torch.eye(3)).shape
        torch.Size([1, 3, 1, 3])
    """
    if not isinstance(kernel, Tensor):
        instead = "pass its .kernel" if isinstance(getattr(kernel, "kernel", None), Tensor) else "see tangent_kernel"
        raise TypeError(f"`kernel` must be a tensor, got {type(kernel).__name__}: {instead}.")
    shape = tuple(kernel.shape)
    if not (len(shape) == 2 and shape[0] == shape[1]) and not (len(shape) == 4 and shape[:2] == shape[2:]):
        raise ValueError(
            f"`kernel` must be square, of shape (c, n, c, n) or (n, n), as tangent_kernel gives it for one batch; got "
            f"shape {shape}."
        )
    blocks = to_float64(kernel.detach())
    if not (torch.isfinite(blocks.sum()) or torch.isfinite(blocks).all()):  # the sum is much faster
        raise CannotMeasure(
            "`kernel` holds NaN or infinite numbers: the model's gradients do. Has training diverged, or the loss "
            "scale of half precision overflowed?"
        )
    return blocks if len(shape) == 4 else blocks[None, :, None, :]


def as_matrix(kernel: Tensor) -> Tensor:
    """The kernel in float64 with shape ``(nc, nc)``, rows by output first: (output, example).

    Example:
        >>> as_matrix(torch.ones(2, 3, 2, 3)).shape
        torch.Size([6, 6])
    """
    blocks = as_blocks(kernel)
    size = blocks.shape[0] * blocks.shape[1]
    return blocks.reshape(size, size)
