"""What a few examples tell before all go: which rows are whose, what goes the general way, what fits in memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from probes import CannotMeasure
from probes.batches import tensors
from probes.names import plain_name
from probes.outputs import why_not_a_function

from .backward import backward
from .call import Call
from .layout import Layout, layouts
from .operands import Convolution
from .parts import is_explicit, is_formed, roles
from .uses import Use, find_uses

__all__ = ["Plan", "kernel_bytes", "layer_of", "make_plan", "purpose"]

# How many examples are tried. One number can fail to tell layouts apart; primes and 4 together do.
_TRIALS = (3, 4, 5, 7)
_MATRIX = ("matrix", "linear", "convolution")


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
    """
    parameter = plain_name(parameter)
    if "/" in parameter:
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
    if reason := why_not_a_function(call.evaluate, call.batch, model=call.model):
        raise CannotMeasure(reason)
    first, chosen = _layouts(call)
    if shared := _shared(first, chosen):
        first, chosen = _layouts(call, shared)
    unknown = {name for name, known in first.known.items() if not known}
    for use, layout in zip(first.uses, chosen, strict=True):
        if layout is None:
            unknown |= {name for name in (use.weight, use.bias) if name}
    shapes = {name: parameter.shape for name, parameter in call.parameters.items()}
    width = first.out.shape[1]
    c = width if call.signs is None else 1
    n, size = call.batch.n, first.out.element_size()
    for name, parameter_roles in roles(first.uses).items():
        formed = parameter_roles[0][0].weight_shape if name in shared else shapes[name]
        if is_explicit(parameter_roles) and math.prod(formed) * n * c * size > memory / 4:
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
        raise CannotMeasure(
            f"`memory` of {memory / 1e9:.3g} GB is too little: the kernel of n = {call.rows} examples and c = {c} "
            f"outputs, with its parts, takes {fixed / 1e9:.3g} GB, and the gradients of {sides} examples "
            f"{need / 1e9:.3g} GB. Pass memory={1.1 * (fixed + need):.3g} or more, or take fewer examples or outputs."
        )
    _, block, chunk, segments, again = min(found, key=lambda each: each[0])
    wanted = purpose(call, memory, kernel, layers)
    return Plan(
        wanted, width, c, first.signature, chosen, unknown, shared, owners, ordered, block, memory, chunk, segments,
        again, first.out.dtype,
    )  # fmt: skip


def kernel_bytes(rows: int, columns: int, size: int, layers: int) -> float:
    """What a kernel, or a diagonal, of entries of so many bytes takes, with the parts of its layers."""
    return rows * columns * size * (layers + 3) + _WORKSPACE


def _shared(first: _Trial, chosen: Sequence[Layout | None]) -> frozenset[str]:
    """Tables used once, whose rows are those of no single example."""
    return frozenset(
        use.weight
        for use, layout in zip(first.uses, chosen, strict=True)
        if use.kind == "embedding" and layout is None and use.weight
        and len(first.roles[use.weight]) == 1 and use.node._saved_padding_idx >= 2**63
    )  # fmt: skip


def _layouts(call: Call, shared: frozenset[str] = frozenset()) -> tuple[_Trial, list[Layout | None]]:
    """The first trial, and whose the rows of each of its uses are, told from trials of several sizes."""
    first = _Trial(call, _TRIALS[0], shared)
    _check_all_known(call, first.graph.strangers)
    candidates = _candidates(call, first)
    if any(len(each) != 1 for each in candidates) and (moved := _without_zeros(call)):
        # Below a head of zeros no gradient says whose a row is.
        other = _Trial(moved, _TRIALS[0], shared)
        if other.signature == first.signature:
            pairs = zip(candidates, _candidates(moved, other), strict=True)
            candidates = [a if len(a) == 1 else b for a, b in pairs]
    if call.batch.n == 1:  # all rows are of the one example
        some = [next(iter(each), None) for each in candidates]
        return first, [None if layout is None else Layout(1, layout.outer * layout.inner) for layout in some]
    return first, [next(iter(each)) if len(each) == 1 else None for each in candidates]


def _candidates(call: Call, first: _Trial) -> list[set[Layout]]:
    """The layouts that the rows of each use may have, after as many trials as it takes."""
    candidates = first.candidates()
    for m in _TRIALS[1:]:
        if all(len(each) <= 1 for each in candidates):
            break
        trial = _Trial(call, m, first.shared)
        if trial.signature != first.signature:
            return [set() for _ in candidates]
        candidates = [a & b for a, b in zip(candidates, trial.candidates(), strict=True)]
    return candidates


def _without_zeros(call: Call) -> Call | None:
    """The call with small numbers for parameters that are zero; None if there are none, or they cannot be changed."""
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: torch.randn(parameter.shape, generator=generator).mul_(0.02).to(parameter).requires_grad_()
        for name, parameter in call.parameters.items()
        if not parameter.any()
    }
    changed = replace(call, tensors={**call.tensors, **moved})
    try:
        changed.evaluate(call.batch.select(torch.tensor([0])))
    except Exception:  # of a model that cannot be called with other parameters than its own
        return None
    return changed if moved else None


def purpose(call: Call, memory: float, kernel: bool, layers: bool) -> Hashable:
    """What a plan depends on besides the graph: equal for calls that can be evaluated by the same plan."""
    leaves = (*call.parameters.items(), *enumerate(tensors((call.batch.args, call.batch.kwargs))))
    return (
        tuple((name, leaf.shape, leaf.dtype, leaf.device) for name, leaf in leaves),
        call.rows, call.signs is None, call.outputs if call.outputs is None else str(call.outputs),
        memory, kernel, layers,
    )  # fmt: skip


# What products of blocks take, what one chunk's widest result takes, what a segment's gradients take.
_WORKSPACE = 128e6
_CHUNK = 6.4e6
_HELD = 256e6


class _Trial:
    """A pass of the first few examples, each repeated where there are too few."""

    def __init__(self, call: Call, m: int, shared: frozenset[str]) -> None:
        self.m, self.shared = m, shared
        index = torch.arange(m) % call.batch.n
        own = {parameter.data_ptr() for parameter in call.parameters.values()}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            try:
                if tensor.data_ptr() not in own:
                    storage = tensor.untyped_storage()
                    saved[storage.data_ptr()] = storage.nbytes()
            except RuntimeError:  # of a transform within forward: there is no memory of its own to look at
                saved[-len(saved)] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.out = call.forward(call.batch.select(index))
        self.graph = find_uses(self.out, call.parameters, shared)
        self.uses, self.known = self.graph.uses, self.graph.known
        self.saved = sum(saved.values()) / m
        self.widest = max([*saved.values(), 0]) / m
        self.shapes = {name: parameter.shape for name, parameter in call.parameters.items()}
        self.gradients: dict[int, torch.Size] = {}
        self.inputs: dict[int, float] = {}
        self.signature = [use.signature for use in self.uses]
        self.roles = roles(self.uses)

    def candidates(self) -> list[set[Layout]]:
        """The layouts that the rows of each use may have.

        They are compared by their inner size: the outer one is the same for any number of examples.
        """
        return [layouts(rows) if rows is not None else set() for rows in self.owned()]

    def owned(self) -> list[Tensor | None]:
        """Whether each example has a gradient at each row, for each use."""
        m, c = self.out.shape
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(c, generator=generator).add_(0.5).to(self.out)
        cotangents = torch.zeros(m, m, c, dtype=self.out.dtype, device=self.out.device)
        cotangents[range(m), range(m)] = weights
        found: dict[Use, dict[int, Tensor]] = {}

        def arrived(index: int, use: Use, gradient: Tensor) -> None:
            self.gradients[use.index] = gradient.shape
            if use.kind in _MATRIX:
                operand = use.operand()
                inputs = operand.x if isinstance(operand, Convolution) else getattr(operand, "a", None)
                self.inputs[use.index] = 0 if inputs is None else inputs.numel() / m
            self.widest = max(self.widest, gradient.numel() * gradient.element_size() / m)
            found.setdefault(use, {})[index] = (use.rows(gradient[None]) != 0).flatten(2).any(2)[0]

        backward(self.out, list(cotangents), self.uses, arrived, retain_graph=True)

        def owned(rows: dict[int, Tensor]) -> Tensor:
            none = torch.zeros_like(next(iter(rows.values())))
            return torch.stack([rows.get(index, none) for index in range(m)])

        return [owned(found[use]) if use in found else None for use in self.uses]

    def sizes(
        self, c: int, n: int, kernel: bool, chunked: bool, again: bool, most_held: float
    ) -> tuple[int, list[tuple[int, int]], float]:
        """Examples of a chunk, segments, and the bytes that n examples take.

        Args:
            again: Whether graphs are made again for each segment.
            most_held: Bytes of gradients that a segment holds, if it can be cut; an eighth for a graph made again.
        """
        size = self.out.element_size()
        chunk = max(1, min(n, int(_CHUNK / self.widest))) if chunked else n
        if again:
            chunk = max(1, min(chunk, int(most_held / (8 * self.saved + 1))))
        each = [self._held(use, n, c, kernel) for use in self.uses]
        held, patches = [c * n * size * one for one, _ in each], [chunk * size * other for _, other in each]
        if again:  # inputs that the graph does not hold
            held = [one + n * size * self.inputs.get(index, 0.0) for index, one in enumerate(held)]
        passing = 4 * chunk * self.widest
        if not kernel:
            return chunk, [(0, len(held))], chunk * self.saved + sum(held) + sum(patches) + passing
        cuts = {
            bottom: c * n * size * math.prod(edge.node._input_metadata[edge.output_nr].shape) / self.m
            for bottom, edge in self.graph.cuts.items()
        }
        segments: list[tuple[int, int]] = []
        top = len(held)
        while top or not segments:
            options = [bottom for bottom in (0, *cuts) if bottom < top] or [0]
            fitting = [bottom for bottom in options if sum(held[bottom:top]) <= most_held]
            bottom = min(fitting) if fitting else max(options)
            segments.append((bottom, top))
            top = bottom
        most = max(
            sum(held[bottom:top]) + sum(patches[bottom:top]) + max(cuts.get(bottom, 0.0), cuts.get(top, 0.0))
            for bottom, top in segments
        )
        return chunk, segments, (min(n, 2 * chunk) if again else n) * self.saved + most + passing

    def _held(self, use: Use, n: int, c: int, kernel: bool) -> tuple[float, float]:
        """Numbers held for a use: of each output and example until all have arrived; of each example of a chunk."""
        shape = self.gradients.get(use.index)
        if shape is None:
            return 0.0, 0.0
        each = shape.numel() / self.m
        parameters = float(sum(self.shapes[name].numel() for name in (use.weight, use.bias) if name))
        if use.indices is not None:
            parameters = float(math.prod(use.weight_shape))
        if use.kind == "embedding" and not is_explicit(self.roles[use.weight or ""]):
            return each, 0.0
        if use.kind not in _MATRIX or not use.weight:
            return parameters if kernel else 0.0, each
        o = shape[1] if use.kind == "convolution" else shape[-1]
        t, weight = int(each / o), self.shapes[use.weight].numel()
        if kernel and not is_formed(n, c, t, o, weight):
            return each, 0.0
        return parameters if kernel else 0.0, t * weight / o


def _check_all_known(call: Call, strangers: list[nn.Parameter]) -> None:
    """Whether the outputs depend on a parameter that the model does not name: its part would be left out."""
    inputs = {id(leaf) for leaf in tensors((call.batch.args, call.batch.kwargs))}
    for parameter in strangers:
        if id(parameter) not in inputs:
            raise CannotMeasure(
                f"The outputs of `model` depend on a parameter of shape {tuple(parameter.shape)} that requires a "
                f"gradient and is not among model.parameters() (kept in a list, or of another module): its part of the "
                f"kernel would be missing. Register it (nn.ModuleList, nn.ParameterList), or set its requires_grad to "
                f"False if it is not trained."
            )
