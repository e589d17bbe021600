"""GradientNoise: the gradient noise scale during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from probes import Measurement, Probe, Run
from probes.batches import Batch
from probes.schedule import Schedule
from torch import Tensor
from torch.nn import functional as F

from .noise_scale import gradient_products, noise_scale

__all__ = ["GradientNoise"]


class GradientNoise(Probe):
    """Gradient noise scale on a batch: below it, a larger training batch saves steps; above it, it hardly does.

    Yields, with the batch's name at the end, each with a standard error:
        ``gradient_noise/scale``: B_simple, in samples; infinite where the batch is too small to tell the gradient from
        noise. ``gradient_noise/trace`` and ``gradient_noise/square_norm``: what it is the ratio of, both unbiased:
        over several measurements, average these and divide the averages.

    It is of the model in eval mode: dropout adds noise that is not seen, batch norm does not mix the samples.

    Runs when it is named. Costs two forward and backward passes of the batch, one of them in groups, and the memory of
    two gradients in float64.

    Args:
        schedule: When it is due.
        batch: Name of the batch.
        group_size: Samples whose gradient is taken together. 1 has the smallest error; larger ones are faster, and need
            a batch of at least three groups.
        loss: Mean over samples, of outputs and targets; by default cross-entropy for classes, and half the squared
            error for targets of the outputs' shape.

    Raises:
        ValueError: If ``group_size`` is below 1. When measured: if there are fewer than three groups, no parameter is
            trained, or no loss is known for the targets.
        TypeError: If ``batch`` is not a name, ``group_size`` not an integer, or ``loss`` not a function.

    Example:
        >>> GradientNoise(group_size=4).name
        'gradient_noise'

    Reference:
        McCandlish et al., "An Empirical Model of Large-Batch Training" (2018), eq. 2.9 and appendix A.1.
    """

    name = "gradient_noise"
    needs = frozenset({"targets"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        group_size: int = 1,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(schedule)
        if not isinstance(batch, str):
            raise TypeError(f"`batch` must be the name of a batch, such as 'train', got {batch!r}.")
        if not isinstance(group_size, int):
            raise TypeError(f"`group_size` must be an integer, got {group_size!r}.")
        if group_size < 1:
            raise ValueError(f"`group_size` must be at least 1, got {group_size}.")
        if loss is not None and not callable(loss):
            raise TypeError(f"`loss` must be a function of outputs and targets, got {loss!r}.")
        self.batch, self.group_size, self.loss = batch, group_size, loss

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the noise scale as it is now."""
        batch, size = run.batch(self.batch), self.group_size
        m = batch.n // size
        if m < 3:
            raise ValueError(
                f"`batch` {self.batch!r} must hold at least three groups of {size} samples, got {batch.n} samples. "
                f"Pass a larger one to the manager, such as Batch((x,), targets=y), or a smaller group_size."
            )
        parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("The model has no trainable parameter, so there is no gradient.")

        def loss(part: Batch) -> Tensor:
            assert part.targets is not None  # as `needs` says
            return (self.loss or _default_loss)(run.forward(part), part.targets)

        groups = torch.arange(m * size).reshape(m, size)
        squares, products = gradient_products(
            (loss(batch.select(group)) for group in groups), loss(batch.first(m * size)), parameters
        )
        found = noise_scale(squares, products, size)
        how = f"unbiased, from {m} groups of {size} samples of {self.batch!r}; jackknife error"
        for name, value, error, unit, description in (
            ("scale", found.scale, found.scale_error, "samples", "simple gradient noise scale"),
            ("trace", found.trace, found.trace_error, "loss^2 / parameter^2", "variance of the gradient of one sample"),
            (
                "square_norm",
                found.square_norm,
                found.square_norm_error,
                "loss^2 / parameter^2",
                "squared norm of the gradient of the expected loss",
            ),
        ):
            yield Measurement(
                f"gradient_noise/{name}/{self.batch}",
                value,
                unit=unit,
                standard_error=error,
                estimator=how if name != "scale" else f"ratio of estimates that are {how}",
                num_samples=m * size,
                description=description,
            )


def _default_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if not targets.is_floating_point() and outputs.ndim >= 2:
        return F.cross_entropy(outputs, targets)
    if targets.shape == outputs.shape:
        return (outputs - targets).square().sum() / (2 * len(outputs))
    raise ValueError(
        f"No loss is known for outputs of shape {tuple(outputs.shape)} and targets {tuple(targets.shape)} of "
        f"{targets.dtype}. Pass loss=, the mean over samples."
    )
