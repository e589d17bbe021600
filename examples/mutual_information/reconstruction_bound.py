r"""The bound of the reconstruction error by mutual information (eq. 18, appendix C.2.4), of Gaussians in closed form.

.. math:: \mathcal R = D(q(x, z) \| p(x, z)) - D(q(z) \| p(z)) - I_q(x, z) + H_q(x)

The thesis has H_q(z) for H_q(x): in eq. 36, H_q(x, z) - H_q(z) is H_q(x | z), not H_q(z | x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..frame.criteria import Array, Finding, enough, spearman
from ..spectral_bias.arrays import spread


class LinearModel(NamedTuple):
    """Data x ~ N(0, S), an encoder z ~ N(W x, E), a decoder x ~ N(V z, C) and a prior z ~ N(0, 1). All float64."""

    data: Tensor
    """S, shape ``(D, D)``."""
    weight: Tensor
    """W, shape ``(d, D)``."""
    noise: Tensor
    """E, shape ``(d, d)``."""
    back: Tensor
    """V, shape ``(D, d)``."""
    spread: Tensor
    """C, shape ``(D, D)``."""


class Terms(NamedTuple):
    """Of one model, in nats."""

    error: float
    """The reconstruction error, eq. 34: E_q[-log p(x | z)]."""
    divergence: float
    """D(q(x, z) || p(x, z))."""
    of_codes: float
    """D(q(z) || p(z))."""
    information: float
    """I_q(x, z)."""
    entropy_x: float
    entropy_z: float


def joint(model: LinearModel) -> Tensor:
    """Covariance of (x, z) under the encoder, shape ``(D + d, D + d)``."""
    s, w, e, *_ = model
    return torch.cat([torch.cat([s, s @ w.T], 1), torch.cat([w @ s, w @ s @ w.T + e], 1)])


def best_decoder(data: Tensor, weight: Tensor, noise: Tensor) -> LinearModel:
    """The encoder with the decoder that is its own posterior."""
    codes = weight @ data @ weight.T + noise
    back = torch.linalg.solve(codes, weight @ data).T
    return LinearModel(data, weight, noise, back, data - back @ codes @ back.T)


def entropy(covariance: Tensor) -> float:
    """Of a Gaussian, differential, in nats."""
    return float(torch.logdet(2 * math.pi * math.e * covariance)) / 2


def divergence(q: Tensor, p: Tensor) -> float:
    """Kullback-Leibler divergence of two Gaussians around zero from their covariances, in nats."""
    ratio = torch.linalg.solve(p, q)
    return float(ratio.trace() - len(q) - torch.logdet(ratio)) / 2


def terms(model: LinearModel) -> Terms:
    """Both sides of eq. 18, each by its own definition."""
    d, q = len(model.noise), joint(model)
    x, z, across = q[:-d, :-d], q[-d:, -d:], q[:-d, -d:]
    v, c = model.back, model.spread
    residual = x - v @ across.T - across @ v.T + v @ z @ v.T  # E (x - V z)(x - V z)'
    error = (float(torch.logdet(2 * math.pi * c)) + float(torch.linalg.solve(c, residual).trace())) / 2
    prior = torch.eye(d, dtype=q.dtype)
    p = torch.cat([torch.cat([v @ v.T + c, v], 1), torch.cat([v.T, prior], 1)])
    information = entropy(x) + entropy(z) - entropy(q)
    return Terms(error, divergence(q, p), divergence(z, prior), information, entropy(x), entropy(z))


def models(gains: tuple[float, ...], sizes: tuple[int, int], generator: torch.Generator) -> list[list[LinearModel]]:
    """Encoders of one direction and growing gain, each with its best decoder, and with that of the middle gain."""
    many, few = sizes
    root, weight = (torch.randn(rows, many, dtype=torch.float64, generator=generator) for rows in sizes)
    data, noise = root @ root.T / many + 0.1 * torch.eye(many).double(), torch.eye(few).double()
    best = [best_decoder(data, gain * weight, noise) for gain in gains]
    middle = best[len(gains) // 2]
    return [[model, model._replace(back=middle.back, spread=middle.spread)] for model in best]


def samples(model: LinearModel, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Data and codes, shapes ``(n, D)`` and ``(n, d)``, float32."""
    d, root = len(model.noise), torch.linalg.cholesky(joint(model))
    both = (torch.randn(n, len(root), dtype=torch.float64, generator=generator) @ root.T).float()
    return both[:, :-d], both[:, -d:]


def judge_bound(seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    """Of seeds' ``terms``, shape ``(gains, decoders, 6)``, and of what MINE ``read`` for each gain."""
    off, orders, others, above = [], [], [], 0
    for seed in seeds:
        error, divergence, of_codes, _, entropy_x, entropy_z = seed["terms"].transpose(2, 1, 0)  # (decoders, gains)
        read = seed["read"]
        information = seed["terms"][..., 3]
        off.append(float(np.abs(error - (divergence - of_codes - read + entropy_x)).max() / information.max()))
        orders.append(spearman(read, error[0]))
        others.append(spearman(read, error[1]))
        above += int((error > divergence - seed["terms"][..., 3].T + entropy_z).sum())
    count = sum(seed["terms"][..., 0].size for seed in seeds)
    return [
        Finding(
            "eq. 18 with H(x): reconstruction error less the other terms, with MINE's information, over the largest",
            "a bound, tight where codes have the law of the prior",
            f"{spread(off)} at most",
            "<= 0.15 (1 if MINE read nothing), four of five seeds",
            enough([value <= 0.15 for value in off]),
            off,
        ),
        Finding(
            "Rank correlation over encoders of MINE's information and the reconstruction error, best decoders",
            "maximizing the information minimizes the error",
            f"{spread(orders)}; with the decoder of one of them for all {spread(others)}",
            "<= -0.9, four of five seeds",
            enough([order <= -0.9 for order in orders]),
            {"best decoders": orders, "one decoder": others},
        ),
        Finding("eq. 18 as printed, with H(z)", "a bound", f"the error is above it in {above} of {count} models"),
    ]
