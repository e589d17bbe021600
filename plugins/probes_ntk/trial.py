"""A pass of a few examples: whose the rows of each operation are, and what more examples will take."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from probes import CannotMeasure
from probes.batches import tensors

from .backward import backward
from .call import Call
from .layout import Layout, layouts
from .operands import Convolution
from .parts import MATRIX, is_explicit, is_formed, roles
from .uses import Use, find_uses

__all__ = ["Trial", "layouts_of"]

# How many examples are tried. One number can fail to tell layouts apart; primes and 4 together do.
_TRIALS = (3, 4, 5, 7)
# What one chunk's widest result takes.
_CHUNK = 6.4e6


def layouts_of(call: Call, shared: frozenset[str] = frozenset()) -> tuple[Trial, list[Layout | None]]:
    """The first trial, and whose the rows of each of its uses are, told from trials of several sizes."""
    first = Trial(call, _TRIALS[0], shared)
    _check_all_known(call, first.graph.strangers)
    candidates = _candidates(call, first)
    if any(len(each) != 1 for each in candidates) and (moved := _without_zeros(call)):
        # Below a head of zeros no gradient says whose a row is.
        other = Trial(moved, _TRIALS[0], shared)
        if other.signature == first.signature:
            pairs = zip(candidates, _candidates(moved, other), strict=True)
            candidates = [a if len(a) == 1 else b for a, b in pairs]
    if call.batch.n == 1:  # all rows are of the one example
        some = [next(iter(each), None) for each in candidates]
        return first, [None if layout is None else Layout(1, layout.outer * layout.inner) for layout in some]
    return first, [next(iter(each)) if len(each) == 1 else None for each in candidates]


def _candidates(call: Call, first: Trial) -> list[set[Layout]]:
    """The layouts that the rows of each use may have, after as many trials as it takes."""
    candidates = first.candidates()
    for m in _TRIALS[1:]:
        if all(len(each) <= 1 for each in candidates):
            break
        trial = Trial(call, m, first.shared)
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


class Trial:
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
            if use.kind in MATRIX:
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
        names = [name for name in (use.weight, use.bias) if name]
        numbers = {name: float(self.shapes[name].numel()) for name in names}
        if use.indices is not None:
            numbers = dict.fromkeys(names, float(math.prod(use.weight_shape)))
        several = [name for name in names if len(self.roles[name]) > 1]
        # Of derivatives by parameters of one use a diagonal takes the lengths at once; others wait for those to come.
        formed = sum(numbers[name] for name in (names if kernel else several) if is_explicit(self.roles[name]))
        if all(is_explicit(self.roles[name]) for name in names):
            return formed, each
        if use.kind not in MATRIX or not use.weight:
            return each + formed, 0.0
        o = shape[1] if use.kind == "convolution" else shape[-1]
        t, weight = int(each / o), self.shapes[use.weight].numel()
        inputs = t * weight / o
        if several:  # gradients and inputs of all uses are put side by side
            return 2 * (each + inputs / c) + formed, 0.0
        if use.kind == "convolution" and use.node._saved_transposed:  # patches of the gradients
            return each * (1 + math.prod(use.weight_shape[2:])) + formed, 0.0
        if kernel and not is_formed(n, c, t, o, weight):
            return each + formed, 0.0
        return sum(numbers.values()) if kernel else 0.0, inputs


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
