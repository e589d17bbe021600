"""Noise of a given frequency for targets on real data."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel_basis import KernelBasis

__all__ = ["kernel_noise", "radial_wave"]


def radial_wave(inputs: Tensor, k: float) -> Tensor:
    r"""A wave that oscillates along all directions of the input space at once.

    .. math:: \psi_k(x) = \sin(k \|x\|)

    Args:
        inputs: Shape ``(n, *shape)``.
        k: In radians per unit of input. Where a frequency is given in cycles, as in the authors' code, which takes
            the sine of :math:`2 \pi k \|x\|`, pass 2 pi times that.

    Returns:
        Between -1 and 1, dimensionless. Shape ``(n,)``.

    Example:
        >>> radial_wave(torch.tensor([[3.0, 4.0]]), torch.pi / 10).round(decimals=3)
        tensor([1.])

    Reference:
        Baratin (2021), eq. 10.
    """
    return torch.sin(k * torch.linalg.vector_norm(inputs.reshape(len(inputs), -1), dim=1))


def kernel_noise(basis: KernelBasis, gamma: float = 2) -> Tensor:
    r"""Noise that is stronger at higher generalised frequency.

    .. math:: \psi_\gamma(x_i) = \sum_{n=1}^N (n / N)^\gamma \, v_{ni}

    Args:
        basis: From :func:`~probes_fourier.kernel_basis`, on N inputs.
        gamma: How steeply the noise grows with n.

    Returns:
        Dimensionless, on the inputs of the basis, float64. Shape ``(N,)``.

    Example:
        >>> kernel_noise(KernelBasis(torch.ones(2), torch.eye(2))).tolist()
        [0.25, 1.0]

    Reference:
        Baratin (2021), eq. 11.
    """
    n = torch.arange(1, len(basis.eigenvalues) + 1).to(basis.eigenvectors)
    return basis.eigenvectors @ (n / len(n)) ** gamma
