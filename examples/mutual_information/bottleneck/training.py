"""Training a row of table 5.3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from probes_mine import DenseStatistics, MutualInformationRegularizer

from ...frame.data import mnist, mnist_subset
from ...frame.task import Task
from .network import Network, codes, generator
from .settings import PIXELS, Model, Settings


def data(settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images to train on, in [-1, 1], of shape ``(n, 784)``, their labels; the same to test on."""
    if settings.mnist:
        (images, labels), (test_images, test_labels) = mnist(), mnist(train=False)
    else:
        images, labels = mnist_subset()
        images, labels, test_images, test_labels = images[::2], labels[::2], images[1::2], labels[1::2]
    return 2 * images.flatten(1) - 1, labels, 2 * test_images.flatten(1) - 1, test_labels


def fit(settings: Settings, part: Task, model: Model, images: Tensor, labels: Tensor) -> Network:
    """Train a model; returns the running average of its weights."""
    torch.manual_seed(part.seed)
    network = Network(model.noise, settings, model.dropout).to(part.device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # type: ignore[no-untyped-call]
    per_epoch = len(images) // settings.batch_size
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2 * per_epoch, 0.97)
    objects: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    regularizer = None
    if model.compression == "mine":
        critic = DenseStatistics(PIXELS, settings.code, settings.statistics).to(part.device)
        objects["regularizer"] = regularizer = MutualInformationRegularizer(
            critic,
            mode="min",
            beta=settings.beta,
            critic_steps=1,
            seed=part.seed,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.critic_rate),
        )
    part.resume(**objects)
    network.train()
    for step in part.steps(settings.epochs * per_epoch):
        epoch, batch = divmod(step, per_epoch)
        order = torch.randperm(len(images), generator=generator(part.seed, 0, epoch))
        chosen = order[batch * settings.batch_size :][: settings.batch_size].to(part.device)
        x, y = images[chosen], labels[chosen]
        noise = network.draw(len(x), generator(part.seed, 1, step)).to(part.device)
        z, mean, std = network(x, noise)
        logits = network.classifier(z)
        loss = cross_entropy(logits, y, label_smoothing=model.label_smoothing)
        if model.confidence_penalty:
            loss = loss - model.confidence_penalty * entropy(logits)
        if model.compression == "variational":
            loss = loss + settings.variational_beta * divergence(mean, std)
        if regularizer is not None:
            # The critic learns on other pairs than the term is of: one that has just learned these knows their noise,
            # and the encoder would lower the term by having less of it.
            random = generator(part.seed, 7, step)
            for _ in range(settings.critic_steps):
                other = images[torch.randint(len(images), (len(x),), generator=random).to(images.device)]
                regularizer.update(other, codes(network, other, random)[0])
            loss = loss + regularizer(x, z)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
    averaged = average.module.eval()
    assert isinstance(averaged, Network)
    return averaged


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions, in nats. Shape ``()``."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


def divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the Gaussian of each code from a standard normal, in nats. Shape ``()``."""
    return ((mean.square() + std.square() - 1) / 2 - std.log()).sum(1).mean()
