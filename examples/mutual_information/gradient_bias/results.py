"""The criteria of eq. 12, and its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...frame.criteria import Array, Finding, clearly_above_zero, enough
from ...frame.figures import figure, of_seeds
from ...spectral_bias.arrays import log_slope, spread
from .settings import Settings

Results = Mapping[str, Array]
"""What ``measures.py`` returns. The last axis: a norm in units of that of the gradient, and its standard error."""


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    own = settings.rates[-1]
    plain = np.array([seed["by_size"][:, 0, 0] for seed in seeds])
    slopes = [slope(settings.batch_sizes, row) for row in plain]
    shares = np.array([share(seed["by_size"]).max() for seed in seeds])
    by_rate = np.array([seed["by_rate"][:, 0] for seed in seeds])
    rates = [slope(settings.rates, row) for row in by_rate]
    lag = np.array([share(seed["lag"]) for seed in seeds])
    gains = [float(seed["errors"][0] - seed["errors"][1]) for seed in seeds]
    return [
        Finding(
            f"eq. 12: bias of the gradient, batches of {_list(settings.batch_sizes)}",
            "biased",
            f"{_list(plain.mean(0), '.1%')} of the gradient; slope {spread(slopes)} in the batch size",
            "slope -1 ± 0.15 (noise alone has -0.5), four of five seeds",
            enough([abs(slope + 1) <= 0.15 for slope in slopes]),
            {"bias": plain, "slope": slopes},
        ),
        Finding(
            f"The same with a moving average of rate {own:g}, over that without one",
            "reduced",
            f"at most {spread(shares, 3)}, with a standard error added",
            "<= 0.1 at every batch size, four of five seeds",
            enough(list(shares <= 0.1)),
            shares,
        ),
        Finding(
            f"Bias with averages of rates {_list(settings.rates)}, batches of {settings.batch_size}",
            "arbitrarily small for small learning rates",
            f"{_list(by_rate.mean(0), '.2%')} of the gradient; slope {spread(rates)} in the rate",
            "slope 1 ± 0.15, four of five seeds",
            enough([abs(slope - 1) <= 0.15 for slope in rates]),
            {"bias": by_rate, "slope": rates},
        ),
        Finding(
            f"Bias of a network that moves, with an average of rate {own:g} over its past, over that without one; "
            f"learning rates {_list(settings.learning_rates)}",
            "arbitrarily small for small learning rates",
            _list(np.median(lag, 0), ".2f"),
            "<= 0.1 at the smallest, four of five seeds",
            enough(list(lag[:, -1] <= 0.1)),
            lag,
        ),
        Finding(
            f"Error of the information after training with batches of {settings.estimate_batch}, in nats",
            "the moving average improves all-around performance",
            f"smaller by {spread(gains, 3)} of {np.mean([seed['errors'][0] for seed in seeds]):.3f}; without it MINE "
            f"is below zero, told as zero, in {sum(bool(seed['useless'][0]) for seed in seeds)} of {len(seeds)} seeds",
            "smaller by more than a standard error",
            clearly_above_zero(gains),
            {"without, with": [seed["errors"] for seed in seeds]},
        ),
    ]


def slope(x: Sequence[float], y: Array) -> float:
    """Of log y over log x; NaN, which passes nothing, where a norm is lost in its noise."""
    return log_slope(x, y) if (y > 0).all() else float("nan")


def share(pairs_of_norms: Array) -> Array:
    """Of ``(n, 2, 2)`` norms without and with an average and their errors: the second over the first, at its worst."""
    (plain, error), (other, other_error) = pairs_of_norms.transpose(1, 2, 0)
    worst: Array = np.full(len(plain), np.inf)
    np.divide(other + other_error, plain - error, out=worst, where=plain > error)
    return worst


def _list(values: Sequence[float] | Array, form: str = "g") -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    own = f"with a moving average of rate {settings.rates[-1]:g}"
    rows = (
        ("by_size", settings.batch_sizes, "batch size", ("mini-batches alone", own)),
        ("by_rate", settings.rates, "rate of the moving average", (f"batches of {settings.batch_size}",)),
        ("lag", settings.learning_rates, "learning rate of a network that moves", ("mini-batches alone", own)),
    )
    title = f"bias of MINE's gradient ({of_seeds(len(seeds))})"
    with figure(folder / "eq_12.png", 2, 2, title=title, size=(8.6, 6.8), sharey=True) as (picture, grid):
        axes = [grid[0, 0], grid[0, 1], grid[1, 0]]
        grid[1, 1].remove()
        for axis, (name, x, label, words) in zip(axes, rows, strict=True):
            norms = np.array([seed[name][..., 0] for seed in seeds]).reshape(len(seeds), len(x), -1)
            for index, word in enumerate(words):
                values, color = norms[..., index], f"C{index + 2 - len(words)}"
                axis.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
                axis.loglog(x, values.mean(0), "o-", color=color, label=word)
            if name != "lag":
                power = -1.0 if name == "by_size" else 1.0
                line = norms[..., 0].mean(0)[0] * (np.array(x) / x[0]) ** power
                axis.loglog(x, line, "k:", label="slope of -1" if power < 0 else "slope of 1")
            axis.set_xlabel(label)
            axis.set_xticks(x, [f"{value:g}" for value in x])
            axis.minorticks_off()
            axis.legend(fontsize=9)
        beside = axes[2].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.05, 0.5))  # where there is no panel
        beside.set_in_layout(False)
        picture.supylabel("norm of the bias / norm of the gradient", fontsize=10)
