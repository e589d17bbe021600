"""The path norm: all paths from an input to an output, each with the product of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd
from torch.utils._pytree import tree_map_only

from probes.batches import Batch
from probes.names import call_at, named_modules
from probes.picking import pick_output
from probes.precision import to_float64
from probes_fourier import is_torchs

from .chain import NotDefined, Use, as_call, batch_norm_map, check_eval, recorded

__all__ = ["MaxPool", "path_norm"]

MaxPool = Literal["sum", "max"]

_POOLS = (_AvgPoolNd, _AdaptiveAvgPoolNd, _MaxPoolNd, _AdaptiveMaxPoolNd)
_PASSES = (nn.Identity, nn.ReLU, nn.Flatten, nn.Unflatten, nn.Dropout, nn.modules.dropout._DropoutNd)


def path_norm(
    model: nn.Module,
    inputs: Any,
    p: float = 2,
    *,
    max_pool: MaxPool = "sum",
    feedforward: bool | None = None,
    output: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    r"""The norm of all paths from any input, or from the constant unit of a bias, to any output.

    .. math:: \phi_p = \Big( \sum_{\text{paths}} \prod_{e \in \text{path}} |w_e|^p \Big)^{1/p}

    It is what the network gives on an input of ones, summed over the outputs, once every weight is replaced by its
    p-th power :math:`|w|^p`. It does not change when a ReLU unit's incoming weights are scaled and its outgoing ones
    scaled back. The edges are:

    * of a linear layer or convolution, its weights, each at every place where it is used;
    * of a bias, an edge from a constant unit that is always 1 (so is it in the authors' code);
    * of a batch norm in eval mode, none: it is folded into the affine layer that it directly follows, as in that code.
      Elsewhere it is a layer of its own, with the factor of each channel as edges and its shift as a bias;
    * of an average pooling, edges of weight 1 / k, k the size of the window;
    * of a max pooling, edges of weight 1 from the whole window, all of whose paths count (``"sum"``), which the bounds
      for such networks take (Gonon et al. 2024). The authors' code keeps the maximum (``"max"``), which is less.

    Args:
        model: In eval mode, made of linear layers, convolutions, batch norms, ReLU (also leaky, with a slope of at most
            1), poolings, flattening and dropout.
        inputs: As the model takes them; only the shape of the first sample counts.
        p: At least 1; 1 and 2 are in use.
        max_pool: ``"sum"`` or ``"max"``.
        feedforward: Whether the model does nothing but call these modules one after another, and add or concatenate
            what they give, as in a residual network. By default only an ``nn.Sequential`` is certain to.
        output: Picks the output tensor from what the model returns.

    Returns:
        In units of output per unit of input, for p = 1 a bound of it over inputs between -1 and 1; float64, infinite
        on overflow. Shape ``()``.

    Raises:
        ValueError: If the model has other modules, named in the message, is not in eval mode, or ``p`` is below 1.

    Cost: two forward passes of one sample, and a float64 copy of the parameters while they last; none is changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, -4.0]])), model[2].weight.data.fill_(-2.0)
        >>> path_norm(model, torch.zeros(1, 2)).item(), path_norm(model, torch.zeros(1, 2), p=1).item()
        (10.0, 14.0)

    Reference:
        Neyshabur, Tomioka & Srebro, "Norm-based capacity control in neural networks", COLT 2015; Neyshabur et al.,
        "Exploring generalization in deep learning", NeurIPS 2017. The definition was checked in the code of the latter;
        its equation numbers could not be. Jiang et al. (2020) take the square for p = 2 (eq. 44, as numbered in the
        code of Dziugaite et al. 2020). Max pooling: Gonon et al., "A path-norm toolkit for modern networks", ICLR 2024,
        theorem A.1, as cited in its code.
    """
    if not p >= 1:
        raise ValueError(f"`p` must be at least 1, got {p}.")
    if max_pool not in get_args(MaxPool):
        raise ValueError(f"`max_pool` must be 'sum' or 'max', got {max_pool!r}.")
    _check(model, max_pool, feedforward)
    check_eval(model)
    batch = as_call(inputs).first(1)
    main = batch.inputs
    if main is None:
        raise NotDefined("`inputs` must hold a floating-point tensor: there are no paths from token ids.")
    ones = Batch(*tree_map_only(Tensor, lambda leaf: torch.ones_like(leaf) if leaf is main else leaf, _parts(batch)))
    with torch.no_grad(), recorded(model) as uses:
        model(*ones.args, **ones.kwargs)
    with torch.no_grad(), ExitStack() as hooks:
        tensors = _powers(model, uses, p, max_pool, hooks)
        exact = tree_map_only(Tensor, lambda leaf: to_float64(leaf) if leaf.is_floating_point() else leaf, _parts(ones))
        result = call_at(model, tensors, *exact)
        return (output or pick_output)(result).sum().pow(1 / p)


def _parts(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return batch.args, dict(batch.kwargs)


def _powers(model: nn.Module, uses: list[Use], p: float, max_pool: MaxPool, hooks: ExitStack) -> dict[str, Tensor]:
    """The tensors to call the model with, all in float64; hooks do what these cannot."""
    tensors = {
        name: to_float64(tensor.detach()) if tensor.is_floating_point() else tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    signed = dict(tensors)
    once = {use.module for use in uses if sum(other.module is use.module for other in uses) == 1}
    folded: dict[nn.Module, Use] = {
        use.module: before
        for before, use in pairwise(uses)
        if isinstance(use.module, _BatchNorm) and use.follows and {before.module, use.module} <= once
    }
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):
            for key in module._parameters:
                full = f"{name}.{key}" if name else key
                if full in tensors:
                    tensors[full] = signed[full].abs().pow(p)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            scale, shift = (to_float64(part) for part in batch_norm_map(name, module))
            before = folded.get(module)
            if before is not None:
                bias = f"{before.name}.bias"
                if bias in tensors:
                    shift = shift + scale * signed[bias]
                    tensors[bias] = torch.zeros_like(signed[bias])
            _on(module, hooks, _affine(scale.abs().pow(p), shift.abs().pow(p)))
        elif isinstance(module, _AvgPoolNd | _AdaptiveAvgPoolNd) and p != 1:
            _on(module, hooks, _average(name, p))
        elif isinstance(module, _MaxPoolNd) and max_pool == "sum":
            _on(module, hooks, _sum_of_window(name))
    return tensors


Hook = Callable[[Any, Tensor, Tensor], Tensor]


def _on(module: nn.Module, hooks: ExitStack, replace: Hook) -> None:
    """Until the stack is closed, replace the output of a module by a function of itself, its input and its output."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        return replace(module, args[0] if args else kwargs["input"], output)

    hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


def _affine(scale: Tensor, shift: Tensor) -> Hook:
    def replace(module: Any, x: Tensor, output: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return x * scale.reshape(shape) + shift.reshape(shape)

    return replace


def _average(name: str, p: float) -> Hook:
    def replace(module: Any, x: Tensor, output: Tensor) -> Tensor:
        dims = _dims(module)
        if isinstance(module, _AdaptiveAvgPoolNd):
            even = all(size % out == 0 for size, out in zip(x.shape[-dims:], output.shape[-dims:], strict=True))
            window = x.numel() // output.numel()
        else:
            given = getattr(module, "divisor_override", None)
            inside = module.count_include_pad or not any(_each(module.padding, dims))
            even = bool(given) or (inside and not module.ceil_mode)
            window = given or math.prod(_each(module.kernel_size, dims))
        if not even:
            raise NotDefined(
                f"`model` has an average pooling ({name!r}) whose windows differ in size; its edges are known for "
                f"p = 1 only."
            )
        factor: float = window ** (1 - p)
        return output * factor

    return replace


def _sum_of_window(name: str) -> Hook:
    def replace(module: Any, x: Tensor, output: Any) -> Tensor:
        dims = _dims(module)
        size, stride, padding, dilation = (
            _each(getattr(module, key), dims) for key in ("kernel_size", "stride", "padding", "dilation")
        )
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[dims - 1]
        channels = x.shape[-dims - 1]
        ones = x.new_ones((channels, 1, *size))
        summed: Tensor = convolve(x, ones, None, stride, padding, dilation, channels)
        if isinstance(output, tuple) or summed.shape != output.shape:
            raise NotDefined(
                f"`model` has a max pooling ({name!r}) with ceil_mode or return_indices, which is not summed here. "
                f"Pass max_pool='max' to keep the maximum."
            )
        return summed

    return replace


def _dims(module: nn.Module) -> int:
    """Of the images that a pooling takes, from the name of its class in torch."""
    return next(int(kind.__name__[-2]) for kind in type(module).__mro__ if kind.__name__[-2:] in ("1d", "2d", "3d"))


def _each(setting: Any, dims: int) -> tuple[int, ...]:
    return tuple(setting) if isinstance(setting, tuple | list) else (setting,) * dims


def _check(model: nn.Module, max_pool: MaxPool, feedforward: bool | None) -> None:
    """Refuse modules whose paths are not known."""
    for name, module in named_modules(model):
        name, kind = name or "the whole", type(module).__name__
        container = next(module.children(), None) is not None
        if container and not module._parameters:
            if not feedforward and type(module).forward is not nn.Sequential.forward:
                raise NotDefined(
                    f"`model` has a forward of its own ({name!r}, {kind}), which may do more than add up paths. Pass "
                    f"feedforward=True if you know that it does not."
                )
            continue
        if isinstance(module, nn.Linear | _ConvNd):
            if not is_torchs(module):
                raise NotDefined(f"`model` has a layer ({name!r}, {kind}) with a forward of its own.")
            if container or set(module._parameters) != {"weight", "bias"}:
                raise NotDefined(f"`model` has a layer ({name!r}, {kind}) whose weights are computed from others.")
            continue
        slopes = torch.zeros(1)
        if isinstance(module, nn.LeakyReLU):
            slopes = torch.tensor([module.negative_slope])
        elif isinstance(module, nn.PReLU):
            slopes = module.weight.detach()
        leaky = isinstance(module, nn.LeakyReLU | nn.PReLU) and bool((slopes.abs() <= 1).all())
        known = isinstance(module, (*_PASSES, *_POOLS, _BatchNorm)) or leaky
        if not known or (isinstance(module, _AdaptiveMaxPoolNd) and max_pool == "sum"):
            raise NotDefined(
                f"`model` has a module ({name!r}, {kind}) whose paths are not known. Known are linear layers, "
                f"convolutions, batch norms, ReLU, average and max pooling, flattening and dropout."
            )
