"""The outputs of hidden layers, one after the other, and the last linear layer of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from probes.names import hookable_modules, own_parameters
from probes.outputs import ExampleAxis
from probes.precision import to_float64

__all__ = ["Head", "hidden_outputs", "with_weights"]

CONVOLUTIONS = (nn.modules.conv._ConvNd,)


class Head(NamedTuple):
    """A linear classifier and what it is given, float64."""

    features: Tensor
    """Shape ``(n, d)``."""
    weight: Tensor
    """Shape ``(c, d)``."""
    bias: Tensor | None
    """Shape ``(c,)``."""


def with_weights(model: nn.Module) -> list[str]:
    """Names of the modules with a weight of at least two dimensions of their own, in the order of registration.

    Linear maps, convolutions, embeddings, recurrent and attention layers; no norms and no activations.

    Example:
        >>> with_weights(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))
        ['0', '3']
    """
    return [name for name, module in hookable_modules(model) if _has_matrix(module)]


def hidden_outputs(
    model: nn.Module,
    call: Callable[[], Tensor],
    n: int,
    names: Sequence[str],
    see: Callable[[str, Tensor, int], None],
) -> Head | None:
    """Call a model, and hand on what its layers give while it runs, so that one output is held at a time.

    Args:
        model: The model.
        call: Calls it without gradients; returns the output tensor.
        n: Number of examples.
        names: Of modules.
        see: Is given the name, the output ``(n, ...)`` and the dimension of its units, once for each module that gives
            a floating-point tensor of two dimensions or more with a row for each example, or a column of sequences
            with time first (:class:`~probes.outputs.ExampleAxis`): of its first call, and of several outputs the first.

    Returns:
        The :class:`~torch.nn.Linear` that was called with ``(n, d)`` and gave the output ``(n, c)``, c of at least 2,
        as it is or before a (log-)softmax; None where there is none.

    Example:
        >>> net, seen = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), []
        >>> head = hidden_outputs(net, lambda: net(torch.ones(5, 2)), 5, ["0", "1"], lambda *item: seen.append(item))
        >>> [name for name, _, _ in seen], head.features.shape
        (['0', '1'], torch.Size([5, 4]))
    """
    axis = ExampleAxis(model, n)
    modules, done, heads = dict(hookable_modules(model)), set[str](), dict[nn.Linear, tuple[Tensor, Tensor]]()

    def hook(name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            rows = None if name in done else axis.rows(module, output)
            if rows is not None and rows.ndim >= 2 and rows.numel():
                done.add(name)
                see(name, rows, 1 if isinstance(module, CONVOLUTIONS) else -1)

        return after

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and isinstance(output, Tensor) and given.ndim == 2 and len(given) == n:
            heads.pop(module, None)  # type: ignore[call-overload]
            heads[module] = given.detach().clone(), output.detach().clone()  # type: ignore[index]

    handles = []
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(hook(name)))
        for module in modules.values():
            if isinstance(module, nn.Linear):
                handles.append(module.register_forward_hook(keep))
        with torch.no_grad():
            output = call()
            for module, (given, scores) in reversed(heads.items()):
                if output.ndim == 2 and output.shape[1] > 1 and _gives(scores, output):
                    bias = None if module.bias is None else to_float64(module.bias.detach())
                    return Head(to_float64(given), to_float64(module.weight.detach()), bias)
    finally:
        for handle in handles:
            handle.remove()
    return None


def _gives(scores: Tensor, output: Tensor) -> bool:
    """Whether an output is these scores, or their (log-)softmax."""
    same = scores.shape == output.shape
    return same and any(
        torch.allclose(made.to(output.dtype), output, equal_nan=True)
        for made in (scores, scores.log_softmax(1), scores.softmax(1))
    )


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, parametrize.ParametrizationList):  # what it gives is the weight of another module
        return False
    own = list(own_parameters(module).values())
    if parametrize.is_parametrized(module):
        weights = module.parametrizations.values()  # type: ignore[operator]
        own += [parameter for weight in weights for parameter in weight.parameters()]
    return any(parameter.ndim >= 2 for parameter in own)
