"""The arguments of a ProbeManager, looked at once, before anything relies on them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from ..batches import Batch, as_batch
from ..budget.governor import HEAD_START, Governor
from ..guard.process import random_states_kept
from ..guard.unnoticed import unnoticed
from ..measurement import NAME
from ..picking import pick_output
from ..probe import Probe
from ..run import Run
from .discovery import DEFAULT_SINKS, BrokenPlugin, default_names, load, rivals
from .plugins import OnError, Plugin, has_hooks, text_of
from .watchdog import DEADLINE

__all__ = ["Settings", "Watcher", "check_batches", "read_batches", "watchers"]

_BATCHES_ARE = "What is measured on goes to batches={'train': (inputs, targets)}."


@dataclass
class Settings:
    """What a :class:`~probes.manager.ProbeManager` takes, and says of itself; names of probes become probes.

    Raises:
        TypeError, ValueError: If an argument is not what it must be.
    """

    model: nn.Module
    probes: Sequence[Any] | None = None
    batches: Mapping[str, Any] | None = None
    sinks: Sequence[Any] | None = None
    log_dir: str | os.PathLike[str] | None = None
    overhead: float | None = 0.05
    output: Callable[[Any], Tensor] | None = None
    seed: int = 0
    on_error: OnError = "log"
    deadline: float = DEADLINE
    head_start: float = HEAD_START
    quiet: bool = False

    def __post_init__(self) -> None:
        self.governor()
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(self.model).__name__}.")
        if next(iter(self.model.parameters()), None) is None:
            raise ValueError(f"`model` has no parameters ({type(self.model).__name__}): there is no training to watch.")
        check_batches(self.batches)
        if self.output is not None and not callable(self.output):
            raise TypeError(f"`output` must be a function of what the model returns, got {type(self.output).__name__}.")
        if isinstance(self.deadline, bool) or not isinstance(self.deadline, int | float) or not self.deadline > 0:
            raise ValueError(f"`deadline` must be a number of seconds greater than 0, got {self.deadline!r}.")
        if self.on_error not in ("log", "raise"):
            raise ValueError(f"`on_error` must be 'log' or 'raise', got {self.on_error!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be an integer, 0 or greater and below 2**63, got {self.seed!r}.")
        place = self.log_dir
        if place is not None and (not isinstance(place, str | os.PathLike) or "\0" in os.fspath(place)):
            raise ValueError(f"`log_dir` must be a path, got {place!r}.")
        if place is not None and not os.fspath(place):
            raise ValueError("`log_dir` is empty. Pass a directory, such as '.', or nothing for runs/<date and time>.")
        _check_list("probes", self.probes)
        _check_list("sinks", self.sinks)
        try:
            self.directory = None if place is None else Path(place).expanduser()
        except RuntimeError as error:
            raise ValueError(f"`log_dir` must be a path, got {place!r}: {error}") from None
        self.problems: list[str] = []
        """What could not be made, one sentence each."""
        with random_states_kept(settings=True):  # a probe may build a network of its own, or be a script
            named = default_names() if self.probes is None else self.probes
            self.made_probes = [made for item in named if (made := self._made("probe", item)) is not None]
        self.made_sinks = [made for item in self.sinks or () if (made := self._made("sink", item)) is not None]
        self.picks = self.output or pick_output
        self.batches = dict(self.batches or {})

    @property
    def silent(self) -> bool:
        """Whether nothing is said when watching begins and ends."""
        return self.quiet or os.environ.get("PROBES", "").strip().lower() == "quiet"

    def governor(self) -> Governor:
        """A budget of this size, of which nothing is spent."""
        return Governor(self.overhead, head_start=self.head_start)

    def new_sinks(self) -> list[Any]:
        """The given sinks, or the default ones, which begin anew in each run."""
        if self.sinks is not None:
            return self.made_sinks
        return [made for name in DEFAULT_SINKS if (made := self._made("sink", name)) is not None]

    def config(self, model: nn.Module) -> dict[str, Any]:
        """What the files record of them, and of the model."""

        def settings(item: Any) -> dict[str, str]:
            return {name: text_of(value) for name, value in vars(item).items() if not name.startswith("_")}

        kinds = [type(probe).__name__ for probe in self.made_probes]
        names = [f"{kind}-{n}" if (n := kinds[: i + 1].count(kind)) > 1 else kind for i, kind in enumerate(kinds)]
        sizes = [p.numel() for p in model.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)]
        return {
            "model": type(model).__name__,
            "parameters": sum(sizes),
            "probes": dict(zip(names, map(settings, self.made_probes), strict=True)),
            "overhead": self.overhead,
            "head_start": self.head_start,
            "on_error": self.on_error,
        }

    def signature(self, model: nn.Module) -> dict[str, str]:
        """What must be the same on all ranks that measure a model together, by what it is, in words."""
        shapes = [(name, None if is_lazy(p) else (list(p.shape), str(p.dtype))) for name, p in model.named_parameters()]
        text = json.dumps([type(model).__qualname__, shapes])
        probes = [f"{type(item).__name__} {text_of(getattr(item, 'schedule', ''))}" for item in self.made_probes]
        return {
            "torch": str(torch.__version__),
            "model": hashlib.sha256(text.encode()).hexdigest(),
            "probes or schedules": re.sub(r"0x[0-9a-f]+", "", ", ".join(probes)),
        }

    def _made(self, kind: str, item: Any) -> Any:
        """A probe or sink as it was given, or of that name; None where that cannot be made, or is not for all."""
        if isinstance(item, type):
            raise TypeError(f"`{kind}s` must hold instances or names; write {item.__name__}() instead of the class.")
        if not isinstance(item, str):
            if has_hooks(item) or (kind == "probe" and isinstance(item, Probe)):
                return item
            what = "Probe instances" if kind == "probe" else "sinks, objects with a method write(run, measurements),"
            raise TypeError(f"`{kind}s` must hold {what} or names of installed {kind}s, got {type(item).__name__}.")
        if reason := rivals(item, kind):
            self.problems.append(reason)
        try:
            found = load(item, kind)
        except BrokenPlugin as error:
            if kind == "sink" and self.on_error == "raise":
                raise
            self.problems.append(f"{error} Training goes on without it.")
            return None
        if kind == "probe" and self.probes is None and not found.by_default:
            return None
        try:
            return found()
        except Exception as error:
            if self.on_error == "raise" or (kind == "sink" and isinstance(error, ValueError)):
                raise
            what = "Plugin" if kind == "probe" else "Sink"
            self.problems.append(f"{what} {item!r} could not be made: {text_of(error)}. Training goes on without it.")
            return None


class Watcher(Protocol):
    """Is told of every manager of this process: what it was given, and what it has attached."""

    def made(self, settings: Settings) -> None: ...
    def attached(self, run: Run, probes: Sequence[Plugin]) -> None: ...


watchers: list[Watcher] = []
"""``probes verify`` is one, in the process that runs the script."""


def check_batches(batches: Any) -> None:
    """Refuse what is no dict of batches by name.

    Raises:
        TypeError, ValueError: If it is not.
    """
    if batches is None:
        return
    if not isinstance(batches, Mapping):
        raise TypeError(
            f"`batches` must be a dict from names to batches, e.g. {{'train': (inputs, targets)}}, "
            f"got {type(batches).__name__}."
        )
    for name in batches:
        if not isinstance(name, str) or "/" in name or not NAME.fullmatch(name):
            better = re.sub(r"[^a-zA-Z0-9]+", "_", str(name)).strip("_") or "test"
            raise ValueError(
                f"`batches` must be named by letters, digits and _.=+@,()[]-, since the names become parts of paths in "
                f"the files; got {name!r}. Write {better!r}, for example."
            )


def _check_list(argument: str, given: Any) -> None:
    if given is None or (isinstance(given, Sequence) and not isinstance(given, str)):
        items = list(given or ())
        twice = next((item for index, item in enumerate(items) if any(item is other for other in items[:index])), None)
        names = [item for item in items if isinstance(item, str)]
        twice = next((name for name in names if names.count(name) > 1), twice)
        if twice is not None:
            raise ValueError(f"`{argument}` holds {text_of(twice)} twice. Leave one out, or make a second one.")
        if any(isinstance(item, Tensor) for item in items):
            raise TypeError(f"`{argument}` must be a list of {argument} or names, got tensors. {_BATCHES_ARE}")
        return
    advice = f" Write [{text_of(given)}]." if isinstance(given, str | Probe) else ""
    if isinstance(given, Mapping | Tensor | DataLoader | Dataset):
        advice = f" {_BATCHES_ARE}"
    raise TypeError(f"`{argument}` must be a list of {argument} or names, got {type(given).__name__}.{advice}")


def read_batches(settings: Settings, run: Run) -> dict[str, Batch]:
    """The batches that were given.

    Raises:
        TypeError, ValueError: If one is none.
    """
    given = settings.batches or {}
    # They may have a generator of their own, or open a file that workers are not to share.
    guard = unnoticed(run.model, given=[data for data in given.values() if isinstance(data, Dataset | DataLoader)])
    try:
        with guard:
            return {name: as_batch(data, seed=run.seed, name=name) for name, data in given.items()}
    finally:
        guard.restore()
