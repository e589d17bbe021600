"""The tangent kernel of a model on a batch, exact, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from probes.batches import Batch

__all__ = ["TangentDiagonal", "TangentGram", "TraceEstimate", "estimate_trace", "tangent_diagonal", "tangent_kernel"]


class TangentGram(NamedTuple):
    """A tangent kernel and its parts."""

    kernel: Tensor
    """K[a, i, b, j], shape ``(c, n, c, n')``."""
    layers: dict[str, Tensor]
    """The part of each layer, of the same shape, in order of depth; they sum to ``kernel``. Empty if not asked for."""


class TangentDiagonal(NamedTuple):
    """The diagonal of a tangent kernel and of its parts."""

    diagonal: Tensor
    """Squared norm of the tangent features of each output and sample, shape ``(c, n)``; its sum is the trace."""
    layers: dict[str, Tensor]


class TraceEstimate(NamedTuple):
    """An estimate of the trace of a tangent kernel."""

    trace: float
    standard_error: float
    layers: dict[str, float]


def tangent_kernel(
    model: nn.Module,
    inputs: Any,
    other: Any = None,
    *,
    output: Callable[[Any], Tensor] | None = None,
    outputs: Sequence[int] | Literal["sum"] | None = None,
    layers: bool = False,
    memory: float = 4e9,
) -> TangentGram:
    """K[a, i, b, j] = sum over parameters of d f_a(x_i) d f_b(x_j) (interim: one example at a time)."""
    first = _jacobian(model, inputs, output, outputs)
    second = first if other is None else _jacobian(model, other, output, outputs)
    parts = {
        name: torch.tensordot(rows, second[name], dims=([2], [2])) for name, rows in first.items()
    }
    return TangentGram(sum(parts.values()), parts if layers else {})


def tangent_diagonal(
    model: nn.Module,
    inputs: Any,
    *,
    output: Callable[[Any], Tensor] | None = None,
    outputs: Sequence[int] | Literal["sum"] | None = None,
    layers: bool = False,
    memory: float = 4e9,
) -> TangentDiagonal:
    """K[a, i, a, i]."""
    parts = {name: rows.square().sum(2) for name, rows in _jacobian(model, inputs, output, outputs).items()}
    return TangentDiagonal(sum(parts.values()), parts if layers else {})


def estimate_trace(
    model: nn.Module,
    inputs: Any,
    *,
    draws: int = 1,
    generator: torch.Generator | None = None,
    output: Callable[[Any], Tensor] | None = None,
    layers: bool = False,
    memory: float = 4e9,
) -> TraceEstimate:
    """Tr K by random class signs, with its standard error."""
    raise NotImplementedError


def _jacobian(model: nn.Module, inputs: Any, output: Any, outputs: Any) -> dict[str, Tensor]:
    batch = inputs if isinstance(inputs, Batch) else Batch((inputs,))
    rows: dict[str, list[Tensor]] = {}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    for i in range(batch.n):
        example = batch.select(torch.tensor([i]))
        result = (output or (lambda r: r))(model(*example.args, **example.kwargs))
        f = result.reshape(1, -1)[0]
        f = f.sum()[None] if outputs == "sum" else f if outputs is None else f[list(outputs)]
        grads = torch.autograd.grad(f, parameters, torch.eye(len(f)), is_grads_batched=True, allow_unused=True)
        for name, g in zip(names, grads, strict=True):
            if g is not None:
                rows.setdefault(name.rpartition(".")[0], [])
                rows[name.rpartition(".")[0]].append((i, g.flatten(1)))
    return {
        layer: torch.stack([torch.cat([g for k, g in pairs if k == i], 1) for i in range(batch.n)], 1)
        for layer, pairs in rows.items()
    }
