"""Alignments of the kernels of single layers, none of them formed, from one set of backward passes for all layers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .density import Estimate
from .plan import layer_of
from .product import KernelOperator

__all__ = ["LayerEstimate", "layer_alignments", "layer_norms"]

FOUND, RANDOM = 16, 32
"""How many of the largest eigenvectors, and of random vectors, the norm of a layer's kernel is told from."""


class LayerEstimate(NamedTuple):
    """What is known of the kernel of one layer."""

    trace: Estimate
    """Exact, so that its error is 0. In the squared unit of the features."""
    alignment: Estimate | None
    """With the labels; None without targets, NaN of a layer that the function does not depend on."""


def layer_norms(kernel: KernelOperator, vector: Tensor) -> dict[str, Tensor]:
    r""":math:`\|J_l^\top v\|^2` of each layer l, as the vector is. Shapes ``()``, float64."""
    norms: dict[str, Tensor] = {}
    for name, part in kernel.features(vector).items():
        layer = layer_of(kernel.call.model, name)
        norms[layer] = norms.get(layer, torch.zeros((), dtype=torch.float64, device=part.device)) + (
            part.double().square().sum()
        )
    return norms


def layer_alignments(
    kernel: KernelOperator, found: Tensor, random: Tensor, labels: Tensor, memory: float
) -> dict[str, Estimate]:
    r"""Alignment of the kernel of each layer with the labels.

    With the parts :math:`G_l = V J_l` of the features of some vectors V, products of layers' kernels with vectors are
    not needed, only :math:`V K_l V^\top = G_l G_l^\top`. For Q the largest eigenvectors of the whole kernel and random
    vectors z of covariance :math:`I - Q Q^\top`,

    .. math:: \|K_l\|_F^2 = \|Q K_l Q^\top\|_F^2 + 2 \, \mathbb{E} \|Q K_l z\|^2 + \mathbb{E} (z^\top K_l z')^2

    Args:
        kernel: Of all layers.
        found: Q, orthonormal rows of shape ``(q, nc)``.
        random: The vectors z, shape ``(r, nc)``.
        labels: Centred, shape ``(nc,)``.
        memory: Bytes for the parts of the features of all vectors; more passes are taken where it is less.

    Returns:
        The standard errors are those of the jackknife over the random vectors.

    Cost: ``q + r + 1`` backward passes, as often as ``memory`` asks for.
    """
    vectors = torch.cat([found, random, labels[None]])
    aligned = {}
    for layer, gram in _grams(kernel, vectors, memory).items():
        value, error = _square_norm(gram[:-1, :-1], len(found))
        if not value > 0:
            aligned[layer] = Estimate(math.nan, math.nan)
            continue
        ratio = float(gram[-1, -1]) / math.sqrt(value) / float(labels.square().sum())
        aligned[layer] = Estimate(min(ratio, 1.0), ratio * error / value / 2)
    return aligned


def _square_norm(gram: Tensor, count: int) -> tuple[float, float]:
    """The squared norm of a kernel and its standard error, from its products with found and with random vectors."""
    squares = gram.square()
    known, crossed, inside = squares[:count, :count].sum(), squares[:count, count:].sum(0), squares[count:, count:]
    pairs = inside.sum(1) - inside.diagonal()
    r = len(pairs)
    left_out = (  # what the others say without each of them
        known + 2 * (crossed.sum() - crossed) / (r - 1) + (pairs.sum() - 2 * pairs) / ((r - 1) * (r - 2))
    )
    value = known + 2 * crossed.mean() + pairs.sum() / (r * (r - 1))
    return float(value), float(((left_out - left_out.mean()).square().sum() * (r - 1) / r).sqrt())


def _grams(kernel: KernelOperator, vectors: Tensor, memory: float) -> dict[str, Tensor]:
    """V K_l V^T of each layer, float64; the layers in groups whose parts of the features of all vectors fit."""
    groups: list[list[str]] = [[]]
    held = 0.0
    sizes: dict[str, int] = {}
    for name, parameter in kernel.call.parameters.items():
        layer = layer_of(kernel.call.model, name)
        sizes[layer] = sizes.get(layer, 0) + parameter.nbytes * len(vectors)
    for layer, size in sizes.items():
        if groups[-1] and held + size > memory:
            groups.append([])
            held = 0.0
        groups[-1].append(layer)
        held += size
    grams: dict[str, Tensor] = {}
    for group in groups:
        total: dict[str, Tensor] = {}
        parts: dict[str, list[Tensor]] = {}
        for vector in vectors:
            for name, part in kernel.features(vector).items():
                if layer_of(kernel.call.model, name) in group:
                    parts.setdefault(name, []).append(part.flatten())
        for name, rows in parts.items():
            layer, matrix = layer_of(kernel.call.model, name), torch.stack(rows)
            product = (matrix @ matrix.T).double()
            total[layer] = total[layer] + product if layer in total else product
        grams.update(total)
    return grams
