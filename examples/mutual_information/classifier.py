"""A classifier that judges images which others have generated."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ..frame.task import Task
from .generative import Image, generator_of


class Images(Protocol):
    """Images, of which an index tensor chooses a batch: a tensor, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Tensor, /) -> Tensor: ...


class Classifier(nn.Sequential):
    """Two convolutions and a linear layer: 99 % of MNIST after two epochs.

    Example:
        >>> Classifier((1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, image: Image, outputs: int = 10) -> None:
        layers: list[nn.Module] = []
        for before, after in ((image[0], 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(32 * (image[1] // 4) * (image[2] // 4), outputs))


def fit(task: Task, classifier: nn.Module, images: Images, labels: Tensor, steps: int, batch_size: int = 100) -> None:
    """Train a classifier by Adam, learning rate 1e-3, and leave it in eval mode; draws follow from seed and step.

    Args:
        labels: Classes, int64 of shape ``(n,)``, or attributes, 0 or 1, float32 of shape ``(n, k)``.
    """
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    task.resume(classifier=classifier, optimizer=optimizer)
    loss = cross_entropy if labels.ndim == 1 else binary_cross_entropy_with_logits
    classifier.train()
    for step in task.steps(steps):
        chosen = torch.randint(len(images), (batch_size,), generator=generator_of(task.seed, step))
        optimizer.zero_grad()
        loss(classifier(images[chosen].to(task.device)), labels[chosen].to(task.device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    classifier.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images, or of attributes of all images, that the classifier gives their label."""
    device = next(classifier.parameters()).device
    outputs = torch.cat([classifier(part.to(device)).cpu() for part in torch.split(images, 500)])
    right = outputs.argmax(1) == labels if labels.ndim == 1 else (outputs > 0) == (labels > 0.5)
    return float(right.double().mean())
