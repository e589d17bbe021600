"""Features align with the easy examples first (Fig. 4.4), the more so the deeper the network (Fig. B.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from probes_ntk import TangentKernel

from ..frame.classification import Samples, Training, classify, kernel_schedule, random_labels, series, standardized
from ..frame.criteria import Array, Finding
from ..frame.data import fashion_mnist, mnist, mnist_subset
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, log_steps
from ..frame.models import MLP, kaiming
from ..frame.task import Task

KINDS = {"random": "digits with random labels", "clothes": "clothes (Fashion-MNIST) among digits"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An MLP on easy digits and fewer difficult images; depth counts its linear layers."""

    num_easy: int = 10_000
    num_difficult: int = 1000
    num_kernel: int = 100
    steps: int = 20_000
    width: int = 80
    depth: int = 7
    learning_rate: float = 0.02
    depths: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9)
    depths_width: int = 60
    depths_learning_rate: float = 0.01
    depths_steps: int = 20_000


PRESETS = {
    "smoke": Preset(
        Settings(
            num_easy=1000,
            num_difficult=100,
            num_kernel=10,
            steps=12,
            width=16,
            depth=4,
            depths=(2, 3),
            depths_width=16,
            depths_steps=12,
        ),
        seeds=(0,),
        duration="10 s",
        judged=False,
    ),
    "quick": Preset(Settings(steps=1200, depths=(3, 6, 9), depths_steps=2000), seeds=(0, 1, 2), duration="4 min"),
    "paper": Preset(Settings(), seeds=(0, 1, 2, 3, 4), duration="2 h"),
}


def parts(settings: Settings) -> dict[str, tuple[str, int, int, float, int]]:
    """Kind, depth, width, learning rate and steps of each network."""
    both = {kind: (kind, settings.depth, settings.width, settings.learning_rate, settings.steps) for kind in KINDS}
    return both | {
        f"depth {depth}": (
            "random",
            depth,
            settings.depths_width,
            settings.depths_learning_rate,
            settings.depths_steps,
        )
        for depth in settings.depths
    }


def sets(settings: Settings, kind: str, seed: int) -> tuple[Samples, Samples]:
    """Easy and difficult samples."""
    total = settings.num_easy + settings.num_difficult
    images, labels = mnist(n=total, seed=seed) if total > 2000 else mnist_subset()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    easy, difficult = images[: settings.num_easy], images[settings.num_easy : total]
    hard = labels[settings.num_easy : total]
    if kind == "clothes":
        if total > 2000:
            difficult, hard = fashion_mnist(n=settings.num_difficult, seed=seed)
        else:  # a trial without download: digits upside down
            difficult = difficult.flip(2)
        mixed = torch.randperm(len(hard), generator=torch.Generator().manual_seed(seed))
        difficult, hard = difficult[mixed], hard[mixed]
    else:
        hard = random_labels(hard, 1.0, seed)
    return (
        Samples(standardized(easy, images), labels[: settings.num_easy]),
        Samples(standardized(difficult, images), hard),
    )


def train(settings: Settings, task: Task) -> None:
    for name, (kind, depth, width, rate, steps) in parts(settings).items():
        easy, difficult = sets(settings, kind, task.seed)
        torch.manual_seed(task.seed)
        model = MLP(784, width, depth, 10)
        kaiming(model)
        together = Samples(*(torch.cat(pair) for pair in zip(easy, difficult, strict=True)))
        batches = {"easy": easy.first(settings.num_kernel), "difficult": difficult.first(settings.num_kernel)}
        kernel = TangentKernel(kernel_schedule(), num_samples=settings.num_kernel)
        classify(task.part(name), model, together, Training(rate, steps), batches, [kernel])


def read(settings: Settings, folder: Path, seed: int) -> dict[str, dict[str, Array]]:
    names = ["ntk/alignment/easy", "ntk/alignment/difficult"]
    return {name: series(folder / name / "log", names) for name in parts(settings)}


def judge(settings: Settings, seeds: Sequence[dict[str, dict[str, Array]]]) -> list[Finding]:
    random = [seed["random"] for seed in seeds]
    late = [(run["step"] >= 600) & (run["step"] <= 1200) for run in random]
    easy = [float(run["ntk/alignment/easy"][when].min(initial=1)) for run, when in zip(random, late, strict=True)]
    ratio = [
        float((run["ntk/alignment/easy"] / run["ntk/alignment/difficult"])[when].min(initial=np.inf))
        for run, when in zip(random, late, strict=True)
    ]
    reached = {
        kind: [
            {batch: _first(seed[kind]["step"], seed[kind][f"ntk/alignment/{batch}"]) for batch in ("easy", "difficult")}
            for seed in seeds
        ]
        for kind in KINDS
    }
    passed = [
        share >= 4 and value >= 0.1 and first["easy"] < first["difficult"]
        for share, value, first in zip(ratio, easy, reached["random"], strict=True)
    ]
    highest = {depth: [_highest_ratio(seed[f"depth {depth}"]) for seed in seeds] for depth in settings.depths}
    means = [float(np.mean(values)) for values in highest.values()]
    return [
        Finding(
            "Fig. 4.4, left: alignment of easy digits and of random labels",
            "rises faster and higher on the easy ones",
            f"steps 600 to 1200, easy / difficult at least {_list(ratio)}\neasy at least {_list(easy)}\n"
            f"0.1 reached at {_reached(reached['random'])}",
            "ratio >= 4, easy >= 0.1 at all measured steps from 600 to 1200; easy reaches 0.1 first; every seed",
            all(passed),
            {"ratio": ratio, "easy": easy, "reached": reached["random"], "passed": passed},
        ),
        Finding(
            "Fig. 4.4, right: steps at which alignment reaches 0.1 on digits and on clothes",
            "later on the difficult ones (KMNIST there)",
            _reached(reached["clothes"]),
            values=reached["clothes"],
        ),
        Finding(
            "Fig. B.7: highest ratio easy / difficult by depth",
            "grows with depth",
            "\n".join(f"{depth} layers: {_list(values)}" for depth, values in highest.items())
            + f"\nmeans {_list(means)}: {'grows' if (np.diff(means) > 0).all() else 'does not grow'} with depth",
            values={str(depth): values for depth, values in highest.items()},
        ),
    ]


def _first(steps: Array, values: Array) -> float:
    above = np.flatnonzero(values >= 0.1)
    return float(steps[above[0]]) if len(above) else np.inf


def _highest_ratio(run: dict[str, Array]) -> float:
    return float((run["ntk/alignment/easy"] / run["ntk/alignment/difficult"]).max())


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _reached(firsts: Sequence[dict[str, float]]) -> str:
    def word(step: float) -> str:
        return f"{step:.0f}" if np.isfinite(step) else "never"

    return "; ".join(f"{word(first['easy'])} easy, {word(first['difficult'])} difficult" for first in firsts)


def draw(settings: Settings, seeds: Sequence[dict[str, dict[str, Array]]], folder: Path) -> None:
    depths = {f"depth {depth}": f"{depth} layers" for depth in settings.depths}
    for path, size, panels in (
        (folder / "fig_4_4.png", (10, 4), KINDS),
        (folder / "fig_b_7.png", (3.2 * len(depths), 3.4), depths),
    ):
        with figure(path, 1, len(panels), size=size, font=11, boxed=False, sharey=True, squeeze=False) as (_, axes):
            for axis, (name, words) in zip(axes[0], panels.items(), strict=True):
                for number, seed in enumerate(seeds):
                    run = seed[name]
                    for batch, color in (("easy", "C0"), ("difficult", "C3")):
                        label = batch if not number else None
                        axis.plot(run["step"], run[f"ntk/alignment/{batch}"], color=color, label=label, alpha=0.8)
                axis.set(xlabel="training step", title=words)
                log_steps(axis)
            axes[0, 0].set_ylabel("alignment with the labels")
            axes[0, 0].legend()


EXPERIMENT = Experiment(
    figures=("4.4", "B.7"),
    summary="Features align with the easy examples first.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
