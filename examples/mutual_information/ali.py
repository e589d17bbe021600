"""Mutual information of samples and codes makes adversarially learned inference reconstruct (Fig. 5.6, C.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from probes_mine import DenseStatistics, MutualInformationRegularizer

from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from ..frame.task import Task
from .generative import dense, entropy, generator_of, normal
from .maxout import Pairs
from .plane import found, kl_from_uniform, modes, occupancy, samples_of

METHODS = ("ALI", "ALICE (l2)", "ALICE (adv.)", "ALI+MINE")
DATASET = "25 Gaussians"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bidirectional networks between points of the plane and codes.

    The source states nothing but the four methods. Networks, initialization, optimizer and steps are those with which
    an author trained ALI on the same data, https://github.com/IshmaelBelghazi/ALI, ``ali_mixture.py``; statistics
    network and data are those of appendix C.1.2, for the GAN. The weights of information and of ALICE's reconstructions
    are one.
    """

    steps: int = 200_000
    num_train: int = 100_000
    batch_size: int = 100
    z_size: int = 2
    """Of the encoder's noise too."""
    encoder: tuple[int, ...] = (400, 400)
    decoder: tuple[int, ...] = (400, 400, 400, 400)
    discriminator: tuple[int, ...] = (200, 200, 200)
    pieces: int = 5
    """That a unit of the discriminator is the maximum of."""
    critic: tuple[int, ...] = (400, 400, 400)
    slope: float = 0.01
    """Of the statistics network's leaky ReLU."""
    learning_rate: float = 1e-4
    beta1: float = 0.8
    beta: float = 1.0
    reconstruction: float = 1.0
    sample_every: int = 250
    """Steps between the three samples that are kept at the end."""
    num_samples: int = 10_000


PRESETS = {
    "smoke": Preset(
        Settings(
            steps=6,
            num_train=1000,
            batch_size=20,
            encoder=(8,),
            decoder=(8,),
            discriminator=(4,),
            critic=(8,),
            sample_every=2,
            num_samples=500,
        ),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(Settings(steps=5000), seeds=(0,), duration="12 min"),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="25 h"),
}

Results = dict[str, dict[str, Array]]
"""By method: ``reconstructions`` of ``data``, their ``codes``, and ``samples``, each of shape ``(3, n, 2)``."""


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


def kept_steps(settings: Settings) -> list[int]:
    """After how many steps samples are kept."""
    return [settings.steps - back * settings.sample_every for back in (2, 1, 0)]


def train(settings: Settings, task: Task) -> None:
    for method in METHODS:
        _train(settings, task.part(method), method)


def _train(settings: Settings, part: Task, method: str) -> None:
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


def read(settings: Settings, folder: Path, seed: int) -> Results:
    results: Results = {}
    for method in METHODS:
        files = [np.load(folder / method / f"points-{step}.npz") for step in kept_steps(settings)]
        results[method] = {name: np.stack([file[name] for file in files]) for name in files[0].files}
    return results


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    error = {
        method: np.array([((one["reconstructions"] - one["data"]) ** 2).mean((1, 2)) for one in column])
        for method, column in ((method, [seed[method] for seed in seeds]) for method in METHODS)
    }
    counts = {
        method: [[occupancy(DATASET, points) for points in seed[method]["samples"]] for seed in seeds]
        for method in METHODS
    }
    number = {
        method: np.array([[round(25 * found(near, settings.num_samples)) for _, near in row] for row in rows])
        for method, rows in counts.items()
    }
    spread = {
        method: np.array([[kl_from_uniform(nearest) for nearest, _ in row] for row in rows])
        for method, rows in counts.items()
    }
    ali, mine = error["ALI"][:, -1], error["ALI+MINE"][:, -1]
    return [
        Finding(
            "Fig. 5.6: mean squared error of reconstructions",
            "ALI+MINE below ALI; ALICE least",
            _rows({method: values[:, -1] for method, values in error.items()}, 3),
            "ALI+MINE <= half of ALI, all seeds but one fifth",
            enough(list(mine <= ali / 2)),
            error,
        ),
        Finding(
            "Fig. 5.6: modes of 25 in samples",
            "ALI+MINE finds all; ALICE drops some",
            _rows({method: values[:, -1] for method, values in number.items()}, 0),
            "ALI+MINE >= 23, all seeds but one fifth",
            enough(list(number["ALI+MINE"][:, -1] >= 23)),
            number,
        ),
        Finding(
            "Mean squared error, mean of the last three",
            "",
            _rows({method: values.mean(1) for method, values in error.items()}, 3),
        ),
        Finding(
            "KL divergence of the modes in samples from uniform, nats",
            "",
            _rows({method: values[:, -1] for method, values in spread.items()}, 3),
            values=spread,
        ),
    ]


def _rows(values: dict[str, Array], digits: int) -> str:
    return "\n".join(f"{method}: {', '.join(f'{x:.{digits}f}' for x in row)}" for method, row in values.items())


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    mode_of = [torch.cdist(torch.from_numpy(seeds[0][method]["data"][-1]), modes()).argmin(1) for method in METHODS]

    def panels(name: str, rows: dict[str, str], limit: float) -> None:
        size = (2.9 * len(METHODS), 2.9 * len(rows) + 0.3)
        with figure(folder / name, len(rows), len(METHODS), size=size, squeeze=False) as (_, axes):
            for row, (title, field) in zip(axes, rows.items(), strict=True):
                for axis, method, color in zip(row, METHODS, mode_of, strict=True):
                    points = seeds[0][method][field][-1][:5000]
                    if field == "samples":
                        axis.plot(*points.T, "k.", markersize=1)
                    else:
                        axis.scatter(*points.T, s=1, c=color[:5000], cmap="nipy_spectral")
                    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
                    if axis in axes[0]:
                        axis.set_title(method, fontsize=11)
                row[0].set_ylabel(title)

    panels("fig_5_6.png", {"reconstructions": "reconstructions", "samples": "samples"}, 5.5)
    panels("fig_c_1.png", {"embeddings": "codes"}, 3.5)


EXPERIMENT = Experiment(
    figures=("5.6", "C.1"),
    summary="Adversarially learned inference reconstructs better if samples keep information on their codes.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
