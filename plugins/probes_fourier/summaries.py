"""Single numbers that say where a spectrum lies, and when its parts were learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["above_rounding", "half_amplitude_steps", "power_below", "rounded", "spectral_centroid"]


def above_rounding(amplitudes: Tensor, values: Tensor, moved: Tensor | None = None) -> Tensor:
    r"""Amplitudes that are more than what rounding alone leaves of a function; the others set to zero.

    A function that is straight, or constant, up to rounding has a spectrum all the same, that of the rounding. What is
    below four times :math:`\epsilon \max |f|`, or below four times what the function moves by when its inputs are
    rounded, says nothing.

    Args:
        amplitudes: Any shape.
        values: The function, in the dtype in which it was computed. Any shape.
        moved: The function at inputs that were changed by their rounding (:func:`rounded`), at some of the points,
            less the function there; where inputs lie far from zero, this is much more than the rounding of its values.

    Returns:
        In the unit of the function, of the shape of ``amplitudes``.

    Example:
        >>> above_rounding(torch.tensor([0.5, 1e-8]), torch.tensor([1.0, 1.5])).tolist()
        [0.5, 0.0]
    """
    floor = torch.finfo(values.dtype).eps * values.detach().abs().max()
    if moved is not None:
        floor = torch.maximum(floor, moved.detach().abs().max())
    return torch.where(amplitudes <= 4 * floor.to(amplitudes), 0.0, amplitudes)


def rounded(inputs: Tensor) -> Tensor:
    """Inputs each of which is changed by its rounding, up or down by turns of no period.

    Example:
        >>> bool((rounded(torch.ones(8)) != 1).all())
        True
    """
    signs = torch.randint(0, 2, inputs.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return inputs * (1 + torch.finfo(inputs.dtype).eps * signs.to(inputs))


def spectral_centroid(power: Tensor, frequencies: Tensor | Sequence[float]) -> Tensor:
    r"""Mean frequency, weighted by power.

    .. math:: \bar k = \sum_k k P_k \Big/ \sum_k P_k

    Args:
        power: Squared amplitudes, not negative. Shape ``(..., K)``.
        frequencies: Shape ``(K,)``.

    Returns:
        In the unit of ``frequencies``; NaN where there is no power. Shape ``(...,)``.

    Example:
        >>> spectral_centroid(torch.tensor([3.0, 1.0]), [10, 20]).item()
        12.5
    """
    power = power if power.is_floating_point() else power.double()
    k = torch.as_tensor(frequencies).to(power)
    return (power * k).sum(-1) / power.sum(-1)


def power_below(power: Tensor, frequencies: Tensor | Sequence[float], cutoff: float) -> Tensor:
    r"""Share of the power at frequencies up to a cutoff.

    .. math:: \sum_{k \le k_c} P_k \Big/ \sum_k P_k

    Args:
        power: Squared amplitudes, not negative. Shape ``(..., K)``.
        frequencies: Shape ``(K,)``.
        cutoff: Included, in the unit of ``frequencies``.

    Returns:
        Between 0 and 1, dimensionless; NaN where there is no power. Shape ``(...,)``.

    Example:
        >>> power_below(torch.tensor([3.0, 1.0]), [10, 20], cutoff=10).item()
        0.75
    """
    power = power if power.is_floating_point() else power.double()
    k = torch.as_tensor(frequencies).to(power)
    return (power * (k <= cutoff)).sum(-1) / power.sum(-1)


def half_amplitude_steps(steps: Tensor | Sequence[int], amplitudes: Tensor, level: float = 0.5) -> Tensor:
    r"""First step at which each amplitude reaches a level, half of its target by default.

    .. math:: t_k = \min \{ t : |\tilde f_k(t)| \ge \text{level} \}

    Args:
        steps: Increasing. Shape ``(T,)``.
        amplitudes: Normalised by those of the target. Shape ``(T, K)``.
        level: Of the normalised amplitude.

    Returns:
        In optimizer steps, float64; infinite if the level was never reached. Shape ``(K,)``.

    Raises:
        ValueError: If there is not one row of amplitudes for each step, or none at all.

    Example:
        >>> half_amplitude_steps([0, 10, 20], torch.tensor([[0.1, 0.0], [0.6, 0.2], [0.4, 0.3]])).tolist()
        [10.0, inf]

    Reference:
        Baratin (2021), figure 3.1: the order in which frequencies are learned.
    """
    t = torch.as_tensor(steps, device=amplitudes.device).double()
    if t.ndim != 1 or not len(t) or amplitudes.shape[:1] != t.shape:
        raise ValueError(
            f"`amplitudes` must have one row for each of the steps, at least one, got shape {tuple(amplitudes.shape)} "
            f"for steps of shape {tuple(t.shape)}."
        )
    reached = amplitudes >= level
    first = t[reached.to(torch.int8).argmax(0)]
    return torch.where(reached.any(0), first, torch.full_like(first, torch.inf))
