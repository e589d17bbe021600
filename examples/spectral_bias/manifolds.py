"""The inputs of Experiment 8: reconstructions of an auto-encoder, and flat manifolds to compare them with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..frame.data import mnist, mnist_subset
from ..frame.models import MLP

__all__ = ["INPUTS", "manifolds", "reconstructions"]

INPUTS = {
    "reconstructions": "reconstructions of a denoising auto-encoder",
    "flat": "64 uniform coordinates, others 0 (as published)",
    "flat, same norm": "the same, scaled to the reconstructions' mean square",
    "flat, same covariance": "Gaussian of the reconstructions' mean and 64 principal directions",
}


def reconstructions(num_images: int, features: int, noise: float, steps: int, num_samples: int, seed: int) -> Tensor:
    """What an auto-encoder, trained to take Gaussian noise away, makes of clean digits. Shape ``(n, 784)``."""
    images = (mnist(n=num_images, seed=seed) if num_images else mnist_subset())[0].flatten(1)
    torch.manual_seed(seed)
    encoder, decoder = MLP(784, 256, 2, features), MLP(features, 256, 2, 784)
    model = nn.Sequential(encoder, nn.ReLU(), decoder, nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (200,))]
        optimizer.zero_grad()
        loss = (model(batch + noise * torch.randn_like(batch)) - batch).square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        chosen: Tensor = model(images[torch.randperm(len(images))[:num_samples]])
    return chosen


def manifolds(curved: Tensor, d: int, seed: int) -> dict[str, Tensor]:
    """The inputs that are compared, by name: the curved ones and flat ones of d dimensions. Shape ``(n, 784)`` each."""
    generator = torch.Generator().manual_seed(seed)
    n = len(curved)
    flat = torch.zeros(n, 784)
    flat[:, :d] = torch.rand(n, d, generator=generator)
    mean = curved.mean(0)
    _, scales, directions = torch.linalg.svd(curved - mean, full_matrices=False)
    d = min(d, n - 1)
    gaussian = torch.randn(n, d, generator=generator) * (scales[:d] / (n - 1) ** 0.5) @ directions[:d] + mean
    norm = (curved.square().sum() / flat.square().sum()).sqrt()
    return dict(zip(INPUTS, (curved, flat, norm * flat, gaussian), strict=True))
