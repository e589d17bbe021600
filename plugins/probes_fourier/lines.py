"""The spectrum of a function along random lines through its inputs, in any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dft import amplitude, fourier_coefficients, grid

__all__ = ["LineSpectrum", "line_spectrum"]


class LineSpectrum(NamedTuple):
    """Amplitudes along random lines."""

    frequencies: Tensor
    """In cycles per unit of the input. Shape ``(K,)``."""
    amplitude: Tensor
    """Mean over lines of the root mean square over outputs, in the unit of the output. Shape ``(K,)``."""
    standard_error: Tensor
    """Over lines; NaN of a single one. Shape ``(K,)``."""


def line_spectrum(
    function: Callable[[Tensor], Tensor],
    inputs: Tensor,
    length: float,
    *,
    num_lines: int = 32,
    num_points: int = 64,
    periods: Tensor | Sequence[float] | None = None,
    generator: torch.Generator,
) -> LineSpectrum:
    r"""Amplitudes of a function along random lines through random inputs, with a standard error over the lines.

    .. math:: g_l(z) = f \big( x_{i_l} + (z - \tfrac 1 2) L \, \hat u_l \big), \quad z \in [0, 1), \qquad
              |\tilde f_k| = \frac 1 S \sum_l \sqrt{\operatorname{mean}_c |\tilde g_{l, c}(k)|^2}

    Directions :math:`\hat u` are uniform on the sphere: in many dimensions they lead where no data are, unlike
    segments between samples, and as all projections of a wave vector on them are short, :math:`|q \cdot \hat u| \approx
    |q| / \sqrt d`, so are the frequencies that are seen. The straight line through each function is taken off and a
    Hann window put on, as where a line ends the function is not what it was where it began.

    Args:
        function: Of rows ``(rows, *shape)``, giving ``(rows, c)`` or ``(rows,)``.
        inputs: Of which one is drawn for each line, with replacement. Shape ``(n, *shape)``.
        length: L, in the unit of the inputs.
        num_lines: S.
        num_points: N on each line.
        periods: k, periods over the length; by default all integers from 1 to N/2. Shape ``(K,)``.
        generator: Draws inputs and directions, on the CPU.

    Returns:
        Frequencies k / L, amplitudes, standard errors.

    Raises:
        ValueError: If ``length`` is not positive, ``num_lines`` or ``num_points`` too small, or a period above N/2.

    Cost: the function on S N rows.

    Example:
        >>> found = line_spectrum(
        ...     lambda x: torch.sin(2 * math.pi * 3 * x), torch.zeros(1, 1), 2.0, generator=torch.Generator())
        >>> found.frequencies[found.amplitude.argmax()].item()
        3.0

    Reference:
        Rahaman et al., "On the spectral bias of neural networks", ICML 2019, for spectra along lines; Baratin (2021),
        eq. 8.
    """
    if not (length > 0 and math.isfinite(length)):
        raise ValueError(f"`length` must be a positive number, got {length}.")
    if num_lines < 1 or num_points < 2:
        raise ValueError(
            f"`num_lines` must be at least 1 and `num_points` at least 2, got {num_lines} and {num_points}."
        )
    k = torch.arange(1, num_points // 2 + 1, device="cpu") if periods is None else torch.as_tensor(periods)
    k = k.to(torch.float64)
    inputs = inputs if inputs.is_floating_point() else inputs.to(torch.get_default_dtype())
    shape = inputs.shape[1:]
    chosen = torch.randint(len(inputs), (num_lines,), generator=generator, device="cpu")
    directions = torch.randn(num_lines, math.prod(shape), dtype=torch.float64, generator=generator, device="cpu")
    directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    along = ((grid(num_points, torch.float64, "cpu") - 0.5) * length).view(1, -1, *[1] * len(shape))
    steps = along * directions.view(num_lines, 1, *shape)
    points = inputs[chosen.to(inputs.device)][:, None] + steps.to(inputs)  # (S, N, *shape)
    values = function(points.flatten(0, 1)).reshape(num_lines, num_points, -1)
    coefficients = fourier_coefficients(values.mT, k, detrend=True, window="hann")
    together = amplitude(coefficients, k, num_points).square().mean(1).sqrt()  # (S, K)
    error = together.std(0) / num_lines**0.5 if num_lines > 1 else torch.full_like(together[0], torch.nan)
    return LineSpectrum(k / length, together.mean(0), error)
