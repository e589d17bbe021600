"""How much of each frequency survives when all parameters are shaken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dft import fourier_coefficients

__all__ = ["PerturbedAmplitudes", "perturbed_amplitudes", "unit_direction"]


class PerturbedAmplitudes(NamedTuple):
    """Amplitudes of a perturbed network relative to those of the network itself."""

    ratio: Tensor
    """Mean over the directions, dimensionless. Shape ``(D, ..., K)``."""
    standard_error: Tensor
    """Of that mean, over directions; NaN for a single direction. Shape ``(D, ..., K)``."""


def perturbed_amplitudes(
    function_of_parameters: Callable[[Mapping[str, Tensor]], Tensor],
    parameters: Mapping[str, Tensor],
    deltas: Sequence[float],
    num_directions: int,
    generator: torch.Generator,
    frequencies: Tensor | Sequence[float],
) -> PerturbedAmplitudes:
    r"""Amplitudes at randomly perturbed parameters, relative to those at the parameters themselves.

    .. math:: \frac{\mathbb E_{\hat\theta} |\tilde f_{\theta^* + \delta \hat\theta}(k)|}{|\tilde f_{\theta^*}(k)|},
        \qquad \hat\theta \text{ uniform on the unit sphere of all parameters together}

    The magnitude is taken before the mean: after it, phases turned either way would cancel. The same directions serve
    every delta, so that curves over delta are smooth.

    Args:
        function_of_parameters: The function on a grid of N points along a path, shape ``(..., N)``, from parameters.
        parameters: At the end of training.
        deltas: Lengths of the perturbation, in the unit of the parameters.
        num_directions: Number of random directions.
        generator: On the CPU.
        frequencies: In cycles over the path. Shape ``(K,)``.

    Returns:
        The ratio, exactly 1 at delta 0, infinite where the network has no such frequency; and its standard error.

    Raises:
        ValueError: If ``num_directions`` is not positive, or a frequency is above N/2.

    Cost: 1 + D num_directions evaluations of the function.

    Example:
        >>> result = perturbed_amplitudes(
        ...     lambda p: p["a"] * torch.tensor([1.0, -1.0]), {"a": torch.tensor(2.0)}, [0.0, 1.0], 1,
        ...     torch.Generator().manual_seed(0), [1])
        >>> result.ratio[0].item(), result.ratio[1].item() in (0.5, 1.5)
        (1.0, True)

    Reference:
        Baratin (2021), experiment 2 in section 3.1 of chapter 3.
    """
    if num_directions < 1:
        raise ValueError(f"`num_directions` must be a positive integer, got {num_directions}.")

    def magnitude(given: Mapping[str, Tensor]) -> Tensor:
        return fourier_coefficients(function_of_parameters(given), frequencies).abs()

    own = magnitude(parameters)
    ratios = []
    for _ in range(num_directions):
        direction = unit_direction(parameters, generator)
        shaken = [{name: p + delta * direction[name] for name, p in parameters.items()} for delta in deltas]
        each = [
            magnitude(given) / own if delta else torch.ones_like(own)
            for given, delta in zip(shaken, deltas, strict=True)
        ]
        ratios.append(torch.stack(each))
    every = torch.stack(ratios)  # (num_directions, D, ..., K)
    error = every.std(0) / num_directions**0.5 if num_directions > 1 else torch.full_like(every[0], torch.nan)
    return PerturbedAmplitudes(every.mean(0), error)


def unit_direction(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction of unit length in the space of all parameters together, without preference.

    Args:
        parameters: Whose names, shapes, dtypes and devices it has.
        generator: On the CPU.

    Returns:
        One tensor for each parameter; the sum of all squares is 1.

    Example:
        >>> unit_direction({"a": torch.zeros(1)}, torch.Generator())["a"].abs()
        tensor([1.])
    """
    draws = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        for name, p in parameters.items()
    }
    length = torch.stack([draw.square().sum() for draw in draws.values()]).sum().sqrt()
    return {name: (draw / length).to(parameters[name].dtype) for name, draw in draws.items()}
