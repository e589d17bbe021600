"""Fourier content of the eigenvectors of a kernel on equally spaced points."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["eigenvector_amplitudes"]


def eigenvector_amplitudes(functions: Tensor) -> Tensor:
    r"""Magnitude of the discrete Fourier transform of each eigenvector on n equally spaced points of a segment.

    .. math:: a_j[k] = \Big| \sum_i \mathbf u_j[i] \, e^{-2 \pi \mathrm i k i / n} \Big|, \qquad 0 \le k \le n/2

    Args:
        functions: A row for each eigenvector, by descending eigenvalue: shape ``(m, n)``, or ``(m, 1, n)`` as
            :func:`~probes_ntk.eigenfunctions` gives them for one output.

    Returns:
        Not normalised, k in cycles over the n points. Shape ``(m, n // 2 + 1)``, float64.

    Raises:
        ValueError: If the shape is another.

    Cost: m n log n operations.

    Example:
        >>> wave = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16)
        >>> eigenvector_amplitudes(wave[None]).argmax(1).tolist()
        [3]

    Reference:
        Baratin (2021), figure B.2.
    """
    if functions.ndim == 3 and functions.shape[1] == 1:
        functions = functions[:, 0]
    if functions.ndim != 2:
        raise ValueError(
            f"`functions` must be eigenvectors of one output, shape (m, n) or (m, 1, n), got {tuple(functions.shape)}."
        )
    amplitudes: Tensor = torch.fft.rfft(to_float64(functions), dim=1).abs()
    return amplitudes
