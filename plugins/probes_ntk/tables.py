"""The part of a table of embeddings in the tangent kernel; of one, too, that is the matrix of the outputs as well.

Never a table of derivatives, never a one-hot vector: only equal tokens meet, and of the matrix only the rows of tokens
that are there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .factors import Factors

__all__ = ["add_tables", "add_tied"]

# Numbers in the products of one example's tokens with those of some others.
_PRODUCTS = 1 << 24


def add_tables(part: Tensor, rows: int, ids: Tensor, d: Tensor) -> None:
    """Add the kernel of look-ups to ``part``, shape ``(c, n, c, n')``, or its diagonal to ``(c, n)``.

    Args:
        rows: Number of examples of the rows of the kernel; all of them if there are no others.
        ids: Tokens, shape ``(n, T)``.
        d: Gradients, shape ``(c, n, T, width)``.
    """
    c, n, t, width = d.shape
    vocabulary, inverse = torch.unique(ids, return_inverse=True)
    example = torch.arange(n, device=ids.device)[:, None]
    cells, cell = torch.unique((inverse * n + example).flatten(), return_inverse=True)  # by token, then by example
    sums = d.new_zeros(c, len(cells), width).index_add_(1, cell, d.reshape(c, n * t, width))
    owner, token = cells % n, cells // n
    if part.ndim == 2:
        part.index_add_(1, owner, sums.square().sum(2))
        return
    symmetric = rows == n
    flat = part.view(c * rows, -1)
    offsets = torch.arange(c, device=ids.device)[:, None]
    shift = 0 if symmetric else rows
    start = 0
    for count in torch.bincount(token, minlength=len(vocabulary)).tolist():
        who, g = owner[start : start + count], sums[:, start : start + count]
        start += count
        left = who < rows
        right = left if symmetric else ~left
        index = (offsets * rows + who[left]).flatten()
        other = (offsets * part.shape[3] + who[right] - shift).flatten()
        flat[index[:, None], other[None, :]] += g[:, left].flatten(0, 1) @ g[:, right].flatten(0, 1).T


def add_tied(part: Tensor, rows: int, ids: Tensor, d: Tensor, matrix: Factors) -> None:
    """Add the products of derivatives by a table as such with those by it as a matrix, both ways round.

    Args:
        part, rows, ids, d: As in :func:`add_tables`.
        matrix: Inputs, shape ``(n, S, width)``, and gradients at its outputs, one for each token there is.
    """
    (c, n, t, width), inputs, gradients = d.shape, matrix.full(), matrix.gradients
    step = max(1, _PRODUCTS // (c * t * inputs.shape[1]))
    for i in range(n):
        if part.ndim == 2:
            first, stop = i, i + 1
        elif rows == n:
            first, stop = 0, n
        else:
            first, stop = (rows, n) if i < rows else (0, rows)
        for start in range(first, stop, step):
            j = slice(start, min(start + step, stop))
            products = (d[:, i].reshape(c * t, width) @ inputs[j].flatten(0, 1).T).view(c, t, -1, inputs.shape[1])
            picked = gradients[:, j, :, ids[i]]  # (c, j, S, T)
            cross = torch.einsum("atjs,bjst->abj", products, picked)
            if part.ndim == 2:
                part[:, i] += 2 * cross.diagonal()[0]
                continue
            shift = 0 if rows == n else rows
            if rows == n or i < rows:
                part[:, i, :, j.start - shift : j.stop - shift] += cross
            if rows == n or i >= rows:
                part[:, j, :, i - shift] += cross.permute(1, 2, 0)
