"""The polygons on which a ReLU network of two inputs is affine, hence its Fourier transform in the plane, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from probes.measurement import CannotMeasure
from probes.precision import to_float64

from .polygon import affine_transform, area

__all__ = ["PlanarPiece", "planar_pieces", "planar_transform"]

# A line that cuts off less than this share of the largest value at the vertices passes through a vertex.
_TOUCHES = 1e-11


class PlanarPiece(NamedTuple):
    """A convex polygon on which the function is affine."""

    vertices: Tensor
    """Counter-clockwise. Shape ``(m, 2)``."""
    gradient: Tensor
    """In the unit of the function per unit of the vertices. Shape ``(2,)``."""
    offset: Tensor
    """Value of the affine function at the origin. Shape ``()``."""


def planar_pieces(
    model: nn.Module, vertices: Tensor, *, output: int = 0, max_pieces: int = 100_000
) -> list[PlanarPiece]:
    r"""All pieces of a ReLU network of two inputs on a convex polygon, found without a grid.

    .. math:: f(\mathbf x) = \sum_\epsilon 1_{P_\epsilon}(\mathbf x) \, (W_\epsilon \mathbf x + b_\epsilon)

    Layer by layer: on each polygon so far the inputs of the rectifiers are affine, so each of them bends the function
    along one line or not at all, and the polygon is cut along these lines.

    Args:
        model: A chain (``nn.Sequential``, also nested) of ``Linear``, ``ReLU``, ``Flatten`` and ``Identity``.
        vertices: Of the convex polygon to look at, counter-clockwise. Shape ``(m, 2)``.
        output: Which output of the network.
        max_pieces: How many there may be at most.

    Returns:
        Pieces that share only edges and fill the polygon, all in float64; neighbours may have the same gradient.

    Raises:
        ValueError: If the network is no such chain, or has more than ``max_pieces`` pieces.

    Cost: about w / 2 cuts for each of the pieces and each layer of w units, in Python: some 10 ms a piece of small
    networks.

    Example:
        >>> square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> layer = nn.Linear(2, 1)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[1.0, 0.0]])), layer.bias.zero_()
        >>> sorted(piece.gradient.tolist() for piece in planar_pieces(nn.Sequential(layer, nn.ReLU()), square))
        [[0.0, 0.0], [1.0, 0.0]]

    Reference:
        Baratin (2021), eq. 2 and 3, lemma A.1.
    """
    start = to_float64(vertices.detach())
    if area(start) <= 0:
        raise ValueError("`vertices` must run counter-clockwise around a convex polygon.")
    # Polygons with the affine map of the current layer: x -> A x + b.
    found = [(start, torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))]
    for module in _chain(model):
        if isinstance(module, nn.Linear):
            weight = to_float64(module.weight.detach())
            bias = weight.new_zeros(len(weight)) if module.bias is None else to_float64(module.bias.detach())
            if weight.shape[1] != len(found[0][2]):
                raise ValueError(f"A layer takes {weight.shape[1]} inputs, but there are {len(found[0][2])}.")
            found = [(polygon, weight @ a, weight @ b + bias) for polygon, a, b in found]
            continue
        parts = []
        for polygon, a, b in found:
            for part in _cut(polygon, a, b):
                active = (part.mean(0) @ a.T + b > 0).to(a)
                parts.append((part, a * active[:, None], b * active))
            if len(parts) > max_pieces:
                raise CannotMeasure(
                    f"The network has more than `max_pieces`, {max_pieces}, pieces; pass a larger max_pieces, or "
                    f"measure it on a grid instead."
                )
        found = parts
    return [PlanarPiece(polygon, a[output], b[output]) for polygon, a, b in found]


def planar_transform(pieces: Sequence[PlanarPiece], wave_vectors: Tensor) -> Tensor:
    r"""Fourier transform of a function that is affine on polygons and zero outside of them.

    .. math:: \tilde f(\mathbf k) = \int f(\mathbf x) \, e^{-i \mathbf k \cdot \mathbf x} d\mathbf x

    Args:
        pieces: From :func:`planar_pieces`.
        wave_vectors: k, in radians per unit of the vertices. Shape ``(K, 2)``.

    Returns:
        Complex128, in the unit of the function times the square of the vertices' unit. Shape ``(K,)``.

    Cost: complex exponentials for each wave vector and each edge of all pieces.

    Example:
        >>> unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> mean = planar_transform([PlanarPiece(unit, torch.zeros(2), torch.tensor(5.0))], torch.zeros(1, 2))
        >>> round(mean.real.item(), 12)
        5.0

    Reference:
        Baratin (2021), lemmas 3.1 and 3.2, theorem 3.3.
    """
    total = torch.zeros(len(wave_vectors), dtype=torch.complex128, device=wave_vectors.device)
    for piece in pieces:
        total += affine_transform(piece.vertices, piece.gradient, piece.offset, wave_vectors).to(total.device)
    return total


def _chain(model: nn.Module) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        for module in model:
            yield from _chain(module)
    elif type(model) in (nn.Linear, nn.ReLU):
        yield model
    elif type(model) not in (nn.Flatten, nn.Identity):
        raise CannotMeasure(
            f"Exact pieces in the plane need a chain of Linear, ReLU, Flatten and Identity, got "
            f"{type(model).__name__}; measure it on a grid instead."
        )


def _cut(polygon: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Cut a convex polygon along the lines on which one of the affine functions is zero."""
    whole, waiting = [], [polygon]
    while waiting:
        part = waiting.pop()
        values = part @ a.T + b  # (m, units)
        least = _TOUCHES * values.abs().amax(0)
        crossing = ((values > least).any(0) & (values < -least).any(0)).nonzero()
        if len(crossing):
            unit = int(crossing[0])
            waiting += _halves(part, values[:, unit], float(least[unit]))
        else:
            whole.append(part)
    return whole


def _halves(polygon: Tensor, values: Tensor, least: float) -> list[Tensor]:
    """The parts of a convex polygon where an affine function is positive, and where it is negative."""
    points: tuple[list[Tensor], list[Tensor]] = ([], [])
    heights = [0.0 if abs(value) <= least else value for value in values.tolist()]
    for j, here in enumerate(heights):
        after = heights[(j + 1) % len(heights)]
        for side, sign in zip(points, (1, -1), strict=True):
            if here * sign >= 0:
                side.append(polygon[j])
        if here * after < 0:
            share = here / (here - after)
            crossing = (1 - share) * polygon[j] + share * polygon[(j + 1) % len(heights)]
            for side in points:
                side.append(crossing)
    return [torch.stack(side) for side in points if len(side) >= 3]
