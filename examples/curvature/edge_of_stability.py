"""Full-batch training sharpens until its step is barely stable, and stays there (Cohen et al. 2021 and 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

from probes import ProbeManager, every, open_run
from probes.batches import Batch
from probes_curvature import Curvature

from ..frame.criteria import Array, Finding
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, of_seeds
from ..frame.task import Task

DESCENT, FLOW, ADAM = "gradient descent", "small steps", "Adam"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A network of tanh learns to tell some of scikit-learn's 8 x 8 digits, by squares, on all of them at once."""

    num_samples: int = 300
    width: int = 100
    rates: tuple[float, ...] = (0.4, 0.2, 0.1)
    steps: int = 6000
    flow_rate: float = 0.025
    """Of the control, which trains for as long as the smallest of ``rates``: rate times steps is the same."""
    adam_rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    adam_steps: int = 3000
    measure_every: int = 50


PRESETS = {
    "smoke": Preset(
        Settings(num_samples=40, width=8, rates=(0.4,), steps=40, flow_rate=0.2, adam_rates=(1e-2,), adam_steps=40,
                 measure_every=10),
        seeds=(0,), duration="5 s", judged=False,
    ),
    "quick": Preset(Settings(), seeds=(0, 1, 2), duration="10 min", least_seeds=3),
    "paper": Preset(Settings(num_samples=1000, width=200, steps=20_000, adam_steps=10_000), seeds=(0, 1, 2),
                    duration="3 h", least_seeds=3),
}  # fmt: skip


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the one-hot label, the mean over samples."""
    return (outputs - targets).square().sum(1).mean() / 2


def trainings(settings: Settings) -> Iterator[tuple[str, str, float, int]]:
    """Of each training its name, its kind, its learning rate and its steps."""
    for rate in settings.rates:
        yield f"{DESCENT} {rate:g}".replace(" ", "_"), DESCENT, rate, settings.steps
    same = round(min(settings.rates) * settings.steps / settings.flow_rate)
    yield FLOW.replace(" ", "_"), FLOW, settings.flow_rate, same
    for rate in settings.adam_rates:
        yield f"{ADAM}_{rate:g}", ADAM, rate, settings.adam_steps


def train(settings: Settings, task: Task) -> None:
    digits = load_digits()
    chosen = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(task.seed))
    chosen = chosen[: settings.num_samples]
    x = torch.tensor(digits.data / 16 - 0.5, dtype=torch.float32)[chosen].to(task.device)
    y = nn.functional.one_hot(torch.tensor(digits.target)[chosen], 10).float().to(task.device)
    for name, kind, rate, steps in trainings(settings):
        part = task.part(name)
        torch.manual_seed(task.seed)
        width = settings.width
        model = nn.Sequential(
            nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)
        ).to(task.device)
        parameters = model.parameters()
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(parameters, lr=rate) if kind == ADAM else torch.optim.SGD(parameters, lr=rate)
        )
        between = settings.measure_every * max(1, steps // (settings.steps if kind != ADAM else steps))
        manager = ProbeManager(
            model,
            probes=[Curvature(every(between), eigenvalues=1, loss=squares)],
            batches={"train": Batch((x,), targets=y)},
            log_dir=part.log_dir,
            overhead=None,
            seed=task.seed,
            on_error="raise",
            quiet=True,
        )
        part.resume(model=model, optimizer=optimizer, probes=manager)
        with manager.attach(optimizer):
            for _ in part.steps(steps):
                optimizer.zero_grad()
                squares(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def read(settings: Settings, folder: Path, seed: int) -> dict[str, Array]:
    """Of each training steps, sharpness and threshold. Shape ``(T, 3)``."""
    found = {}
    for name, *_ in trainings(settings):
        lines = open_run(folder / name / "log")["curvature/sharpness/train"]
        found[name] = np.column_stack([lines["step"].to_numpy(), lines["value"].to_numpy()])
    return found


def ratios(lines: Array) -> Array:
    """Sharpness over threshold, where training is in its last half."""
    late: Array = lines[lines[:, 0] >= lines[-1, 0] / 2]
    ratio: Array = late[:, 1] / late[:, 2]
    return ratio


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    findings = []
    for kind, words, published in (
        (DESCENT, "2 / lr", "just above 1"),
        (ADAM, "38 / lr, of the preconditioned Hessian", "about 1"),
    ):
        chosen = [(name, rate) for name, each, rate, _ in trainings(settings) if each == kind]
        held = {rate: [ratios(seed[name]) for seed in seeds] for name, rate in chosen}
        starts = {rate: [seed[name][1, 1] / seed[name][1, 2] for seed in seeds] for name, rate in chosen}
        means = [float(each.mean()) for per in held.values() for each in per]
        inside = [bool(np.all(np.abs(each - 1) <= 0.15)) for per in held.values() for each in per]
        findings.append(
            Finding(
                f"{kind}: sharpness over {words}, in the last half of training",
                published,
                "; ".join(
                    f"lr {rate:g}: {np.mean(np.concatenate(per)):.3f} ({min(map(np.min, per)):.3f} to "
                    f"{max(map(np.max, per)):.3f}), at first {np.mean(starts[rate]):.2f}"
                    for rate, per in held.items()
                ),
                "every value within 15 % of 1, in all trainings",
                all(inside),
                {"means": means, "inside": inside},
            )
        )
    flow = next(name for name, kind, *_ in trainings(settings) if kind == FLOW)
    passed = [float(seed[flow][-1, 1] * rate / 2) for rate in settings.rates for seed in seeds]
    own = [float(seed[flow][-1, 1] / seed[flow][-1, 2]) for seed in seeds]
    findings.append(
        Finding(
            f"control, steps of {settings.flow_rate:g} for the same time: last sharpness over 2 / lr of the others",
            "does not stop there",
            f"{min(passed):.2f} to {max(passed):.2f}; over its own {min(own):.2f} to {max(own):.2f}",
            "above 1.15 for every lr and seed",
            min(passed) > 1.15,
            passed,
        )
    )
    return findings


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    title = "sharpness rises to what the step size can stand, and stays there"
    with figure(folder / "edge_of_stability.png", 1, 2, title=title, size=(10, 4.2)) as (_, (left, right)):
        colors: dict[tuple[str, float], str] = {}
        for name, kind, rate, _ in trainings(settings):
            axes = right if kind == ADAM else left
            color = "0.5" if kind == FLOW else colors.setdefault((kind, rate), f"C{len(colors)}")
            for index, seed in enumerate(seeds):
                steps, sharpness, threshold = seed[name].T
                time = steps if kind == ADAM else steps * rate
                label = ("small steps" if kind == FLOW else f"lr {rate:g}") if not index else None
                axes.plot(time, sharpness, color=color, linewidth=0.9, label=label)
            if kind != FLOW:
                axes.axhline(float(threshold[-1]), color=color, linestyle=":", linewidth=1)
        left.set(xlabel="learning rate x steps", ylabel="largest eigenvalue of the Hessian", yscale="log")
        right.set(xlabel="steps", ylabel="of the preconditioned Hessian", yscale="log")
        left.set_title(f"gradient descent; dotted: 2 / lr\n{of_seeds(len(seeds), 'a line for each of')}")
        right.set_title(f"Adam; dotted: 38 / lr\n{of_seeds(len(seeds), 'a line for each of')}")
        left.legend()
        right.legend(loc="upper right", bbox_to_anchor=(1, 0.86))  # between the lines


EXPERIMENT = Experiment(
    figures=(),
    summary="Full-batch training sharpens until its step is barely stable, and stays there: Cohen et al. (2021, 2022).",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures=(
        "Gradient descent is that of Cohen et al. (2021), full-batch Adam that of Cohen et al. "
        "(2022), both on CIFAR-10 there; here small digits and a network of 17,000 parameters."
    ),
)
