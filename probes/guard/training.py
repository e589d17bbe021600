"""What training is made of: parameters, gradients, buffers and optimizers; kept and put back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer, optimizer

from .fingerprint import has_memory, same_bits
from .undo import Undo

__all__ = ["keep_buffers", "keep_optimizers", "keep_parameters", "keep_tensors", "shorten_embeddings"]


def keep_buffers(undo: list[Undo], modules: Iterable[nn.Module]) -> None:
    keep_tensors(
        undo,
        [
            buffer
            for module in modules
            for buffer in module._buffers.values()
            if buffer is not None and not is_lazy(buffer)
        ],
    )


def keep_tensors(undo: list[Undo], tensors: list[Tensor]) -> None:
    """Keep what tensors hold."""
    saved = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors if has_memory(tensor)]

    def restore() -> None:
        for tensor, before, copy in saved:
            if not has_memory(tensor):
                continue
            plain = type(before) is Tensor and not before.is_nested
            if plain and not _same_memory(tensor.data, before):  # it was resized, or given other memory
                tensor.data = before
            # Batch norm writes its statistics without raising their version, so all are looked at; through .data,
            # which does not raise it either: a graph that the loop still holds stays valid.
            data = tensor.data
            # What is as it was is not written, since it may be memory that cannot be: a file that is only read.
            if data.device.type == "cpu" and same_bits(data, copy):
                continue
            with torch.inference_mode(tensor.is_inference()):
                _put(data, copy)

    undo.append(restore)


def _put(tensor: Tensor, copy: Tensor) -> None:
    """Write a tensor, in which ``expand`` may repeat elements: those are written once."""
    if tensor.layout is torch.strided and not tensor.is_nested:
        for dim, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[dim] > 1:
                tensor, copy = tensor.narrow(dim, 0, 1), copy.narrow(dim, 0, 1)
    tensor.copy_(copy)


def shorten_embeddings(modules: Iterable[nn.Module]) -> None:
    """Have embeddings with a ``max_norm`` shorten a copy of the vectors that they would shorten in place.

    Of a forward of the script's own, and of a bag, all vectors are shorter meanwhile. :func:`keep_parameters` and
    ``keep_modules`` put back what was there.
    """
    for module in modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            plain = type(module).forward is nn.Embedding.forward and "forward" not in vars(module)
            if plain and isinstance(module, nn.Embedding):
                vars(module)["forward"] = partial(_embedded, module, module.max_norm)
            else:
                module.weight.data = _shorter(module.weight.data, module.max_norm, module.norm_type)
            module.max_norm = None


def _embedded(module: nn.Embedding, max_norm: float, input: Tensor) -> Tensor:  # as the keyword of its forward
    vectors = nn.Embedding.forward(module, input)
    # Differentiated as torch does, at the shorter vectors: that they were shortened is no part of the function.
    return _shorter(vectors.detach(), max_norm, module.norm_type) + (vectors - vectors.detach())


def _shorter(vectors: Tensor, max_norm: float, norm_type: float) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, norm_type, dim=-1, keepdim=True)
    return torch.where(norms > max_norm, vectors * (max_norm / (norms + 1e-7)), vectors)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""The tables of hooks of a tensor. What they make of a gradient is training's, and no part of the function."""


def keep_parameters(undo: list[Undo], parameters: list[nn.Parameter]) -> None:
    """Keep what parameters hold, and take their gradients and hooks away meanwhile."""
    saved = [(parameter, parameter.data, parameter.grad, parameter.requires_grad) for parameter in parameters]
    tables = [(parameter, name, getattr(parameter, name)) for parameter in parameters for name in _HOOKS]
    hooks = [(parameter, name, table, dict(table or {})) for parameter, name, table in tables]

    def restore() -> None:
        for parameter, name, table, before in hooks:
            if (now := getattr(parameter, name)) is not table:
                if now:
                    now.clear()  # torch goes on calling what it holds
                setattr(parameter, name, table)
            if table is not None and list(table.items()) != list(before.items()):
                table.clear()
                table.update(before)
        for parameter, data, gradient, requires_grad in saved:
            if type(data) is Tensor and not _same_memory(parameter.data, data):
                parameter.data = data
            if parameter.grad is not gradient:
                parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

    undo.append(restore)
    for _, _, table, before in hooks:
        if before:  # emptied, not exchanged: torch may be calling them just now
            table.clear()
    for parameter, _, gradient, _ in saved:
        if gradient is not None:
            parameter.grad = None


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.device, one.layout) != (other.dtype, other.device, other.layout):
        return False
    if one.layout is not torch.strided or one.is_meta:
        return True
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


def keep_optimizers(undo: list[Undo], optimizers: Sequence[Optimizer]) -> list[tuple[str, Tensor]]:
    """Refuse their steps, and hide their hooks: torch is iterating over them just now, and would fail at a new one.

    Returns:
        The tensors of their states, which are not copied, with a name.
    """
    tables: list[tuple[Any, str]] = [
        (optimizer, "_global_optimizer_pre_hooks"),
        (optimizer, "_global_optimizer_post_hooks"),
        *((item, name) for item in optimizers for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")),
    ]
    hooks = [(owner, name, getattr(owner, name)) for owner, name in tables]
    full = torch.nn.modules.module._global_is_full_backward_hook
    steps = [(item, item.__dict__.get("step")) for item in optimizers]
    lists = [(item.param_groups, list(item.param_groups)) for item in optimizers]
    lists += [(group["params"], list(group["params"])) for _, groups in lists for group in groups]
    tables_of = [group for _, groups in lists[: len(optimizers)] for group in groups]
    states = [state for item in optimizers for state in (item.state, *item.state.values()) if isinstance(state, dict)]
    kept = [(table, dict(table)) for table in (*tables_of, *states, *_GLOBAL_HOOKS)]

    def restore() -> None:
        for owner, name, table in hooks:
            setattr(owner, name, table)
        for item, step in steps:
            if step is None:
                item.__dict__.pop("step", None)
            else:
                item.__dict__["step"] = step
        for items, those in lists:
            if len(items) != len(those) or any(one is not other for one, other in zip(items, those, strict=True)):
                items[:] = those
        torch.nn.modules.module._global_is_full_backward_hook = full
        for table, before in kept:
            if list(table) != list(before) or any(table[key] is not value for key, value in before.items()):
                table.clear()
                table.update(before)

    undo.append(restore)
    for owner, name, table in hooks:
        setattr(owner, name, OrderedDict(table))
    for item in optimizers:
        item.__dict__["step"] = _refused
    return [
        (f"state {key!r} of {type(item).__name__}", value)
        for item in optimizers
        for state in item.state.values()
        if isinstance(state, dict)
        for key, value in state.items()
        if isinstance(value, Tensor)
    ]


_GLOBAL_HOOKS = [
    table
    for name, table in vars(torch.nn.modules.module).items()
    if name.startswith("_global_") and isinstance(table, dict)
]
"""The tables of hooks that all modules share."""


def _refused(*_: object, **__: object) -> None:
    raise RuntimeError(
        "a probe must not call optimizer.step(), nor may a hook of the loop that steps within backward(): it would "
        "train the model. Step a copy of both, or take torch.autograd.grad in place of backward()."
    )
