"""All examples, in as many blocks as memory asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backward import backward
from .call import Call
from .parts import Collector, Split
from .per_example import derivatives
from .plan import Plan, check_same
from .uses import Use, find_uses

__all__ = ["diagonal_sweep", "kernel_sweep"]

Examples = Sequence[int]


def kernel_sweep(plan: Plan) -> dict[str, Tensor]:
    """The part of each layer, shape ``(c, n, c, n')``."""
    n, rows, c = plan.call.batch.n, plan.call.rows, plan.outputs
    symmetric = rows == n
    device = plan.call.device
    size = (c, rows, c, n if symmetric else n - rows)
    parts = {layer: torch.zeros(size, dtype=plan.dtype, device=device) for layer in plan.layers}
    shift = 0 if symmetric else rows

    def add(layer: str, part: Tensor, left: Examples, right: Examples | None) -> None:
        columns = left if right is None else right
        i, j = slice(left[0], left[-1] + 1), slice(columns[0] - shift, columns[-1] - shift + 1)
        parts[layer][:, i, :, j] += part
        if symmetric and right is not None:
            parts[layer][:, j, :, i] += part.permute(2, 3, 0, 1)

    blocks = _blocks(range(rows), plan.block)
    if plan.block < n and not symmetric:
        blocks = _blocks(range(rows), plan.block)
    others = blocks if symmetric else _blocks(range(rows, n), plan.block if plan.block < n else n)
    for index, left in enumerate(blocks):
        if symmetric:
            _run(plan, left, None, False, add)
        for right in others[index + 1 :] if symmetric else others:
            _run(plan, left, right, False, add)
    return parts


def diagonal_sweep(plan: Plan) -> dict[str, Tensor]:
    """The diagonal of the part of each layer, shape ``(c, n)``."""
    n = plan.call.batch.n
    parts = {
        layer: torch.zeros(plan.outputs, n, dtype=plan.dtype, device=plan.call.device) for layer in plan.layers
    }

    def add(layer: str, part: Tensor, left: Examples, right: Examples | None) -> None:
        parts[layer][:, left[0] : left[-1] + 1] += part

    for block in _blocks(range(n), plan.block):
        _run(plan, block, None, True, add)
    return parts


def _blocks(examples: range, size: int) -> list[range]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _run(plan: Plan, left: range, right: range | None, diagonal: bool, add: object) -> None:
    """One forward pass, one batched backward pass, and what is left to the general method."""
    call = plan.call
    examples = [*left, *(right or ())]
    n = len(examples)
    batch = call.batch if n == call.batch.n else call.batch.select(torch.tensor(examples))
    out = call.forward(batch)
    check_same(call, out, examples)
    uses, known, routing = find_uses(out, call.parameters)
    general = set(plan.general) | {name for name, all_known in known.items() if not all_known}
    taken: list[Use] = uses
    if [use.signature for use in uses] != plan.signature:
        general, taken = set(known), []
    layouts = {}
    for use, layout in zip(taken, plan.layouts, strict=bool(taken)):
        if layout is not None:
            layouts[use] = layout
    if routing and taken:
        general |= _misread(plan, out, taken, layouts, n)
    for use in taken:
        use.weight = None if use.weight in general else use.weight
        use.bias = None if use.bias in general else use.bias
    if any(use.weight or use.bias for use in taken):
        shapes = {name: parameter.shape for name, parameter in call.parameters.items()}

        def emit(name: str, part: Tensor) -> None:
            add(plan.owners[name], part, left, right)  # type: ignore[operator]

        collector = Collector(taken, Split(n, len(left) if right is not None else n), layouts, shapes, diagonal, emit)
        eye = torch.eye(plan.outputs, dtype=out.dtype, device=out.device)
        cotangents = eye[:, None, :].expand(plan.outputs, n, plan.outputs)
        backward(out, cotangents, taken, collector.arrived, batched=plan.batched)
        general |= collector.missing
    del out
    if general:
        _general(plan, sorted(general & set(plan.owners)), left, right, diagonal, add)


def _misread(plan: Plan, out: Tensor, uses: Sequence[Use], layouts: dict[Use, object], n: int) -> set[str]:
    """Parameters of uses where a row carries gradients of an example it should not, where rows follow the data."""
    wrong: set[str] = set()
    example = torch.arange(n, device=out.device)
    for bit in range(max(1, (n - 1).bit_length())):
        for side in (0, 1):
            chosen = (example >> bit & 1) == side

            def arrived(use: Use, gradient: Tensor | None, chosen: Tensor = chosen) -> None:
                layout = plan.layouts[uses.index(use)]
                if gradient is None or layout is None:
                    return
                rows = (use.rows(gradient) != 0).flatten(2).any(2)[0]
                if len(rows) != layout.outer * n * layout.inner:
                    misread = True
                else:
                    owner = torch.arange(len(rows), device=rows.device) // layout.inner % n
                    misread = bool((rows & ~chosen[owner]).any())
                if misread:
                    wrong.update(name for name in (use.weight, use.bias) if name)

            cotangent = torch.ones_like(out) * chosen[:, None]
            weights = torch.rand(out.shape[1], generator=torch.Generator().manual_seed(1)).add_(0.5).to(out)
            backward(out, (cotangent * weights)[None], uses, arrived, batched=False, retain_graph=True)
    return wrong


def _general(
    plan: Plan, names: Sequence[str], left: range, right: range | None, diagonal: bool, add: object
) -> None:
    call: Call = plan.call
    if not names:
        return
    count = sum(call.parameters[name].numel() for name in names)
    each = plan.outputs * count * torch.finfo(plan.dtype).bits / 8
    size = min(plan.block, int(plan.memory / 4 / each))
    if size < 1:
        raise ValueError(
            f"`memory` of {plan.memory / 1e9:.3g} GB is too little: {len(names)} parameters ({', '.join(names[:3])}, "
            f"...) are used in ways that take the derivatives of each example, {each / 1e9:.3g} GB for one. Pass "
            f"memory={4 * each:.3g} or more, or fewer outputs=."
        )
    blocks = _blocks(left, size)
    for index, first in enumerate(blocks):
        rows = derivatives(call, names, first)
        others = blocks[index:] if right is None else _blocks(right, size)
        for other in [first] if diagonal else others:
            same = other is first
            columns = rows if same else derivatives(call, names, other)
            for name in rows.keys() & columns.keys():
                if diagonal:
                    add(plan.owners[name], rows[name].square().sum(2), first, None)  # type: ignore[operator]
                    continue
                part = torch.tensordot(rows[name], columns[name], dims=([2], [2]))
                add(plan.owners[name], part, first, None if same else other)  # type: ignore[operator]
