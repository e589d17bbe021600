"""RadialSpectrum: the spectrum of a function of two inputs, over a box."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from probes.measurement import Axis, CannotMeasure, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .learned_function import function_values, output_axis
from .radial import Box, radial_spectrum

__all__ = ["RadialSpectrum"]


class RadialSpectrum(Probe):
    """Spectrum of a function of two inputs by the length of the wave vector: :func:`radial_spectrum` on a box.

    Yields ``radial_spectrum/zeta``, per wave number, and per output if there are several. A function that does not
    repeat itself at the edges of the box has a tail that falls as 1/k, whatever it is inside: compare spectra on one
    box only.

    Runs when asked for. Costs forward passes on N by N rows.

    Args:
        schedule: When it is due.
        box: ``((low, high), (low, high))`` of the first and second input; by default the smallest that holds the batch.
        num_points: N along each side.
        batch: The batch that gives the form of the model's call, and the default box.

    Raises:
        ValueError: If the inputs are not two numbers, or the box is empty.

    Example:
        >>> RadialSpectrum(box=((-1, 1), (-1, 1))).num_points
        64

    Reference:
        Baratin (2021), appendix A.5.2, eq. 39.
    """

    name = "radial_spectrum"
    needs = frozenset({"inputs"})
    by_default = False

    def __init__(
        self, schedule: Schedule | None = None, *, box: Box | None = None, num_points: int = 64, batch: str = "train"
    ) -> None:
        super().__init__(schedule)
        if box is not None and not all(low < high for low, high in box):
            raise ValueError(f"`box` must be ((low, high), (low, high)) with low < high, got {box}.")
        if not (hasattr(num_points, "__index__") and num_points >= 4):
            raise ValueError(f"`num_points` must be an integer of at least 4, got {num_points!r}.")
        self.box, self.num_points, self.batch = box, num_points, batch

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the spectrum of the function as it is now."""
        run.check_examples(self.batch)
        batch = run.batch(self.batch)
        inputs = batch.inputs
        if inputs is None or inputs.shape[1:] != (2,):
            shape = None if inputs is None else tuple(inputs.shape[1:])
            raise CannotMeasure(
                f"The inputs must be two numbers each, shape (n, 2), for a radial spectrum; got rows of shape {shape}. "
                f"FourierSpectrum measures functions of more inputs."
            )
        if self.box is None:
            low, high = inputs.amin(0).tolist(), inputs.amax(0).tolist()
            box = ((low[0], high[0]), (low[1], high[1]))
            if not all(a < b for a, b in box):
                raise CannotMeasure(f"The inputs of batch {self.batch!r} span no box, only {box}. Pass box=.")
        else:
            box = self.box
        sides = [low + (high - low) * torch.arange(self.num_points) / self.num_points for low, high in box]
        points = torch.cartesian_prod(*sides)
        values = function_values(run, batch, points).T.reshape(-1, self.num_points, self.num_points)
        spectra = [radial_spectrum(value, box) for value in values]
        zeta = torch.stack([spectrum for _, spectrum in spectra])
        wave_number = Axis(spectra[0][0].cpu().numpy(), "cycles per unit of input")
        axes = {**output_axis(len(zeta)), "wave_number": wave_number}
        yield Measurement(
            "radial_spectrum/zeta",
            zeta.squeeze(0),
            dims=tuple(axes),
            coords=axes,
            unit="output times input",
            estimator=f"FFT on {self.num_points} by {self.num_points} points of the box {box}, mean over each ring",
            num_samples=self.num_points**2,
            description="Fourier magnitude integrated over directions",
        )
