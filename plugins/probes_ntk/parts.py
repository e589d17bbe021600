"""The part of each parameter in the tangent kernel, or in its diagonal, as soon as its gradients have arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .gram import Factors, add_gram, add_matrix_gram, mirror, square_norms
from .layout import Layout, by_example
from .operands import Columns, Convolution, Direct, Embedding, Operand
from .uses import Use

__all__ = ["Collector", "Split", "explicit_size", "roles"]

Role = tuple[Use, str]
_MATRIX = ("matrix", "linear", "convolution")


@dataclass
class Split:
    """The examples of the rows of the kernel come first, then those of its columns, unless they are the same."""

    n: int
    rows: int

    @property
    def symmetric(self) -> bool:
        return self.rows == self.n


def roles(uses: Sequence[Use]) -> dict[str, list[Role]]:
    """The uses of each parameter, and as what: ``"weight"`` or ``"bias"``."""
    found: dict[str, list[Role]] = {}
    for use in uses:
        for role, name in (("weight", use.weight), ("bias", use.bias)):
            if name:
                found.setdefault(name, []).append((use, role))
    return found


def kind_of(parameter_roles: Sequence[Role]) -> str:
    """``"matrix"``, ``"embedding"``, ``"bias"``, or ``"explicit"`` when the derivatives must be formed."""
    first = parameter_roles[0][0]
    if all(role == "bias" for _, role in parameter_roles):
        return "explicit"
    if all(role == "weight" and use.kind == "embedding" for use, role in parameter_roles):
        return "embedding"
    alike = all(
        role == "weight"
        and use.kind in _MATRIX
        and use.transposed == first.transposed
        and (use.kind == "convolution") == (first.kind == "convolution")
        for use, role in parameter_roles
    )
    return "matrix" if alike else "explicit"


def explicit_size(name: str, parameter_roles: Sequence[Role], shape: torch.Size) -> int:
    """Number of elements of one derivative that has to be formed; 0 where none has."""
    return shape.numel() if kind_of(parameter_roles) == "explicit" else 0


@dataclass
class Collector:
    """Collects gradients and hands over each parameter's part.

    Args:
        uses: Of the graph.
        split: Of the examples.
        layouts: Of the rows of each use.
        shapes: Of the parameters.
        diagonal: Whether only the diagonal is wanted.
        emit: Called with a parameter's name and its part: ``(c, n, c, n')``, or ``(c, n)`` for the diagonal.
    """

    uses: Sequence[Use]
    split: Split
    layouts: Mapping[Use, Layout]
    shapes: Mapping[str, torch.Size]
    diagonal: bool
    emit: Callable[[str, Tensor], None]
    failed: set[str] = field(default_factory=set)
    _gradients: dict[Use, Tensor | None] = field(default_factory=dict)
    _operands: dict[Use, Operand] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._roles = roles(self.uses)
        self._pending = set(self._roles)

    def read(self, use: Use, shape: torch.Size) -> None:
        """Read what a use has saved before its graph is freed."""
        self._operands[use] = use.operand(shape)

    def arrived(self, use: Use, gradient: Tensor | None) -> None:
        """Take the gradients at the output of a use, shape ``(c, *shape)``."""
        if gradient is not None:
            layout = self.layouts[use]
            if use.count_rows(gradient.shape[1:]) != layout.outer * self.split.n * layout.inner:
                self._pending -= {use.weight, use.bias}  # to be found missing
                self.failed |= {name for name in (use.weight, use.bias) if name}
            elif use not in self._operands:
                self.read(use, gradient.shape[1:])
        self._gradients[use] = gradient
        for name in [use.weight, use.bias]:
            if name in self._pending and all(other in self._gradients for other, _ in self._roles[name]):
                self._finish(name)
        for done in list(self._gradients):
            if not {done.weight, done.bias} & self._pending:
                self._gradients[done] = None
                self._operands.pop(done, None)

    @property
    def missing(self) -> set[str]:
        """Parameters whose gradients never arrived, or not in the rows expected."""
        return self._pending | self.failed

    def _finish(self, name: str) -> None:
        parameter_roles = [(use, role) for use, role in self._roles[name] if self._gradients[use] is not None]
        self._pending.discard(name)
        if not parameter_roles:
            return
        kind = kind_of(self._roles[name])
        like = next(gradient for use, _ in parameter_roles if (gradient := self._gradients[use]) is not None)
        dtype = like.dtype
        c, n, rows = len(like), self.split.n, self.split.rows
        partner = self._joint_bias(name) if kind == "matrix" else None
        if partner:
            self._pending.discard(partner)
        if self.diagonal:
            part = torch.zeros(c, n, dtype=dtype, device=like.device)
        else:
            part = torch.zeros(c, rows, c, n if self.split.symmetric else n - rows, dtype=dtype, device=like.device)
        if kind == "matrix":
            for factors in self._merged(parameter_roles):
                if self.diagonal:
                    part += square_norms(factors, partner is not None)
                elif self.split.symmetric:
                    add_matrix_gram(part, factors, None, partner is not None)
                else:
                    left, right = _divide(factors, rows)
                    add_matrix_gram(part, left, right, partner is not None)
        elif kind == "embedding":
            self._embedding(part, parameter_roles)
        else:
            total: Tensor | None = None
            for use, role in parameter_roles:
                derivative = self._derivative(use, role, self.shapes[name])
                total = derivative if total is None else total + derivative
            assert total is not None
            self._add(part, total)
        if not self.diagonal and self.split.symmetric:
            part = mirror(part.view(c * n, c * n)).view(c, n, c, n)
        self.emit(name, part)

    def _add(self, part: Tensor, derivative: Tensor) -> None:
        """Add the kernel of derivatives ``(c, n, P)``."""
        if self.diagonal:
            part += derivative.square().sum(2)
            return
        rows = self.split.rows
        flat = part.view(len(part) * rows, -1)
        left = derivative[:, :rows].flatten(0, 1)
        add_gram(flat, left, None if self.split.symmetric else derivative[:, rows:].flatten(0, 1))

    def _joint_bias(self, name: str) -> str | None:
        """The bias that is added to exactly the products of a weight."""
        weights = [use for use, _ in self._roles[name]]
        bias = weights[0].bias
        if bias is None or bias not in self._pending or any(use.bias != bias for use in weights):
            return None
        operands = [self._operands.get(use) for use in weights]
        if any(isinstance(operand, Convolution) and operand.transposed for operand in operands):
            return None
        return bias if {id(use) for use, _ in self._roles[bias]} == {id(use) for use in weights} else None

    # -- the gradients of one use, by example

    def _rows(self, use: Use) -> Tensor:
        gradient = self._gradients[use]
        assert gradient is not None
        return by_example(use.rows(gradient), self.split.n, self.layouts[use])  # (c, n, T, ...)

    def _side(self, use: Use, rows: Tensor) -> Tensor:
        return by_example(rows[None], self.split.n, self.layouts[use])[0]  # (n, T, ...)

    def _factors(self, use: Use) -> list[Factors]:
        operand = self._operands[use]
        if isinstance(operand, Columns):
            assert operand.a is not None
            return [Factors(self._rows(use), self._side(use, operand.a))]
        assert isinstance(operand, Convolution)
        gradient = self._gradients[use]
        assert gradient is not None
        x, n, groups = operand.x, self.split.n, operand.groups
        found = []
        for g in range(groups):
            xs = x[:, g * x.shape[1] // groups : (g + 1) * x.shape[1] // groups]
            ds = gradient[:, :, g * gradient.shape[2] // groups : (g + 1) * gradient.shape[2] // groups]
            if operand.transposed:  # patches of the gradients meet the pixels of the input
                patches = operand.unfold(ds.flatten(0, 1))
                d = patches.view(len(ds), len(x), *patches.shape[1:]).transpose(2, 3)
                a = xs.flatten(2).transpose(1, 2)
            else:
                d = ds.flatten(3).transpose(2, 3)
                part = Convolution(xs, operand.kernel, operand.stride, operand.padding, operand.dilation, 1, False)
                if len(x) == n:
                    found.append(Factors(d, patches=part))
                    continue
                a = part.unfold(xs).transpose(1, 2)
            layout = self.layouts[use]
            d = by_example(d, n, layout).flatten(2, 3)
            found.append(Factors(d, by_example(a[None], n, layout)[0].flatten(1, 2)))
        return found

    def _merged(self, parameter_roles: Sequence[Role]) -> list[Factors]:
        """Several uses of one weight are one use with more rows."""
        each = [self._factors(use) for use, _ in parameter_roles]
        if len(each) == 1:
            return each[0]
        return [
            Factors(torch.cat([f.d for f in group], 2), torch.cat([f.full() for f in group], 1))
            for group in zip(*each, strict=True)
        ]

    def _derivative(self, use: Use, role: str, shape: torch.Size) -> Tensor:
        """The derivatives of each output and example with respect to one parameter, by one use. ``(c, n, P)``."""
        gradient = self._gradients[use]
        assert gradient is not None
        by_channel = use.kind in ("convolution", "group_norm", "batch_norm")
        if by_channel and gradient.ndim > 3:
            gradient = gradient.flatten(3)
        if role == "bias":
            rows = gradient.sum(3) if gradient.ndim > 3 else gradient
            rows = rows if by_channel else use.rows(gradient)
            return by_example(rows, self.split.n, self.layouts[use]).sum(2)
        if use.kind in _MATRIX:
            each = []
            for factors in self._factors(use):
                derivative = torch.einsum("cnto,nti->cnoi", factors.d, factors.full())
                operand = self._operands[use]
                flipped = use.kind == "matrix" and not use.transposed
                if flipped or (isinstance(operand, Convolution) and operand.transposed):
                    derivative = derivative.transpose(2, 3)
                each.append(derivative.flatten(2))
            return torch.cat(each, 2)
        operand = self._operands[use]
        if isinstance(operand, Embedding):
            rows = self._embedding_rows(use, operand)
            c, n, t, width = rows.shape
            table = rows.new_zeros(c, n * shape[0], width)
            cell = torch.arange(n, device=rows.device)[:, None] * shape[0] + self._side(use, operand.indices[:, None])[..., 0]
            return table.index_add_(1, cell.flatten(), rows.flatten(1, 2)).view(c, n, -1)
        assert isinstance(operand, Direct)
        rows = gradient if by_channel else use.rows(gradient)
        if operand.factor is not None:
            rows = rows * operand.factor
        rows = rows.sum(3) if by_channel and rows.ndim > 3 else rows
        return by_example(rows, self.split.n, self.layouts[use]).sum(2) * operand.scale

    # -- tables

    def _embedding_rows(self, use: Use, operand: Embedding) -> Tensor:
        rows = self._rows(use)
        if operand.padding >= 0:
            kept = self._side(use, operand.indices[:, None])[..., 0] != operand.padding
            rows = rows * kept[None, :, :, None]
        return rows

    def _embedding(self, part: Tensor, parameter_roles: Sequence[Role]) -> None:
        """Only equal tokens meet: never a table of derivatives, never a one-hot vector."""
        tokens, gradients = [], []
        for use, _ in parameter_roles:
            operand = self._operands[use]
            assert isinstance(operand, Embedding)
            tokens.append(self._side(use, operand.indices[:, None])[..., 0])
            gradients.append(self._embedding_rows(use, operand))
        ids, d = torch.cat(tokens, 1), torch.cat(gradients, 2)  # (n, T), (c, n, T, width)
        c, n, t, width = d.shape
        vocabulary, inverse = ids.unique(return_inverse=True)
        example = torch.arange(n, device=ids.device)[:, None]
        cells, cell = (inverse * n + example).flatten().unique(return_inverse=True)  # by token, then by example
        sums = d.new_zeros(c, len(cells), width).index_add_(1, cell, d.reshape(c, n * t, width))
        owner, token = cells % n, cells // n
        if self.diagonal:
            part.index_add_(1, owner, sums.square().sum(2))
            return
        rows = self.split.rows
        flat = part.view(c * rows, -1)
        offsets = torch.arange(c, device=ids.device)[:, None]
        start = 0
        for count in torch.bincount(token, minlength=len(vocabulary)).tolist():
            who, g = owner[start : start + count], sums[:, start : start + count]
            start += count
            left = who < rows
            right = left if self.split.symmetric else ~left
            index = (offsets * rows + who[left]).flatten()
            other = (offsets * (part.shape[3]) + who[right] - (0 if self.split.symmetric else rows)).flatten()
            flat[index[:, None], other[None, :]] += g[:, left].flatten(0, 1) @ g[:, right].flatten(0, 1).T


def _divide(factors: Factors, rows: int) -> tuple[Factors, Factors]:
    parts = []
    for chosen in (slice(0, rows), slice(rows, None)):
        patches = factors.patches
        if patches is not None:
            patches = Convolution(
                patches.x[chosen], patches.kernel, patches.stride, patches.padding, patches.dilation, 1, False
            )
        parts.append(Factors(factors.d[:, chosen], None if factors.a is None else factors.a[chosen], patches))
    return parts[0], parts[1]
