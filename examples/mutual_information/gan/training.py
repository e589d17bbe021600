"""A generator and a discriminator in the plane, with or without the regularizer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from probes_mine import DenseStatistics, MutualInformationRegularizer

from ...frame.task import Task
from ..generative import dense, initialize
from ..plane import DATASETS, samples_of
from .settings import METHODS, Settings, kept_steps


def train(settings: Settings, task: Task) -> None:
    for dataset in settings.steps:
        for method in METHODS:
            adversaries(settings, task.part(f"{dataset}, {method}"), dataset, method)


def adversaries(settings: Settings, part: Task, dataset: str, method: str) -> None:
    def drawn(number: int) -> torch.Generator:
        """Of the same data and the same noise for both methods."""
        entropy = np.random.SeedSequence((part.seed, DATASETS.index(dataset), number)).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)

    def adam(parameters: Any) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=settings.learning_rate)

    prior_size = settings.noise_size + settings.code_size
    torch.manual_seed(part.seed)
    generator = dense((prior_size, *settings.generator, 2), settings.slope, True).to(part.device)
    discriminator = dense((2, *settings.discriminator, 1), settings.slope, False).to(part.device)
    statistics_network = DenseStatistics(
        settings.code_size, 2, settings.discriminator, lambda: nn.LeakyReLU(settings.slope), 0, 0
    ).to(part.device)
    std = settings.weight_std[dataset]
    if std is not None:
        for network in (generator, discriminator, statistics_network):
            initialize(network, std)
    regularizer = MutualInformationRegularizer(
        statistics_network, mode="max", beta=settings.beta, optimizer=adam, seed=part.seed
    )
    of_generator, of_discriminator = adam(generator.parameters()), adam(discriminator.parameters())
    data = samples_of(dataset, settings.num_train, drawn(1))

    def sample() -> tuple[Tensor, Tensor]:
        """Codes that were not trained on, and what the generator makes of them in eval mode."""
        prior = torch.randn(settings.num_samples, prior_size, generator=drawn(0)).to(part.device)
        generator.eval()
        with torch.no_grad():
            samples = generator(prior)
        generator.train()
        return prior[:, settings.noise_size :], samples

    part.resume(
        generator=generator,
        discriminator=discriminator,
        regularizer=regularizer,
        of_generator=of_generator,
        of_discriminator=of_discriminator,
    )
    for step in part.steps(settings.steps[dataset]):
        random = drawn(2 + step)
        real = data[torch.randint(len(data), (settings.batch_size,), generator=random)].to(part.device)
        prior = torch.randn(settings.batch_size, prior_size, generator=random).to(part.device)
        code = prior[:, settings.noise_size :]
        samples = generator(prior)

        # Eq. 16, where the source misses the logarithm of the first term.
        loss = softplus(-discriminator(real)).mean() + softplus(discriminator(samples.detach())).mean()
        of_discriminator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        of_discriminator.step()

        loss = softplus(-discriminator(samples)).mean()  # eq. 17
        of_generator.zero_grad()
        if method == "GAN+MINE":
            regularizer.update(code, samples)
            regularizer.backward(loss, code, samples, generator.parameters())
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        of_generator.step()

        if step + 1 in kept_steps(settings, dataset):
            np.save(part.folder / f"samples-{step + 1}.npy", sample()[1].cpu().numpy())
    if method == "GAN+MINE":
        (part.folder / "information.json").write_text(json.dumps(regularizer.mine.estimate(*sample()).value))
