"""Frequencies of images: how long each wave is, and images with some of them alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_images", "high_pass", "image_radii", "low_pass", "outputs_of", "ring_of_bins", "ring_sums"]

LEAST_SIDE = 4


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        ValueError: If there is none, the shape is not ``(n, channels, height, width)`` with sides of 4 pixels or more,
            or the dtype not real and floating-point.
    """
    floating = images.is_floating_point() and images.ndim == 4
    if not floating or min(images.shape[2:]) < LEAST_SIDE or not images.numel():
        raise ValueError(
            f"`images` must be floating-point numbers of shape (n, channels, height, width), at least one and with "
            f"sides of at least {LEAST_SIDE} pixels, got {images.dtype} of shape {tuple(images.shape)}."
        )


def outputs_of(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The outputs for images, of half precision in single, of which means can be taken. Shape ``(n, c)``."""
    outputs = function(images).reshape(len(images), -1)
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def image_radii(height: int, width: int) -> Tensor:
    r"""Frequency of each bin of the two-dimensional DFT, whatever its direction.

    .. math:: r_{uv} = \sqrt{u^2 + v^2}, \qquad u, v \in [-\tfrac 1 2, \tfrac 1 2)

    Args:
        height: Pixels.
        width: Pixels.

    Returns:
        In cycles per pixel, from 0 to at most 0.707, float64, in the order of ``torch.fft.fft2``. Shape
        ``(height, width)``.

    Example:
        >>> image_radii(4, 4)[0].tolist()
        [0.0, 0.25, 0.5, 0.25]
    """
    return torch.from_numpy(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)))


def low_pass(images: Tensor, radius: float) -> Tensor:
    r"""Images without the frequencies above a radius.

    .. math:: \tilde x'_{uv} = \tilde x_{uv} \, 1[r_{uv} \le r]

    Args:
        images: Shape ``(..., height, width)``.
        radius: r, in cycles per pixel. At 0 only the mean of each channel is left, from 0.708 on everything.

    Returns:
        In the unit of ``images``, of their shape. Half precision is computed in float32; integers become that.

    Cost: two FFTs.

    Example:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4, 2) + 3
        >>> low_pass(stripes, 0.4)[0].tolist(), low_pass(stripes, 0.5)[0].tolist()
        ([3.0, 3.0, 3.0, 3.0], [4.0, 2.0, 4.0, 2.0])

    Reference:
        Yin et al., "A Fourier perspective on model robustness in computer vision", NeurIPS 2019, section 3 (there with
        squares instead of discs).
    """
    wide = images if images.dtype in (torch.float32, torch.float64) else images.float()
    height, width = images.shape[-2:]
    # The 1e-9 keeps a frequency that is the radius, but for rounding, inside.
    kept = (image_radii(height, width)[:, : width // 2 + 1] <= radius + 1e-9).to(wide.device)
    passed: Tensor = torch.fft.irfft2(torch.fft.rfft2(wide) * kept, s=(height, width))
    return passed.to(images.dtype) if images.is_floating_point() else passed


def high_pass(images: Tensor, radius: float) -> Tensor:
    r"""Images without the frequencies up to a radius: what :func:`low_pass` takes away.

    .. math:: \tilde x'_{uv} = \tilde x_{uv} \, 1[r_{uv} > r]

    Args:
        images: Shape ``(..., height, width)``.
        radius: r, in cycles per pixel. At 0 only the mean of each channel is lost.

    Returns:
        In the unit of ``images``, of their shape.

    Example:
        >>> high_pass(torch.tensor([1.0, -1.0]).repeat(4, 2) + 3, 0.4)[0].tolist()
        [1.0, -1.0, 1.0, -1.0]

    Reference:
        As of :func:`low_pass`.
    """
    return images - low_pass(images, radius)


def ring_of_bins(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Divide the bins of the DFT into rings, as wide as one bin along the shorter side.

    Args:
        height: Pixels.
        width: Pixels.

    Returns:
        The middle radius of each ring in cycles per pixel, shape ``(R,)``, float64; and the ring of each bin, shape
        ``(height, width)``.

    Example:
        >>> ring_of_bins(4, 4)[0].tolist()
        [0.0, 0.25, 0.5, 0.75]
    """
    least = min(height, width)
    ring = (image_radii(height, width).numpy() * least + 0.5 + 1e-9).astype(np.int64)
    return torch.from_numpy(np.arange(int(ring.max()) + 1) / least), torch.from_numpy(ring)


def ring_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over rings of bins of the DFT, each as wide as one bin along the shorter side.

    Args:
        values: One for each bin of ``torch.fft.fft2``, shape ``(..., height, width)``.

    Returns:
        The radii in cycles per pixel, shape ``(R,)``; and the sums, which together are the sum of all. Shape
        ``(..., R)``.

    Example:
        >>> ring_sums(torch.ones(4, 4))[1].tolist()
        [1.0, 8.0, 6.0, 1.0]
    """
    radii, ring = ring_of_bins(*values.shape[-2:])
    sums = values.new_zeros(*values.shape[:-2], len(radii))
    return radii, sums.index_add(-1, ring.flatten().to(values.device), values.flatten(-2))
