"""FourierSpectrum: which frequencies of the target, or of the data at hand, the network has learned so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import Axis, CannotMeasure, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule
from probes_ntk import choose

from .broken_line import linear_regions, piecewise_linear_coefficients
from .dft import amplitude, fourier_coefficients, grid, segment_points, segment_samples
from .exact import breakpoints
from .learned_function import LearnedFunction, function_values, output_axis, path_inputs
from .summaries import above_rounding, half_amplitude_steps, power_below, rounded, spectral_centroid

__all__ = ["FourierSpectrum"]

LEAST_SEGMENTS, LEAST_POINTS = 4, 16
"""Before points are taken from each segment; on each segment in any case."""
MOST_INPUTS, MOST_OUTPUTS = 2**26, 2**24
"""Numbers in all points together, and in all outputs: a quarter of a gigabyte, and what takes a second."""
ALONE, TOGETHER = 10, 1000
"""Outputs that have a spectrum of their own, and those of which the spectrum of the whole is taken."""


class FourierSpectrum(Probe):
    r"""Amplitudes of the frequencies of the learned function, along a path or between samples of a batch.

    With a ``path`` the function is sampled on N points along it, as in experiment 1 of the thesis, and each amplitude
    can be given relative to that of the target. Without one, segments between random pairs of the batch are sampled,
    the same at every step; the straight line through each is taken off and a Hann window put on. All other arguments of
    the model (a mask, a time) are of the sample at which a segment begins. Where the batch holds tokens, segments join
    what the model embeds them as at that step.

    Yields, followed by ``/path``, or by the batch's name between samples:
        ``fourier/amplitude``: per frequency, and per output if there are several; between samples the mean over
        segments of the root mean square over outputs. ``fourier/amplitude_by_output``: between samples, of ten outputs
        at most, drawn once, those of frequent labels first. Of over 1000 outputs these ten are all that is measured.
        ``fourier/coefficients``: complex, along a path. ``fourier/centroid``: mean frequency weighted by power.
        ``fourier/low_frequency_power``: share of the power in the lower half of the frequencies.
        ``fourier/half_amplitude_step``: first step measured at which half of the target's amplitude was reached,
        infinite until then. ``fourier/linear_regions``: pieces of a segment, in exact mode.

    Mean frequency and low-frequency power are NaN of a function that is straight up to rounding. Models that sample in
    forward, or whose examples interact, are refused.

    Runs by default. Costs forward passes on N rows along a path, on S N rows between samples; in exact mode see
    :func:`breakpoints`. Within a budget, where the first turn would take too long, there are fewer segments, and fewer
    points on them, from the first turn on, unless their number was given.

    Args:
        schedule: When it is due.
        path: Positions ``(N,)`` in [0, 1), on the CPU, to inputs ``(N, *shape)``.
        frequencies: In cycles over the path or segment; by default all integers from 1 to N/2.
        amplitudes: Of the target at the frequencies, or the target itself as a function of the position, whose
            amplitudes are taken on the same grid. With a path only.
        num_points: N; 200 along a path, 64 on each segment by default.
        num_segments: S; 16, or 4 in exact mode, by default.
        batch: The batch whose samples are joined; along a path it only gives the form of the model's call.
        exact: Whether the coefficients of a piecewise-linear network are computed from all its breakpoints, in
            float64, instead of from N points.

    Raises:
        ValueError: If a frequency is above N/2, unless exact; if the target lacks a frequency; if settings exclude one
            another. When measured in exact mode: if the network is not piecewise linear, with the reason.

    Example:
        >>> FourierSpectrum(path=lambda z: z[:, None], frequencies=[5, 10], amplitudes=[1, 1]).num_points
        200

    Reference:
        Rahaman et al. (2019); Baratin (2021), eq. 8, figure 3.1 and lemma 3.1.
    """

    name = "fourier"
    needs = frozenset({"batch"})

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        path: Callable[[Tensor], Tensor] | None = None,
        frequencies: Tensor | Sequence[float] | None = None,
        amplitudes: Tensor | Sequence[float] | Callable[[Tensor], Tensor] | None = None,
        num_points: int | None = None,
        num_segments: int | None = None,
        batch: str = "train",
        exact: bool = False,
    ) -> None:
        super().__init__(schedule)
        if path is not None and (exact or num_segments is not None):
            raise ValueError("`path` excludes exact= and num_segments=, which are for segments between samples.")
        if path is not None and not callable(path):
            raise TypeError(f"`path` must be a function of positions, got {path!r}.")
        if path is None and amplitudes is not None:
            raise ValueError("`amplitudes` of a target are known along a path only; pass path= too.")
        self.path, self.batch, self.exact = path, batch, exact
        self.num_points = num_points if num_points is not None else 64 if path is None else 200
        self.num_segments = num_segments if num_segments is not None else 4 if exact else 16
        self._given = num_points is not None or num_segments is not None or frequencies is not None or exact
        self._sized = False
        sizes = self.num_points, self.num_segments
        if not (all(hasattr(size, "__index__") for size in sizes) and sizes[0] >= 2 and sizes[1] >= 1):
            raise ValueError(
                f"`num_points` must be an integer of at least 2 and `num_segments` of at least 1, got "
                f"{num_points!r} and {num_segments!r}."
            )
        default = torch.arange(1, self.num_points // 2 + 1)
        try:
            self.frequencies = torch.as_tensor(default if frequencies is None else frequencies, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"`frequencies` must be numbers, got {frequencies!r}.") from None
        if self.frequencies.ndim != 1 or not len(self.frequencies):
            raise ValueError(f"`frequencies` must be a list of at least one number, got {frequencies!r}.")
        if not exact:
            fourier_coefficients(torch.zeros(self.num_points), self.frequencies)  # refuses those above N/2
        self.targets = self._target_amplitudes(amplitudes)
        self._reached: Tensor | None = None

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the spectrum of the function as it is now."""
        run.check_examples(self.batch)
        batch = run.batch(self.batch)
        if self.path is not None:
            yield from self._along_path(run, batch, self.path, step)
        else:
            yield from self._between_samples(run, batch)

    def state_dict(self) -> dict[str, Any]:
        """The first steps at which half amplitudes were reached, and on how much is measured."""
        reached = {} if self._reached is None else {"reached": self._reached}
        return {**reached, **({"size": [self.num_segments, self.num_points]} if self._sized else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from those steps."""
        self._reached = state.get("reached")
        if "size" in state:
            self._resize(*state["size"])

    def _along_path(self, run: Run, batch: Batch, path: Callable[[Tensor], Tensor], step: int) -> Iterator[Measurement]:
        inputs = path_inputs(path, self.num_points, batch)
        values = function_values(run, batch, inputs).T  # (c, N)
        coefficients = fourier_coefficients(values, self.frequencies).cpu()
        magnitude = amplitude(coefficients, self.frequencies, self.num_points)
        axes = {**output_axis(len(values)), "frequency": Axis(self.frequencies.numpy(), "cycles per path")}
        estimator = f"DFT on {self.num_points} points of a path"
        measured = partial(Measurement, dims=tuple(axes), coords=axes, estimator=estimator, num_samples=self.num_points)
        relative = magnitude if self.targets is None else magnitude / self.targets.to(magnitude)
        yield measured(
            "fourier/amplitude/path",
            relative.squeeze(0),
            unit="output" if self.targets is None else "target amplitude",
            description="single-sided amplitude of the learned function",
        )
        yield measured(
            "fourier/coefficients/path",
            coefficients.squeeze(0),
            unit="output",
            description="Fourier coefficient of the learned function",
        )
        moved = function_values(run, batch, rounded(inputs)).T - values
        certain = above_rounding(magnitude, values, moved)
        yield from self._summaries(certain, "path", "cycles per path", estimator, self.num_points)
        if self.targets is not None:
            now = half_amplitude_steps([step], relative[None])
            self._reached = now if self._reached is None else torch.minimum(self._reached, now)
            yield measured(
                "fourier/half_amplitude_step/path",
                self._reached.squeeze(0),
                unit="steps",
                description="first step measured at which half of the target's amplitude was reached",
            )

    def _fit(self, run: Run, inputs: int, outputs: int) -> None:
        """Choose, once, how many segments and points a turn affords: from the time that a few rows take."""
        if self._given or self._sized:
            return
        most = max(LEAST_POINTS, min(MOST_INPUTS // inputs, MOST_OUTPUTS // outputs))
        rows = self.num_segments * self.num_points
        if rows > most:
            self._shrink(run, most, f"is {rows * inputs:,} numbers of inputs and {rows * outputs:,} of outputs")
            self._sized = False  # the time is still to be looked at
        limit, rows = run.first_turn_limit, self.num_segments * self.num_points
        if limit < math.inf:
            seconds = run.sample_seconds(self.batch)
            if seconds * rows > limit:
                affordable = int(limit / seconds)
                if affordable < LEAST_POINTS:
                    raise CannotMeasure(
                        f"{LEAST_POINTS} points alone would take {seconds * LEAST_POINTS:.1f} s, more than a first "
                        f"turn may. It is tried again later, when a twentieth of the training is as much; "
                        f"overhead=None measures at any cost."
                    )
                self._shrink(run, affordable, f"would take {seconds * rows:.0f} s a turn")
        self._sized = True

    def _shrink(self, run: Run, rows: int, why: str) -> None:
        before = self.num_segments, self.num_points
        points = self.num_points
        while points > LEAST_POINTS and rows < LEAST_SEGMENTS * points:
            points //= 2
        self._resize(max(1, min(self.num_segments, rows // points)), points)
        run.left_out(
            f"Measured on {self.num_segments} segments of {self.num_points} points instead of {before[0]} of "
            f"{before[1]}, which {why}. FourierSpectrum(num_segments={before[0]}, "
            f"num_points={before[1]}) measures on all of them."
        )

    def _resize(self, num_segments: int, num_points: int) -> None:
        if num_points != self.num_points:
            self.frequencies = torch.arange(1, num_points // 2 + 1, dtype=torch.float64)
        self.num_segments, self.num_points, self._sized = num_segments, num_points, True

    def _between_samples(self, run: Run, batch: Batch) -> Iterator[Measurement]:
        if batch.n < 2:
            raise CannotMeasure(
                f"Batch {self.batch!r} holds one sample, and segments join two. Pass batches={{{self.batch!r}: "
                f"(inputs, targets)}} with several."
            )
        function = LearnedFunction(run, self.batch)
        alone = choose(function.shape, batch.targets, run.seed, outputs=ALONE)
        outputs = alone.outputs if alone.width > TOGETHER else None
        self._fit(run, function.points[0].numel(), alone.count if outputs else alone.width)
        first, second = segment_samples(batch.n, self.num_segments, run.seed)  # the same at every step
        starts, ends = function.points[first], function.points[second]
        segments = f"{self.num_segments} segments between {function.where}, detrended, Hann window"
        if outputs:
            segments += f", {alone.count} of {alone.width:,} outputs"
        if self.exact:
            magnitude, regions = self._exact_amplitudes(function, first, starts, ends, batch.n)
            magnitude = magnitude if outputs is None else magnitude[:, outputs]
            certain = magnitude
            estimator = f"exact, from all breakpoints of {segments}"
            yield Measurement(
                f"fourier/linear_regions/{self.batch}",
                regions.mean(),
                unit="pieces",
                standard_error=_standard_error(regions),
                estimator=f"exact count, mean over {self.num_segments} segments",
                num_samples=self.num_segments,
                description="linear regions along a segment",
            )
        else:
            points = segment_points(starts, ends, self.num_points)
            flat = function.values(points.flatten(0, 1), first.repeat_interleave(self.num_points), outputs)
            values = flat.reshape(*points.shape[:2], -1)  # (S, N, c)
            coefficients = fourier_coefficients(values.mT, self.frequencies, detrend=True, window="hann").cpu()
            magnitude = amplitude(coefficients, self.frequencies, self.num_points)  # (S, c, K)
            some = points[0]
            moved = function.values(rounded(some), first[:1].expand(len(some)), outputs) - flat[: len(some)]
            certain = above_rounding(magnitude, values, moved)
            estimator = f"DFT on {self.num_points} points of {segments}"
        measured = partial(Measurement, unit="output", estimator=estimator, num_samples=self.num_segments)
        frequency = {"frequency": Axis(self.frequencies.numpy(), "cycles per segment")}
        # The root mean square does not depend on the axes of the output space; the mean over segments has an error.
        together = magnitude.square().mean(1).sqrt()
        yield measured(
            f"fourier/amplitude/{self.batch}",
            together.mean(0),
            dims=("frequency",),
            coords=frequency,
            standard_error=_standard_error(together),
            description="single-sided amplitude, root mean square over outputs, mean over segments",
        )
        if alone.width > 1:
            of = range(alone.width) if alone.outputs is None else alone.outputs
            each = magnitude if len(of) == magnitude.shape[1] else magnitude[:, of]
            if alone.count < alone.width:
                what = "All spectra are" if outputs else "fourier/amplitude_by_output is"
                run.left_out(f"{what} of {alone.words.partition(' and ')[2]}.")
            yield measured(
                f"fourier/amplitude_by_output/{self.batch}",
                each.mean(0),
                dims=("output", "frequency"),
                coords={"output": Axis(np.array(of), "index"), **frequency},
                standard_error=_standard_error(each),
                description="single-sided amplitude, mean over segments",
            )
        power = certain.square().mean(0).sqrt()
        yield from self._summaries(power, self.batch, "cycles per segment", estimator, self.num_segments)

    def _summaries(
        self, magnitude: Tensor, where: str, unit: str, estimator: str, num_samples: int
    ) -> Iterator[Measurement]:
        power = magnitude.double().square().sum(0)
        cutoff = self.frequencies.median().item()
        how = f"{estimator}; power summed over outputs"
        yield Measurement(
            f"fourier/centroid/{where}",
            spectral_centroid(power, self.frequencies),
            unit=unit,
            estimator=how,
            num_samples=num_samples,
            description="mean frequency, weighted by power",
        )
        yield Measurement(
            f"fourier/low_frequency_power/{where}",
            power_below(power, self.frequencies, cutoff),
            estimator=f"{how}; frequencies up to {cutoff:g}",
            num_samples=num_samples,
            description="share of the power in the lower half of the frequencies",
        )

    def _exact_amplitudes(
        self, function: LearnedFunction, samples: Tensor, starts: Tensor, ends: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        magnitudes, regions = [], []
        for sample, start, end in zip(samples.tolist(), starts, ends, strict=True):
            double = function.double(sample)
            if torch.equal(start, end):  # two samples that are one: on a point the function is constant
                outputs = double(start[None]).shape[1]
                magnitudes.append(torch.zeros(outputs, len(self.frequencies), dtype=torch.float64))
                regions.append(1)
                continue
            t, values = breakpoints(double, start, end, chunk_size=max(4 * n, 16))
            c = piecewise_linear_coefficients(t, values, self.frequencies, detrend=True, window="hann")
            magnitudes.append(amplitude(c.T.cpu(), self.frequencies))
            regions.append(linear_regions(t, values))
        return torch.stack(magnitudes), torch.tensor(regions, dtype=torch.float64)

    def _target_amplitudes(
        self, amplitudes: Tensor | Sequence[float] | Callable[[Tensor], Tensor] | None
    ) -> Tensor | None:
        if amplitudes is None:
            return None
        if callable(amplitudes):
            values = amplitudes(grid(self.num_points, dtype=torch.float64)).double().cpu()
            values = values.T if values.ndim == 2 else values
            targets = amplitude(fourier_coefficients(values, self.frequencies), self.frequencies, self.num_points)
            scale = values.abs().max().item()
        else:
            targets = torch.as_tensor(amplitudes, dtype=torch.float64).abs()
            scale = 0.0
        if targets.shape[-1:] != self.frequencies.shape:
            raise ValueError(
                f"`amplitudes` must hold one amplitude for each of the {len(self.frequencies)} frequencies, got shape "
                f"{tuple(targets.shape)}; pass frequencies= too."
            )
        if bool((targets <= 1e-9 * scale).any()):
            raise ValueError(
                "`amplitudes` of the target must not be 0, since the measured ones are divided by them; pass as "
                "frequencies= those that the target has."
            )
        return targets


def _standard_error(values: Tensor) -> Tensor | None:
    """Of the mean over the first dimension; None for a single value."""
    return values.std(0) / len(values) ** 0.5 if len(values) > 1 else None
