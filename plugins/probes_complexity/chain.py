"""The affine layers of a chain as the linear operators they are, in the order in which they run.

What the bounds of fully connected networks need of a model: its matrices, the first applied first. A convolution is the
matrix that it is on inputs of their actual size, never formed; a batch norm in eval mode is part of the layer before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from probes.batches import Batch
from probes.names import call_at, named_modules
from probes_fourier import AFFINE, is_chain

__all__ = [
    "Affine",
    "NotDefined",
    "Use",
    "affine_layers",
    "as_call",
    "batch_norm_map",
    "check_eval",
    "initial_tensor",
    "parameter_names",
    "recorded",
]


class NotDefined(ValueError):
    """A measure is not defined for this model or these targets; the message says why."""


@dataclass(frozen=True)
class Affine:
    """One affine layer, with the batch norm that follows it, as a linear operator."""

    name: str
    module: nn.Module
    weight: Tensor
    """Of the module, its rows scaled by the batch norm; at least float32."""
    reference: Tensor
    """The same before training, or zero."""
    input_shape: tuple[int, ...]
    """Of one sample."""

    def __call__(self, weight: Tensor, x: Tensor) -> Tensor:
        """The operator with that weight, without bias, on one sample."""
        state = {"weight": weight}
        bias = self.module.bias
        if isinstance(bias, Tensor):
            state["bias"] = torch.zeros_like(bias, dtype=weight.dtype)
        output: Tensor = call_at(self.module, state, (x[None],))
        return output[0]

    def row_norms(self, weight: Tensor) -> Tensor:
        """Euclidean norms of the rows of the operator's matrix: one for each number of the output of one sample.

        The squared entries of a row sum to what the squared weights give on an input of ones, as long as no two
        weights stand in one entry.
        """
        return self(weight.square(), torch.ones(self.input_shape, dtype=weight.dtype, device=weight.device)).sqrt()


@dataclass(frozen=True)
class Use:
    """One call of a module without children."""

    name: str
    module: nn.Module
    input: Tensor
    follows: bool
    """Whether its input is the very output of the module called before, an affine one."""


def affine_layers(
    model: nn.Module, inputs: Any, initial: Mapping[str, Tensor] | None = None, *, chain: bool | None = None
) -> list[Affine]:
    """The affine layers of a chain, in the order in which they run.

    Args:
        model: In eval mode.
        inputs: As the model takes them; the first sample is sent through it once, for the sizes.
        initial: Parameters before training, by name. With batch norms, also their ``running_var`` then, taken for one
            where it is missing, as a new batch norm has it.
        chain: Whether the model is a chain of affine maps and activations; by default what :func:`is_chain` says.

    Raises:
        NotDefined: If it is no chain, or a layer has no matrix of its own, with the reason.
        ValueError: If the model is not in eval mode, or ``initial`` lacks a weight.
    """
    if not (is_chain(model) if chain is None else chain):
        raise NotDefined(
            f"`model` ({type(model).__name__}) must be a chain of affine layers and activations: an nn.Sequential of "
            f"them, each once. Pass chain=True if you know that its forward is one."
        )
    check_eval(model)
    with torch.no_grad(), recorded(model) as uses:
        batch = as_call(inputs).first(1)
        model(*batch.args, **batch.kwargs)
    if len({id(use.module) for use in uses}) < len(uses):
        raise NotDefined("`model` calls one module several times: it has no matrix of its own for each layer.")
    names = parameter_names(model)
    layers = []
    for use, after in zip(uses, [*uses[1:], None], strict=True):
        if isinstance(use.module, _BatchNorm) and not use.follows:
            raise NotDefined(f"`model` has a batch norm ({use.name!r}) that does not directly follow an affine layer.")
        if not isinstance(use.module, AFFINE) and next(iter(use.module.parameters()), None) is not None:
            raise NotDefined(
                f"`model` has a layer with parameters ({use.name!r}, {type(use.module).__name__}) that is not affine."
            )
        if isinstance(use.module, (nn.Linear, _ConvNd)):
            norm = after if after is not None and isinstance(after.module, _BatchNorm) and after.follows else None
            layers.append(_affine(use, norm, initial, names))
    if not layers:
        raise NotDefined(f"`model` ({type(model).__name__}) has no affine layer.")
    return layers


def _affine(use: Use, norm: Use | None, initial: Mapping[str, Tensor] | None, names: Mapping[int, str]) -> Affine:
    module, shape = use.module, tuple(use.input.shape[1:])
    weight = module._parameters.get("weight")
    if weight is None:
        raise NotDefined(f"`model` has a layer ({use.name!r}) whose weight is computed from others (parametrized).")
    if isinstance(module, _ConvNd):
        _check_padding(use.name, module, shape)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    now, start = weight.detach().to(dtype), torch.zeros_like(weight, dtype=dtype)
    if initial is not None:
        start = initial_tensor(initial, names[id(weight)], weight).to(now)
    if norm is not None:
        if isinstance(module, nn.Linear) and len(shape) != 1:
            raise NotDefined(f"`model` has a batch norm ({norm.name!r}) over something else than rows of a matrix.")
        batch_norm = norm.module
        assert isinstance(batch_norm, _BatchNorm)
        factors = batch_norm_map(norm.name, batch_norm)[0].to(now)
        now = _scale_rows(module, now, factors)
        if initial is not None:
            gamma, variance = batch_norm.weight, initial.get(f"{norm.name}.running_var")
            gain = torch.ones(1) if gamma is None else initial_tensor(initial, names[id(gamma)], gamma)
            spread = torch.ones(1) if variance is None else variance
            scale = gain.to(now) * (spread.to(now) + batch_norm.eps).rsqrt()
            # Of a lazy batch norm that was loaded from a checkpoint, num_features stays 0.
            start = _scale_rows(module, start, scale.expand(len(factors)))
    return Affine(use.name, module, now, start, shape)


def parameter_names(model: nn.Module) -> dict[int, str]:
    """The name under which ``named_parameters()`` has each parameter, the first if it is tied, by its id."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def batch_norm_map(name: str, module: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies each channel by in eval mode, and what it adds then.

    Raises:
        NotDefined: If it normalises by the batch in eval mode too.
    """
    if module.running_var is None or module.running_mean is None:
        raise NotDefined(f"`model` has a batch norm ({name!r}) without running statistics: it is no map of one sample.")
    scale = (module.running_var + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight.detach()
    shift = -module.running_mean * scale
    return scale, shift if module.bias is None else shift + module.bias.detach()


def check_eval(model: nn.Module) -> None:
    """Refuse batch norm and dropout in training mode, and batch norm that has no other.

    Raises:
        ValueError: Naming the module.
    """
    for name, module in named_modules(model):
        random = isinstance(module, _DropoutNd) and module.p > 0
        if module.training and (random or isinstance(module, _BatchNorm | _InstanceNorm)):
            kind = "dropout" if random else "batch normalisation"
            raise ValueError(
                f"`model` has {kind} in training mode ({name!r}): it is no fixed function of one sample. Call "
                f"model.eval() first."
            )
        if isinstance(module, _BatchNorm):
            batch_norm_map(name, module)


def as_call(inputs: Any) -> Batch:
    """One call of a model from what it takes: a tensor, a tuple of arguments, a dict of keywords, or a batch."""
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, Mapping):
        return Batch((), inputs)
    return Batch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Use]]:
    """Note each call of a module without children, in order, while the model runs."""
    uses: list[Use] = []
    last: list[Any] = [None, None]  # module and output of the call before

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = args[0] if args else kwargs.get("input")
            before, given = last
            last[:] = [module, output]
            if isinstance(x, Tensor):
                uses.append(Use(name, module, x.detach(), x is given and isinstance(before, (nn.Linear, _ConvNd))))

        return hook

    handles = []
    try:
        for name, module in named_modules(model):
            if isinstance(module, torch.jit.ScriptModule):
                raise NotDefined(
                    f"`model` has a module that TorchScript has compiled ({name!r}): it cannot be followed."
                )
            if next(module.children(), None) is None or isinstance(module, (nn.Linear, _ConvNd)):
                handles.append(module.register_forward_hook(note(name), with_kwargs=True))
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _check_padding(name: str, module: _ConvNd, shape: tuple[int, ...]) -> None:
    widths = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    wraps = module.padding_mode == "circular" and all(
        width <= size for width, size in zip(widths, shape[1:], strict=True)
    )
    if module.padding_mode != "zeros" and not wraps:
        raise NotDefined(
            f"`model` has a convolution ({name!r}) with padding_mode={module.padding_mode!r}, in whose matrix several "
            f"weights share an entry. Its norms are known for 'zeros', and for 'circular' where the kernel fits in."
        )


def _scale_rows(module: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    if isinstance(module, _ConvTransposeNd):
        # (in, out / groups, ...): the outputs of each group of inputs.
        factor = scale.reshape(module.groups, 1, -1).expand(-1, len(weight) // module.groups, -1).flatten(0, 1)
        return weight * factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def initial_tensor(initial: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A parameter as it was before training.

    Raises:
        ValueError: If it is missing, or has another shape.
    """
    start = initial.get(name)
    if start is None or start.shape != like.shape:
        found = "nothing" if start is None else f"a tensor of shape {tuple(start.shape)}"
        raise ValueError(
            f"`initial` must hold the parameters as they were: for {name!r}, of shape {tuple(like.shape)}, it holds "
            f"{found}."
        )
    return start.detach()
