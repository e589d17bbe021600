"""The criteria of table 5.3, and its figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...frame.criteria import Finding, deviation, enough
from ...frame.figures import figure, of_seeds
from .settings import ENCODERS, MODELS, Settings

Results = dict[str, dict[str, Any]]
"""By model: test error in percent; where it is measured, the information in nats."""


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
    title = f"test error ({of_seeds(len(seeds), 'mean and standard deviation of')}) and information of each seed"
    with figure(folder / "table_5_3.png", 1, 2, title=title, size=(9.6, 4.8)) as (_, (left, right)):
        rows = np.arange(len(MODELS))
        values = np.array([[seed[name]["error"] for seed in seeds] for name in MODELS])
        left.errorbar(values.mean(1), rows, xerr=deviation(values.T), fmt="o", capsize=2, label="measured")
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
