"""Adversarially learned inference in the plane, and what each method adds to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from probes_mine import DenseStatistics, MutualInformationRegularizer

from ...frame.criteria import Array
from ...frame.task import Task
from ..generative import dense, entropy, generator_of, normal
from ..maxout import Pairs
from ..plane import samples_of
from .settings import DATASET, METHODS, Settings, kept_steps


class Autoencoder(nn.Module):
    """A decoder of codes, and an encoder of points and noise side by side."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.encoder = dense((2 + settings.z_size, *settings.encoder, settings.z_size), 0.0, True)
        self.decoder = dense((settings.z_size, *settings.decoder, 2), 0.0, True)
        normal(self)

    def encode(self, x: Tensor, noise: Tensor) -> Tensor:
        code: Tensor = self.encoder(torch.cat([x, noise], 1))
        return code


def train(settings: Settings, task: Task) -> None:
    for method in METHODS:
        adversaries(settings, task.part(method), method)


def adversaries(settings: Settings, part: Task, method: str) -> None:
    def adam(parameters: Any) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(settings.beta1, 0.999))

    device, z_size = part.device, settings.z_size
    torch.manual_seed(part.seed)  # all methods start from the same weights
    model = Autoencoder(settings).to(device)
    discriminators = nn.ModuleDict(
        {
            "code": Pairs(2 + z_size, settings.discriminator, settings.pieces),
            "reconstruction": Pairs(4, settings.discriminator, settings.pieces),
        }
    ).to(device)
    critic = DenseStatistics(2, z_size, settings.critic, lambda: nn.LeakyReLU(settings.slope), 0, 0).to(device)
    regularizer = MutualInformationRegularizer(critic, mode="max", beta=settings.beta, optimizer=adam, seed=part.seed)
    parameters = list(model.parameters())
    of_model, of_discriminators = adam(parameters), adam(discriminators.parameters())
    data = samples_of(DATASET, settings.num_train, generator_of(part.seed, 0))

    part.resume(
        model=model,
        discriminators=discriminators,
        regularizer=regularizer,
        of_model=of_model,
        of_discriminators=of_discriminators,
    )
    for step in part.steps(settings.steps):
        draws = generator_of(part.seed, 1, step)
        x = data[torch.randint(len(data), (settings.batch_size,), generator=draws)].to(device)
        z, noise = torch.randn(2, settings.batch_size, z_size, generator=draws).to(device)
        code, fake = model.encode(x, noise), model.decoder(z)
        again = model.decoder(code) if "ALICE" in method else x

        of_code, of_reconstruction = discriminators["code"], discriminators["reconstruction"]
        loss = entropy(of_code(x, code.detach()), 1.0) + entropy(of_code(fake.detach(), z), 0.0)
        if method == "ALICE (adv.)":
            loss = loss + entropy(of_reconstruction(x, x), 1.0) + entropy(of_reconstruction(x, again.detach()), 0.0)
        of_discriminators.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        of_discriminators.step()

        loss = entropy(of_code(x, code), 0.0) + entropy(of_code(fake, z), 1.0)  # eq. 19
        if method == "ALICE (l2)":
            loss = loss + settings.reconstruction * mse_loss(again, x)
        if method == "ALICE (adv.)":
            loss = loss + settings.reconstruction * entropy(of_reconstruction(x, again), 1.0)
        of_model.zero_grad()
        if method == "ALI+MINE":
            # Of samples and their codes: around eq. 19 q is the decoder. In appendix C.2.4, for the bound of eq. 18, it
            # is the encoder: with the information of data and their codes, seed 0 had 22 modes after 5000 steps.
            regularizer.update(fake, z)
            regularizer.backward(loss, fake, z, parameters)
        else:
            loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        of_model.step()

        if step + 1 in kept_steps(settings):
            np.savez(part.folder / f"points-{step + 1}.npz", **evaluate(settings, model, part))  # type: ignore[arg-type]


@torch.no_grad()
def evaluate(settings: Settings, model: Autoencoder, part: Task) -> dict[str, Array]:
    """Points that were not trained on, their codes and reconstructions, and samples, in eval mode."""
    draws = generator_of(part.seed, 2)
    x = samples_of(DATASET, settings.num_samples, draws).to(part.device)
    z, noise = torch.randn(2, settings.num_samples, settings.z_size, generator=draws).to(part.device)
    model.eval()
    codes = model.encode(x, noise)
    points = {"data": x, "codes": codes, "reconstructions": model.decoder(codes), "samples": model.decoder(z)}
    model.train()
    return {name: tensor.cpu().numpy() for name, tensor in points.items()}
