"""The function that is being learned, at inputs of one's own choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import Axis, CannotMeasure
from probes.precision import to_float64
from probes.run import Run

from .dft import grid
from .embeddings import Embeddings
from .exact import double_state, float64_or_reason

__all__ = ["LearnedFunction", "function_values", "main_input", "output_axis", "path_inputs"]

Path = Callable[[Tensor], Tensor]


ROWS, NUMBERS = 4, 2**24
"""What goes through the model at once: at most four times the rows of the batch, and so many numbers of outputs."""


class LearnedFunction:
    """The function that is being learned, at inputs of one's own choice: numbers, or what tokens are embedded as.

    Args:
        run: The run.
        batch: The name of the batch in whose call the inputs take the place of the batch's own.

    Attributes:
        points: The batch's own inputs, in float32 at least: positions between samples must not be rounded to half
            precision. Of tokens what the model embeds them as now, see :class:`Embeddings`. Shape ``(n, *shape)``.
        shape: Of the outputs at the batch's own inputs, ``(n, ...)``.

    Raises:
        CannotMeasure: If the batch has neither numbers nor tokens that are embedded.
    """

    def __init__(self, run: Run, batch: str) -> None:
        self._run, self._batch = run, run.batch(batch)
        self.shape = tuple(run.evaluate(batch).shape)
        self._embeddings = Embeddings(run.model, self._batch) if self._batch.inputs is None else None
        self.points = main_input(self._batch) if self._embeddings is None else self._embeddings.points

    @property
    def where(self) -> str:
        """What its points are."""
        return "samples" if self._embeddings is None else "embedded samples"

    @property
    def moves(self) -> bool:
        """Whether its points are others after an update."""
        return self._embeddings is not None

    def values(self, inputs: Tensor, samples: Tensor | None = None, outputs: list[int] | None = None) -> Tensor:
        """The outputs at given inputs, without gradients.

        Args:
            inputs: Shape ``(rows, *shape)``.
            samples: For each row, the sample of the batch that all other tensors of the call are of.
            outputs: Of these flattened outputs alone.

        Returns:
            Shape ``(rows, c)``, in the unit of the output.
        """
        rows, found = max(1, min(ROWS * self._batch.n, NUMBERS // max(1, math.prod(self.shape[1:])))), []
        samples = torch.zeros(len(inputs), dtype=torch.long) if samples is None else samples
        with torch.no_grad():
            for part, of in zip(torch.split(inputs, rows), torch.split(samples, rows), strict=True):
                output = self._call(self._batch, part, of, None).reshape(len(part), -1)
                found.append(output if outputs is None else output[:, outputs])
        return torch.cat(found)

    def double(self, sample: int) -> Callable[[Tensor], Tensor]:
        """The function in float64, whatever the model's own precision; the model is left as it is.

        Args:
            sample: That all other tensors of the call are of.
        """
        state = double_state(self._run.model)
        exact = replace(self._batch, args=_double(self._batch.args), kwargs=_double(self._batch.kwargs), targets=None)

        def function(inputs: Tensor) -> Tensor:
            with float64_or_reason():
                output = self._call(exact, inputs, torch.full((len(inputs),), sample), state)
            return output.reshape(len(inputs), -1)

        return function

    def _call(self, batch: Batch, inputs: Tensor, samples: Tensor, state: Mapping[str, Tensor] | None) -> Tensor:
        if self._embeddings is None:
            return self._run.forward(batch.with_inputs(inputs, samples), state)
        batch = batch.select(samples)
        with self._embeddings.at(inputs, batch):
            return self._run.forward(batch, state)


def function_values(run: Run, batch: Batch, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """The model's outputs at given inputs, without gradients.

    No more rows go through the model at once than four times those of the batch, which it is known to bear.

    Args:
        run: The run.
        batch: The call of the model in which the inputs take the place of the batch's own.
        inputs: Shape ``(rows, *shape)``.
        parameters: In place of the model's own.

    Returns:
        Shape ``(rows, c)``, in the unit of the output.
    """
    with torch.no_grad():
        outputs = [
            run.forward(batch.with_inputs(part), parameters).reshape(len(part), -1)
            for part in torch.split(inputs, ROWS * batch.n)
        ]
    return torch.cat(outputs)


def main_input(batch: Batch) -> Tensor:
    """The batch's main input, in float32 at least: positions between samples must not be rounded to half precision.

    Raises:
        CannotMeasure: If it has none.
    """
    inputs = batch.inputs
    if inputs is None:
        raise CannotMeasure("The batch has no floating-point input (token ids cannot be interpolated).")
    return inputs.to(torch.promote_types(inputs.dtype, torch.float32))


def path_inputs(path: Path, num_points: int, batch: Batch) -> Tensor:
    """The inputs on a path, at :func:`grid`, in the precision of :func:`main_input`.

    Raises:
        CannotMeasure: If the path does not give a tensor with an input for each point, of the shape of the batch's.
    """
    own = main_input(batch)
    points = grid(num_points, dtype=own.dtype)
    inputs = path(points)
    if not isinstance(inputs, Tensor):
        raise CannotMeasure(f"`path` must give a tensor of inputs, got {type(inputs).__name__}.")
    if inputs.shape[:1] != points.shape:
        raise CannotMeasure(
            f"`path` must give an input for each of the {len(points)} points, shape ({len(points)}, ...), got shape "
            f"{tuple(inputs.shape)}."
        )
    if inputs.shape[1:] != own.shape[1:]:
        raise CannotMeasure(
            f"`path` must give inputs of shape {tuple(own.shape[1:])}, as those of the batch, got "
            f"{tuple(inputs.shape[1:])}."
        )
    return inputs


def output_axis(count: int) -> dict[str, Axis]:
    """The axis of the outputs where there are several; of one, ``Tensor.squeeze`` drops it from the values."""
    return {"output": Axis(np.arange(count), "index")} if count > 1 else {}


def _double(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return to_float64(tree) if tree.is_floating_point() else tree.cpu() if tree.device.type == "mps" else tree
    if isinstance(tree, Mapping):
        return {key: _double(item) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(_double, tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map(_double, tree))
    return tree
