"""Which frequencies of an image the outputs look at: the spectrum of their derivative by the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from probes.measurement import CannotMeasure

from .image_bands import check_images, ring_sums

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]


class JacobianSpectrum(NamedTuple):
    """Power of the derivatives by frequency."""

    radii: Tensor
    """In cycles per pixel, from 0. Shape ``(R,)``."""
    power: Tensor
    """Of each image; the sum over radii is the squared norm of its Jacobian. Shape ``(n, R)``."""


def jacobian_spectrum(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> JacobianSpectrum:
    r"""Power spectrum of the derivative of the outputs by the pixels, by the length of the frequency alone.

    .. math:: P_r(x) = \sum_{c} \sum_{\text{channels}} \sum_{(u, v) \in \text{ring } r}
              \Big| \mathcal F \Big[ \frac{\partial f_c}{\partial x} \Big]_{uv} \Big|^2, \qquad
              \sum_r P_r = \Big\| \frac{\partial f}{\partial x} \Big\|_F^2

    with the unitary DFT. Exact, by automatic differentiation, one backward pass for each output; or, for many outputs,
    of random sums :math:`\sum_c \pm f_c`, whose mean power is the same.

    Args:
        function: Of images, shape ``(n, C, H, W)``, giving outputs ``(n, c)`` or ``(n,)``, each image by itself, and
            differentiable.
        images: Shape ``(n, C, H, W)``.
        probes: How many random sums to take; by default all outputs one by one.
        generator: Draws the signs of the sums, on the CPU; needed with ``probes``.

    Returns:
        In the squared unit of the output per squared unit of the input.

    Raises:
        ValueError: If ``images`` are none; if the outputs do not depend on them by operations that can be
            differentiated; or if ``probes`` is not positive or lacks a generator.

    Cost: one forward pass, and a backward pass and an FFT for each output or random sum.

    Example:
        >>> x = torch.zeros(1, 1, 4, 4)
        >>> found = jacobian_spectrum(lambda x: x[:, 0, 0, ::2].sum(1) - x[:, 0, 0, 1::2].sum(1), x)
        >>> round(found.power.sum().item(), 6)  # four derivatives of 1 or -1
        4.0

    Reference:
        The unitary DFT keeps norms (Parseval); random signs: Hutchinson, "A stochastic estimator of the trace of the
        influence matrix", Commun. Stat. Simul. 1989.
    """
    check_images(images)
    if probes is not None and (probes < 1 or generator is None):
        raise ValueError(f"`probes` must be a positive number of random sums with a `generator`, got {probes}.")
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        outputs = function(leaf.clone())  # a copy, which the function may change in place
        outputs = outputs.reshape(len(images), -1)
        if not outputs.requires_grad:
            raise CannotMeasure(
                "`function` must give outputs that depend on the images by differentiable operations; these have no "
                "gradient. Do not detach them, nor compute them under no_grad()."
            )
        count = outputs.shape[1]
        if probes is None:
            weights = torch.eye(count, device="cpu")
        else:
            weights = (torch.randint(0, 2, (probes, count), generator=generator, device="cpu") * 2 - 1) / probes**0.5
        total: Tensor | None = None
        for number, row in enumerate(weights.to(outputs)):
            last = number == len(weights) - 1
            (gradient,) = torch.autograd.grad((outputs * row).sum(), leaf, retain_graph=not last)
            wide = gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient
            radii, power = ring_sums(torch.fft.fft2(wide, norm="ortho").abs().square().sum(1))
            total = power if total is None else total + power
    assert total is not None
    return JacobianSpectrum(radii, total)
