"""A random ReLU network of two inputs with compact support, and Lemma 3.1 for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probes_fourier import PlanarPiece, indicator_transform

from ..frame.models import MLP

__all__ = ["SQUARE", "compact_network", "lemma_3_1", "strongest_normals"]

SQUARE = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)


def compact_network(width: int, walls: int, seed: int) -> nn.Sequential:
    r"""A ReLU network that is zero outside of a polygon inside the square, so that Lemma 3.1 holds for it as it is.

    .. math:: f(\mathbf x) = \Big( 1 + 0.3 \, g(\mathbf x) - 30 \sum_j (\mathbf a_j \cdot \mathbf x - 1/2)_+ \Big)_+

    with a random network g of two hidden layers, standardized on the square, and unit vectors a. It is a chain itself.
    """
    torch.manual_seed(seed)
    inner, w = MLP(2, width, 3, 1).double(), width
    weights, biases = list(inner.parameters())[::2], list(inner.parameters())[1::2]
    points = torch.rand(4096, 2, dtype=torch.float64) * 2 - 1
    angles = 2 * torch.pi * (torch.rand((), dtype=torch.float64) + torch.arange(walls)) / walls
    with torch.no_grad():
        shift, scale = inner(points).mean(), 0.3 / inner(points).std()
        first, second = nn.Linear(2, w + walls).double(), nn.Linear(w + walls, w + walls).double()
        last = nn.Linear(w + walls, 1).double()
        first.weight.copy_(torch.cat([weights[0], torch.stack([angles.cos(), angles.sin()], 1)]))
        first.bias.copy_(torch.cat([biases[0], torch.full((walls,), -0.5)]))
        second.weight.zero_()
        second.weight[:w, :w], second.weight[w:, w:] = weights[1], torch.eye(walls)
        second.bias.copy_(torch.cat([biases[1], torch.zeros(walls)]))
        last.weight.copy_(torch.cat([scale * weights[2], torch.full((1, walls), -30.0)], 1))
        last.bias.copy_(1 + scale * (biases[2] - shift))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last, nn.ReLU())


def lemma_3_1(pieces: Sequence[PlanarPiece], k: Tensor) -> Tensor:
    """Eq. 4 with its right sign: -i sum W k / k^2 times the indicator's transform, for compact support. Shape (K,)."""
    total = torch.zeros(len(k), dtype=torch.complex128)
    for piece in pieces:
        if bool(piece.gradient.any()):
            total += (k @ piece.gradient) / (k * k).sum(1) * indicator_transform(piece.vertices, k)
    return -1j * total


def strongest_normals(model: nn.Module, pieces: Sequence[PlanarPiece], count: int) -> Tensor:
    """Unit normals of the edges at which length times jump of the gradient is largest. Shape (count, 2)."""
    starts = torch.cat([piece.vertices for piece in pieces])
    edges = torch.cat([piece.vertices.roll(-1, 0) for piece in pieces]) - starts
    normals = torch.stack([edges[:, 1], -edges[:, 0]], 1) / edges.norm(dim=1, keepdim=True)
    sides = [(starts + edges / 2 + sign * 1e-7 * normals).requires_grad_() for sign in (1, -1)]
    gradients = [torch.autograd.grad(model(side).sum(), side)[0] for side in sides]
    strength = edges.norm(dim=1) * (gradients[0] - gradients[1]).norm(dim=1)
    chosen: list[Tensor] = []
    for index in strength.argsort(descending=True).tolist():
        if all(abs(float(normals[index] @ other)) < 1 - 1e-9 for other in chosen):
            chosen.append(normals[index])
        if len(chosen) == count:
            break
    return torch.stack(chosen)
