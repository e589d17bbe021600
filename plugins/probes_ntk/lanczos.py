"""Lanczos' iteration for a symmetric operator whose mean eigenvalue is 1, and the quadratures that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import inner_products

__all__ = ["EPSILON", "Krylov", "bracket", "entropic", "gauss", "krylov", "lanczos", "moments", "tridiagonal"]

EPSILON = 1e-6
"""Below so much of the mean eigenvalue, single precision tells nothing from 0."""


class Krylov(NamedTuple):
    """What Lanczos' iteration has found."""

    basis: Tensor
    """Orthonormal. Shape ``(m, P)``."""
    diagonal: Tensor
    """Of the tridiagonal matrix. Shape ``(m,)``."""
    beside: Tensor
    """What is beside it; the last entry leads out. Shape ``(m,)``."""
    noise: float
    """The length by which the product of a unit vector is off, told from entries that a symmetric matrix has not."""


def lanczos(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lanczos' iteration with full orthogonalisation, of an operator whose eigenvalues are about 1.

    Args:
        times: A v of v, for a symmetric A. Shape ``(P,)``.
        start: The first vector, of any length. Shape ``(P,)``.
        steps: m; fewer where an invariant space is found.

    Returns:
        An orthonormal basis, shape ``(m, P)``; the diagonal of the tridiagonal matrix, shape ``(m,)``; and what is
        beside it, whose last entry leads out. Shape ``(m,)``.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> lanczos(lambda v: matrix @ v, torch.tensor([1.0, 0.0]), 2)[1].tolist()
        [2.0, 2.0]
    """
    return krylov(times, start, steps)[:3]


def krylov(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Krylov:
    """The same, and how far the operator is from symmetric."""
    # In place: small tensors that stay, made between large ones that go, would leave holes in the memory.
    basis = start.new_empty(steps, len(start))
    diagonal, beside, forbidden = start.new_zeros(3, steps, dtype=torch.float64)
    basis[0] = start / torch.linalg.vector_norm(start, dtype=torch.float64)
    for step in range(steps):
        product, span = times(basis[step]), basis[: step + 1]
        parts = inner_products(span, product)
        diagonal[step], forbidden[step] = parts[-1], parts[:-2].square().sum()
        product -= parts.to(span) @ span
        product -= inner_products(span, product).to(span) @ span  # what rounding has left
        beside[step] = torch.linalg.vector_norm(product, dtype=torch.float64)
        if beside[step] <= EPSILON or step == steps - 1:
            break
        basis[step + 1] = product / beside[step]
    taken = step + 1
    entries = (taken - 1) * (taken - 2) // 2
    noise = math.sqrt(float(forbidden.sum()) / entries * len(start)) if entries else 0.0
    return Krylov(basis[:taken], diagonal[:taken], beside[:taken], noise)


def tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


def entropic(values: Tensor) -> Tensor:
    entropies: Tensor = torch.special.entr(values.clamp_min(0))
    return -entropies


def bracket(diagonal: Tensor, beside: Tensor) -> Tensor:
    """Of a unit vector's z^T (K log K) z: Gauss' rule, which lies below, and Radau's with a node at 0, above."""
    inner = tridiagonal(diagonal, beside[:-1])
    nodes, vectors = torch.linalg.eigh(inner)
    below = (vectors[0].square() * entropic(nodes)).sum()
    if beside[-1] <= EPSILON or nodes[0] <= EPSILON:  # nothing leads out, or 0 is a node already
        return torch.stack([below, below])
    last = torch.zeros_like(diagonal)
    last[-1] = beside[-1].square()
    corner = torch.linalg.solve(inner, last)[-1]  # such that 0 is an eigenvalue
    nodes, vectors = torch.linalg.eigh(tridiagonal(torch.cat([diagonal, corner[None]]), beside))
    return torch.stack([below, (vectors[0].square() * entropic(nodes)).sum()])


def gauss(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a unit vector's quadrature; its moments are right up to twice its steps, less one."""
    nodes, vectors = torch.linalg.eigh(tridiagonal(diagonal, beside[:-1]))
    return nodes, vectors[0].square()


def moments(nodes: Tensor, weights: Tensor) -> Tensor:
    """Of a unit vector's quadrature: of K, of K^2, and of K^2 log K."""
    return torch.stack(
        [(weights * nodes).sum(), (weights * nodes.square()).sum(), (weights * nodes * entropic(nodes)).sum()]
    )
