"""Which rows of an operation belong to which example, found by experiment and not by assumption.

A linear layer sees rows (n T, I) or (T n, I); windows, frames or time steps may be folded into the batch. Read wrongly,
the kernel is wrong without a sign. So gradients of single examples are sent through a few examples first: the rows that
are not exactly zero are theirs.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Layout", "by_example", "layouts"]


class Layout(NamedTuple):
    """Rows are ordered (outer, example, inner)."""

    outer: int
    inner: int


def layouts(owned: Tensor) -> set[Layout]:
    """The layouts that agree with the rows that were seen to belong to each of a few examples.

    Args:
        owned: Whether example i has a gradient at row r. Shape ``(m, R)``.

    Returns:
        Empty if no layout agrees; several if too few rows were seen to tell.
    """
    m, count = owned.shape
    if count % m or bool((owned.sum(0) > 1).any()):
        return set()
    example, row = owned.nonzero(as_tuple=True)
    found = set()
    for inner in range(1, count // m + 1):
        if (count // m) % inner == 0 and bool((row // inner % m == example).all()):
            found.add(Layout(count // m // inner, inner))
    return found


def by_example(rows: Tensor, n: int, layout: Layout) -> Tensor:
    """``(k, R, ...)`` as ``(k, n, outer * inner, ...)``."""
    k, count = rows.shape[:2]
    if count == n:
        return rows.unsqueeze(2)
    split = rows.reshape(k, layout.outer, n, layout.inner, *rows.shape[2:])
    return split.transpose(1, 2).flatten(2, 3) if layout.outer > 1 else split.squeeze(1)
