"""The discrete Fourier transform of a function sampled along a path, at the frequencies one asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["amplitude", "fourier_coefficients", "grid", "remove_line", "segment_points", "segment_samples"]


def grid(num_points: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    r"""Equally spaced points of [0, 1) without the end point.

    .. math:: z_j = j / N, \qquad j = 0, \dots, N - 1

    With the end point, as in ``linspace(0, 1, N)``, bin k would be the frequency k N / (N - 1), and a sine of integer
    frequency would leak into every other bin.

    Args:
        num_points: The number N of them.
        dtype: Of the points.
        device: Of the points.

    Returns:
        Position along the path, in paths. Shape ``(N,)``.

    Raises:
        ValueError: If ``num_points`` is not positive.

    Example:
        >>> grid(4)
        tensor([0.0000, 0.2500, 0.5000, 0.7500])
    """
    if num_points < 1:
        raise ValueError(f"`num_points` must be a positive integer, got {num_points}.")
    return torch.arange(num_points, dtype=dtype or torch.get_default_dtype(), device=device) / num_points


def fourier_coefficients(
    values: Tensor, frequencies: Tensor | Sequence[float], *, detrend: bool = False, window: str | None = None
) -> Tensor:
    r"""Fourier coefficients of a function given on :func:`grid`.

    .. math:: c_k = \sum_j w_j f_j \, e^{-2 \pi i k j / N} \Big/ \sum_j w_j, \qquad
        w_j = 1 \;\text{ or }\; \tfrac12 (1 - \cos 2 \pi j / N)

    Between two inputs a function does not end where it began; the jump would spread over all frequencies as 1/k. There
    take the line off and a Hann window on. On a closed path, or for a periodic target, use neither.

    Args:
        values: The function on the grid, real. Shape ``(..., N)``.
        frequencies: In cycles over the path, from 0 to N/2; integers or not. Shape ``(K,)``.
        detrend: Whether the least-squares straight line is taken off first.
        window: None, or ``"hann"`` for the periodic Hann window.

    Returns:
        Complex, in the unit of ``values``. Shape ``(..., K)``. Half precision is computed in float32.

    Raises:
        TypeError: If ``values`` are not real floating-point numbers.
        ValueError: If a frequency is negative or above N/2, where it could not be told from a lower one, the window is
            unknown, or there is no point.

    Cost: one FFT for integer frequencies, else N K multiplications for each function.

    Example:
        >>> z = grid(8)
        >>> fourier_coefficients(torch.cos(2 * torch.pi * z), [0, 1]).real.abs().round(decimals=3)
        tensor([0.0000, 0.5000])

    Reference:
        Baratin (2021), eq. 8 and appendix A.1.1.
    """
    if not values.is_floating_point():
        raise TypeError(f"`values` must be real floating-point numbers, got {values.dtype}.")
    if not values.ndim or not values.shape[-1]:
        raise ValueError(f"`values` must have shape (..., N), one point at least, got {tuple(values.shape)}.")
    num_points = values.shape[-1]
    k = _checked_frequencies(frequencies, num_points)
    f = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if detrend:
        f = remove_line(f)
    if window == "hann":
        w = torch.hann_window(num_points, periodic=True, dtype=f.dtype, device=f.device)
        f = f * (w / w.mean())
    elif window is not None:
        raise ValueError(f"`window` must be None or 'hann', got {window!r}.")
    if bool((k == k.round()).all()):
        transform: Tensor = torch.fft.rfft(f, dim=-1) / num_points
        return transform[..., k.long().to(f.device)]
    # The phase is reduced to one turn before it is rounded to the dtype of the values.
    turns = (torch.arange(num_points, dtype=torch.float64)[:, None] / num_points * k) % 1  # (N, K)
    wave = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    complex_dtype = torch.complex128 if f.dtype == torch.float64 else torch.complex64
    return f.to(complex_dtype) @ wave.to(device=f.device, dtype=complex_dtype) / num_points


def remove_line(values: Tensor) -> Tensor:
    """Values on an equally spaced grid less their least-squares straight line.

    Args:
        values: Shape ``(..., N)``.

    Returns:
        In the unit of ``values``. Shape ``(..., N)``.

    Example:
        >>> remove_line(torch.tensor([1.0, 2.0, 3.0]))
        tensor([0., 0., 0.])
    """
    n = values.shape[-1]
    z = torch.arange(n, dtype=values.dtype, device=values.device) - (n - 1) / 2
    centred = values - values.mean(-1, keepdim=True)
    slope = (centred * z).sum(-1, keepdim=True) / (z * z).sum().clamp_min(torch.finfo(values.dtype).tiny)
    return centred - slope * z


def amplitude(coefficients: Tensor, frequencies: Tensor | Sequence[float], num_points: int | None = None) -> Tensor:
    r"""Single-sided amplitude, so that the amplitude of :math:`A \sin(2 \pi k z + \varphi)` is A.

    .. math:: |\tilde f_k| = 2 |c_k|, \qquad \text{but } |c_k| \text{ at } k = 0 \text{ and at } k = N / 2

    which have no partner of negative frequency.

    Args:
        coefficients: Complex. Shape ``(..., K)``.
        frequencies: In cycles over the path. Shape ``(K,)``.
        num_points: N of the grid; None for coefficients of a continuous function, which has no highest frequency.

    Returns:
        In the unit of the function. Shape ``(..., K)``.

    Example:
        >>> z = grid(8)
        >>> amplitude(fourier_coefficients(3 * torch.sin(2 * torch.pi * z), [1]), [1], 8)
        tensor([3.])

    Reference:
        Baratin (2021), eq. 8 and appendix A.1.1.
    """
    k = torch.as_tensor(frequencies, dtype=torch.float64)
    alone = k == 0
    if num_points is not None:
        alone = alone | (k == num_points / 2)
    magnitude = coefficients.abs()
    return magnitude * (2 - alone.to(magnitude))


def segment_points(starts: Tensor, ends: Tensor, num_points: int) -> Tensor:
    r"""Points on the straight segments between pairs of inputs.

    .. math:: x_{sj} = (1 - z_j) \, a_s + z_j \, b_s, \qquad z_j = j / N

    Args:
        starts: One input a_s for each segment. Shape ``(S, *shape)``.
        ends: One input b_s for each segment. Shape ``(S, *shape)``.
        num_points: N; the end is left out, as in :func:`grid`.

    Returns:
        In the unit of the inputs. Shape ``(S, N, *shape)``.

    Raises:
        ValueError: If ``starts`` and ``ends`` differ in shape.

    Example:
        >>> segment_points(torch.zeros(1, 1), torch.ones(1, 1), 4).flatten()
        tensor([0.0000, 0.2500, 0.5000, 0.7500])
    """
    if starts.shape != ends.shape:
        raise ValueError(
            f"`ends` must have the shape of `starts`, {tuple(starts.shape)}, got {tuple(ends.shape)}; "
            f"pass one end for each start."
        )
    z = grid(num_points, dtype=starts.dtype, device=starts.device)
    return torch.lerp(starts[:, None], ends[:, None], z.reshape(1, -1, *[1] * (starts.ndim - 1)))


def _checked_frequencies(frequencies: Tensor | Sequence[float], num_points: int) -> Tensor:
    k = torch.as_tensor(frequencies, dtype=torch.float64).cpu()
    if k.ndim != 1 or not bool(torch.isfinite(k).all()):
        raise ValueError(f"`frequencies` must be a list of finite numbers, got {k.tolist()}.")
    if bool((k < 0).any()):
        raise ValueError(f"`frequencies` must not be negative, got {k.min().item():g}; c(-k) is the conjugate of c(k).")
    if bool((k > num_points / 2).any()):
        highest = k.max().item()
        raise ValueError(
            f"`frequencies` must not exceed half the number of points, {num_points / 2:g}, got {highest:g}; "
            f"pass num_points={math.ceil(2 * highest)} or more."
        )
    return k


def segment_samples(n: int, num_segments: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of different samples, drawn from a seed: where segments begin and end. Shapes ``(num_segments,)``.

    Raises:
        ValueError: If there are fewer than two samples.

    Example:
        >>> first, second = segment_samples(3, 100, seed=0)
        >>> bool((first != second).all()), int(first.max())
        (True, 2)
    """
    if n < 2:
        raise ValueError(f"`n` must be at least 2 samples: a segment joins two different ones, got {n}.")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(n, (num_segments,), generator=generator)
    return first, (first + torch.randint(1, n, (num_segments,), generator=generator)) % n
