"""How well a network does on what is left of images below, or above, a frequency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probes.batches import Batch
from probes.precision import rounding

from .image_bands import check_images, high_pass, low_pass, outputs_of

__all__ = ["PassedImages", "Targets", "passed_images"]


class PassedImages(NamedTuple):
    """What the outputs for filtered images are like. The first row is of low-passed images, the second of high-passed.

    Standard errors are over images, and NaN of a single one.
    """

    change: Tensor
    """Squared distance of the outputs from those of the images themselves, over the variance of those; NaN where they
    do not vary. Shape ``(2, R)``."""
    loss: Tensor | None
    """In nats for labels, in squared units of the output or of the given loss for numbers; None without either. Shape
    ``(2, R)``."""
    loss_error: Tensor | None
    accuracy: Tensor | None
    """Share of images whose largest output is that of the label; None without labels. Shape ``(2, R)``."""
    accuracy_error: Tensor | None


class Targets(NamedTuple):
    """What the targets of a batch are to the outputs of a model."""

    labels: Tensor | None = None
    """Classes of the outputs. Shape ``(n,)``."""
    numbers: Tensor | None = None
    """As many as outputs."""
    why_none: str = ""
    """Why what is given is neither."""

    @classmethod
    def of(cls, batch: Batch, outputs: tuple[int, ...]) -> Targets:
        """Look at the targets of a batch, given the shape of the outputs."""
        given, classes = batch.targets, math.prod(outputs[1:])
        if given is None:
            return cls()
        if given.is_floating_point():
            fits = given.numel() == math.prod(outputs)
            return cls(numbers=given) if fits else cls(why_none="No loss: the targets do not go with the outputs.")
        if given.shape != outputs[:1] or classes < 2 or given.dtype == torch.bool:
            return cls(why_none="No loss and accuracy: the targets are no classes of the outputs.")
        if not bool(((given >= 0) & (given < classes)).all()):
            return cls(why_none=f"No loss and accuracy: some targets are no classes from 0 to {classes - 1}.")
        return cls(labels=given)


def passed_images(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    radii: Sequence[float],
    targets: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> PassedImages:
    r"""Loss and accuracy on images of which only frequencies up to a radius are left, or only those above.

    .. math:: \frac 1 n \sum_i \ell(f(\operatorname{low}_r x_i), y_i), \qquad
              \frac 1 n \sum_i \ell(f(\operatorname{high}_r x_i), y_i)

    Args:
        function: Of images, shape ``(n, C, H, W)``, giving outputs ``(n, c)`` or ``(n,)``, each image by itself.
        images: Shape ``(n, C, H, W)``.
        radii: r, in cycles per pixel, see :func:`low_pass`. Shape ``(R,)``.
        targets: Labels from 0, shape ``(n,)``, integers, below c; or numbers of the shape of the outputs.
        loss: Of the outputs and the numbers of one image, shapes ``(1, c)``; by default the mean square of the error.

    Returns:
        What changes, and what the targets allow. With labels that is cross-entropy and accuracy, with numbers the
        loss. The change is NaN where the outputs do not vary.

    Raises:
        ValueError: If ``images`` are none, or ``targets`` do not go with the outputs.

    Cost: 2 R + 1 evaluations of the function and 2 R FFTs.

    Example:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4, 2)
        >>> images = torch.stack([stripes, -stripes])[:, None]
        >>> found = passed_images(lambda x: x[:, 0, 0, :2], images, [0.4, 0.5], targets=torch.tensor([0, 1]))
        >>> found.accuracy.tolist()  # stripes are all above 0.4, and none above 0.5
        [[0.5, 1.0], [1.0, 0.5]]

    Reference:
        Yin et al., "A Fourier perspective on model robustness in computer vision", NeurIPS 2019, section 3.
    """
    check_images(images)
    own = outputs_of(function, images)
    labelled = targets is not None and not targets.is_floating_point()
    if targets is not None:
        targets = targets.to(own.device)
        if labelled and not (targets.ndim == 1 and int(targets.min()) >= 0 and int(targets.max()) < own.shape[1]):
            raise ValueError(
                f"`targets` must be labels from 0 to {own.shape[1] - 1}, one for each image, got {targets.dtype} from "
                f"{targets.min()} to {targets.max()} of shape {tuple(targets.shape)}."
            )
        if not labelled and targets.numel() != own.numel():
            raise ValueError(
                f"`targets` must have the shape of the outputs, {tuple(own.shape)}, got {tuple(targets.shape)}."
            )
    deviations = own - own.mean(0)
    constant = deviations.norm() <= rounding(own.dtype) * own.norm()
    variance = torch.where(constant, torch.nan, deviations.square().sum(1).mean())
    changes, losses, hits = [], [], []
    for band in (low_pass, high_pass):
        for radius in radii:
            outputs = outputs_of(function, band(images, radius))
            changes.append((outputs - own).square().sum(1).mean() / variance)
            if targets is None:
                continue
            if labelled:
                losses.append(cross_entropy(outputs, targets.long(), reduction="none"))
                hit = (outputs.argmax(1) == targets).to(own)
                hits.append(torch.where(outputs.isnan().any(1), torch.nan, hit))  # the largest of NaN means nothing
            else:
                numbers = targets.reshape(own.shape)
                squares = (outputs - numbers).square().mean(1)
                each = zip(outputs[:, None], numbers[:, None], strict=True)
                losses.append(squares if loss is None else torch.stack([loss(*pair).reshape(()) for pair in each]))
    shape = (2, len(radii))
    return PassedImages(torch.stack(changes).reshape(shape), *_means(losses, shape), *_means(hits, shape))


def _means(values: list[Tensor], shape: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """Means over images, and their standard errors."""
    if not values:
        return None, None
    every = torch.stack(values)
    count = every.shape[1]
    error = every.std(1) / count**0.5 if count > 1 else torch.full_like(every[:, 0], torch.nan)
    return every.mean(1).reshape(shape), error.reshape(shape)
