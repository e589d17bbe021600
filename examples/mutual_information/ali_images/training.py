"""Adversarially learned inference, and what each method adds to it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from probes import ProbeManager
from probes.batches import Batch
from probes.schedule import every
from probes_mine import ConvolutionalStatistics, MutualInformationRegularizer

from ...frame.task import Task
from ..classifier import Images
from ..generative import Discriminator, entropy, generator_of
from .fidelity import Fidelity
from .networks import ACTIVATIONS, Autoencoder
from .settings import Settings

SHOWN = 10
"""Images in a row of the figure."""


def adversaries(settings: Settings, task: Task, method: str, images: Images, fidelity: Fidelity) -> None:
    """Train encoder, decoder and discriminator, with what the method adds to their losses."""
    torch.manual_seed(task.seed)  # all methods start from the same weights
    image, z_size, device = settings.image, settings.z_size, task.device
    model = Autoencoder(image, z_size, settings.channels).to(device)
    leaky = ACTIVATIONS["leaky"]
    discriminator = Discriminator(image, settings.channels, leaky, z_size, settings.dense).to(device)
    doubled = (2 * image[0], *image[1:])
    of_cycles = Discriminator(doubled, settings.channels, leaky, dense=settings.dense).to(device)
    activation = ACTIVATIONS[settings.critic_activation]
    critic = ConvolutionalStatistics(image, z_size, settings.critic, activation).to(device)

    def adam(parameters: Any) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(settings.beta1, 0.999))

    optimizer = adam(model.parameters())
    of_discriminators = adam(chain(discriminator.parameters(), of_cycles.parameters()))
    regularizer = MutualInformationRegularizer(
        critic, every(settings.measure_every), mode="max", beta=settings.beta, optimizer=adam, seed=task.seed
    )
    x = fidelity.images[:SHOWN]
    noise = torch.randn(2, SHOWN, z_size, generator=generator_of(task.seed, 0))
    manager = ProbeManager(
        model,
        probes=[fidelity, regularizer] if method == "ALI + MINE" else [fidelity],
        batches={"train": Batch((x, noise[0]))},
        log_dir=task.log_dir,
        overhead=None,
        seed=task.seed,
        on_error="raise",
        quiet=True,
    )
    task.resume(
        model=model,
        discriminator=discriminator,
        of_cycles=of_cycles,
        optimizer=optimizer,
        of_discriminators=of_discriminators,
        probes=manager,
    )
    with manager.attach(optimizer):
        for step in task.steps(settings.steps):
            draws = generator_of(task.seed, 1, step)
            real = images[torch.randint(len(images), (settings.batch_size,), generator=draws)].to(device)
            z, epsilon = torch.randn(2, settings.batch_size, z_size, generator=draws).to(device)
            code, fake = model.encoder(real, epsilon), model.decoder(z)
            if "ALICE" in method:
                again = model.decoder(code)
                same, cycle = torch.cat([real, real], 1), torch.cat([real, again], 1)

            loss = entropy(discriminator(fake.detach(), z), 1.0) + entropy(discriminator(real, code.detach()), 0.0)
            if method == "ALICE (adv.)":
                loss = loss + entropy(of_cycles(same), 1.0) + entropy(of_cycles(cycle.detach()), 0.0)
            of_discriminators.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            of_discriminators.step()
            if method == "ALI + MINE":
                regularizer.update(fake, z)

            # Eq. 19: each of them depends on one of the two networks.
            of_decoder, of_encoder = entropy(discriminator(fake, z), 0.0), entropy(discriminator(real, code), 1.0)
            optimizer.zero_grad()
            if method == "ALI + MINE":
                of_encoder.backward()  # type: ignore[no-untyped-call]
                regularizer.backward(of_decoder, fake, z, model.decoder.parameters())
            else:
                loss = of_decoder + of_encoder
                if method == "ALICE (l2)":
                    loss = loss + settings.reconstruction * mse_loss(again, real)
                if method == "ALICE (adv.)":
                    loss = loss + settings.reconstruction * entropy(of_cycles(cycle), 1.0)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        model.eval()
        x, e, z = (tensor.to(device) for tensor in (x, *noise))
        pictures = {"images": x, "reconstructions": model(x, e), "samples": model.decoder(z)}
    np.savez(task.folder / "pictures.npz", **{name: tensor.cpu().numpy() for name, tensor in pictures.items()})
