"""All examples, in as many blocks as memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from probes import CannotMeasure

from .backward import backward
from .call import Call
from .parts import Collector
from .per_example import derivatives
from .plan import Plan
from .uses import Graph, Use, find_uses

__all__ = ["diagonal_sweep", "kernel_sweep"]

Add = Callable[[str, Tensor, range, range | None], None]


def kernel_sweep(call: Call, plan: Plan) -> dict[str, Tensor]:
    """The part of each layer, shape ``(c, n, c, n')``."""
    n, rows, c = call.batch.n, call.rows, plan.outputs
    symmetric = rows == n
    device = call.device
    size = (c, rows, c, n if symmetric else n - rows)
    parts = {layer: torch.zeros(size, dtype=plan.dtype, device=device) for layer in plan.layers}
    shift = 0 if symmetric else rows

    def add(layer: str, part: Tensor, left: range, right: range | None) -> None:
        columns = left if right is None else right
        i, j = slice(left[0], left[-1] + 1), slice(columns[0] - shift, columns[-1] - shift + 1)
        parts[layer][:, i, :, j] += part
        if symmetric and right is not None:
            parts[layer][:, j, :, i] += part.permute(2, 3, 0, 1)

    blocks = _blocks(range(rows), plan.block)
    others = blocks if symmetric else _blocks(range(rows, n), plan.block)
    for index, left in enumerate(blocks):
        if symmetric:
            _run(call, plan, left, None, False, add)
        for right in others[index + 1 :] if symmetric else others:
            _run(call, plan, left, right, False, add)
    return parts


def diagonal_sweep(call: Call, plan: Plan) -> dict[str, Tensor]:
    """The diagonal of the part of each layer, shape ``(c, n)``."""
    n, device = call.batch.n, call.device
    parts = {layer: torch.zeros(plan.outputs, n, dtype=plan.dtype, device=device) for layer in plan.layers}

    def add(layer: str, part: Tensor, left: range, right: range | None) -> None:
        parts[layer][:, left[0] : left[-1] + 1] += part

    for block in _blocks(range(n), plan.block):
        _run(call, plan, block, None, True, add)
    return parts


def _blocks(examples: range, size: int) -> list[range]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _run(call: Call, plan: Plan, left: range, right: range | None, diagonal: bool, add: Add) -> None:
    """Forward passes, backward passes through one segment of the graph after another, and what is left over."""
    examples = [*left, *(right or ())]
    n, general = len(examples), set(plan.general)
    chunks = _blocks(range(n), plan.chunk)
    shapes = {name: parameter.shape for name, parameter in call.parameters.items()}
    graphs: dict[int, Graph] = {}
    stopped: list[tuple[Tensor | GradientEdge, Sequence[Tensor | None]]] = []
    collector: Collector | None = None
    for bottom, top in plan.segments:
        for index, chunk in enumerate(chunks):
            if index not in graphs:
                chosen = [examples[position] for position in chunk]
                whole = len(chosen) == call.batch.n and right is None  # then in its own order
                out = call.forward(call.batch if whole else call.batch.select(torch.tensor(chosen)))
                graphs[index] = find_uses(out, call.parameters, plan.shared)
                if index == len(stopped):
                    stopped.append((out, call.cotangents(out, chosen)))
                    general |= _unknown(plan, out, graphs[index])
                else:
                    stopped[index] = graphs[index].cuts.get(top, out), stopped[index][1]
            if collector is None:
                collector = Collector(
                    [_without(use, plan.general) for use in graphs[0].uses], chunks,
                    n if right is None else len(left), plan.outputs, plan.layouts, shapes, diagonal,
                    lambda name, part: add(plan.owners[name], part, left, right),
                )  # fmt: skip
            collector.drop(general)
            uses, stop = graphs[index].uses[bottom:top], graphs[index].cuts.get(bottom)
            root, cotangents = stopped[index]
            with torch.no_grad():
                gradients = backward(root, cotangents, uses, partial(collector.arrived, index), stop=stop)
            collector.close(index, uses)
            stopped[index] = (root if stop is None else stop, gradients)
            if plan.again:  # an edge would hold the graph, too
                del graphs[index]
                stopped[index] = torch.empty(0), gradients
        assert collector is not None
        with torch.no_grad():
            collector.finish()
    assert collector is not None
    general |= collector.missing
    if general:
        _general(call, plan, sorted(general), left, right, diagonal, add)


def _unknown(plan: Plan, out: Tensor, graph: Graph) -> set[str]:
    """Parameters whose part cannot be read off this graph as planned."""
    cuts = {bottom for bottom, _ in plan.segments if bottom}
    if [use.signature for use in graph.uses] != plan.signature or not cuts <= graph.cuts.keys():
        return set(plan.owners)  # the graph depends on the data
    unknown = {name for name, known in graph.known.items() if not known}
    return unknown | _misread(plan, out, graph.uses) if graph.routing else unknown


def _without(use: Use, general: set[str]) -> Use:
    weight, bias = (None if name in general else name for name in (use.weight, use.bias))
    return replace(use, weight=weight, bias=bias)


def _misread(plan: Plan, out: Tensor, uses: Sequence[Use]) -> set[str]:
    """Parameters of uses where a row carries gradients of an example it should not, where rows follow the data."""
    wrong: set[str] = set()
    n = len(out)
    example = torch.arange(n, device=out.device)
    for bit in range(max(1, (n - 1).bit_length())):
        for side in (0, 1):
            chosen = (example >> bit & 1) == side

            def arrived(index: int, use: Use, gradient: Tensor, chosen: Tensor = chosen) -> None:
                layout = plan.layouts[use.index]
                if layout is None:
                    return
                rows = (use.rows(gradient[None]) != 0).flatten(2).any(2)[0]
                if len(rows) != layout.outer * n * layout.inner:
                    misread = True
                else:
                    owner = torch.arange(len(rows), device=rows.device) // layout.inner % n
                    misread = bool((rows & ~chosen[owner]).any())
                if misread:
                    wrong.update(name for name in (use.weight, use.bias) if name)

            cotangent = torch.ones_like(out) * chosen[:, None]
            weights = torch.rand(out.shape[1], generator=torch.Generator().manual_seed(1)).add_(0.5).to(out)
            backward(out, [cotangent * weights], uses, arrived, retain_graph=True)
    return wrong


def _general(
    call: Call, plan: Plan, names: Sequence[str], left: range, right: range | None, diagonal: bool, add: Add
) -> None:
    if not names:
        return
    count = sum(call.parameters[name].numel() for name in names)
    each = plan.outputs * count * torch.finfo(plan.dtype).bits / 8
    size = min(plan.block, int(plan.memory / 4 / each))
    if size < 1:
        raise CannotMeasure(
            f"`memory` of {plan.memory / 1e9:.3g} GB is too little: {len(names)} parameters ({', '.join(names[:3])}, "
            f"...) are used in ways that take the derivatives of each example, {each / 1e9:.3g} GB for one. Pass "
            f"memory={4.4 * each:.3g} or more, or take fewer outputs."
        )
    blocks = _blocks(left, size)
    for index, first in enumerate(blocks):
        rows = derivatives(call, names, first)
        others = blocks[index:] if right is None else _blocks(right, size)
        for other in [first] if diagonal else others:
            same = other is first
            columns = rows if same else derivatives(call, names, other)
            for name in filter(columns.__contains__, rows):  # in order: a set's differs from process to process
                if diagonal:
                    add(plan.owners[name], rows[name].square().sum(2), first, None)
                    continue
                part = torch.tensordot(rows[name], columns[name], dims=([2], [2]))
                add(plan.owners[name], part, first, None if same else other)
