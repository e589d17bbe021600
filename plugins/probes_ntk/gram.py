"""The part of one weight in the tangent kernel, from its inputs and the gradients at its outputs, in the cheapest way.

With inputs A (n, T, I) and gradients D (c, n, T, O), T rows for each example,

    K[a, i, b, j] = sum over t, s of <A_it, A_js> <D_ait, D_bjs>.

Three exact evaluations, in multiply-adds of the symmetric kernel with N = n c:

* pairs:     T^2 (n^2 I + N^2 O) / 2              T = 1, or tiny
* chain:     n^2 T^2 (I + c O) / 2 + N^2 T O / 2  M_ij = A_i A_j^T, then <D_ai, M_ij D_bj>; for a convolution of stride
                                                  1, M from products of pixels: I is then the number of channels
* explicit:  N T O I + N^2 O I / 2                the gradients of each example, a block of inputs at a time, then G G^T
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .factors import Factors
from .operands import Convolution

__all__ = ["add_gram", "add_matrix_gram", "cheapest", "mirror", "operations", "square_norms"]

# Columns of an explicit block, and of one product: over more of them, float32 loses digits and the cache overflows.
COLUMNS = 1 << 13
_INNER = 1 << 12
# Bytes of products of the inputs of some examples.
_PRODUCTS = 1 << 18
# Examples that are groups of one convolution: more of them leave the cache.
_GROUPS = 16


def operations(n: int, c: int, t: int, o: int, i: int, channels: int | None = None) -> dict[str, float]:
    """Multiply-adds of each evaluation, weighted by how well it runs.

    Args:
        channels: Numbers in a product of two rows of inputs, if less than ``i`` (see :meth:`Factors.products`).
    """
    big = n * c
    return {
        # A single pair is symmetric itself.
        "pairs": n * n * t * t * i / 2 + big * big * (t * (t + 1) / 2 * (o + 40) if t > 1 else 0.56 * o),
        "chain": n * n * t * t * ((channels or i) + 1.5 * c * o) / 2 + 1.5 * big * big * t * o / 2,
        "explicit": big * t * o * i + 0.56 * big * big * o * i,
    }


def cheapest(n: int, c: int, t: int, o: int, i: int, channels: int | None = None) -> str:
    """The evaluation with the fewest of these :func:`operations`."""
    costs = operations(n, c, t, o, i, channels)
    return min(costs, key=costs.__getitem__)


def add_gram(kernel: Tensor, left: Tensor, right: Tensor | None = None) -> None:
    """``kernel += left right^T``; only the upper triangle, ``left left^T``, without ``right``.

    Args:
        kernel: Shape ``(N, N')``.
        left: Shape ``(N, P)``.
        right: Shape ``(N', P)``.
    """
    for start in range(0, left.shape[1], _INNER):
        columns = left[:, start : start + _INNER]
        if right is not None:
            kernel.addmm_(columns, right[:, start : start + _INNER].T)
            continue
        step = _panel(len(kernel))
        for row in range(0, len(kernel), step):  # panels: half of the work of the whole product
            kernel[row : row + step, row:].addmm_(columns[row : row + step], columns[row:].T)


def _panel(size: int) -> int:
    """Rows of a panel: the more panels the fewer operations, the narrower the slower."""
    return min(200, max(64, size // 5))


def mirror(kernel: Tensor) -> Tensor:
    """The symmetric matrix of an upper triangle, in its place."""
    step = _panel(len(kernel))
    for row in range(0, len(kernel), step):
        stop = min(row + step, len(kernel))
        upper = kernel[row:stop, row:stop].triu()
        kernel[row:stop, row:stop] = upper + upper.triu(1).T
        kernel[stop:, row:stop] = kernel[row:stop, stop:].T
    return kernel


def add_matrix_gram(kernel: Tensor, left: Factors, right: Factors | None, bias: bool) -> None:
    """Add the kernel of a weight, and of the bias that goes with it, to ``kernel``, shape ``(c, n, c', n')``.

    Args:
        kernel: Only the upper triangle of the matrix is meaningful afterwards if there is no ``right``.
        left: Of the examples of the rows.
        right: Of those of the columns; None when they are the same.
        bias: Whether a bias is added to the products, and trained.
    """
    c, n, t, o = left.gradients.shape
    method = cheapest(n, c, t, o, left.inputs, left.channels)
    {"pairs": _pairs, "chain": _chain, "explicit": _explicit}[method](kernel, left, right, bias)


def _pairs(kernel: Tensor, left: Factors, right: Factors | None, bias: bool) -> None:
    c, n, t, o = left.gradients.shape
    a, d = left.full().transpose(0, 1), left.gradients.reshape(c * n, t, o).transpose(0, 1).contiguous()
    other_a, other_d = (a, d) if right is None else (right.full().transpose(0, 1), _by_row(right.gradients))
    m = other_a.shape[1]
    flat = kernel.view(c * n, -1)
    product = torch.empty_like(flat) if right is not None or t > 1 else torch.zeros_like(flat)
    for first in range(t):
        for second in range(first + 1 if right is None else other_d.shape[0]):
            inputs = a[first] @ other_a[second].T
            if bias:
                inputs += 1
            if right is None and t == 1:
                add_gram(product, d[0])
            else:
                torch.mm(d[first], other_d[second].T, out=product)
            product.view(c, n, -1, m).mul_(inputs[None, :, None, :])
            flat += product
            if right is None and first != second:
                flat += product.T


def _by_row(d: Tensor) -> Tensor:
    return d.flatten(0, 1).transpose(0, 1).contiguous()


def _chain(kernel: Tensor, left: Factors, right: Factors | None, bias: bool) -> None:
    c, n, t, o = left.gradients.shape
    (rows, size), d = left.rows(), left.gradients.contiguous()
    others, other_d = (rows, d) if right is None else (right.rows()[0], right.gradients.contiguous())
    m, p = len(others), rows.shape[1]
    targets = other_d.view(c, m, t * o).permute(1, 2, 0)
    block = max(1, min(n, 256 // t))
    # As many examples at once as stay in the cache between the two products.
    step = max(1, int(6e6 / (c * t * o * d.element_size())))
    moved = torch.empty(c, min(step, m) * t, o, dtype=d.dtype, device=d.device)
    for start in range(0, n, block):
        first, stop = start if right is None else 0, min(start + block, n)
        inputs = others[first:].reshape((m - first) * p, -1) @ rows[start:stop].reshape((stop - start) * p, -1).T
        inputs = left.products(inputs.view(m - first, p, stop - start, p), size)
        if bias:
            inputs += 1
        inputs = inputs.reshape((m - first) * t, -1)
        for i in range(start, stop):
            for j in range(i if right is None else 0, m, step):
                end = min(j + step, m)
                products = inputs[(j - first) * t : (end - first) * t, (i - start) * t : (i - start + 1) * t]
                here = moved[:, : len(products)]
                for k in range(c):
                    torch.mm(products, d[k, i], out=here[k])
                part = torch.bmm(here.view(c, end - j, t * o).transpose(0, 1), targets[j:end])  # [j, a, b]
                kernel[:, i, :, j:end] += part.permute(1, 2, 0)
                if right is None:  # the flat upper triangle takes the other half of the examples for a < b
                    later = max(j, i + 1)
                    kernel[:, later:end, :, i] += part[later - j :].permute(2, 0, 1)


def _explicit(kernel: Tensor, left: Factors, right: Factors | None, bias: bool) -> None:
    flat = kernel.view(kernel.shape[0] * kernel.shape[1], -1)
    if right is None:
        for block in _derivatives(left):
            add_gram(flat, block)
    else:
        for block, other in zip(_derivatives(left), _derivatives(right), strict=True):
            add_gram(flat, block, other)
    if bias:
        sums = [side.gradients.sum(2).flatten(0, 1) for side in (left, right) if side is not None]
        add_gram(flat, *sums)


def _derivatives(factors: Factors) -> Iterator[Tensor]:
    """Derivatives of each output and example with respect to some weights at a time. Shape ``(N, P)``."""
    d = factors.gradients
    c, n, _, o = d.shape
    buffers: dict[tuple[int, int], Tensor] = {}
    # Narrow products are slow: 128 inputs at least, of fewer outputs if need be.
    for start, stop in factors.blocks(max(COLUMNS // o, 128)):
        inputs = factors.block(start, stop)
        step = max(1, COLUMNS // inputs.shape[2])
        for first in range(0, o, step):
            some = d[..., first : first + step]
            key = some.shape[3], inputs.shape[2]
            if key not in buffers:
                buffers[key] = torch.empty(c, n, *key, dtype=inputs.dtype, device=inputs.device)
            for k in range(c):
                torch.bmm(some[k].transpose(1, 2), inputs, out=buffers[key][k])
            yield buffers[key].view(c * n, -1)


def square_norms(factors: Factors, bias: bool, outputs: int) -> Tensor:
    """Squared norm of the derivative of each output and example, by the cheaper of two ways. Shape ``(c, n)``.

    Args:
        factors: Perhaps of one output at a time; what all have in common is kept in them.
        bias: Whether a bias is added to the products, and trained.
        outputs: How many outputs there are altogether.
    """
    d = factors.gradients
    c, n, t, o = d.shape
    i = factors.inputs
    if t == 1 and factors.a is not None:
        return d.square().sum((2, 3)) * (factors.a.square().sum((1, 2)) + bias)
    if t * (o + factors.channels / outputs) <= o * i:  # the diagonal blocks of the chain
        step = max(1, int(_PRODUCTS / (t * t * d.element_size())))
        if d.is_cpu and c == outputs and n > step:  # nothing is kept, so what is formed may stay in the cache
            parts = [factors.of(start, start + step) for start in range(0, n, step)]
            return torch.cat([square_norms(part, bias, outputs) for part in parts], 1)
        if factors.gram is None:
            rows, size = factors.rows()
            grams = (rows @ rows.transpose(1, 2))[:, :, None]
            factors.gram = factors.products(grams, size)[:, :, 0]
            if bias:
                factors.gram = factors.gram + 1
        return torch.stack([(each @ each.transpose(1, 2)).mul_(factors.gram).sum((1, 2)) for each in d])
    if factors.a is None and d.is_cpu and d.dtype == torch.float32:
        norms = torch.stack([_grouped_norms(factors.patches, each.transpose(1, 2)) for each in d])  # type: ignore[arg-type]
    else:
        if c < outputs:
            factors.full()  # the other outputs need all patches too
        norms = d.new_zeros(c, n)
        for block in _derivatives(factors):
            norms += block.square_().sum(1).view(c, n)
    if bias:
        norms += d.sum(2).square().sum(2)
    return norms


def _grouped_norms(patches: Convolution, d: Tensor) -> Tensor:
    """Squared norms of derivatives by the weight of a convolution, each example a group of one convolution.

    For float32 on a CPU: oneDNN forms the derivatives of such a weight several times faster than patches are formed.

    Args:
        patches: Of the inputs.
        d: Gradients of one output, shape ``(n, O, T)``.

    Returns:
        Shape ``(n,)``.
    """
    n, o, _ = d.shape
    x, dims = patches.x, len(patches.kernel)
    channels = x.shape[1]
    geometry = zip(x.shape[2:], patches.kernel, patches.stride, patches.padding, patches.dilation, strict=True)
    size = [(e + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for e, k, stride, padding, dilation in geometry]
    norms = []
    for start in range(0, n, _GROUPS):
        some, inputs = d[start : start + _GROUPS], x[start : start + _GROUPS]
        m = len(some)
        _, weight, _ = torch.ops.aten.convolution_backward(
            some.reshape(1, m * o, *size), inputs.reshape(1, m * channels, *x.shape[2:]),
            x.new_empty(1).expand(m * o, channels, *patches.kernel), None,
            patches.stride, patches.padding, patches.dilation, False, [0] * dims, m, [False, True, False],
        )  # fmt: skip
        norms.append(weight.view(m, -1).square().sum(1))
    return torch.cat(norms)
