"""ImageFrequencies: which frequencies of images the outputs depend on, and which ones a network can do without."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.measurement import Axis, CannotMeasure, Measurement, first_line
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .heat_map import fourier_heat_map, map_frequencies
from .image_bands import LEAST_SIDE
from .jacobian_spectrum import jacobian_spectrum
from .learned_function import LearnedFunction
from .passed_images import Targets, passed_images
from .summaries import spectral_centroid

__all__ = ["ImageFrequencies"]

Loss = Callable[[Tensor, Tensor], Tensor]
IMAGES, PASSED = 32, 128
"""Shaken and differentiated, and filtered, by default at most."""
LEAST_IMAGES = 4
"""Below which nothing is measured where the first turn is limited."""
MOST_OUTPUTS = 10  # whose derivatives are taken one by one; of more, so many random sums
RADII = tuple(i / 16 for i in range(1, 9))


class ImageFrequencies(Probe):
    r"""Sensitivity, derivative, loss and accuracy of a network of images by frequency.

    Yields, followed by the batch's name, frequencies in cycles per pixel (0.5 is the finest stripe):
        ``image_frequencies/sensitivity``, by vertical and horizontal frequency: how much the outputs change when images
        are shaken by a wave of that frequency, :func:`fourier_heat_map`; and ``image_frequencies/error_rate``, how
        often they are wrong then, where targets are classes.

        ``image_frequencies/jacobian_power``, by radius: the spectrum of the derivative of the outputs by the pixels,
        :func:`jacobian_spectrum`; and ``image_frequencies/jacobian_centroid``, its mean radius. Of over ten outputs,
        ten random sums stand for all.

        ``image_frequencies/low_pass_change`` and ``image_frequencies/high_pass_change``, by radius: how far the outputs
        are from those of the images themselves when only frequencies up to the radius are left, or only those above,
        :func:`passed_images`; in the same way ``..._pass_loss``, where the targets are classes or go with the outputs
        (of these the loop's loss where it was seen, else the mean square), and ``..._pass_accuracy``, where they are
        classes.

    The images are those of the fixed batch, the same at every step. Inputs that are no images, ``(n, channels, height,
    width)``, are refused, as are models that sample in forward or whose examples interact.

    Runs when named. Costs, of n images, about 43 n forward passes for the map, up to 10 n backward passes, and of up to
    128 images 17 forward passes each. Within a budget, where the first turn would take too long, there are fewer
    images, from the first turn on, unless their number was given.

    Args:
        schedule: When it is due.
        batch: The batch of images.
        num_images: n, the first so many of the batch, in all three; by default 32, and 128 that are filtered.
        strength: Length of the change of an image, over the root mean square of the lengths of the images less the
            means of their channels. Of CIFAR, 0.3 is about the 4 of Yin et al.
        map_size: Frequencies of the map from zero up to the highest, along each side, at most.
        radii: At which images are filtered, in cycles per pixel.

    Raises:
        ValueError: If a number is not positive. When measured: if the inputs are no images.

    Example:
        >>> ImageFrequencies(num_images=16).name
        'image_frequencies'

    Reference:
        Yin et al., "A Fourier perspective on model robustness in computer vision", NeurIPS 2019.
    """

    name = "image_frequencies"
    needs = frozenset({"inputs"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        num_images: int | None = None,
        strength: float = 0.3,
        map_size: int = 5,
        radii: Sequence[float] = RADII,
    ) -> None:
        super().__init__(schedule)
        for name, count, least in (
            ("num_images", 1 if num_images is None else num_images, 1),
            ("map_size", map_size, 2),
        ):
            if not (hasattr(count, "__index__") and count >= least):
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {count!r}.")
        if not (hasattr(strength, "__float__") and 0 < strength < math.inf):
            raise ValueError(f"`strength` must be a positive number, got {strength!r}.")
        if isinstance(radii, str) or not len(radii) or not all(hasattr(r, "__float__") and 0 <= r < 1 for r in radii):
            raise ValueError(f"`radii` must be numbers from 0 to 0.71, in cycles per pixel, got {radii!r}.")
        self.batch, self.num_images, self.strength, self.map_size = batch, num_images, float(strength), map_size
        self.radii = [float(radius) for radius in radii]
        self._sizes: list[int] = []
        """How many images are shaken, and how many filtered, once it is known."""

    def state_dict(self) -> dict[str, Any]:
        """On how many images is measured."""
        return {"sizes": self._sizes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with as many."""
        self._sizes = list(state["sizes"])

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what the outputs depend on now."""
        inputs = run.batch(self.batch).inputs
        if inputs is None or inputs.ndim != 4 or min(inputs.shape[2:]) < LEAST_SIDE:
            shape = "integers" if inputs is None else f"rows of shape {tuple(inputs.shape[1:])}"
            raise CannotMeasure(
                f"Frequencies of images need inputs of shape (n, channels, height, width), sides of at least "
                f"{LEAST_SIDE} pixels; batch {self.batch!r} has {shape}. FourierSpectrum measures functions of any."
            )
        run.check_examples(self.batch)
        function = LearnedFunction(run, self.batch)
        size = _MapSize.of(function.points, self.map_size)
        if not self._sizes:
            self._sizes = self._affordable(run, size, math.prod(function.shape[1:]))
        shaken, filtered = self._sizes
        targets = Targets.of(run.batch(self.batch), function.shape)
        if targets.why_none:
            run.left_out(targets.why_none)
        yield from self._map(run, function, size, shaken, targets.labels)
        yield from self._derivative(run, function, shaken)
        yield from self._filtered(run, function, filtered, targets)

    def _affordable(self, run: Run, size: _MapSize, outputs: int) -> list[int]:
        n = run.batch(self.batch).n
        if self.num_images is not None:
            return [min(n, self.num_images)] * 2
        wanted, limit = (min(n, IMAGES), min(n, PASSED)), run.first_turn_limit
        each = size.waves + 2 + 3 * min(outputs, MOST_OUTPUTS), 2 * len(self.radii) + 1
        if math.isinf(limit):
            return list(wanted)
        seconds = run.sample_seconds(self.batch)
        share = limit / (seconds * sum(count * rows for count, rows in zip(wanted, each, strict=True)))
        if share >= 1:
            return list(wanted)
        few = [min(count, max(LEAST_IMAGES, int(count * share))) for count in wanted]
        least = seconds * sum(count * rows for count, rows in zip(few, each, strict=True))
        if least > 2 * limit:  # the least number of images is more than there is time for
            raise CannotMeasure(
                f"{LEAST_IMAGES} images alone would take {least:.1f} s, more than a first turn may. It is tried again "
                f"later, when a twentieth of the training is as much; overhead=None measures at any cost."
            )
        run.left_out(
            f"Measured on {few[0]} images (filtered: {few[1]}) instead of {wanted[0]} ({wanted[1]}), as a turn would "
            f"take {limit / share:.0f} s. ImageFrequencies(num_images=...) takes more."
        )
        return few

    def _map(
        self, run: Run, function: LearnedFunction, size: _MapSize, n: int, labels: Tensor | None
    ) -> Iterator[Measurement]:
        images = function.points[:n]
        contrast = images - images.mean((2, 3), keepdim=True)
        norm = self.strength * float(contrast.double().square().sum((1, 2, 3)).mean()) ** 0.5
        if not math.isfinite(norm):
            raise CannotMeasure(f"The images of batch {self.batch!r} are not finite. Pass others.")
        if not norm > 0:
            raise CannotMeasure(
                f"The images of batch {self.batch!r} have no contrast: all pixels of a channel are alike. Pass others."
            )
        with torch.no_grad():
            found = fourier_heat_map(
                self._on_first(function, n),
                images,
                norm,
                vertical=size.vertical,
                horizontal=size.horizontal,
                labels=None if labels is None else labels[:n],
                generator=torch.Generator().manual_seed(run.seed),  # the same signs at every step
            )
        axes = {
            "y": Axis(np.array(size.vertical) / images.shape[2], "cycles per pixel", "vertical frequency"),
            "x": Axis(np.array(size.horizontal) / images.shape[3], "cycles per pixel", "horizontal frequency"),
        }
        how = f"waves of length {norm:.4g} on {n} images"
        measured = partial(Measurement, dims=tuple(axes), coords=axes, estimator=how, num_samples=n)
        yield measured(
            f"image_frequencies/sensitivity/{self.batch}",
            found.change,
            standard_error=found.change_error,
            unit="output per input",
            description="change of the outputs when images are shaken by a wave, by its frequency",
        )
        if found.error_rate is not None:
            yield measured(
                f"image_frequencies/error_rate/{self.batch}",
                found.error_rate,
                description="share of wrong predictions when images are shaken by a wave, by its frequency",
            )

    def _derivative(self, run: Run, function: LearnedFunction, n: int) -> Iterator[Measurement]:
        batch, outputs = run.batch(self.batch), math.prod(function.shape[1:])
        sums = MOST_OUTPUTS if outputs > MOST_OUTPUTS else None
        rows = torch.arange(n)

        def differentiable(images: Tensor) -> Tensor:
            return run.forward(batch.with_inputs(images, rows))

        generator = torch.Generator().manual_seed(run.seed)
        try:
            found = jacobian_spectrum(differentiable, function.points[:n], probes=sums, generator=generator)
        except CannotMeasure as reason:
            run.left_out(f"No derivative by the pixels: {reason}")
            return
        power = found.power.double()
        how = "automatic differentiation, " + (f"{sums} random sums of outputs" if sums else "all outputs")
        measured = partial(Measurement, estimator=f"{how}, {n} images", num_samples=n)
        yield measured(
            f"image_frequencies/jacobian_power/{self.batch}",
            power.mean(0),
            dims=("radius",),
            coords={"radius": Axis(found.radii.numpy(), "cycles per pixel")},
            standard_error=_error(power),
            unit="squared output per squared input",
            description="power of the derivative of the outputs by the pixels, by frequency",
        )
        yield measured(
            f"image_frequencies/jacobian_centroid/{self.batch}",
            spectral_centroid(power.mean(0), found.radii),
            unit="cycles per pixel",
            description="mean frequency of the derivative by the pixels, weighted by power",
        )

    def _filtered(self, run: Run, function: LearnedFunction, n: int, targets: Targets) -> Iterator[Measurement]:
        given = targets.labels if targets.labels is not None else targets.numbers
        loss, what, unit = None, "cross-entropy", "nats"
        if targets.numbers is not None:
            loss, what, unit = _loss_of_numbers(run, function, targets.numbers)
        values, images = self._on_first(function, n), function.points[:n]
        with torch.no_grad():
            found = passed_images(values, images, self.radii, None if given is None else given[:n], loss)
        radius = {"radius": Axis(np.array(self.radii), "cycles per pixel")}
        for row, (band, left) in enumerate((("low", "up to"), ("high", "above"))):
            measured = partial(
                Measurement,
                dims=("radius",),
                coords=radius,
                estimator=f"ideal {band}-pass filter, {n} images",
                num_samples=n,
            )
            yield measured(
                f"image_frequencies/{band}_pass_change/{self.batch}",
                found.change[row],
                description=f"squared change of the outputs with frequencies {left} the radius alone, over their "
                f"variance",
            )
            if found.loss is not None and found.loss_error is not None:
                yield measured(
                    f"image_frequencies/{band}_pass_loss/{self.batch}",
                    found.loss[row],
                    standard_error=found.loss_error[row],
                    unit=unit,
                    description=f"loss ({what}) with frequencies {left} the radius alone",
                )
            if found.accuracy is not None and found.accuracy_error is not None:
                yield measured(
                    f"image_frequencies/{band}_pass_accuracy/{self.batch}",
                    found.accuracy[row],
                    standard_error=found.accuracy_error[row],
                    description=f"accuracy with frequencies {left} the radius alone",
                )

    @staticmethod
    def _on_first(function: LearnedFunction, n: int) -> Any:
        """The function of images that stand in the places of the first ones."""
        return partial(function.values, samples=torch.arange(n))


def _loss_of_numbers(run: Run, function: LearnedFunction, numbers: Tensor) -> tuple[Loss | None, str, str]:
    """The loss of one image: that of the loop where it was seen, else None for the mean square; its name and unit."""
    loop = run.criterion
    if loop is None:
        return None, "mean squared error", "squared output"

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        with warnings.catch_warnings():  # of what the loop gets from many images, as by squeeze(), and not from one
            warnings.simplefilter("ignore")
            return loop(outputs.reshape(1, *function.shape[1:]), targets.reshape(1, *numbers.shape[1:]))

    try:
        with torch.no_grad():
            loss(torch.full((1, *function.shape[1:]), 0.5).to(numbers), numbers[:1]).reshape(())
    except Exception as error:
        run.left_out(f"The loss of filtered images is the mean square: {loop} of one: {first_line(error)}")
        return None, "mean squared error", "squared output"
    return loss, f"{loop}, the loop's", "squared output" if str(loop).startswith("mse_loss") else "1"


class _MapSize(NamedTuple):
    """Frequencies of the map, in periods over the image."""

    vertical: list[int]
    horizontal: list[int]

    @classmethod
    def of(cls, images: Tensor, most: int) -> _MapSize:
        return cls(*(map_frequencies(side, most) for side in images.shape[2:]))

    @property
    def waves(self) -> int:
        """Different ones: a frequency and its opposite are one."""
        return len(self.vertical) * len(self.horizontal) // 2 + 1


def _error(values: Tensor) -> Tensor:
    """Standard error of the mean over the first dimension; NaN of a single value."""
    n = len(values)
    return values.std(0) / n**0.5 if n > 1 else torch.full_like(values[0], torch.nan)
