"""The images between which paths are sought (Experiment 9): training images and adversarial ones, and their energy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..frame.classification import Samples
from .auto_neb import Energy, points_along

__all__ = ["KINDS", "Standardize", "attack", "endpoints", "minus_logit", "probabilities"]

KINDS = ("training - training", "training - adversarial", "adversarial - adversarial")


class Standardize(nn.Module):
    """Pixels in [0, 1] to about mean 0 and standard deviation 1, so that attacks and paths live in pixels."""

    def forward(self, x: Tensor) -> Tensor:
        standard: Tensor = (x - 0.47) / 0.25
        return standard


def attack(model: nn.Module, x: Tensor, targets: Tensor, steps: int, size: float) -> Tensor:
    """Projected signed gradient descent on the target's cross-entropy, within ``size`` in every pixel."""
    start, step = x, size / 4
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), targets, reduction="sum"), x)
        x = (start + (x - step * gradient.sign() - start).clamp(-size, size)).clamp(0, 1)
    return x.detach()


def endpoints(
    model: nn.Module, samples: Samples, pairs: int, attack_steps: int, attack_size: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of the paths, and their class; all are classified as that class. Shape ``(kinds, P, ...)``, ``(P,)``."""
    generator, n = torch.Generator().manual_seed(seed), 2 * pairs
    kept, classes = [], []
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in torch.split(samples.images, 250)])
    for label in range(10):
        own = ((samples.labels == label) & (predicted == label)).nonzero()[:, 0]
        other = (samples.labels != label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)[:n]]
        other = other[torch.randperm(len(other), generator=generator)[: 2 * n]]
        targets = torch.full((len(other),), label, device=other.device)
        moved = attack(model, samples.images[other], targets, attack_steps, attack_size)
        with torch.no_grad():
            moved = moved[model(moved).argmax(1) == label][:n]
        if len(own) == n and len(moved) == n:  # else the network does not know the class, or resists
            kept.append((samples.images[own], moved))
            classes += [label] * pairs
    if not kept:  # a network that has learned nothing: only a trial gets here
        kept, classes = [(samples.images[:n], samples.images[n : 2 * n])], [0] * pairs
    starts = [torch.cat([own[:pairs] for own, _ in kept])] * 2 + [torch.cat([moved[:pairs] for _, moved in kept])]
    ends = [torch.cat([own[pairs:] for own, _ in kept])] + [torch.cat([moved[pairs:] for _, moved in kept])] * 2
    return torch.stack(starts), torch.stack(ends), torch.tensor(classes, device=samples.labels.device)


def minus_logit(model: nn.Module, labels: Tensor) -> Energy:
    """The energy that AutoNEB lowers: minus the output for the class of each path."""

    def energy(points: Tensor) -> Tensor:
        logits = model(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        own: Tensor = logits.gather(2, labels[:, None, None].expand(-1, points.shape[1], 1))[..., 0]
        return -own

    return energy


def probabilities(model: nn.Module, paths: Tensor, labels: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Probability of the class along each path, and whether it is the largest at all points; ``(P, points), (P,)``."""
    shown = points_along(paths, points)
    with torch.no_grad():
        share = torch.stack([model(path).softmax(1) for path in shown])  # (P, points, 10)
    own = share.gather(2, labels[:, None, None].expand(-1, points, 1))[..., 0]
    return own, (share.argmax(2) == labels[:, None]).all(1)
