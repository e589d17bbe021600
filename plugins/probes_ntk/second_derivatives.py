"""Whether a gradient can be differentiated once more: what autograd leaves out, or gets wrong, without a word."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["no_second_derivative"]

_CUT = "torch::autograd::Error"
"""The node behind a function that is marked as ``once_differentiable``. It leads nowhere, so that autograd, asked for
the gradient by what lies below, takes it for zero instead of raising."""
_WRONG = {"WeightNormInterfaceBackward0": "torch.nn.utils weight norm"}
"""Operations whose second derivative torch computes wrongly: ``gradgradcheck`` fails on them (2.14, on a CPU)."""


def no_second_derivative(gradients: Iterable[Tensor], linear: bool = False) -> str:
    """Why gradients that were made with ``create_graph`` must not be differentiated, in words; empty if they may be.

    Args:
        gradients: With their graph.
        linear: Whether they are only differentiated by what they are linear in, the gradient at the outputs.

    Cost: a walk through the graph.

    Example:
        >>> import torch
        >>> w = torch.ones(2, requires_grad=True)
        >>> no_second_derivative(torch.autograd.grad(w.square().sum(), w, create_graph=True))
        ''
    """
    todo = [gradient.grad_fn for gradient in gradients if gradient.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        name = node.name()
        if name == _CUT:
            return "a custom function that is marked as differentiable once"
        if not linear and name in _WRONG:
            return f"{_WRONG[name]}, of which torch's is wrong"
        following = {each for each, _ in node.next_functions if each is not None} - seen
        seen |= following
        todo.extend(following)
    return ""
