"""Inputs and gradients of one weight, which its derivatives and its part in the kernel are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .layout import Layout, by_example
from .operands import Columns, Convolution, Direct, Embedding, Operand
from .uses import Use

__all__ = ["Factors", "derivative_of", "factors_of", "in_order", "inputs_of", "is_transposed", "without_padding"]


@dataclass
class Factors:
    """Inputs and gradients of one weight, by example."""

    d: Tensor | None
    """Gradients, shape ``(c, n, T, O)``; None where they have yet to arrive."""
    a: Tensor | None = None
    """Inputs, shape ``(n, T, I)``; None for a convolution whose patches are not yet formed."""
    patches: Convolution | None = None
    gram: Tensor | None = None
    """Products of the inputs of each example, shape ``(n, T, T)``, once they are needed."""

    @property
    def gradients(self) -> Tensor:
        assert self.d is not None
        return self.d

    @property
    def inputs(self) -> int:
        """I."""
        if self.a is not None:
            return self.a.shape[2]
        assert self.patches is not None
        return self.patches.x.shape[1] * torch.Size(self.patches.kernel).numel()

    @property
    def channels(self) -> int:
        """Numbers in a product of two rows of inputs."""
        if self.patches is None or not self.patches.overlapping:
            return self.inputs
        return self.patches.x.shape[1]

    def rows(self) -> tuple[Tensor, tuple[int, ...]]:
        """What products of inputs are made from, shape ``(n, P, channels)``, and the shape of P: pixels or patches."""
        if self.patches is None or not self.patches.overlapping:
            rows = self.full()
            return rows.contiguous(), (rows.shape[1],)
        return self.patches.x.flatten(2).transpose(1, 2).contiguous(), tuple(self.patches.x.shape[2:])

    def products(self, rows: Tensor, size: tuple[int, ...]) -> Tensor:
        """Products of all rows of inputs, shape ``(..., T, ..., T)``, from those of :meth:`rows`, ``(..., P, ..., P)``.

        Patches of a convolution of stride 1 overlap: a product of two of them is the sum of the products of their
        pixels, and those that belong to one offset are those of another, shifted.
        """
        if self.patches is None or not self.patches.overlapping:
            return rows
        lead, middle = rows.shape[0], rows.shape[2]
        grid = rows.view(lead, *size, middle, *size)
        for d, (kernel, dilation, padding) in enumerate(
            zip(self.patches.kernel, self.patches.dilation, self.patches.padding, strict=True)
        ):
            extent = size[d]
            out = extent + 2 * padding - dilation * (kernel - 1)
            left, right = 1 + d, 2 + len(size) + d
            total = None
            shifts = sorted((k * dilation - padding for k in range(kernel)), key=abs)
            for shift in shifts:
                start, stop = max(0, -shift), min(out, extent - shift)
                if total is None and start == 0 and stop == out:
                    total = grid.narrow(left, shift, out).narrow(right, shift, out).clone()
                    continue
                if total is None:
                    shape = list(grid.shape)
                    shape[left] = shape[right] = out
                    total = grid.new_zeros(shape)
                if stop > start:
                    here = total.narrow(left, start, stop - start).narrow(right, start, stop - start)
                    here += grid.narrow(left, start + shift, stop - start).narrow(right, start + shift, stop - start)
            assert total is not None
            grid = total
        t = math.prod(grid.shape[1 : 1 + len(size)])
        return grid.view(lead, t, middle, t)

    def of(self, start: int, stop: int) -> Factors:
        """Those of some examples."""
        patches = self.patches
        if patches is not None:
            patches = replace(patches, x=patches.x[start:stop])
        return Factors(self.gradients[:, start:stop], None if self.a is None else self.a[start:stop], patches)

    def full(self) -> Tensor:
        """All inputs, shape ``(n, T, I)``."""
        if self.a is None:
            assert self.patches is not None
            self.a = self.patches.unfold(self.patches.x).transpose(1, 2)
        return self.a

    def blocks(self, width: int) -> list[tuple[int, int]]:
        """Ranges of input channels of about ``width`` inputs each."""
        size, each = self.inputs, 1
        if self.a is None:
            assert self.patches is not None
            size = self.patches.x.shape[1]
            each = self.inputs // size
        step = max(1, width // each)
        return [(start, min(size, start + step)) for start in range(0, size, step)]

    def block(self, start: int, stop: int) -> Tensor:
        """Inputs of some channels, shape ``(n, T, w)``."""
        if self.a is not None:
            return self.a[:, :, start:stop]
        assert self.patches is not None
        return self.patches.unfold(self.patches.x[:, start:stop]).transpose(1, 2)


def is_transposed(operand: Operand | None) -> bool:
    """Whether a use is a transposed convolution."""
    return isinstance(operand, Convolution) and operand.transposed


def without_padding(d: Tensor, operand: Embedding) -> Tensor:
    """Zero the gradients at tokens that only fill up a row."""
    return d * (operand.indices != operand.padding)[None, :, :, None] if operand.padding >= 0 else d


def in_order(operand: Operand, n: int, layout: Layout) -> Operand:
    """Bring the rows into the order of the examples: ``(n, T, ...)``."""

    def order(rows: Tensor) -> Tensor:
        return by_example(rows.detach()[None], n, layout)[0]

    if isinstance(operand, Columns):
        return operand if operand.a is None else replace(operand, a=order(operand.a))
    if isinstance(operand, Embedding):
        return replace(operand, indices=order(operand.indices[:, None])[..., 0])
    if isinstance(operand, Convolution):
        return replace(operand, x=order(operand.x))
    if operand.factor is None:
        return operand
    factor = order(operand.factor)
    return replace(operand, factor=factor.transpose(2, 3).flatten(1, 2) if factor.ndim == 4 else factor)


def inputs_of(operand: Operand, n: int) -> list[Factors]:
    """The inputs of a weight, for each group of channels; a transposed convolution has none apart from gradients."""
    if isinstance(operand, Columns):
        return [Factors(None, operand.a)]
    assert isinstance(operand, Convolution)
    x, t = operand.x, operand.x.shape[1]  # images of one example
    found = []
    for images in x.chunk(operand.groups, 2):
        part = replace(operand, x=images.flatten(0, 1), groups=1)
        if t == 1:
            found.append(Factors(None, patches=part))
        else:
            columns = part.unfold(part.x).transpose(1, 2)
            found.append(Factors(None, columns.reshape(n, -1, columns.shape[2])))
    return found


def factors_of(d: Tensor, operand: Operand) -> list[Factors]:
    """Inputs and gradients of a weight, for each group of channels."""
    n = d.shape[1]
    if not is_transposed(operand):
        found = inputs_of(operand, n)
        for each, part in zip(found, d.chunk(len(found), 3), strict=True):
            each.d = part
        return found
    assert isinstance(operand, Convolution)
    found = []
    for ds, images in zip(d.chunk(operand.groups, 3), operand.x.chunk(operand.groups, 2), strict=True):
        patches = operand.unfold(ds.flatten(0, 2))  # patches of the gradients meet the pixels of the input
        grouped = patches.view(len(d), n, images.shape[1], *patches.shape[1:]).transpose(3, 4).flatten(2, 3)
        pixels = images.flatten(0, 1).flatten(2).transpose(1, 2)
        found.append(Factors(grouped, pixels.reshape(n, -1, pixels.shape[2])))
    return found


def derivative_of(
    use: Use, role: str, shape: torch.Size, d: Tensor, operand: Operand, factors: list[Factors] | None = None
) -> Tensor:
    """The derivatives of each output and example with respect to one parameter, by one use. ``(c, n, P)``."""
    if role == "bias":
        return d.flatten(4).sum((2, 4)) if d.ndim > 4 else d.sum(2)
    if isinstance(operand, Embedding):
        rows, n = without_padding(d, operand), d.shape[1]
        table = d.new_zeros(len(d), n * shape[0], d.shape[3])
        cell = torch.arange(n, device=d.device)[:, None] * shape[0] + operand.indices
        return table.index_add_(1, cell.flatten(), rows.flatten(1, 2)).view(len(d), n, -1)
    if isinstance(operand, Direct):
        rows = d if operand.factor is None else d * operand.factor
        derivative = rows.sum(2) * operand.scale
        if use.indices is None:
            return derivative
        kept, place = torch.unique(use.indices, return_inverse=True)  # other rows of the table have none
        table = d.new_zeros(*d.shape[:2], len(kept), shape[-1])
        return table.index_add_(2, place, derivative.view(*d.shape[:2], len(place), shape[-1])).flatten(2)
    flipped = is_transposed(operand) or (use.kind == "matrix" and not use.transposed)
    each = []
    for one in factors or factors_of(d, operand):
        derivative = torch.einsum("cnto,nti->cnoi", one.gradients, one.full())
        if isinstance(operand, Convolution) and operand.transposed:
            each.append(derivative.transpose(2, 3).flatten(2))
        else:
            each.append((derivative.transpose(2, 3) if flipped else derivative).flatten(2))
    return torch.cat(each, 2)
