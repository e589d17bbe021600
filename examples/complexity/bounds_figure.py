"""The figure of the Rademacher bounds: bound, estimate and gap along trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..frame.criteria import Array
from ..frame.figures import figure
from .flows import METHODS, Learned

__all__ = ["draw"]


def draw(settings: Any, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    bound, estimate, gap, size = range(len(Learned._fields))
    shares = [f"{share:.0%} random labels" for share in settings.noise]
    flows = np.median(np.concatenate([seed["flows"] for seed in seeds]), axis=0)  # (methods, fields, T)
    flows[:, size] = np.arange(1, flows.shape[-1] + 1)
    methods = [METHODS[0], *(f"SuperNat, kappa: {method}" for method in METHODS[1:])]
    columns = (
        ("Thm 4.2, regressions (medians)", "step", methods, flows),
        ("Thm 4.2, networks", "length of the path", shares, seeds[0]["networks"]),
        ("Thm B.2, eq. 60, linear classifiers", "norm of the weights", shares, seeds[0]["classifiers"]),
    )
    ends = f", ends of {len(seeds)} as dots" if len(seeds) > 1 else ""
    words = f"Rademacher complexity and generalization gap (networks and classifiers: lines of one seed{ends})"
    with figure(folder / "bounds.png", 2, 3, title=words, size=(7.6, 4.6), font=7.5, sharex="col") as (_, axes):
        for column, (title, label, names, curves) in enumerate(columns):
            above, below = axes[:, column]
            for number, (name, values) in enumerate(zip(names, curves, strict=True)):
                above.semilogy(values[size], values[bound], color=f"C{number}", label=name)
                above.semilogy(values[size], values[estimate], ":", color=f"C{number}")
                below.plot(values[size], values[gap], color=f"C{number}")
                kind = ("", "networks", "classifiers")[column]
                for seed in seeds if kind else ():
                    end = seed[kind][number, :, -1]
                    above.plot(end[size], end[bound], "o", color=f"C{number}", markersize=4)
                    below.plot(end[size], end[gap], "o", color=f"C{number}", markersize=4)
            above.set_title(title)
            above.legend(loc="lower right" if column else "upper left", fontsize=7)
            above.yaxis.set_minor_formatter("")
            below.set(xlabel=label, xscale="linear" if column else "log")
        axes[0, 0].set_ylabel("bound (line), estimate (dotted)")
        axes[1, 0].set_ylabel("generalization gap:\nof squared errors, then of error shares")
        axes[0, 0].set_ylim(None, 6 * flows[:, bound].max())
