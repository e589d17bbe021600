"""AutoNEB: a nudged elastic band without springs, to which pivots are added where the energy is highest.

Kolsbjerg, Groves & Hammer, "An automated nudged elastic band method", 2016; in the form without springs of Draxler et
al., "Essentially no barriers in neural network energy landscape", 2018. Many paths are bent at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["auto_neb", "extra_length", "points_along", "straight"]

Energy = Callable[[Tensor], Tensor]
"""Of points of P paths, shape ``(P, m, *shape)``, in shape ``(P, m)``."""


def straight(starts: Tensor, ends: Tensor, pivots: int) -> Tensor:
    """Straight paths with pivots at equal distances, the ends among them.

    Args:
        starts: Shape ``(P, *shape)``.
        ends: Shape ``(P, *shape)``.

    Returns:
        Shape ``(P, pivots, *shape)``.
    """
    share = torch.linspace(0, 1, pivots).reshape(1, -1, *[1] * (starts.ndim - 1)).to(starts)
    return torch.lerp(starts[:, None], ends[:, None], share)


def points_along(paths: Tensor, count: int) -> Tensor:
    """Points at equal distances along broken lines, the ends among them.

    Args:
        paths: Pivots. Shape ``(P, m, *shape)``.

    Returns:
        Shape ``(P, count, *shape)``.

    Example:
        >>> points_along(torch.tensor([[[0.0], [1.0], [4.0]]]), 3).flatten().tolist()
        [0.0, 2.0, 4.0]
    """
    lengths = paths.diff(dim=1).flatten(2).norm(dim=2)
    reached = torch.cat([torch.zeros_like(lengths[:, :1]), lengths.cumsum(1)], 1)  # (P, m)
    wanted = reached[:, -1:] * torch.linspace(0, 1, count).to(paths)
    after = torch.searchsorted(reached, wanted.contiguous()).clamp(1, paths.shape[1] - 1)
    before = after - 1
    low, width = reached.gather(1, before), lengths.gather(1, before)
    share = ((wanted - low) / width.clamp_min(torch.finfo(width.dtype).tiny)).clamp(0, 1)
    rows = torch.arange(len(paths), device=paths.device)[:, None]
    share = share.reshape(*share.shape, *[1] * (paths.ndim - 2))
    return torch.lerp(paths[rows, before], paths[rows, after], share)


def extra_length(paths: Tensor) -> Tensor:
    """Length of each path over the distance of its ends, less 1. Shape ``(P,)``."""
    length: Tensor = paths.diff(dim=1).flatten(2).norm(dim=2).sum(1)
    distance: Tensor = (paths[:, -1] - paths[:, 0]).flatten(1).norm(dim=1)
    return length / distance - 1


def auto_neb(
    paths: Tensor, energy: Energy, *, cycles: int, steps: int, learning_rate: float, momentum: float, inserted: int = 2
) -> Tensor:
    r"""Bend paths so that the highest energy along them falls.

    .. math:: \mathbf v_i \leftarrow \mu \mathbf v_i - \big( \nabla E(\mathbf x_i)
        - (\nabla E(\mathbf x_i) \cdot \boldsymbol\tau_i) \boldsymbol\tau_i \big), \qquad
        \mathbf x_i \leftarrow \mathbf x_i + \eta \mathbf v_i

    for each pivot but the ends, with the unit tangent tau towards the neighbour of higher energy; after every step the
    pivots are spread out evenly along the path. After each cycle but the last, pivots are added in the middle of the
    segments whose middle has the highest energy.

    Args:
        paths: Where to start. Shape ``(P, m, *shape)``.
        energy: Called with gradients.
        cycles: Of relaxation.
        steps: Of each cycle.
        inserted: Pivots added after a cycle.

    Returns:
        Shape ``(P, m + (cycles - 1) inserted, *shape)``.
    """
    for cycle in range(cycles):
        velocity = torch.zeros_like(paths)
        for _ in range(steps):
            force, tangent = _gradient_and_tangent(paths, energy)
            along = (force * tangent).flatten(2).sum(2).reshape(*force.shape[:2], *[1] * (paths.ndim - 2))
            velocity[:, 1:-1] = momentum * velocity[:, 1:-1] - (force - along * tangent)
            paths = points_along(paths + learning_rate * velocity, paths.shape[1])
        if cycle < cycles - 1:
            paths = _with_pivots_added(paths, energy, inserted)
    return paths


def _gradient_and_tangent(paths: Tensor, energy: Energy) -> tuple[Tensor, Tensor]:
    """Of the inner pivots."""
    points = paths.detach().requires_grad_()
    height = energy(points)
    (gradient,) = torch.autograd.grad(height.sum(), points)
    steps = paths.diff(dim=1)
    higher_after = (height[:, 2:] > height[:, :-2]).reshape(len(paths), -1, *[1] * (paths.ndim - 2))
    tangent = torch.where(higher_after, steps[:, 1:], steps[:, :-1])
    size = tangent.flatten(2).norm(dim=2).clamp_min(torch.finfo(paths.dtype).tiny)
    return gradient[:, 1:-1], tangent / size.reshape(*size.shape, *[1] * (paths.ndim - 2))


def _with_pivots_added(paths: Tensor, energy: Energy, count: int) -> Tensor:
    middles = (paths[:, 1:] + paths[:, :-1]) / 2
    with torch.no_grad():
        worst = energy(middles).argsort(dim=1, descending=True)[:, :count]
    pivots = torch.arange(paths.shape[1], device=paths.device, dtype=torch.float64).expand(len(paths), -1)
    order = torch.cat([pivots, worst + 0.5], 1).argsort(dim=1)
    rows = torch.arange(len(paths), device=paths.device)[:, None]
    return torch.cat([paths, middles[rows, worst]], 1)[rows, order]
