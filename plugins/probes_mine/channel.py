"""Information that features plus known noise keep of what they are features of: bounds without any critic."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

from .repeats import clustered_standard_error

__all__ = ["ChannelInformation", "noisy_channel_information"]


class ChannelInformation(NamedTuple):
    """Bounds of I(X; T) for T = f(X) + noise, in nats, float64, shape ``()`` each."""

    lower: Tensor
    """At most log n."""
    upper: Tensor
    lower_error: Tensor
    """Standard error over the samples."""
    upper_error: Tensor


def noisy_channel_information(
    features: Tensor, noise: Tensor, std: float | Tensor, groups: Tensor | None = None
) -> ChannelInformation:
    r"""Bounds of the information that noisy features keep of the input.

    .. math:: I(X; T) = \mathbb E \Big[ \log \frac{p(t | x)}{p(t)} \Big], \quad
              T = f(X) + \sigma \varepsilon, \quad \varepsilon \sim \mathcal N(0, 1)

    p(t | x) is known. The density p(t) is averaged over all samples for the lower bound, which cannot exceed log n, and
    over all but the one that t came from for the upper bound. Where the samples are further apart than the noise, the
    lower bound is log n and the upper one far above: then n samples do not tell how large the information is. Without
    noise it is infinite, for any network that is not constant.

    Args:
        features: f(x), shape ``(n, ...)``.
        noise: Standard normal, of the same shape.
        std: :math:`\sigma`.
        groups: Which samples are copies of each other, see :func:`repeated_rows`, shape ``(n,)``: all copies of a
            sample are left out with it.

    Returns:
        Both bounds; each holds for the expectation over samples.

    Raises:
        ValueError: If the shapes differ, there are fewer than 2 samples, or ``std`` is not positive.

    Cost: n^2 distances, d operations each.

    Example:
        >>> generator = torch.Generator().manual_seed(1)
        >>> x, noise = torch.randn(2, 2000, 1, generator=generator)
        >>> lower, upper, *_ = noisy_channel_information(x, noise, 1.0)
        >>> bool(lower <= upper), abs(lower.item() - math.log(1 + 1) / 2) < 0.05
        (True, True)

    Reference:
        Poole et al., "On variational bounds of mutual information", ICML 2019, section 2.2 (leave-one-out upper bound)
        and 2.4 (lower bound with the known conditional density).
    """
    n = len(features)
    if features.shape != noise.shape or n < 2:
        raise ValueError(
            f"`features` and `noise` must have the same shape (n, ...), n at least 2, got {tuple(features.shape)} and "
            f"{tuple(noise.shape)}."
        )
    if not float(std) > 0:
        raise ValueError(f"`std` must be positive, got {float(std)}: without noise the information is infinite.")
    features, noise = (to_float64(part.flatten(1)) for part in (features, noise))
    features = (features - features.mean(0)) / std
    squares = torch.cdist(features + noise, features, compute_mode="use_mm_for_euclid_dist").square()
    squares.diagonal().copy_(noise.square().sum(1))
    densities = -squares / 2
    own = densities.diagonal().clone()
    lower = own - torch.logsumexp(densities, 1) + math.log(n)
    groups = (torch.arange(n) if groups is None else groups).to(features.device)
    copies = groups[:, None] == groups
    densities.masked_fill_(copies, -math.inf)
    upper = own - torch.logsumexp(densities, 1) + (n - copies.sum(1)).double().log()
    errors = (clustered_standard_error(terms, groups) for terms in (lower, upper))
    return ChannelInformation(lower.mean(), upper.mean(), *(lower.new_tensor(error) for error in errors))
