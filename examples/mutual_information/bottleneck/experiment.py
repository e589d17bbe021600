"""Information bottleneck on permutation-invariant MNIST, compressed by MINE, against other regularizers (Table 5.3)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from probes_mine import DenseStatistics, Mine, MutualInformationRegularizer, normal_scores

from ...frame.criteria import Finding, enough
from ...frame.data import mnist, mnist_subset
from ...frame.figures import figure
from ...frame.runner import Experiment, Preset
from ...frame.task import Task

PIXELS, CLASSES = 784, 10


@dataclass(frozen=True)
class Model:
    """One row of the table: where noise enters the encoder, and what is added to the cross-entropy."""

    noise: str = ""
    """``"gaussian"``: z = mean(x) + e, ``"learned"`` with std(x) e; ``"additive"``: enc(x + std e); ``"propagated"``:
    enc([x, e]); several with commas between them."""
    published: str = ""
    compression: str = ""
    """``"mine"``, or ``"variational"`` for the divergence from a standard normal."""
    dropout: float = 0.0
    label_smoothing: float = 0.0
    confidence_penalty: float = 0.0


# The source states no rate of dropout, no smoothing and no weight of the penalty.
MODELS = {
    "baseline": Model("", "1.38"),
    "dropout": Model("", "1.34", dropout=0.5),
    "confidence penalty": Model("", "1.36", confidence_penalty=0.1),
    "label smoothing": Model("", "1.40", label_smoothing=0.1),
    "DVB": Model("gaussian, learned", "1.13", "variational"),
    "DVB + additive noise": Model("gaussian, learned, additive", "1.06", "variational"),
    "MINE (Gaussian)": Model("gaussian", "1.11", "mine"),
    "MINE (propagated)": Model("propagated", "1.10", "mine"),
    "MINE (additive)": Model("additive", "1.01", "mine"),
    "Gaussian, beta = 0": Model("gaussian"),
    "propagated, beta = 0": Model("propagated"),
    "additive, beta = 0": Model("additive"),
}
ENCODERS = ("Gaussian", "propagated", "additive")
"""Those that are trained without a compression and with MINE."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As Alemi et al. (2016), to which the thesis refers for all but the statistics network."""

    units: int = 1024
    """Of the two hidden layers of the encoder."""
    code: int = 256
    """Numbers of z."""
    beta: float = 1e-3
    variational_beta: float = 1e-3
    epochs: int = 200
    learning_rate: float = 1e-4
    batch_size: int = 100
    samples: int = 12
    """Of z, over which the predicted probabilities of a test image are averaged."""
    statistics: tuple[int, ...] = (512, 512)
    # The source states none of these.
    critic_steps: int = 5
    critic_rate: float = 1e-3
    input_noise: float = 0.5
    """Standard deviation of the additive noise, of images in [-1, 1]."""
    propagated: int = 256
    """Numbers of e in enc([x, e])."""
    fresh_steps: int = 5000
    """Of a critic that is trained only to measure."""
    mnist: bool = True
    """False for 1,000 + 1,000 digits that need no download."""


# In so few epochs a beta of 1e-3 changes nothing that could be measured: those of the quick preset, and its learning
# rate, were chosen on another seed.
PRESETS = {
    "smoke": Preset(
        Settings(units=16, code=8, epochs=1, samples=2, statistics=(8,), fresh_steps=2, mnist=False),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(
            units=512,
            code=64,
            beta=0.1,
            epochs=4,
            learning_rate=1e-3,
            statistics=(256, 256),
            critic_steps=3,
            fresh_steps=600,
        ),
        seeds=(0,),
        duration="15 min",
    ),
    "paper": Preset(Settings(), seeds=tuple(range(10)), duration="14 days"),
}

Results = dict[str, dict[str, Any]]
"""By model: test error in percent; where it is measured, the information in nats."""


class Network(nn.Module):
    """An encoder of two hidden layers, and a linear classifier of its code.

    The thesis writes the Gaussian code as mean(x) + std e; the std is 1 here, of which the code of the DVB, as in
    Alemi et al., has one for each x. By MINE that one cannot be trained: what the critic finds falls as mean and std
    shrink together, while the information rises.
    """

    def __init__(self, noise: str, settings: Settings, dropout: float = 0.0) -> None:
        super().__init__()
        self.noise = {
            "additive": PIXELS if "additive" in noise else 0,
            "propagated": settings.propagated if "propagated" in noise else 0,
            "gaussian": settings.code if "gaussian" in noise else 0,
        }
        self.learned, self.input_noise = "learned" in noise, settings.input_noise
        units = settings.units
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS + self.noise["propagated"], units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, (1 + self.learned) * settings.code),
        )
        self.classifier = nn.Linear(settings.code, CLASSES)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """What :meth:`forward` takes as noise, standard normal, on the CPU."""
        return torch.randn(n, sum(self.noise.values()), generator=generator)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code z, and the mean and standard deviation of the Gaussian noise in it; 0 where there is none."""
        additive, propagated, gaussian = torch.split(noise, list(self.noise.values()), 1)
        if self.noise["additive"]:
            x = x + self.input_noise * additive
        out = self.encoder(torch.cat([x, propagated], 1))
        if not self.noise["gaussian"]:
            return out, out, torch.zeros_like(out)
        mean, std = out, torch.ones_like(out)
        if self.learned:
            mean, raw = out.chunk(2, 1)
            std = softplus(raw - 5)
        return mean + std * gaussian, mean, std


def train(settings: Settings, task: Task) -> None:
    images, labels, test_images, test_labels = (part.to(task.device) for part in data(settings))
    for name, model in MODELS.items():
        network = fit(settings, task.part(name), model, images, labels)
        path = task.folder / f"{name}.json"
        if path.exists():
            continue
        found: dict[str, Any] = {"error": error(settings, network, test_images, test_labels, task.seed)}
        if model.noise in ("gaussian", "propagated", "additive"):
            part = task.part(f"{name}, information")
            found["critic"] = critic_information(settings, part, network, images, test_images)
            if model.noise == "gaussian":
                found["lower"], found["upper"] = sandwich(*codes(network, test_images, generator(task.seed, 3, 0)))
            else:
                found["lower"] = moment_information(network, test_images, task.seed)
        path.write_text(json.dumps(found))


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


@torch.no_grad()
def error(settings: Settings, network: Network, images: Tensor, labels: Tensor, seed: int) -> float:
    """Share of wrong answers of the mean prediction over samples of z, in percent."""
    probabilities = torch.zeros(len(images), CLASSES, device=images.device)
    for sample in range(settings.samples):
        z, _, _ = codes(network, images, generator(seed, 2, sample))
        probabilities += network.classifier(z).softmax(1)
    return 100 * float((probabilities.argmax(1) != labels).double().mean())


@torch.no_grad()
def codes(network: Network, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = network(images, network.draw(len(images), generator).to(images.device))
    return found


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


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    entropy = np.random.SeedSequence((seed, purpose, number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)


def read(settings: Settings, folder: Path, seed: int) -> Results:
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in MODELS}


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    """The information is judged as a fresh MINE reads it on test images, the way it was minimized.

    Most of it escapes a critic, so what that reads may fall while the information stays. Bounds that need no critic are
    reported beside it: where they do not fall, the reading is no evidence that the information did.
    """
    findings = [
        Finding(
            f"Table 5.3: test error of {name}",
            f"{model.published} %" if model.published else "",
            f"{_list([seed[name]['error'] for seed in seeds])} %",
        )
        for name, model in MODELS.items()
    ]
    baseline = [seed["baseline"]["error"] for seed in seeds]
    for encoder in ENCODERS:
        without = [seed[f"{encoder}, beta = 0"] for seed in seeds]
        mine = [seed[f"MINE ({encoder})"] for seed in seeds]
        errors = [one["error"] for one in mine]
        findings.append(
            Finding(
                f"test error of MINE ({encoder}) - baseline",
                "lower",
                f"{_list([a - b for a, b in zip(errors, baseline, strict=True)], '+.2f')} points",
                "<= 0.2",
                enough([a <= b + 0.2 for a, b in zip(errors, baseline, strict=True)]),
                errors,
            )
        )
        least = [tightest(one) for one in without]
        if encoder == "Gaussian":  # with what is surely there at beta = 0, what is surely not more with MINE
            most, which = [one["upper"] for one in mine], "upper bound with MINE, lower bound without"
        else:
            most, which = [tightest(one) for one in mine], "lower bounds, the greater of two"
        shares = [1 - a / b for a, b in zip(most, least, strict=True)]
        rows = {"beta = 0": without, f"MINE, beta = {settings.beta:g}": mine}
        measured = [
            f"{label}: "
            + ", ".join(f"{words} {_list([one[key] for one in row])}" for key, words in BOUNDS.items() if key in row[0])
            for label, row in rows.items()
        ]
        findings.append(
            Finding(
                f"bounds of I(X; Z) without a critic, {encoder} encoder, in nats",
                "lower",
                "\n".join([f"lower by {_list([100 * share for share in shares], '.1f')} % ({which})", *measured]),
                values=shares,
            )
        )
        by_critic = [1 - a["critic"] / (b["critic"] or math.nan) for a, b in zip(mine, without, strict=True)]
        findings.append(
            Finding(
                f"I(X; Z) of test images as a fresh MINE reads it, {encoder} encoder",
                "lower",
                f"lower by {_list([100 * share for share in by_critic], '.1f')} %",
                "lower by >= 30 %",
                enough([share >= 0.3 for share in by_critic]),
                by_critic,
            )
        )
    return findings


BOUNDS = {"lower": "lower bound", "upper": "upper bound", "critic": "fresh MINE"}


def tightest(found: dict[str, float]) -> float:
    """The greater of the lower bounds, in nats."""
    return max(found["lower"], found["critic"])


def _list(values: Sequence[float], form: str = ".2f") -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    with figure(folder / "table_5_3.png", 1, 2, size=(11, 4.5)) as (_, (left, right)):
        rows = np.arange(len(MODELS))
        values = np.array([[seed[name]["error"] for seed in seeds] for name in MODELS])
        left.errorbar(values.mean(1), rows, xerr=values.std(1), fmt="o", capsize=2, label="measured")
        listed = [row for row, model in enumerate(MODELS.values()) if model.published]
        published = [float(model.published) for model in MODELS.values() if model.published]
        left.plot(published, listed, "kx", label="published (200 epochs)")
        left.set_yticks(rows, list(MODELS))
        left.set(xlabel="test error (%)")
        left.invert_yaxis()
        left.grid(axis="x", alpha=0.3)
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        places, names = np.arange(2 * len(ENCODERS)), []
        for place, encoder in enumerate(ENCODERS):
            for which, name in enumerate((f"{encoder}, beta = 0", f"MINE ({encoder})")):
                names.append(name)
                for index, (key, words) in enumerate(BOUNDS.items()):
                    if key in seeds[0][name]:
                        spots = [2 * place + which + 0.15 * (index - 1)] * len(seeds)
                        found = [seed[name][key] for seed in seeds]
                        right.plot(
                            found, spots, "<>o"[index], color=f"C{index}", label=words if not place + which else ""
                        )
        size = 10_000 if settings.mnist else 1000
        right.axvline(math.log(size), color="0.5", linestyle=":", label=f"log {size}")
        right.set_yticks(places, names)
        right.set(xlabel="I(X; Z) of test images (nats)", xscale="log")
        low, high = right.get_xlim()
        ticks = [tick for tick in (0.01, 0.1, 1, 2, 5, 10, 20, 100, 1000) if low <= tick <= high]
        right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        right.minorticks_off()
        right.invert_yaxis()
        right.grid(axis="x", alpha=0.3)
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


EXPERIMENT = Experiment(
    figure="Table 5.3",
    summary="Codes compressed by MINE tell digits as well as others, with less information about the images.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
