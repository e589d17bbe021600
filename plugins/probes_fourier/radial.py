"""The spectrum of a function of two inputs, by the length of the wave vector alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Box", "radial_spectrum"]

Box = tuple[tuple[float, float], tuple[float, float]]
"""Lowest and highest value of the first and of the second input."""


def radial_spectrum(values: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    r"""Magnitude of the Fourier transform of a function on a box, integrated over all directions.

    .. math:: \zeta(k) = \frac{d}{dk} \int_0^k dk' \, k' \int_0^{2 \pi} d\varphi \, |\tilde f(k', \varphi)|
        = 2 \pi k \, \langle |\tilde f| \rangle_k, \qquad \tilde f(k) = \int f(x) \, e^{-2 \pi i k x} dx

    The mean is taken over the wave vectors of the FFT whose length is within half a bin of k. Times the circumference
    it approximates the integral better than their sum, for rings hold more or fewer lattice points than their area.

    Args:
        values: The function at ``low + (high - low) j / N`` along both inputs, without the end points. Shape
            ``(H, W)``; rows belong to the first input.
        box: ``((low, high), (low, high))`` of the first and second input.

    Returns:
        Wave numbers in cycles per unit of input, shape ``(R,)``, from one bin up to the highest that all directions
        have; and zeta in units of the function times units of input, shape ``(R,)``. Half precision becomes float32.

    Raises:
        ValueError: If ``values`` are not a grid of at least 4 by 4 points, or the box is empty or so long in one
            direction that no frequency is resolved in both.

    Cost: one FFT.

    Example:
        >>> x = torch.arange(8) / 8
        >>> k, zeta = radial_spectrum(torch.sin(2 * torch.pi * 2 * x).expand(8, 8), ((0, 1), (0, 1)))
        >>> k.tolist(), (zeta > 1e-3).tolist()
        ([1.0, 2.0, 3.0, 4.0], [False, True, False, False])

    Reference:
        Baratin (2021), appendix A.5.2, eq. 39.
    """
    if values.ndim != 2 or min(values.shape) < 4:
        raise ValueError(f"`values` must be a grid (H, W) of at least 4 by 4 points, got shape {tuple(values.shape)}.")
    lengths = [high - low for low, high in box]
    if not min(lengths) > 0:
        raise ValueError(f"`box` must be ((low, high), (low, high)) with low < high, got {box}.")
    f = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    magnitude = torch.fft.fft2(f).abs() * (lengths[0] * lengths[1] / f.numel())
    ky, kx = (
        torch.fft.fftfreq(n, length / n, dtype=f.dtype, device=f.device)
        for n, length in zip(f.shape, lengths, strict=True)
    )
    bin_width = 1 / min(lengths)
    # The 1e-6 keeps a wave number that lies on the border of two bins from going either way by rounding.
    ring = (torch.hypot(ky[:, None], kx) / bin_width + 0.5 + 1e-6).long().flatten()
    num_rings = math.floor(min(n / (2 * length) for n, length in zip(f.shape, lengths, strict=True)) / bin_width + 1e-6)
    if not num_rings:
        raise ValueError(
            f"`box` has sides of {lengths[0]:g} and {lengths[1]:g}: on {f.shape[0]} x {f.shape[1]} points no frequency "
            f"is resolved in both directions. Pass sides that are more alike, or more points."
        )
    count = torch.bincount(ring)[1 : num_rings + 1]
    total = torch.zeros(int(ring.max()) + 1, dtype=f.dtype, device=f.device)
    total = total.scatter_add(0, ring, magnitude.flatten())[1 : num_rings + 1]
    k = torch.arange(1, num_rings + 1, dtype=f.dtype, device=f.device) * bin_width
    return k, 2 * math.pi * k * total / count
