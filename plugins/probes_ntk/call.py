"""One call of a model on a batch whose tangent features mean something: what is refused, and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map, tree_map_only

from probes.batches import Batch
from probes.capture import pick_output

__all__ = ["Call"]

_HALF = (torch.float16, torch.bfloat16)

Outputs = Sequence[int] | Literal["sum"] | None


@dataclass(frozen=True)
class Call:
    """A model, what to call it with, and which of its outputs count."""

    model: nn.Module
    batch: Batch
    """Of all examples: those of the rows of the kernel first, then those of its columns if they are others."""
    rows: int
    """Number of examples of the rows."""
    output: Callable[[Any], Tensor]
    outputs: Outputs
    tensors: Mapping[str, Tensor]
    """Parameters and buffers in float32, for a model in half precision; else empty."""
    signs: Tensor | None = None
    """Of each example and output, shape ``(n, c)``, where one signed sum takes the place of the outputs."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Any,
        output: Callable[[Any], Tensor] | None = None,
        outputs: Outputs = None,
        other: Any = None,
    ) -> Call:
        """The call, once everything that would make the kernel meaningless is ruled out."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "`model` has no trainable parameter, so it has no tangent features. Set requires_grad of those that "
                "are trained."
            )
        for name, module in model.named_modules():
            coupled = isinstance(module, _BatchNorm | nn.modules.instancenorm._InstanceNorm) and module.training
            if coupled and isinstance(module, _BatchNorm):
                raise ValueError(
                    f"`model` has batch normalisation in training mode ({name!r}): the output of an example depends "
                    f"on the others in the batch, so k(x, x') is not a function of x and x'. Call model.eval() first."
                )
            if isinstance(module, _DropoutNd) and module.training and module.p > 0:
                raise ValueError(
                    f"`model` has dropout in training mode ({name!r}): its output is random, and so would the kernel "
                    f"be. Call model.eval() first."
                )
            if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
                raise ValueError(f"`model` has dropout in training mode ({name!r}). Call model.eval() first.")
        batch, tensors = _batch(inputs), {}
        rows = batch.n
        if other is not None:
            batch = _together(batch, _batch(other))
        if any(parameter.dtype in _HALF for parameter in parameters):
            tensors = {
                name: tensor.detach().to(_single(tensor)).requires_grad_(tensor.requires_grad)
                for name, tensor in (*model.named_parameters(), *model.named_buffers())
            }
            batch = _map_batch(batch, lambda leaf: leaf.to(_single(leaf)))
        return cls(model, batch, rows, output or pick_output, outputs, tensors)

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name."""
        own = {name: self.tensors.get(name, parameter) for name, parameter in self.model.named_parameters()}
        # A lazy module that has not been called has none yet.
        return {name: p for name, p in own.items() if p.requires_grad and not is_lazy(p)}

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def cotangents(self, out: Tensor, examples: Sequence[int]) -> list[Tensor]:
        """What is sent back from the outputs of some examples: one for each output, or the signs. Shape ``(n, c)``."""
        if self.signs is not None:
            return [self.signs[list(examples)].to(out)]
        return [row.expand_as(out) for row in torch.eye(out.shape[1], dtype=out.dtype, device=out.device)]

    def forward(self, batch: Batch) -> Tensor:
        """The chosen outputs on a batch, differentiable. Shape ``(n, c)``."""
        with _plain_backward(self.model):
            if self.tensors:
                result = torch.func.functional_call(self.model, dict(self.tensors), batch.args, dict(batch.kwargs))
            else:
                result = self.model(*batch.args, **batch.kwargs)
            result = self.output(result)
        if not result.is_floating_point():
            raise TypeError(f"`model` must return floating-point outputs, got {result.dtype}. Pass output=.")
        if result.ndim not in (1, 2) or len(result) != batch.n:
            last = ", as lambda result: result[:, -1] (or result.logits[:, -1]) does" if result.ndim == 3 else ""
            raise ValueError(
                f"`model` must return outputs of shape (n, c) or (n,) on n = {batch.n} examples, got shape "
                f"{tuple(result.shape)}. Pass output=, a function that picks or reshapes such a tensor{last}."
            )
        if not result.requires_grad:
            raise ValueError("The outputs of `model` depend on no trainable parameter: there are no tangent features.")
        result = result[:, None] if result.ndim == 1 else result
        if self.outputs is None:
            return result
        if isinstance(self.outputs, str):
            if self.outputs != "sum":
                raise ValueError(f"`outputs` must be output indices, 'sum' or None, got {self.outputs!r}.")
            return result.sum(1, keepdim=True)
        chosen = list(self.outputs)
        c = result.shape[1]
        if not chosen or any(not -c <= index < c for index in chosen):
            raise ValueError(f"`outputs` must be indices of the model's {c} outputs, at least one, got {chosen}.")
        return result[:, chosen]


def _batch(inputs: Any) -> Batch:
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, Mapping):
        return Batch((), inputs)
    return Batch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


def _single(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in _HALF else tensor.dtype


def _map_batch(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    args, kwargs = tree_map_only(Tensor, function, (batch.args, dict(batch.kwargs)))
    return Batch(args, kwargs)


def _together(batch: Batch, other: Batch) -> Batch:
    """The examples of two batches in one; what is no row of an example is taken from the first."""

    def join(leaf: Any, more: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch.n and len(more) == other.n):
            return leaf
        if leaf.shape[1:] != more.shape[1:]:
            raise ValueError(
                f"`other` must have rows of the same shape as `inputs`, {tuple(leaf.shape[1:])}, got "
                f"{tuple(more.shape[1:])}. Pad both to one length."
            )
        return torch.cat([leaf, more])

    args, kwargs = tree_map(join, (batch.args, dict(batch.kwargs)), (other.args, dict(other.kwargs)))
    return Batch(args, kwargs)


@contextmanager
def _plain_backward(model: nn.Module) -> Iterator[None]:
    """Run a forward pass whose graph shows every use of a parameter and can be differentiated in a batch.

    Attention runs as plain matrix products; recurrent layers without
    the fused kernels of cuDNN and oneDNN, behind which single uses are hidden; checkpointed blocks just run, for their
    parameters would be missing from the graph.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            for backend in (torch.backends.mkldnn, torch.backends.cudnn):
                stack.callback(setattr, backend, "enabled", backend.enabled)
                backend.enabled = False  # type: ignore[attr-defined]
        stack.enter_context(_no_checkpoints())
        yield


@contextmanager
def _no_checkpoints() -> Iterator[None]:
    # Looked up in their module when a block is called; their names differ from version to version.
    module: Any = importlib.import_module("torch.utils.checkpoint")

    class Plain:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            return function(*args)

    def nothing(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    generator = "_checkpoint_without_reentrant_generator"
    plain = {"CheckpointFunction": Plain, generator: nothing, f"{generator}_impl": nothing}
    before = {name: getattr(module, name) for name in plain if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, plain[name])
        yield
    finally:
        for name, item in before.items():
            setattr(module, name, item)
