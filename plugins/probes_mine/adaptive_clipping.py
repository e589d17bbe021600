"""Adaptive clipping: the gradient of the mutual information, no longer than that of the loss it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AdaptedGradient", "adaptive_clip"]


class AdaptedGradient(NamedTuple):
    """A gradient after adaptive clipping, and the lengths it came from."""

    gradients: list[Tensor | None]
    """g_a, of the shapes of g_m; None where g_m is."""
    main_norm: Tensor
    r""":math:`\|g_u\|`, over all tensors together. Shape ``()``."""
    information_norm: Tensor
    r""":math:`\|g_m\|`. Shape ``()``."""
    ratio: Tensor
    r""":math:`\|g_a\| / \|g_m\|`: 1 where nothing was clipped. Shape ``()``."""


def adaptive_clip(main: Sequence[Tensor | None], information: Sequence[Tensor | None]) -> AdaptedGradient:
    r"""Scale the gradient of the mutual information down to the length of the main gradient, where it is longer.

    .. math:: g_a = \min(\|g_u\|, \|g_m\|) \frac{g_m}{\|g_m\|}

    The norms are Frobenius norms of all tensors together. Where :math:`g_m` is zero so is :math:`g_a`; where it is not
    finite, :math:`g_a` is zero and the ratio too, so that a critic that has diverged does no harm. Nothing synchronizes
    with an accelerator.

    Args:
        main: :math:`g_u`; None counts as zero.
        information: :math:`g_m`, one for each of ``main``.

    Raises:
        ValueError: If their numbers differ, or all of ``information`` are None.

    Example:
        >>> adaptive_clip([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 10.0])]).gradients[0].tolist()
        [0.0, 5.0]

    Reference:
        Baratin (2021), appendix C.1.1, eq. 1.
    """
    if len(main) != len(information):
        raise ValueError(f"`main` and `information` must be as many, got {len(main)} and {len(information)} tensors.")
    given = [gradient for gradient in information if gradient is not None]
    if not given:
        raise ValueError("All of `information` are None: the mutual information depends on none of these parameters.")
    main_norm, information_norm = (
        _norm([gradient.detach() for gradient in gradients if gradient is not None], given[0])
        for gradients in (main, information)
    )
    ratio = torch.where(information_norm > 0, main_norm / information_norm, 1.0).clamp(max=1.0)
    finite = information_norm.isfinite() & ratio.isfinite()
    ratio = torch.where(finite, ratio, 0.0)
    adapted = [
        None
        if gradient is None
        else torch.where(finite.to(gradient.device), gradient.detach() * ratio.to(gradient), 0.0)
        for gradient in information
    ]
    return AdaptedGradient(adapted, main_norm, information_norm, ratio)


def _norm(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    if not tensors:
        return like.new_zeros(())
    norms = [torch.linalg.vector_norm(tensor).to(like.device) for tensor in tensors]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
