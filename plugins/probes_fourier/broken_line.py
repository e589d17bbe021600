"""The Fourier coefficients of a broken line, in closed form: no grid, no aliasing.

A ReLU network restricted to a segment is a broken line. Once its breakpoints are known its Fourier integral is a finite
sum: Baratin (2021), lemma 3.1 in one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["linear_regions", "piecewise_linear_coefficients"]


def linear_regions(positions: Tensor, values: Tensor) -> int:
    """Number of pieces of a broken line, where neighbours on one line count as one piece.

    Args:
        positions: From :func:`breakpoints`. Shape ``(m,)``.
        values: Shape ``(m, c)``; a bend in any of the c outputs divides pieces.

    Returns:
        Count, at least 1. Bends of the slope below 1e-9 of the steepest slope, or below rounding, do not count.

    Example:
        >>> linear_regions(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([[0.0], [0.0], [1.0], [2.0]]))
        2
    """
    t, v = to_float64(positions), to_float64(values)
    width = t.diff()[:, None]
    slopes = v.diff(dim=0) / width
    rounding = 2**-48 * v.abs().max() * (1 / width[:-1] + 1 / width[1:])
    return 1 + int((slopes.diff(dim=0).abs() > 1e-9 * slopes.abs().max() + rounding).any(1).sum())


def piecewise_linear_coefficients(
    positions: Tensor,
    values: Tensor,
    frequencies: Tensor | Sequence[float],
    *,
    detrend: bool = False,
    window: str | None = None,
) -> Tensor:
    r"""Fourier coefficients of a broken line, exactly.

    .. math:: c_k = \int_0^1 g(t) \, e^{-2 \pi i k t} dt
        = \sum_i h_i e^{-2 \pi i k m_i} \Big( \bar g_i \, j_0(\pi k h_i) - \tfrac{i}{2} \Delta g_i j_1(\pi k h_i)\Big)

    with the width h, middle m, mean value and rise of each piece, and the spherical Bessel functions
    :math:`j_0(x) = \sin x / x`, :math:`j_1(x) = (\sin x - x \cos x) / x^2`. It is the limit for many points of
    :func:`fourier_coefficients` with the same ``detrend`` (least squares over [0, 1]) and ``window``.

    Args:
        positions: Increasing, from 0 to 1. Shape ``(m,)``.
        values: At the positions. Shape ``(m, c)``.
        frequencies: In cycles over the segment; any real numbers. Shape ``(K,)``.
        detrend: Whether the least-squares straight line is taken off first.
        window: None, or ``"hann"``: times :math:`1 - \cos 2 \pi t`, of mean 1.

    Returns:
        Complex128, in the unit of ``values``. Shape ``(K, c)``.

    Raises:
        ValueError: If the window is unknown, or there are no values for each position.

    Cost: m K complex exponentials.

    Example:
        >>> t, triangle = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[0.0], [1.0], [0.0]])
        >>> piecewise_linear_coefficients(t, triangle, [0]).real.item()
        0.5

    Reference:
        Baratin (2021), lemma 3.1 in one dimension.
    """
    if values.ndim != 2 or len(values) != len(positions):
        raise ValueError(
            f"`values` must have shape ({len(positions)}, c), a row for each position, got {tuple(values.shape)}."
        )
    if window not in (None, "hann"):
        raise ValueError(f"`window` must be None or 'hann', got {window!r}.")
    t, g = to_float64(positions), to_float64(values)
    k = torch.as_tensor(frequencies, dtype=torch.float64, device=t.device)
    width, middle = t.diff(), (t[1:] + t[:-1]) / 2
    if detrend:
        mean = width @ ((g[1:] + g[:-1]) / 2)
        # 12 int (g - mean) (t - 1/2) dt, piece by piece
        means, rises = (g[1:] + g[:-1]) / 2 - mean, g.diff(dim=0)
        slope = 12 * (width * (middle - 0.5)) @ means + (width**2) @ rises
        g = g - mean - slope * (t[:, None] - 0.5)
    if window == "hann":
        here, below, above = _integrals(t, g, torch.cat([k, k - 1, k + 1])).chunk(3)
        return here - (below + above) / 2
    return _integrals(t, g, k)


def _integrals(t: Tensor, g: Tensor, k: Tensor) -> Tensor:
    width, middle = t.diff(), (t[1:] + t[:-1]) / 2
    means, rises = ((g[1:] + g[:-1]) / 2).to(torch.complex128), g.diff(dim=0).to(torch.complex128)
    parts = []
    for part in torch.split(k, max(1, 2**21 // len(width))):
        half = math.pi * part[:, None] * width  # (K, m - 1)
        wave = torch.polar(width.expand_as(half), -2 * math.pi * ((part[:, None] * middle) % 1))
        parts.append((wave * torch.sinc(half / math.pi)) @ means - 0.5j * ((wave * _j1(half)) @ rises))
    return torch.cat(parts)


def _j1(x: Tensor) -> Tensor:
    """Spherical Bessel function of order 1; by its series near 0, where the closed form cancels."""
    square = x * x
    series = torch.zeros_like(x)
    for denominator in (518918400, 3991680, 45360, 840, 30, 3):
        series = 1 / denominator - square * series
    safe = torch.where(x.abs() < 0.5, torch.ones_like(x), x)
    return torch.where(x.abs() < 0.5, x * series, (safe.sin() - safe * safe.cos()) / safe**2)
