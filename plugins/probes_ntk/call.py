"""One call of a model on a batch whose tangent features mean something: what is refused, and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map, tree_map_only

from probes import CannotMeasure
from probes.batches import Batch
from probes.measurement import first_line
from probes.names import call_at, named_modules
from probes.picking import pick_output, picked

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
    """Parameters and buffers in a higher precision than the model's, where that is wanted; else empty."""
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
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        if torch.is_inference_mode_enabled():
            raise CannotMeasure(
                "Gradients are asked for, of which torch.inference_mode() keeps nothing. Call this outside of it; "
                "under torch.no_grad() it may be."
            )
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise CannotMeasure(
                "`model` has no trainable parameter, so there is no gradient. Set requires_grad of those that are "
                "trained."
            )
        if named := next((name for name, p in model.named_parameters() if p.requires_grad and p.is_complex()), None):
            raise CannotMeasure(
                f"`model` has complex parameters ({named!r}): what is asked for is defined for real ones. Store real "
                f"and imaginary part, torch.view_as_real, as the parameter."
            )
        for name, module in named_modules(model):
            if isinstance(module, _BatchNorm) and module.training:
                raise CannotMeasure(
                    f"`model` has batch normalisation in training mode ({name!r}): the output of an example depends "
                    f"on the others in the batch, so nothing is a function of one example. Call model.eval() first."
                )
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise CannotMeasure(
                    f"`model` has batch normalisation without running statistics ({name!r}: {type(module).__name__}): "
                    f"in eval mode too the output of an example depends on the others in the batch, so nothing is a "
                    f"function of one example. Make it with track_running_stats=True, or take another normalisation."
                )
            if isinstance(module, _DropoutNd) and module.training and module.p > 0:
                raise CannotMeasure(
                    f"`model` has dropout in training mode ({name!r}): its output is random, and so would all that is "
                    f"computed from it be. Call model.eval() first."
                )
            if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.training and module.dropout > 0:
                raise CannotMeasure(f"`model` has dropout in training mode ({name!r}). Call model.eval() first.")
        batch = _batch(inputs)
        rows = batch.n
        if other is not None:
            batch = _together(batch, _batch(other))
        call = cls(model, batch, rows, output or pick_output, outputs, {})
        return call.at_least(torch.float32) if any(p.dtype in _HALF for p in parameters) else call

    def at_least(self, dtype: torch.dtype) -> Call:
        """The same call with all floating-point numbers in this precision, or in the higher one that they have."""

        def higher(tensor: Tensor) -> Tensor:
            if not (tensor.is_floating_point() or tensor.is_complex()):
                return tensor
            return tensor.to(torch.promote_types(tensor.dtype, dtype))

        args, kwargs = tree_map_only(Tensor, higher, (self.batch.args, dict(self.batch.kwargs)))
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        tensors = {name: higher(tensor.detach()).requires_grad_(tensor.requires_grad) for name, tensor in named}
        return replace(self, batch=Batch(args, kwargs), tensors=tensors)

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name."""
        own = {name: self.tensors.get(name, parameter) for name, parameter in self.model.named_parameters()}
        # A lazy module that has not been called has none yet.
        trained = {name: p for name, p in own.items() if p.requires_grad and not is_lazy(p)}
        # Nothing depends on what is on the meta device, beside parameters that hold numbers.
        return {name: p for name, p in trained.items() if not p.is_meta} or trained

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
        result = self._outputs(batch, graph=True)
        if not result.requires_grad:
            raise CannotMeasure(
                "The outputs of `model` depend on no trainable parameter: there are no tangent features."
            )
        return result

    def evaluate(self, batch: Batch) -> Tensor:
        """The chosen outputs on a batch, without a graph where the model can do without. Shape ``(n, c)``."""
        try:
            return self._outputs(batch, graph=False)
        except RuntimeError:  # it differentiates in its own forward
            return self._outputs(batch, graph=True).detach()

    def _called(self, batch: Batch) -> Any:
        try:
            return self.model(*batch.args, **batch.kwargs)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            raise TypeError(
                f"`model` does not take these {len(batch.args)} arguments ({first_line(error)}). A tuple is taken for "
                f"the arguments of one call; pass the inputs alone, without the targets."
            ) from error

    def result(self, batch: Batch, graph: bool = True) -> Tensor:
        """What ``output`` picks of what the model returns on a batch, in its own shape, differentiable or not."""
        with _plain_backward(self.model), torch.set_grad_enabled(graph), _own_buffers(self.model):
            if self.tensors:
                if isinstance(self.model, (torch.jit.ScriptModule, nn.DataParallel)):
                    kind = type(self.model).__name__
                    raise CannotMeasure(
                        f"`model` must be a plain module to be called at other weights than its own, got {kind}. Pass "
                        f"what was given to {'DataParallel' if kind == 'DataParallel' else 'torch.jit'}."
                    )
                parameters = dict(self.model.named_parameters())
                own = {name: t if name in parameters else t.clone() for name, t in self.tensors.items()}
                result = call_at(self.model, own, batch.args, dict(batch.kwargs))
            else:
                result = self._called(batch)
            return picked(self.output, result)

    def at_a_time(self, memory: float) -> int:
        """How many examples go through the model in a pass: all where their graphs are within so many bytes, else such
        that a quarter is. The heap of the process grows to twice what is in use, by the holes that passes leave in it,
        and convolutions unfold what they read; smaller passes take no longer."""
        each, n = self._graph_bytes(), self.batch.n
        return n if n * each <= memory else max(1, int(memory / 4 / each))

    def _graph_bytes(self) -> int:
        """What the graphs of one example hold at most, beside the parameters: of its outputs and of their gradient."""
        seen: dict[int, int] = {}
        own = {parameter.data_ptr() for parameter in self.parameters.values()}

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        few = self.batch.first(min(2, self.batch.n))
        with torch.enable_grad(), saved_tensors_hooks(count, lambda tensor: tensor):
            self.result(few)
        return max(1, 4 * sum(seen.values()) // few.n)

    def _outputs(self, batch: Batch, graph: bool) -> Tensor:
        result = self.result(batch, graph)
        if result.shape[:1] != (batch.n,) or (result.ndim > 2 and self.outputs is None):
            last = ", as lambda result: result[:, -1] (or result.logits[:, -1]) does" if result.ndim == 3 else ""
            raise CannotMeasure(
                f"`model` must return outputs of shape (n, c) or (n,) on n = {batch.n} examples, got shape "
                f"{tuple(result.shape)}. Pass output=, a function that picks or reshapes such a tensor{last}."
            )
        result = result.reshape(batch.n, -1)
        if self.outputs is None:
            return result
        if isinstance(self.outputs, str):
            if self.outputs != "sum":
                raise ValueError(f"`outputs` must be output indices, 'sum' or None, got {self.outputs!r}.")
            return result.sum(1, keepdim=True)
        c, chosen = result.shape[1], list(self.outputs)
        if not chosen or any(not -c <= index < c for index in chosen):
            raise ValueError(f"`outputs` must be indices of the model's {c} outputs, at least one, got {chosen}.")
        return result[:, chosen]


def _batch(inputs: Any) -> Batch:
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, Mapping):
        return Batch((), inputs)
    return Batch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


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
    parameters would be missing from the graph. Backward hooks of modules are none of the function.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            for backend in (torch.backends.mkldnn, torch.backends.cudnn):
                stack.callback(setattr, backend, "enabled", backend.enabled)
                backend.enabled = False  # type: ignore[attr-defined]
        for module in model.modules():
            for name in ("_backward_hooks", "_backward_pre_hooks"):  # of the user's: they may change what flows back
                if table := getattr(module, name, None):
                    stack.callback(setattr, module, name, table)
                    setattr(module, name, type(table)())
        stack.enter_context(_no_checkpoints())
        yield


@contextmanager
def _own_buffers(model: nn.Module) -> Iterator[None]:
    """Let a forward pass change copies of the buffers: statistics, the vectors of a power iteration.

    Every pass starts from the same buffers, and what its graph has saved stays as it was then.
    """
    copies: dict[int, Tensor] = {}  # a buffer may have several names
    tables: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = []
    scripted: list[tuple[Tensor, Tensor]] = []
    try:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # its table cannot be changed
                scripted += [(buffer, buffer.detach().clone()) for _, buffer in module.named_buffers(recurse=False)]
                continue
            table = module._buffers
            tables.append((table, dict(table)))
            for name, buffer in table.items():
                if buffer is not None and not is_lazy(buffer):
                    table[name] = copies.setdefault(id(buffer), buffer.clone())
        yield
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)
        for buffer, copy in scripted:
            buffer.data.copy_(copy)


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
