"""The part of each parameter in the tangent kernel, or in its diagonal, as soon as its gradients have arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .factors import Factors, derivative_of, factors_of, in_order, inputs_of, is_transposed, without_padding
from .gram import add_gram, add_matrix_gram, cheapest, mirror, square_norms
from .layout import Layout, by_example
from .operands import Columns, Convolution, Direct, Embedding, Operand
from .tables import add_tables, add_tied
from .uses import Use

__all__ = ["MATRIX", "Collector", "is_explicit", "is_formed", "roles"]

Role = tuple[Use, str]
MATRIX = ("matrix", "linear", "convolution")


def roles(uses: Sequence[Use]) -> dict[str, list[Role]]:
    """The uses of each parameter, and as what: ``"weight"`` or ``"bias"``."""
    found: dict[str, list[Role]] = {}
    for use in uses:
        for role, name in (("weight", use.weight), ("bias", use.bias)):
            if name:
                found.setdefault(name, []).append((use, role))
    return found


def _kind(parameter_roles: Sequence[Role]) -> str:
    """``"embedding"``, ``"matrix"``, ``"tied"`` if both, or ``"explicit"``."""
    others = [(use, role) for use, role in parameter_roles if use.kind != "embedding"]
    if not others:
        return "embedding"
    first = others[0][0]
    alike = all(role == "weight" and use.kind in MATRIX and use.form == first.form for use, role in others)
    if len(others) < len(parameter_roles):  # rows of the table are rows of the matrix
        return "tied" if alike and first.transposed else "explicit"
    return "matrix" if alike else "explicit"


def is_explicit(parameter_roles: Sequence[Role]) -> bool:
    """Whether the derivatives of a parameter have to be formed."""
    return _kind(parameter_roles) == "explicit"


@dataclass
class _Gathered:
    """What has arrived at one use, by example."""

    closed: int = 0
    """Chunks whose gradients have all arrived."""
    filled: set[tuple[int, int]] = field(default_factory=set)
    """Outputs and chunks whose gradients are not zero."""
    d: Tensor | None = None
    """Gradients, shape ``(c, n, T, columns)``; ``(c, n, T, O, *size)`` for a transposed convolution."""
    operands: dict[int, Operand] = field(default_factory=dict)
    """Of each chunk, brought into the order of the examples."""
    factors: dict[int, list[Factors]] = field(default_factory=dict)
    """Of each chunk, where derivatives are formed as gradients arrive: what all outputs have in common."""
    derivatives: dict[str, Tensor] = field(default_factory=dict)
    """With respect to each parameter, shape ``(c, n, P)``, where they take the place of ``d``."""


def is_formed(n: int, c: int, t: int, o: int, size: int) -> bool:
    """Whether derivatives by a weight of ``size`` take less memory than gradients, and no more time if formed first."""
    return size < t * o and cheapest(n, c, t, o, size // o) == "explicit"


@dataclass
class Collector:
    """Gathers the gradients of all chunks of examples, and hands over each parameter's part.

    Args:
        uses: Of each chunk's graph, the same in all; only their names are looked at here.
        chunks: The examples of each chunk. Those of the rows of the kernel come before those of its columns.
        rows: Number of examples of the rows; all of them when rows and columns are the same examples.
        outputs: c.
        layouts: Of the rows of each use.
        shapes: Of the parameters.
        diagonal: Whether only the diagonal is wanted.
        emit: Called with a parameter's name and its part: ``(c, n, c, n')``, or ``(c, n)`` for the diagonal.
    """

    uses: Sequence[Use]
    chunks: Sequence[range]
    rows: int
    outputs: int
    layouts: Sequence[Layout | None]
    shapes: Mapping[str, torch.Size]
    diagonal: bool
    emit: Callable[[str, Tensor], None]

    def __post_init__(self) -> None:
        self._roles = roles(self.uses)
        self._gathered = [_Gathered() for _ in self.uses]
        self._pending = set(self._roles)
        self._failed: set[str] = set()

    @property
    def n(self) -> int:
        return self.chunks[-1].stop

    @property
    def symmetric(self) -> bool:
        return self.rows == self.n

    @property
    def missing(self) -> set[str]:
        """Parameters whose gradients did not arrive, or not in the rows expected."""
        return self._pending | self._failed

    def drop(self, names: set[str]) -> None:
        """Leave parameters to the general method."""
        if not names & self._pending:
            return
        # Where the length of a weight's derivatives has that of its bias in it, both go.
        pairs = [{use.weight, use.bias} for use in self.uses if self._joint_length(use.weight)]
        names = names.union(*(pair for pair in pairs if pair & names))  # type: ignore[arg-type]
        self._failed |= names & self._pending
        self._pending -= names

    def arrived(self, chunk: int, output: int, use: Use, gradient: Tensor) -> None:
        """Take the gradient of one output, for the examples of one chunk, at a use."""
        if not self._wanted(use):
            return
        own, gathered = self.uses[use.index], self._gathered[use.index]
        layout, n = self.layouts[use.index], len(self.chunks[chunk])
        if layout is None or use.count_rows(gradient.shape) != layout.outer * n * layout.inner:
            self.drop({name for name in (own.weight, own.bias) if name})
            return
        if chunk not in gathered.operands:  # what the use has saved is freed with the graph
            gathered.operands[chunk] = in_order(use.operand(), n, layout)
        operand = gathered.operands[chunk]
        d = by_example(use.rows(gradient.detach()[None]), n, layout)
        if d.ndim > 4 and not is_transposed(operand):
            d = d.flatten(4).transpose(3, 4).flatten(2, 3)
        gathered.filled.add((output, chunk))
        if not self._at_once(own, d, operand):
            gathered.d = self._put(gathered.d, d, output, chunk)
            return
        joint = self._joint_length(own.weight)
        for role, name in (("weight", own.weight), ("bias", own.bias)):
            if name and name != joint:
                derivative = self._reduced(own, role, name, d, chunk, joint is not None)
                gathered.derivatives[name] = self._put(gathered.derivatives.get(name), derivative, output, chunk)

    def close(self, chunk: int, uses: Sequence[Use]) -> None:
        """No more gradients will arrive at these uses for the examples of one chunk."""
        for use in uses:
            gathered = self._gathered[use.index]
            gathered.factors.pop(chunk, None)
            if gathered.d is None:
                gathered.operands.pop(chunk, None)
            # Where nothing arrives at a use that others lie below, there is something wrong with reading the graph.
            if use.entry or any(index == chunk for _, index in gathered.filled):
                gathered.closed += 1

    def _at_once(self, use: Use, d: Tensor, operand: Operand) -> bool:
        """Whether derivatives take the place of the gradients: where they must, or take less memory at no more time."""
        names = [name for name in (use.weight, use.bias) if name]
        if all(is_explicit(self._roles[name]) for name in names):
            return True
        if any(len(self._roles[name]) > 1 for name in names) or use.weight is None or is_transposed(operand):
            return False
        if not isinstance(operand, Columns | Convolution):
            return False
        return self.diagonal or is_formed(self.n, self.outputs, d.shape[2], d.shape[3], self.shapes[use.weight].numel())

    def _reduced(self, use: Use, role: str, name: str, d: Tensor, chunk: int, bias: bool) -> Tensor:
        """The derivatives by one parameter; only their length ``(1, n, 1)``, with the bias, where it alone matters."""
        gathered = self._gathered[use.index]
        operand, alone = gathered.operands[chunk], self.diagonal and len(self._roles[name]) == 1
        factors = None
        if role == "weight" and use.kind in MATRIX and not is_transposed(operand):
            factors = gathered.factors.setdefault(chunk, inputs_of(operand, d.shape[1]))
            for each, part in zip(factors, d.chunk(len(factors), 3), strict=True):
                each.d = part
            if alone:
                squares = sum(square_norms(each, bias, self.outputs) for each in factors)
                assert isinstance(squares, Tensor)
                return squares.clamp_min(0).sqrt()[:, :, None]
        derivative = derivative_of(use, role, self.shapes[name], d, operand, factors)
        return derivative.norm(dim=2, keepdim=True) if alone else derivative

    def _put(self, whole: Tensor | None, piece: Tensor, output: int, chunk: int) -> Tensor:
        """The piece of one output and chunk in its place among all."""
        if whole is None:
            size = (self.outputs, self.n, *piece.shape[2:])
            if piece.ndim == 4 and piece.stride(2) < piece.stride(3):  # an image: its order in memory is kept
                whole = piece.new_empty(*size[:2], size[3], size[2]).transpose(2, 3)
            else:
                whole = piece.new_empty(size)
        whole[output, self.chunks[chunk].start : self.chunks[chunk].stop] = piece[0]
        return whole

    def finish(self) -> None:
        """Evaluate the parameters whose gradients are complete, and let go of what is no longer needed."""
        for name in list(self._roles):
            gathered = [self._gathered[use.index] for use, _ in self._roles[name]]
            if name in self._pending and all(each.closed == len(self.chunks) for each in gathered):
                self._pending.discard(name)
                for each in gathered:
                    self._fill(each)
                self._finish(name)
        for use, each in zip(self.uses, self._gathered, strict=True):
            if each.closed and not self._wanted(use):
                each.d = None
                each.operands.clear()
                each.derivatives.clear()

    def _fill(self, gathered: _Gathered) -> None:
        """Zero where no gradient arrived."""
        for tensor in (gathered.d, *gathered.derivatives.values()):
            if tensor is not None:
                for output in range(self.outputs):
                    for chunk, examples in enumerate(self.chunks):
                        if (output, chunk) not in gathered.filled:
                            tensor[output, examples.start : examples.stop] = 0

    def _wanted(self, use: Use) -> bool:
        own = self.uses[use.index]
        return bool({own.weight, own.bias} & self._pending)

    def _finish(self, name: str) -> None:
        formed = name in self._gathered[self._roles[name][0][0].index].derivatives
        kind = "explicit" if formed else _kind(self._roles[name])
        found = [
            (use, role)
            for use, role in self._roles[name]
            if self._gathered[use.index].d is not None or name in self._gathered[use.index].derivatives
        ]
        partner = self._joint_bias(name) if kind == "matrix" else self._joint_length(name) if formed else None
        if partner:
            self._pending.discard(partner)
        if not found:  # no gradient flows through it
            return
        derivatives = [self._gathered[use.index].derivatives.get(name) for use, _ in found]
        like = derivatives[0] if derivatives[0] is not None else self._d(found[0][0])
        c, n, rows = len(like), self.n, self.rows
        size = (c, n) if self.diagonal else (c, rows, c, n if self.symmetric else n - rows)
        part = torch.zeros(size, dtype=like.dtype, device=like.device)
        if kind != "explicit":
            matrices = self._merged([use for use, _ in found if use.kind != "embedding"])
            for factors in matrices:
                if self.diagonal:
                    part += square_norms(factors, partner is not None, c)
                elif self.symmetric:
                    add_matrix_gram(part, factors, None, partner is not None)
                else:
                    add_matrix_gram(part, factors.of(0, rows), factors.of(rows, n), partner is not None)
            if tables := [use for use, _ in found if use.kind == "embedding"]:
                ids, d = self._tokens(tables)
                add_tables(part, rows, ids, d)
                for factors in matrices:
                    add_tied(part, rows, ids, d, factors)
        else:
            total = torch.zeros((), dtype=like.dtype, device=like.device)
            for (use, role), derivative in zip(found, derivatives, strict=True):
                if derivative is None:
                    derivative = derivative_of(use, role, self.shapes[name], self._d(use), self._operand(use))
                total = total + derivative
            self._add(part, total)
        if not self.diagonal and self.symmetric:
            part = mirror(part.view(c * n, c * n)).view(c, n, c, n)
        self.emit(name, part)

    def _add(self, part: Tensor, derivative: Tensor) -> None:
        """Add the kernel of derivatives ``(c, n, P)``."""
        if self.diagonal:
            part += derivative.square().sum(2)
            return
        left = derivative[:, : self.rows].flatten(0, 1)
        right = None if self.symmetric else derivative[:, self.rows :].flatten(0, 1)
        add_gram(part.view(len(left), -1), left, right)

    def _joint_bias(self, name: str) -> str | None:
        """The bias that is added to exactly the products of a weight."""
        weights = [use for use, _ in self._roles[name]]
        bias = weights[0].bias
        if bias is None or bias not in self._pending or any(use.bias != bias for use in weights):
            return None
        if any(is_transposed(self._gathered[use.index].operands.get(0)) for use in weights):
            return None
        return bias if [use for use, _ in self._roles[bias]] == weights else None

    def _joint_length(self, name: str | None) -> str | None:
        """The bias whose derivatives count in the length of those of a weight, where only lengths are kept."""
        if not self.diagonal or name is None or len(self._roles[name]) > 1 or _kind(self._roles[name]) != "matrix":
            return None
        return self._joint_bias(name)

    def _d(self, use: Use) -> Tensor:
        d = self._gathered[use.index].d
        assert d is not None
        return d

    def _operand(self, use: Use) -> Operand:
        """That of all chunks, in the order of the examples."""
        operands = [operand for _, operand in sorted(self._gathered[use.index].operands.items())]
        if len(operands) == 1:
            return operands[0]
        field_name = {Columns: "a", Direct: "factor", Embedding: "indices", Convolution: "x"}[type(operands[0])]
        pieces = [getattr(operand, field_name) for operand in operands]
        joined: Any = {field_name: None if pieces[0] is None else torch.cat(pieces)}
        return replace(operands[0], **joined)

    def _merged(self, uses: Sequence[Use]) -> list[Factors]:
        """Several uses of one weight are one use with more rows."""
        each = [factors_of(self._d(use), self._operand(use)) for use in uses]
        if len(each) < 2:
            return each[0] if each else []
        return [
            Factors(torch.cat([f.gradients for f in group], 2), torch.cat([f.full() for f in group], 1))
            for group in zip(*each, strict=True)
        ]

    def _tokens(self, uses: Sequence[Use]) -> tuple[Tensor, Tensor]:
        """Those looked up, ``(n, T)``, and the gradients there, ``(c, n, T, width)``; zero at padding."""
        tokens, gradients = [], []
        for use in uses:
            operand = self._operand(use)
            assert isinstance(operand, Embedding)
            tokens.append(operand.indices)
            gradients.append(without_padding(self._d(use), operand))
        return torch.cat(tokens, 1), torch.cat(gradients, 2)
