"""How much the outputs change, and how often they are wrong, when images are shaken at one frequency at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .image_bands import check_images, outputs_of

__all__ = ["HeatMap", "fourier_basis_image", "fourier_heat_map", "map_frequencies"]


class HeatMap(NamedTuple):
    """What :func:`fourier_heat_map` finds, for each frequency."""

    change: Tensor
    """Length of the change of the outputs for each unit of length of the input's, mean over images. Shape
    ``(V, U)``."""
    change_error: Tensor
    """Standard error over images; NaN of a single one. Shape ``(V, U)``."""
    error_rate: Tensor | None
    """Share of images whose largest output is not that of the label; None without labels. Shape ``(V, U)``."""


def fourier_basis_image(height: int, width: int, v: int, u: int) -> Tensor:
    r"""A wave of one frequency and length 1.

    .. math:: U_{ab} \propto \cos \Big( 2 \pi \Big( \frac{v a}{H} + \frac{u b}{W} \Big) \Big), \qquad \|U\| = 1

    Its DFT is zero but at (v, u) and at (-v, -u).

    Args:
        height: H, pixels.
        width: W, pixels.
        v: Periods from top to bottom; any integer.
        u: Periods from left to right.

    Returns:
        float64. Shape ``(height, width)``.

    Example:
        >>> fourier_basis_image(4, 4, 0, 2)[0].round(decimals=6).tolist()
        [0.25, -0.25, 0.25, -0.25]

    Reference:
        Yin et al., "A Fourier perspective on model robustness in computer vision", NeurIPS 2019, section 2.
    """
    down, right = (torch.arange(side, dtype=torch.float64, device="cpu") for side in (height, width))
    turns = (v * down[:, None] / height + u * right / width) % 1
    wave = (2 * math.pi * turns).cos()
    unit: Tensor = wave / torch.linalg.vector_norm(wave)
    return unit


def map_frequencies(side: int, most: int) -> list[int]:
    """Periods along one side of a map, from the most negative: evenly chosen, as many below zero as above.

    Args:
        side: Pixels.
        most: How many of zero and above there may be at most.

    Example:
        >>> map_frequencies(8, 5), map_frequencies(32, 3)
        ([-4, -3, -2, -1, 0, 1, 2, 3, 4], [-16, -8, 0, 8, 16])
    """
    highest = side // 2
    count = min(most, highest + 1)
    above = sorted({round(highest * i / (count - 1)) for i in range(count)}) if count > 1 else [0]
    return [-k for k in above[:0:-1]] + above


def fourier_heat_map(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    norm: float,
    *,
    vertical: Sequence[int],
    horizontal: Sequence[int],
    labels: Tensor | None = None,
    generator: torch.Generator,
) -> HeatMap:
    r"""Change of the outputs when every image is shaken by a wave, frequency by frequency.

    .. math:: \frac{1}{n} \sum_i \frac{\| f(x_i + \varepsilon \, s_i U_{vu}) - f(x_i) \|}{\varepsilon}, \qquad
              s_i \in \{-1, 1\}^C / \sqrt C

    Each channel of each image has a random sign, the same at all frequencies. As :math:`\varepsilon` becomes small,
    this is the length of the Jacobian's product with the wave, see :func:`jacobian_spectrum`.

    Args:
        function: Of images, shape ``(n, C, H, W)``, giving outputs ``(n, c)`` or ``(n,)``, each image by itself.
        images: Shape ``(n, C, H, W)``.
        norm: :math:`\varepsilon`, the length of the change of an image, all channels together.
        vertical: v, periods from top to bottom. Shape ``(V,)``.
        horizontal: u, periods from left to right. Shape ``(U,)``.
        labels: Classes from 0, shape ``(n,)``, for the error rate.
        generator: Draws the signs, on the CPU.

    Returns:
        The change, in units of the output per unit of the input, with its standard error; and the error rate.

    Raises:
        ValueError: If ``images`` are none, or ``norm`` is not positive.

    Cost: V U / 2 + 2 evaluations of the function, for a wave and its opposite frequency are one.

    Example:
        >>> flat = fourier_heat_map(
        ...     lambda x: 2 * x.mean((2, 3)), torch.zeros(1, 1, 4, 4), 1.0, vertical=[0], horizontal=[0, 1],
        ...     generator=torch.Generator())
        >>> (flat.change[0] + 0.0001).round(decimals=3).tolist()  # the wave of frequency 0 is 1/4 everywhere
        [0.5, 0.0]

    Reference:
        Yin et al., "A Fourier perspective on model robustness in computer vision", NeurIPS 2019, section 2.
    """
    check_images(images)
    if not (norm > 0 and math.isfinite(norm)):
        raise ValueError(f"`norm` must be a positive number, got {norm}.")
    n, channels, height, width = images.shape
    signs = torch.randint(0, 2, (n, channels, 1, 1), generator=generator, device="cpu") * 2 - 1
    signs = (signs / channels**0.5).to(images)
    own = outputs_of(function, images)
    found: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
    rows = []
    for v in vertical:
        for u in horizontal:
            key = min((v % height, u % width), (-v % height, -u % width))
            if key not in found:
                wave = fourier_basis_image(height, width, *key).to(images)
                outputs = outputs_of(function, images + norm * signs * wave)
                change = torch.linalg.vector_norm(outputs - own, dim=1) / norm
                wrong = change.new_tensor(torch.nan) if labels is None else _error_rate(outputs, labels)
                found[key] = change.mean(), change.std() / n**0.5 if n > 1 else wrong * torch.nan, wrong
            rows.append(torch.stack(found[key]))
    table = torch.stack(rows).T.reshape(3, len(vertical), len(horizontal))
    return HeatMap(table[0], table[1], None if labels is None else table[2])


def _error_rate(outputs: Tensor, labels: Tensor) -> Tensor:
    """NaN where an output is: of such a row the largest means nothing."""
    wrong = (outputs.argmax(1) != labels.to(outputs.device)).to(outputs)
    return torch.where(outputs.isnan().any(1), torch.nan, wrong).mean()
