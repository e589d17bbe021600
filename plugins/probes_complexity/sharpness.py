"""Sharpness: by how much the loss can rise when every parameter may move a little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from probes.precision import to_float64
from probes_ntk import Call

__all__ = ["sharpness"]


def sharpness(
    model: nn.Module,
    inputs: Any,
    targets: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    epsilon: float = 1e-3,
    steps: int = 10,
    output: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    r"""How far the loss rises, in percent, in a box around the trainable parameters.

    .. math:: \phi = 100 \, \frac{\max_{z \in C_\epsilon} L(w + z) - L(w)}{1 + L(w)}, \qquad
              C_\epsilon = \big\{ z : |z_i| \le \epsilon (|w_i| + 1) \big\}

    The maximum is searched by projected ascent: each step goes along the signs of the gradient, in units of the box,
    as far as the opposite wall; half as far after each step that did not raise the loss, from the best point so far.
    Whatever is found lies in the box: the value is a lower bound of the sharpness, exact if the loss is linear, and
    never below 0. At a point where the gradient is exactly zero nothing is found.

    Args:
        model: In eval mode; it is called with other parameters, none of its own is changed.
        inputs: As the model takes them.
        targets: As ``loss`` takes them.
        loss: Of the outputs, shape ``(n, c)`` also for c = 1, and the targets; a mean over samples, not negative.
        epsilon: Half the width of the box for a parameter that is 0; the source has 1e-3 and 5e-4.
        steps: Number of ascent steps; the source does 10 iterations of L-BFGS-B, inexactly on purpose.
        output: Picks the output tensor, ``(n, c)`` or ``(n,)``, from what the model returns.

    Returns:
        Percent, float64; NaN if the loss is. Shape ``()``.

    Raises:
        ValueError: If ``epsilon`` or ``steps`` is not positive, the loss is negative, the model has batch
            normalisation or dropout in training mode, or nothing is trainable.

    Cost: ``steps + 1`` forward and backward passes; memory for four copies of the trainable parameters.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1.0)
        >>> ones = torch.ones(1, 1)  # the loss is w, which may rise from 1 by 0.1 (1 + 1)
        >>> round(sharpness(model, ones, ones, loss=lambda f, y: (f * y).mean(), epsilon=0.1).item(), 4)
        10.0

    Reference:
        Keskar et al., "On large-batch training for deep learning: generalization gap and sharp minima", ICLR 2017, the
        metric of sharpness with A = I (the whole space); the box and the formula were checked in texts about it, their
        numbers (metric 2.1, eq. 3 and 4) are from memory.
    """
    if not epsilon > 0 or steps < 1:
        raise ValueError(f"`epsilon` and `steps` must be positive, got {epsilon} and {steps}.")
    call = Call.of(model, inputs, output)
    start = {name: parameter.detach() for name, parameter in call.parameters.items()}
    # The others, in float32 where the model is in a half precision.
    fixed = {name: tensor for name, tensor in call.tensors.items() if name not in start}

    def ascend(point: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        """The loss at a point and the signs of its gradient there."""
        leaves = {name: tensor.requires_grad_() for name, tensor in point.items()}
        moved = replace(call, tensors={**fixed, **leaves})
        with torch.enable_grad():  # whatever the caller's mode
            value = loss(moved.forward(moved.batch), targets)
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return float(to_float64(value.detach())), {
            name: gradient.sign_() for name, gradient in zip(leaves, gradients, strict=True)
        }

    def width(name: str) -> Tensor:
        return epsilon * (start[name].abs() + 1)

    before, signs = ascend({name: tensor.detach() for name, tensor in start.items()})
    if before < 0:
        raise ValueError(f"`loss` must not be negative for its relative rise to mean anything, got {before:g}.")
    best, at, stride = before, start, 2.0
    for _ in range(steps):
        candidate = {}
        for name, tensor in at.items():
            half, middle = width(name), start[name]
            candidate[name] = torch.clamp(tensor.detach() + stride * half * signs[name], middle - half, middle + half)
        value, slope = ascend(candidate)
        if value > best:
            best, at, signs = value, candidate, slope
        else:
            stride /= 2
    rise = 100 * (best - before) / (1 + before)
    return torch.tensor(rise, dtype=torch.float64)
