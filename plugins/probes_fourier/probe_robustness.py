"""SpectrumRobustness: which frequencies survive when the parameters are shaken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from probes.measurement import Axis, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .dft import fourier_coefficients
from .learned_function import function_values, output_axis, path_inputs
from .robustness import perturbed_amplitudes

__all__ = ["SpectrumRobustness"]


class SpectrumRobustness(Probe):
    """Amplitudes at randomly perturbed parameters relative to those at the parameters themselves, along a path.

    Yields ``robustness/relative_amplitude``, per length of the perturbation and frequency, and per output if there are
    several, with its standard error over directions.

    Runs when asked for. Costs forward passes on N rows for every length and direction.

    Args:
        schedule: When it is due; the experiment of the thesis measures once, at the end.
        path: Positions ``(N,)`` in [0, 1), on the CPU, to inputs ``(N, *shape)``.
        frequencies: In cycles over the path.
        deltas: Lengths of the perturbation, over all parameters together.
        num_directions: Random directions for each length.
        num_points: The number N of positions.
        batch: The batch that gives the form of the model's call.

    Raises:
        ValueError: If a frequency is above N/2 or ``num_directions`` is not positive.

    Example:
        >>> SpectrumRobustness(path=lambda z: z[:, None], frequencies=[5, 10]).num_directions
        100

    Reference:
        Baratin (2021), experiment 2 and figure 3.3.
    """

    name = "robustness"
    needs = frozenset({"inputs"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        path: Callable[[Tensor], Tensor],
        frequencies: Tensor | Sequence[float],
        deltas: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
        num_directions: int = 100,
        num_points: int = 200,
        batch: str = "train",
    ) -> None:
        super().__init__(schedule)
        if num_directions < 1:
            raise ValueError(f"`num_directions` must be a positive integer, got {num_directions}.")
        self.frequencies = torch.as_tensor(frequencies, dtype=torch.float64)
        fourier_coefficients(torch.zeros(num_points), self.frequencies)  # refuses those above N/2
        self.path, self.deltas, self.batch = path, list(deltas), batch
        self.num_directions, self.num_points = num_directions, num_points

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the relative amplitudes around the parameters as they are now."""
        run.check_examples(self.batch)
        batch = run.batch(self.batch)
        inputs = path_inputs(self.path, self.num_points, batch)
        parameters = {name: p.detach() for name, p in run.model.named_parameters() if p.is_floating_point()}

        def function(given: Mapping[str, Tensor]) -> Tensor:
            return function_values(run, batch, inputs, given).T

        with torch.no_grad():
            ratio, error = perturbed_amplitudes(
                function, parameters, self.deltas, self.num_directions, run.generator, self.frequencies
            )
        axes = {
            "delta": Axis(np.array(self.deltas), "parameter norm"),
            **output_axis(ratio.shape[1]),
            "frequency": Axis(self.frequencies.numpy(), "cycles per path"),
        }
        yield Measurement(
            "robustness/relative_amplitude",
            ratio.squeeze(1),
            dims=tuple(axes),
            coords=axes,
            standard_error=None if self.num_directions == 1 else error.squeeze(1),
            estimator=f"DFT on {self.num_points} points, mean over {self.num_directions} random directions",
            num_samples=self.num_directions,
            description="amplitude at perturbed parameters relative to the unperturbed one",
        )
