"""Lower bounds by critics that are trained on one part of the samples and told of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .bounds import jensen_shannon_bound
from .coordinates import coordinates, gaussian_terms
from .critics import StackedCritics
from .cross_fitting import Training, fit, split
from .labels import NUM_FOLDS
from .product import Product, bound_terms, draw_product, log_partition, tempered

__all__ = ["critic_terms"]

SMILE_CLIP = 5.0


def critic_terms(
    x: Tensor,
    y: Tensor,
    groups: Tensor,
    method: str,
    generator: torch.Generator,
    max_steps: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Training, bool]:
    """Terms whose mean is the value of the bound, and whose deviation is that of the value times the root of n; the
    groups of their samples; how training went; and whether few of many components were picked."""
    folds = split(len(x), NUM_FOLDS, generator, groups)
    size, num_groups = folds.test.shape[1], int(groups.max()) + 1
    partners = groups[folds.test]

    def product(number: int) -> Product:
        return draw_product(partners, number, num_groups, generator)

    few = max(4, min(64, 4000 // size))  # partners at a look: enough that no near pair is missed in few samples
    frame = coordinates(x, y, *folds, product(max(8, few)), num_groups / len(x))
    a, b, c = gaussian_terms(frame.pairs_x, frame.pairs_y, frame.correlations)
    critics = StackedCritics(
        NUM_FOLDS, frame.x.shape[2], frame.y.shape[2], generator, offset=1.0 if method == "nwj" else 0.0
    ).to(device, torch.float32)
    parts = (frame.x, frame.y, a.sum(2), b.sum(2), c, frame.pairs_y)
    sides = [part.to(device, torch.float32) for part in parts]
    train, test = (rows.to(device) for rows in folds)
    js = torch.vmap(jensen_shannon_bound)

    def values(rows: Tensor, shifts: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y, *gaussian = (_take(side, rows) for side in sides)
        return critics(x, y, gaussian, shifts)  # type: ignore[no-any-return]

    def loss(rows: Tensor) -> Tensor:
        shifts = _shifts(rows.shape[1], 4, generator)
        joint, marginal = values(rows, shifts)
        if method in ("smile", "jensen_shannon"):
            return -js(joint, marginal).sum()
        return -_bounds(joint, marginal, Product(shifts, None, 1 / num_groups), method).sum()

    def held_out() -> float:
        pairs = product(few)
        return float(_bounds(*values(test, pairs.shifts), pairs.to(device), method).mean())

    training = fit(critics, loss, held_out, train, generator, max_steps=max_steps)
    pairs = product(64)
    scores = [values(test, pairs.shifts[start : start + 8]) for start in range(0, len(pairs.shifts), 8)]
    joint, marginal = scores[0][0].cpu().double(), torch.cat([part[1] for part in scores], 1).cpu().double()
    start = 1.0 if method == "nwj" else 0.0  # the trivial critic

    def scaled(scale: float) -> tuple[Tensor, Tensor]:
        return start + scale * (joint - start), start + scale * (marginal - start)

    scale = tempered(lambda scale: float(_bounds(*scaled(scale), pairs, method).mean()))
    terms = _terms(*scaled(scale), pairs, method) if scale > 0 else torch.zeros_like(joint)
    return terms.flatten(), partners.flatten(), training, frame.screened


def _bounds(joint: Tensor, marginal: Tensor, product: Product, method: str) -> Tensor:
    """Value of the bound for each critic, shape ``(m,)``, from what :class:`StackedCritics` returns."""
    if method == "info_nce":
        return _contrasts(joint, marginal, product).mean(1)
    if method == "smile":
        marginal = marginal.clamp(-SMILE_CLIP, SMILE_CLIP)
    log_mean = log_partition(joint, marginal, product)
    return joint.mean(1) - ((log_mean - 1).exp() if method == "nwj" else log_mean)


def _contrasts(joint: Tensor, marginal: Tensor, product: Product) -> Tensor:
    count: Tensor | float = float(marginal.shape[1] + 1)
    if product.copies is not None:
        marginal = marginal.masked_fill(product.copies, -math.inf)
        count = 1.0 + (~product.copies).sum(1)
    log_count = count.log() if isinstance(count, Tensor) else math.log(count)
    return joint - torch.logsumexp(torch.cat([joint[:, None], marginal], 1), 1) + log_count


def _terms(joint: Tensor, marginal: Tensor, product: Product, method: str) -> Tensor:
    """What each test sample adds to the value: through its pair, and through all pairs with its x or its y.

    Args:
        joint: Shape ``(m, n)``.
        marginal: The value for x_i and the y shift rows before, shape ``(m, s, n)``.
        product: Which pairs these are.
        method: Whose value.

    Returns:
        Shape ``(m, n)``; the mean of each row is that of :func:`_bounds`.
    """
    if method == "info_nce":
        return _contrasts(joint, marginal, product)
    if method == "smile":
        marginal = marginal.clamp(-SMILE_CLIP, SMILE_CLIP)
    return bound_terms(joint, marginal, product, joint.new_ones(len(joint), 1) if method == "nwj" else None)


def _shifts(n: int, number: int, generator: torch.Generator) -> list[int]:
    return [1 + int(shift) for shift in torch.randperm(n - 1, generator=generator, device="cpu")[:number]]


def _take(side: Tensor, rows: Tensor) -> Tensor:
    """Rows ``(m, b)`` of ``(m, n, ...)``, of each fold its own."""
    return side[torch.arange(len(rows), device=rows.device)[:, None], rows]
