"""What a few examples tell before all go: which rows are whose, what goes the general way, what fits in memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from probes import CannotMeasure
from probes.batches import Batch, tensors
from probes.names import plain_name
from probes.outputs import why_not_a_function

from .call import Call
from .layout import Layout
from .parts import is_explicit, roles
from .trial import Trial, layouts_of

__all__ = ["Plan", "kernel_bytes", "layer_of", "make_plan", "purpose"]

# What products of blocks take, what a segment's gradients take.
_WORKSPACE = 128e6
_HELD = 256e6
MOST = 1000
"""Examples that are looked at together, for what they do to one another: of more, `memory` might not hold a pass."""


@dataclass
class Plan:
    """How to evaluate one kernel; holds neither the model nor its inputs."""

    purpose: Hashable
    """What the plan was made for, see :func:`purpose`."""
    width: int
    """Number of outputs of the model."""
    outputs: int
    """c: fewer than ``width`` where only some are wanted, or one sum of them."""
    signature: list[tuple[str, str | None, str | None]]
    layouts: list[Layout | None]
    """Of each use; None where it could not be told."""
    general: set[str]
    """Parameters that go one example at a time."""
    shared: frozenset[str]
    """Tables of which all examples look up the same rows."""
    owners: dict[str, str]
    """The layer of each parameter; ``""`` for all when the layers are not asked for."""
    layers: list[str]
    """In order of depth."""
    block: int
    """Examples that fit at once."""
    memory: float
    chunk: int
    """Examples that go through backward together, so that what they need stays in the cache."""
    segments: list[tuple[int, int]]
    """Ranges of uses, the last first. A backward pass goes through one of them at a time, with all outputs, so that not
    all gradients are held at once."""
    again: bool
    """Whether the examples go forward again for each segment, so that one chunk's graph is held and not all."""
    dtype: torch.dtype


def layer_of(model: nn.Module, parameter: str) -> str:
    """The module that holds a parameter; a parametrized weight belongs to the layer it is the weight of.

    In a dict of parameters whose names are paths, as Keras keeps them, the layer is the path.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> layer_of(model, "encoder.0.weight"), layer_of(model, "weight"), layer_of(model, "held.block/dense/kernel")
        ('encoder.0', 'Linear', 'block/dense')
        >>> layer_of(model, "eyes.camera/front.weight")
        'eyes.camera/front'
    """
    parameter = plain_name(parameter)
    if "/" in parameter.rpartition(".")[2]:  # a path, and not in the name of a module that holds it
        return parameter.rpartition("/")[0].rpartition(".")[2]
    module = parameter.partition(".parametrizations.")[0] if ".parametrizations." in f".{parameter}" else ""
    if parameter.startswith("parametrizations."):
        module = ""
    elif not module:
        module = parameter.rpartition(".")[0]
    return module or type(model).__name__


def make_plan(call: Call, memory: float, kernel: bool, layers: bool) -> Plan:
    """Try the call on a few examples.

    Raises:
        ValueError: If ``memory`` is not positive.
        CannotMeasure: If examples interact or are random, a parameter is hidden, or nothing fits ``memory``.
    """
    if not memory > 0:
        raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
    if reason := why_not_a_function(call.evaluate, _some(call.batch), model=call.model):
        raise CannotMeasure(reason)
    first, chosen = layouts_of(call)
    if shared := _shared(first, chosen):
        first, chosen = layouts_of(call, shared)
    unknown = {name for name, known in first.known.items() if not known}
    for use, layout in zip(first.uses, chosen, strict=True):
        if layout is None:
            unknown |= {name for name in (use.weight, use.bias) if name}
    shapes = {name: parameter.shape for name, parameter in call.parameters.items()}
    width = first.out.shape[1]
    c = width if call.signs is None else 1
    n, size = call.batch.n, first.out.element_size()
    together = n if kernel else 1  # derivatives of so many examples at least; a diagonal's never meet
    for name, parameter_roles in roles(first.uses).items():
        formed = parameter_roles[0][0].weight_shape if name in shared else shapes[name]
        if is_explicit(parameter_roles) and math.prod(formed) * together * c * size > memory / 4:
            unknown.add(name)
    used = list(first.known)
    owners = {name: layer_of(call.model, name) if layers else "" for name in used}
    ordered = list(dict.fromkeys(owners[name] for name in used))
    columns = (n if call.rows == n else n - call.rows) * c if kernel else 1
    rows = c * call.rows if kernel else c * n
    fixed = kernel_bytes(rows, columns, size, len(ordered))
    sides = 2 if kernel else 1
    found: list[tuple[float, int, int, list[tuple[int, int]], bool]] = []
    for again in (False, True) if kernel else (False,):
        block = n
        while block:
            count = sides * block if block < n else n
            held = memory / 3 if again else _HELD
            chunk, segments, need = first.sizes(c, count, kernel, call.device.type == "cpu", again, held)
            if fixed + need <= memory:
                passes = (len(segments) if again else 1) + c  # of each example with all others of a block
                found.append((math.ceil(n / block) * passes, block, chunk, segments, again))
                break
            block //= 2
    if not found:
        more = memory > _WORKSPACE
        raise CannotMeasure(
            f"`memory` of {memory / 1e9:.3g} GB is too little: the kernel of n = {call.rows} examples and c = {c} "
            f"outputs, with its parts, takes {(fixed - _WORKSPACE) / 1e9:.3g} GB, the gradients of {sides} examples "
            f"{need / 1e9:.3g} GB, and products of them {_WORKSPACE / 1e9:.3g} GB whatever their number. Pass "
            f"memory={1.1 * (fixed + need):.3g} or more" + (", or take fewer examples or outputs." if more else ".")
        )
    _, block, chunk, segments, again = min(found, key=lambda each: each[0])
    wanted = purpose(call, memory, kernel, layers)
    return Plan(
        wanted, width, c, first.signature, chosen, unknown, shared, owners, ordered, block, memory, chunk, segments,
        again, first.out.dtype,
    )  # fmt: skip


def _some(batch: Batch) -> Batch:
    """Of very many examples a seeded choice."""
    if batch.n <= MOST:
        return batch
    return batch.select(torch.randperm(batch.n, generator=torch.Generator().manual_seed(0))[:MOST])


def kernel_bytes(rows: int, columns: int, size: int, layers: int) -> float:
    """What a kernel, or a diagonal, of entries of so many bytes takes, with the parts of its layers."""
    return rows * columns * size * (layers + 3) + _WORKSPACE


def _shared(first: Trial, chosen: Sequence[Layout | None]) -> frozenset[str]:
    """Tables used once, whose rows are those of no single example."""
    return frozenset(
        use.weight
        for use, layout in zip(first.uses, chosen, strict=True)
        if use.kind == "embedding" and layout is None and use.weight
        and len(first.roles[use.weight]) == 1 and use.node._saved_padding_idx >= 2**63
    )  # fmt: skip


def purpose(call: Call, memory: float, kernel: bool, layers: bool) -> Hashable:
    """What a plan depends on besides the graph: equal for calls that can be evaluated by the same plan."""
    leaves = (*call.parameters.items(), *enumerate(tensors((call.batch.args, call.batch.kwargs))))
    return (
        tuple((name, leaf.shape, leaf.dtype, leaf.device) for name, leaf in leaves),
        call.rows, call.signs is None, call.outputs if call.outputs is None else str(call.outputs),
        memory, kernel, layers,
    )  # fmt: skip
