"""Where functions that are linear between given positions are bent by one more operation.

Every tensor here has one row for each of m increasing positions t, and is linear in t between two of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["envelope_kinks", "pool_windows", "zero_crossings"]


def zero_crossings(positions: Tensor, values: Tensor) -> Tensor:
    r"""Positions strictly between the given ones where a piecewise-linear function changes its sign.

    .. math:: t = t_i + (t_{i+1} - t_i) \frac{v_i}{v_i - v_{i+1}} \quad \text{if } v_i v_{i+1} < 0

    Args:
        positions: Increasing. Shape ``(m,)``.
        values: Shape ``(m, q)``: q functions.

    Returns:
        Of all q functions, in no order. Shape ``(r,)``.

    Example:
        >>> zero_crossings(torch.tensor([0.0, 1.0]), torch.tensor([[-1.0], [3.0]]))
        tensor([0.2500])
    """
    # Signs, not the product, which underflows.
    interval, which = (values[:-1].sign() * values[1:].sign() < 0).nonzero(as_tuple=True)
    left, right = values[interval, which], values[interval + 1, which]
    start = positions[interval]
    return start + (positions[interval + 1] - start) * (left / (left - right))


def envelope_kinks(positions: Tensor, values: Tensor) -> Tensor:
    r"""Positions strictly between the given ones where the maximum of several piecewise-linear functions is bent.

    Follows the maximum from the left of each interval: from the line that leads, on to the first crossing with a
    steeper one, until none is left. So only crossings at the very top are found, not all pairs.

    Args:
        positions: Increasing. Shape ``(m,)``.
        values: Shape ``(m, q, k)``: q maxima of k functions each.

    Returns:
        Of all q maxima, in no order. Shape ``(r,)``.

    Cost: m q k operations for each piece of the most bent maximum of an interval.

    Example:
        >>> lines = torch.tensor([[[0.0, -1.0, -5.0]], [[0.0, 1.0, -4.0]]])
        >>> envelope_kinks(torch.tensor([0.0, 1.0]), lines)
        tensor([0.5000])
    """
    left, rise = values[:-1].flatten(0, 1), values.diff(dim=0).flatten(0, 1)  # (p, k), over one interval
    start = positions[:-1].repeat_interleave(values.shape[1])
    width = positions.diff().repeat_interleave(values.shape[1])
    # Where the same element leads at both ends of the interval it leads in between: lines cross once.
    busy = (left.argmax(1) != (left + rise).argmax(1)).nonzero()[:, 0]
    left, rise, start, width = left[busy], rise[busy], start[busy], width[busy]
    leader = left.argmax(1, keepdim=True)
    here = left.new_zeros(len(left), 1)
    found = [positions[:0]]
    while len(left):
        gap, closing = left.gather(1, leader) - left, rise - rise.gather(1, leader)
        crossing = (gap / closing).masked_fill(closing <= 0, math.inf)
        # Rounding must not send the search back to a crossing already passed.
        fraction = torch.maximum(crossing, here).amin(1, keepdim=True)
        going = (fraction < 1)[:, 0]
        meets = torch.maximum(crossing, here) == fraction
        leader = rise.masked_fill(~meets, -math.inf).argmax(1, keepdim=True)[going]
        left, rise, start, width, here = left[going], rise[going], start[going], width[going], fraction[going]
        found.append((start + width * here[:, 0])[here[:, 0] > 0])  # at 0: lines that meet in a given position
    return torch.cat(found)


def pool_windows(values: Tensor, windows: Sequence[tuple[int, int, int, int, int]]) -> Tensor:
    """The elements that compete in each window of a max pooling over the last dimensions.

    Args:
        values: Shape ``(m, ..., *spatial)``.
        windows: For each spatial dimension: number of windows, size, stride, padding, dilation. A size of 0 stands for
            adaptive windows, which share the dimension out evenly.

    Returns:
        Where a window reaches into the padding, an element inside stands in for it. Shape ``(m, q, k)``.

    Example:
        >>> pool_windows(torch.arange(4.0)[None], [(2, 2, 2, 0, 1)])
        tensor([[[0., 1.],
                 [2., 3.]]])
    """
    for axis, (count, size, stride, padding, dilation) in enumerate(windows):
        dim = values.ndim - len(windows) - axis  # each axis done so far was moved to the back as two
        length = values.shape[dim]
        rows = []
        for i in range(count):
            if size:
                reach = range(i * stride - padding, i * stride - padding + size * dilation, dilation)
            else:
                reach = range(i * length // count, -(-(i + 1) * length // count))
            inside = [j for j in reach if 0 <= j < length]
            rows.append(inside)
        widest = max(map(len, rows))
        index = torch.tensor([row + row[-1:] * (widest - len(row)) for row in rows], device=values.device)
        values = values.movedim(dim, -1)[..., index]  # (m, ..., rest, done..., count, widest)
    spatial = len(windows)
    order = [*range(values.ndim - 2 * spatial), *range(values.ndim - 2 * spatial, values.ndim, 2)]
    order += range(values.ndim - 2 * spatial + 1, values.ndim, 2)
    flat = values.permute(order)  # (m, ..., counts, widths)
    return flat.reshape(len(flat), -1, math.prod(flat.shape[flat.ndim - spatial :]))
