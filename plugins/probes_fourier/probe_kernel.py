"""KernelSpectrum: generalised frequencies of the learned function on real data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from probes.measurement import Axis, CannotMeasure, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .kernel_basis import KernelBasis, kernel_basis, kernel_spectrum, median_width
from .learned_function import LearnedFunction, output_axis
from .summaries import above_rounding, spectral_centroid

__all__ = ["KernelSpectrum"]


class KernelSpectrum(Probe):
    """Coordinates of the learned function in the eigenbasis of a Gaussian kernel on a batch.

    The eigenvectors, sorted by descending eigenvalue, go from smooth to rough: their index, counted from 1, takes the
    place of a frequency where the inputs have too many dimensions for a Fourier transform. Of tokens the kernel is that
    of what the model embeds them as, another one at every step.

    Yields, with the batch's name at the end:
        ``kernel_spectrum/coefficients``: per eigenvector, and per output if there are several.
        ``kernel_spectrum/centroid``: mean index weighted by power. ``kernel_spectrum/eigenvalues``.

    Does not run by default: the kernel of numbers and its eigenvectors do not change with training. Costs one forward
    pass of the batch, and once, of tokens at every turn, the eigenvectors of an n by n matrix.

    Args:
        schedule: When it is due.
        batch: The batch.
        sigma: Width of the kernel, in the unit of the inputs; the median distance of two inputs by default.

    Raises:
        ValueError: If ``sigma`` is not positive.

    Example:
        >>> KernelSpectrum(sigma=1.0).name
        'kernel_spectrum'

    Reference:
        Baratin (2021), experiment 4 and appendix A.1.4, eq. 5.
    """

    name = "kernel_spectrum"
    by_default = False
    needs = frozenset({"batch"})

    def __init__(self, schedule: Schedule | None = None, *, batch: str = "train", sigma: float | None = None) -> None:
        super().__init__(schedule)
        if sigma is not None and not (hasattr(sigma, "__float__") and sigma > 0):
            raise ValueError(f"`sigma` must be a positive number, got {sigma!r}.")
        self.batch, self.sigma = batch, sigma
        self._basis: tuple[float, KernelBasis] | None = None

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the spectrum of the function as it is now."""
        run.check_examples(self.batch)
        function = LearnedFunction(run, self.batch)
        if self._basis is None or function.moves:
            inputs = function.points.cpu()
            if not bool(inputs.isfinite().all()):
                raise CannotMeasure(
                    f"Batch {self.batch!r} holds inputs that are not finite, which have no distances. Pass "
                    f"batches={{{self.batch!r}: (inputs, targets)}} without them."
                )
            try:
                width = median_width(inputs) if self.sigma is None else self.sigma
            except ValueError as error:
                raise CannotMeasure(
                    f"Of batch {self.batch!r}: {error} Pass batches={{{self.batch!r}: (inputs, targets)}} with several "
                    f"that differ, or KernelSpectrum(sigma=...)."
                ) from error
            self._basis = width, kernel_basis(inputs, width)
        width, basis = self._basis
        n = len(basis.eigenvalues)
        values = run.evaluate(self.batch).reshape(n, -1).cpu()
        spectrum = kernel_spectrum(values, basis).T  # (c, n)
        index = torch.arange(1, n + 1)
        eigenvector = {"eigenvector": Axis(index.numpy(), "index")}
        axes = {**output_axis(len(spectrum)), **eigenvector}
        estimator = f"Gaussian kernel of width {width:.6g} on {n} {function.where}, float64"
        measured = partial(Measurement, estimator=estimator, num_samples=n)
        yield measured(
            f"kernel_spectrum/coefficients/{self.batch}",
            spectrum.squeeze(0),
            dims=tuple(axes),
            coords=axes,
            unit="output",
            description="coordinates of the learned function in the eigenbasis of the kernel",
        )
        yield measured(
            f"kernel_spectrum/centroid/{self.batch}",
            spectral_centroid(above_rounding(spectrum.abs(), values).square().sum(0), index),
            unit="index",
            estimator=f"{estimator}; power summed over outputs",
            description="mean index of the eigenvectors, weighted by power",
        )
        yield measured(
            f"kernel_spectrum/eigenvalues/{self.batch}",
            basis.eigenvalues,
            dims=("eigenvector",),
            coords=eigenvector,
            description="eigenvalues of the kernel on the inputs",
        )
