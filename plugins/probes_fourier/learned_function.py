"""The function that is being learned, at inputs of one's own choice."""

from __future__ import annotations

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
from .exact import double_state, float64_or_reason

__all__ = ["double_function", "function_values", "main_input", "output_axis", "path_inputs"]

Path = Callable[[Tensor], Tensor]


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
            for part in torch.split(inputs, 4 * batch.n)
        ]
    return torch.cat(outputs)


def double_function(run: Run, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The model's function in float64, whatever its own precision; the model is left as it is."""
    state = double_state(run.model)
    exact = replace(batch, args=_double(batch.args), kwargs=_double(batch.kwargs), targets=None)

    def function(inputs: Tensor) -> Tensor:
        with float64_or_reason():
            output = run.forward(exact.with_inputs(inputs), state)
        return output.reshape(len(inputs), -1)

    return function


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
