"""Bounds of the information that codes have about images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probes_mine import DenseStatistics, Mine, normal_scores

from ...frame.task import Task
from .network import Network, codes, generator
from .settings import PIXELS, Settings


def sandwich(z: Tensor, mean: Tensor, std: Tensor) -> tuple[float, float]:
    r"""Bounds of I(X; Z) from codes of n images and the known Gaussians they were drawn from, in nats.

    .. math:: \frac 1 n \sum_i \log \frac{p(z_i | x_i)}{\frac 1 n \sum_j p(z_i | x_j)} \le I(X; Z)
              \le \frac 1 n \sum_i \log \frac{p(z_i | x_i)}{\frac 1 {n - 1} \sum_{j \ne i} p(z_i | x_j)}

    in expectation. The lower one is at most log n.

    Args:
        z, mean, std: Shape ``(n, d)``.

    Reference:
        Poole et al., "On variational bounds of mutual information", ICML 2019.
    """
    n = len(z)
    z, mean, std = (part.double() for part in (z, mean, std))
    precision = std**-2
    constant = (mean.square() * precision / 2 + std.log()).sum(1)
    own, every, others = [], [], []
    for rows in torch.split(torch.arange(n, device=z.device), 1000):
        part = z[rows]
        # log p(z_i | x_j) up to what all have in common, (rows, n)
        log_p = part @ (mean * precision).T - part.square() @ precision.T / 2 - constant
        itself = torch.arange(len(rows), device=z.device), rows
        own.append(log_p[itself])
        every.append(log_p.logsumexp(1))
        log_p[itself] = -math.inf
        others.append(log_p.logsumexp(1))
    lower = (torch.cat(own) - torch.cat(every)).mean() + math.log(n)
    upper = (torch.cat(own) - torch.cat(others)).mean() + math.log(n - 1)
    return float(lower), float(upper)


@torch.no_grad()
def moment_information(network: Network, images: Tensor, seed: int, draws: int = 20, spread: float = 1.5) -> float:
    """Lower bound of I(X; Z) as in :func:`sandwich`, with a Gaussian of the moments of each image's codes, in nats.

    With any function of the pair in place of p(z | x) it is a lower bound, but the upper one is none.

    Args:
        draws: Codes of each image, of which the moments are.
        spread: By which the standard deviations are multiplied, as the moments of few draws are too sure.
    """
    z = [codes(network, images, generator(seed, 8, draw))[0].double() for draw in range(draws + 1)]
    mean = torch.stack(z[1:]).mean(0)
    residuals = [sample - mean for sample in z[1:]]
    covariance = sum(residual.T @ residual for residual in residuals) / (len(images) * (draws - 1))
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance))
    white = vectors / values.clamp(min=1e-12).sqrt()
    variance = torch.stack([(residual @ white).square() for residual in residuals]).sum(0) / (draws - 1)
    std = spread * variance.clamp(min=1e-12).sqrt()
    return sandwich(z[0] @ white, mean @ white, std)[0]


def critic_information(settings: Settings, part: Task, network: Network, images: Tensor, test_images: Tensor) -> float:
    """MINE with a critic of its own, trained on the training images, on the test images: a lower bound in nats."""
    torch.manual_seed(part.seed)
    critic = DenseStatistics(PIXELS, settings.code, settings.statistics, input_noise=0, hidden_noise=0)
    mine = Mine(critic.to(part.device), seed=part.seed)
    part.resume(mine=mine)
    n = len(images)
    z, *_ = codes(network, torch.cat([images, test_images]), generator(part.seed, 4, 0))
    # Monotone in each number of z, the information is the same, and no scale hides it from the critic.
    z = normal_scores(z).float()
    for step in part.steps(settings.fresh_steps):
        chosen = torch.randint(n, (256,), generator=generator(part.seed, 5, step)).to(images.device)
        mine.update(images[chosen], z[chosen])
    return mine.estimate(test_images, z[n:]).value
