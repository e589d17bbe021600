"""What an experiment is: presets of settings, and functions that train, read, judge and draw."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .. import EXPERIMENTS
from .criteria import Finding
from .task import Task

__all__ = ["Experiment", "Preset", "experiment"]

S = TypeVar("S")
"""Settings of an experiment, a frozen dataclass."""
R = TypeVar("R")
"""What an experiment reads back from the files of one seed."""


@dataclass(frozen=True)
class Preset(Generic[S]):
    """Settings, how many seeds, and what to expect of them."""

    settings: S
    seeds: tuple[int, ...]
    duration: str
    """Of all seeds, on one CPU thread."""
    judged: bool = True
    """Whether the criteria mean something at these settings."""
    least_seeds: int = 1
    """The fewest seeds that the criteria mean something for: of fewer all is reported, and nothing judged."""


@dataclass(frozen=True)
class Experiment(Generic[S, R]):
    """One experiment: four functions, each given the settings."""

    figures: tuple[str, ...]
    """What of the thesis it reproduces, as in "3.4", "A.13", "T5.2" (a table), "Thm 3.3", "eq. 15"."""
    summary: str
    presets: Mapping[str, Preset[S]]
    """``smoke``, ``quick``, ``paper``; where that takes days, some have ``large``: two hours on two cores; one is
    of another data set, ``kmnist``."""
    train: Callable[[S, Task], None]
    """Trains the networks of one seed with probes attached."""
    read: Callable[[S, Path, int], R]
    """Reads what the probes wrote into the folder of one seed."""
    judge: Callable[[S, Sequence[R]], list[Finding]]
    draw: Callable[[S, Sequence[R], Path], None]
    """Draws the figures into a folder."""
    departures: str = ""
    """Where it departs from the thesis and why, and what was found to be wrong in what was published."""
    threads: int | None = 1
    """CPU threads: the matrices of most experiments are so small that a second thread only costs. None for all."""

    def preset(self, name: str) -> Preset[S]:
        """The preset of that name.

        Raises:
            ValueError: If there is none.
        """
        if name not in self.presets:
            raise ValueError(f"There is no preset {name!r}. Presets: {', '.join(self.presets)}.")
        return self.presets[name]


def experiment(name: str) -> Experiment[Any, Any]:
    """The experiment of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"No experiment is named {name!r}. Experiments: {', '.join(EXPERIMENTS)}.")
    found: Experiment[Any, Any] = importlib.import_module(f"..{EXPERIMENTS[name]}", __package__).EXPERIMENT
    return found
