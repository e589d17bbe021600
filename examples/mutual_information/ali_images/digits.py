"""Adversarially learned inference reconstructs better when it maximizes mutual information: digits (Table 5.2)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, mse_loss

from probes import Measurement, Probe, ProbeManager, open_run
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule, every
from probes_mine import ConvolutionalStatistics, MutualInformationRegularizer

from ...frame.classification import Array
from ...frame.criteria import Finding
from ...frame.data import mnist, mnist_subset
from ...frame.figures import figure
from ...frame.runner import Experiment, Preset
from ...frame.task import Task
from ..generative import (
    Classifier,
    Discriminator,
    Generator,
    Image,
    Images,
    accuracy,
    convolutions,
    entropy,
    fit,
    generator_of,
    normal,
    sizes,
)

METHODS = ("ALI", "ALICE (l2)", "ALICE (adv.)", "ALI + MINE")
METRICS = {"error": "Euclidean error", "accuracy": "accuracy (%)", "ms_ssim": "MS-SSIM"}
PUBLISHED = {
    "digits": {
        "error": (14.24, 3.20, 5.20, 9.73),
        "accuracy": (45.95, 99.03, 98.17, 96.10),
        "ms_ssim": (0.97, 0.97, 0.98, 0.99),
    },
    "faces": {
        "error": (53.75, 8.01, 92.56, 36.11),
        "accuracy": (57.49, 32.22, 48.95, 76.08),
        "ms_ssim": (0.81, 0.93, 0.51, 0.99),
    },
}
"""Of the four methods."""
SHOWN = 10
"""Images in a row of the figure."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"leaky": partial(nn.LeakyReLU, 0.2), "elu": nn.ELU}
"""The slope is that of DCGAN; the tables do not state it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bidirectional networks between images in [-1, 1] and codes, by default those of tables C.4 to C.7.

    The source states neither the weight of the information nor the updates of the critic, here one for each of the
    discriminator by the same Adam; nor beta1, here that of DCGAN; nor how ALICE weighs reconstructions. The caption of
    table C.5 draws 256 numbers for a code, while its first row and table C.4 have 128.
    """

    methods: tuple[str, ...] = METHODS
    data: str = "digits"
    """``"digits"`` of MNIST, ``"faces"`` of CelebA; ``"subset"``, the 2,000 digits that come with the examples, or
    ``"noise"`` with random attributes, to try either."""
    image: Image = (1, 28, 28)
    """Digits smaller than 28 by 28 are averages of pixels."""
    z_size: int = 128
    channels: tuple[int, ...] = (64, 128, 256)
    dense: int = 1024
    critic: tuple[int, ...] = (64, 128, 256)
    critic_activation: str = "leaky"
    """``"leaky"`` or ``"elu"``."""
    beta: float = 1.0
    reconstruction: float = 1.0
    """Weight in ALICE of the mean squared error of pixels, or of the second discriminator."""
    learning_rate: float = 1e-4
    beta1: float = 0.5
    batch_size: int = 100
    steps: int = 50_000
    measure_every: int = 5000
    num_test: int = 10_000
    classifier_steps: int = 1200


PRESETS = {
    "smoke": Preset(
        Settings(
            data="subset",
            z_size=4,
            channels=(4, 8),
            dense=8,
            critic=(4,),
            batch_size=20,
            steps=4,
            measure_every=2,
            num_test=50,
            classifier_steps=10,
        ),
        seeds=(0,),
        duration="3 s",
        judged=False,
    ),
    "quick": Preset(
        # A quarter of the channels, half of the code and of the batch; the higher rate makes up for few steps.
        Settings(
            methods=("ALI", "ALI + MINE"),
            image=(1, 14, 14),
            z_size=64,
            channels=(16, 32),
            dense=128,
            critic=(16, 32),
            learning_rate=5e-4,
            batch_size=50,
            steps=2000,
            measure_every=250,
            num_test=2000,
        ),
        seeds=(0, 1, 2),
        duration="10 min",
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="170 h"),
}


class Faces:
    """The photographs of CelebA, the centre of 178 by 178 pixels in the given size; read by torchvision when asked for.

    Args:
        size: Height and width.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        root: Data folder; by default the environment variable ``PROBES_DATA``, else ``data``.

    Raises:
        FileNotFoundError: If the data set is not there.
    """

    def __init__(self, size: int, split: str, root: str | Path | None = None) -> None:
        from torchvision import datasets, transforms  # type: ignore[import-untyped]

        folder = Path(root if root is not None else os.environ.get("PROBES_DATA") or "data")
        steps = [transforms.CenterCrop(178), transforms.Resize(size), transforms.ToTensor()]
        try:
            self.data = datasets.CelebA(folder, split, target_type="attr", transform=transforms.Compose(steps))
        except RuntimeError as error:
            raise FileNotFoundError(
                f"CelebA is not in {folder.resolve() / 'celeba'}. From "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html download img_align_celeba.zip, unpack it there, and "
                "put beside it identity_CelebA.txt, list_attr_celeba.txt, list_bbox_celeba.txt, "
                "list_eval_partition.txt and list_landmarks_align_celeba.txt; or name by the environment variable "
                "PROBES_DATA the folder that holds celeba/."
            ) from error
        self.attributes: Tensor = self.data.attr.float()  # (n, 40), 0 or 1

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return 2 * torch.stack([self.data[index][0] for index in chosen.tolist()]) - 1


def load(settings: Settings, train: bool) -> tuple[Images, Tensor]:
    """Images and labels: classes of digits, the 40 attributes of faces."""
    if settings.data == "faces":
        faces = Faces(settings.image[1], "train" if train else "test")
        return faces, faces.attributes
    if settings.data == "noise":
        generator = generator_of(0, train)
        attributes = torch.randint(2, (100, 40), generator=generator).float()
        return 2 * torch.rand(100, *settings.image, generator=generator) - 1, attributes
    images, labels = mnist_subset() if settings.data == "subset" else mnist(train=train)
    return 2 * avg_pool2d(images, 28 // settings.image[1]) - 1, labels


class Encoder(nn.Module):
    """From an image and noise, which is laid over it as constant channels, to a code: tables C.4 and C.8.

    Example:
        >>> Encoder((1, 28, 28), 128, (64, 128, 256))(torch.zeros(2, 1, 28, 28), torch.zeros(2, 128)).shape
        torch.Size([2, 128])
    """

    def __init__(self, image: Image, z_size: int, channels: Sequence[int]) -> None:
        super().__init__()
        last, (height, width) = channels[-1], (sizes(side, len(channels))[-1] for side in image[1:])
        self.layers = nn.Sequential(
            *convolutions([image[0] + z_size, *channels], nn.ReLU),
            nn.Conv2d(last, last, (height, width)),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(last, z_size),
        )
        normal(self)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        maps = noise[:, :, None, None].expand(-1, -1, *x.shape[2:])
        z: Tensor = self.layers(torch.cat([x, maps], 1))
        return z


class Autoencoder(nn.Module):
    """Encoder and decoder; called, the reconstruction of images."""

    def __init__(self, image: Image, z_size: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(image, z_size, channels)
        self.decoder = Generator(image, z_size, channels)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x, noise))
        return reconstruction


class Fidelity(Probe):
    """How near reconstructions are to images: Euclidean distance, whether a classifier gives them the label, MS-SSIM.

    The distance is the norm of the difference of two images in [-1, 1], a choice: the source does not say how its is
    normalized.

    Args:
        classifier: Of images.
        images: In [-1, 1].
        labels: Of the images, as for :func:`~examples.generative.accuracy`.
        z_size: Numbers of a code, as many as of the encoder's noise.
    """

    def __init__(self, schedule: Schedule, classifier: nn.Module, images: Tensor, labels: Tensor, z_size: int) -> None:
        super().__init__(schedule)
        self.classifier, self.images, self.labels, self.z_size = classifier, images, labels, z_size

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        noise = torch.randn(len(self.images), self.z_size, generator=run.generator)
        parts = [torch.split(tensor, 500) for tensor in (self.images, noise)]
        with torch.no_grad():
            found = torch.cat(
                [run.forward(Batch((x.to(run.device), e.to(run.device)))).cpu() for x, e in zip(*parts, strict=True)]
            )
        n = len(found)
        error = (found - self.images).flatten(1).norm(dim=1).mean()
        right = 100 * accuracy(self.classifier, found, self.labels)
        similar = torch.cat(
            [ms_ssim((x + 1) / 2, (y + 1) / 2) for x, y in zip(parts[0], torch.split(found, 500), strict=True)]
        ).mean()
        yield Measurement("reconstruction/error", error, num_samples=n, description="mean Euclidean distance")
        yield Measurement("reconstruction/accuracy", right, unit="%", num_samples=n)
        yield Measurement("reconstruction/ms_ssim", similar, num_samples=n)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    r"""Multi-scale structural similarity of images in [0, 1], on as many scales of five as their size allows.

    .. math:: l_M^{w_M} \prod_{j=1}^M (cs_j)^{w_j}, \qquad l = \frac{2 \mu_x \mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1},
              \quad cs = \frac{2 \sigma_{xy} + C_2}{\sigma_x^2 + \sigma_y^2 + C_2}

    with moments under an 11 by 11 Gaussian window of width 1.5, each scale half the size of the one before, and the
    published weights of the scales that are left divided by their sum: an image of 14 by 14 has 1, of 28 by 28 has 2,
    of 64 by 64 has 3.

    Args:
        x: Shape ``(n, channels, height, width)``, at least 11 by 11.
        y: The same shape.

    Returns:
        At most 1, which is equality; dimensionless. Shape ``(n,)``.

    Reference:
        Wang, Simoncelli & Bovik, "Multi-scale structural similarity for image quality assessment", 2003, eq. 7.
    """
    line = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333][: 1 + int(np.log2(min(x.shape[2:]) / 11))]

    def mean(image: Tensor) -> Tensor:
        return conv2d(image, window.expand(image.shape[1], 1, 11, 11), groups=image.shape[1])

    value = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(weights):
        if scale:
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        mean_x, mean_y = mean(x), mean(y)
        covariance = mean(x * y) - mean_x * mean_y
        variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
        similar = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale == len(weights) - 1:
            similar = similar * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        # A negative mean has no fractional power.
        value = value * similar.mean((2, 3)).clamp(min=0) ** (weight / sum(weights))
    return value.mean(1)


def train(settings: Settings, task: Task) -> None:
    images, labels = load(settings, train=True)
    test, test_labels = load(settings, train=False)
    some = torch.arange(min(settings.num_test, len(test)))
    test, test_labels = test[some], test_labels[some]
    torch.manual_seed(task.seed)
    outputs = 10 if labels.ndim == 1 else labels.shape[1]
    classifier = Classifier(settings.image, outputs).to(task.device)
    fit(task.part("classifier"), classifier, images, labels, settings.classifier_steps)
    for method in settings.methods:
        adversaries(
            settings,
            task.part(method),
            method,
            images,
            Fidelity(every(settings.measure_every), classifier, test, test_labels, settings.z_size),
        )
    found = {"accuracy": 100 * accuracy(classifier, test, test_labels)}
    (task.folder / "classifier.json").write_text(json.dumps(found))


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


@dataclass(frozen=True)
class Model:
    """What was measured at T steps of one method, and its pictures at the end."""

    steps: Array  # (T,)
    metrics: dict[str, Array]  # (T,) each
    pictures: dict[str, Array]  # (SHOWN, channels, height, width), in [-1, 1]


@dataclass(frozen=True)
class Results:
    """One seed."""

    accuracy: float
    """Of the classifier on the test images themselves, %."""
    models: dict[str, Model]


def read(settings: Settings, folder: Path, seed: int) -> Results:
    models = {}
    for method in settings.methods:
        run = open_run(folder / method / "log")
        metrics = {name: run[f"reconstruction/{name}"]["value"].to_numpy() for name in METRICS}
        steps = run["reconstruction/error"]["step"].to_numpy()
        models[method] = Model(steps, metrics, dict(np.load(folder / method / "pictures.npz")))
    return Results(json.loads((folder / "classifier.json").read_text())["accuracy"], models)


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    values = {
        name: {method: [float(seed.models[method].metrics[name][-1]) for seed in seeds] for method in settings.methods}
        for name in METRICS
    }
    mean = {name: {method: float(np.mean(row)) for method, row in rows.items()} for name, rows in values.items()}
    ali, mine = "ALI", "ALI + MINE"
    verdicts: dict[str, tuple[str, bool | None]] = {
        "error": ("mean of ALI + MINE < ALI", mean["error"][mine] < mean["error"][ali]),
        "accuracy": ("mean of ALI + MINE >= ALI + 10 points", mean["accuracy"][mine] >= mean["accuracy"][ali] + 10),
        "ms_ssim": ("", None),
    }
    of_digits = settings.data in ("digits", "subset")
    if not of_digits:
        verdicts["accuracy"] = "", None  # of attributes that nine faces in ten may share
    findings = []
    for name, label in METRICS.items():
        digits = {"error": 2, "accuracy": 1, "ms_ssim": 3}[name]
        published = PUBLISHED["digits" if of_digits else "faces"][name]
        measured = [
            f"{method}: {mean[name][method]:.{digits}f} ({', '.join(f'{one:.{digits}f}' for one in row)})"
            for method, row in values[name].items()
        ]
        findings.append(
            Finding(
                f"Table 5.2: {label} of reconstructions",
                "\n".join(f"{method}: {value}" for method, value in zip(METHODS, published, strict=True)),
                "\n".join(measured),
                *verdicts[name],
                values[name],
            )
        )
    own = [seed.accuracy for seed in seeds]
    findings.append(
        Finding(
            "Accuracy of the classifier on the images themselves (%)",
            "",
            ", ".join(f"{x:.1f}" for x in own),
            values=own,
        )
    )
    return findings


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    first = seeds[0].models
    rows = {"images": first["ALI"].pictures["images"]}
    rows |= {method: model.pictures["reconstructions"] for method, model in first.items()}
    rows |= {f"{method}, samples": model.pictures["samples"] for method, model in first.items()}
    with figure(folder / "reconstructions.png", len(rows), size=(7.5, 0.65 * len(rows)), tight=True) as (_, axes):
        for axis, (label, pictures) in zip(axes, rows.items(), strict=True):
            strip = (np.concatenate(list(pictures), axis=2).transpose(1, 2, 0) + 1) / 2
            axis.imshow(strip[..., 0] if strip.shape[2] == 1 else strip, cmap="gray", vmin=0, vmax=1, aspect="equal")
            axis.set(xticks=[], yticks=[])
            axis.set_ylabel(label, rotation=0, ha="right", va="center")

    with figure(folder / "table_5_2.png", 1, len(METRICS), size=(12, 3.6)) as (picture, axes):
        for axis, (name, label) in zip(axes, METRICS.items(), strict=True):
            for index, method in enumerate(settings.methods):
                curves = np.stack([seed.models[method].metrics[name] for seed in seeds])
                axis.plot(first[method].steps, curves.mean(0), color=f"C{index}", label=method)
                axis.fill_between(
                    first[method].steps, curves.min(0), curves.max(0), color=f"C{index}", alpha=0.15, lw=0
                )
            axis.set(xlabel="step", ylabel=f"{label} of reconstructions")
        axes[0].legend(fontsize=8)
        picture.suptitle(f"mean and range of {len(seeds)} seeds" if len(seeds) > 1 else "one seed", fontsize=10)


EXPERIMENT = Experiment(
    figure="Table 5.2 (MNIST)",
    summary="Adversarially learned inference reconstructs digits better when it maximizes mutual information.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
