"""Run: what probes and sinks receive, and Event: what happened to them."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .batches import IGNORED, Batch, MicroBatches, others, versions
from .measurement import CannotMeasure, first_line
from .names import call_at, named_modules, own_parameters
from .outputs import check_rows, why_not_a_function
from .picking import picked, where_picked

__all__ = ["Event", "Run"]

T = TypeVar("T")

LOOKS = 5000
"""Samples that take no longer than a first turn: where they do not, how long one takes is looked at once more."""


class _Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose handlers, which are the script's, can raise what they will."""

    def log(self, level: int, msg: object, *args: Any, **options: Any) -> None:
        with suppress(Exception):
            super().log(level, msg, *args, **{"stacklevel": 3, **options})


log = _Log(logging.getLogger("probes"), {})


@dataclass(frozen=True)
class Event:
    """Something that happened to a plugin or to the run, and that a reader of the results must know."""

    kind: str
    """``"fault"``, ``"quarantine"``, ``"refused"`` (what cannot be measured), ``"warning"``, ``"skipped"``,
    ``"interrupt"`` (the user's, which goes on to the loop), ``"hang"`` (of a call, once it was over), ``"attach"`` or
    ``"detach"``."""
    plugin: str
    """The plugin it happened to, with its distribution; empty when it concerns the run."""
    message: str
    step: int
    wall_time: float


@dataclass
class Run:
    """One training run as probes and sinks see it.

    Probes read it inside the guard: the model is in eval mode, gradients are enabled, autocast and products in TF32 are
    off, and whatever a probe does to random states, buffers, modes and gradients is undone afterwards.
    """

    model: nn.Module
    """The user's model without its DataParallel, DDP or ``torch.compile`` wrapper."""
    log_dir: Path
    seed: int
    output: Callable[[Any], Tensor]
    """Picks the output tensor, ``(n, c)`` or ``(n,)``, from whatever the model returns."""
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    batches: dict[str, Batch] = field(default_factory=dict)
    """The fixed batches measured on, by name; empty until the loop has shown the first one, when none was given."""
    shown: Batch | None = None
    """The arguments of the first call that the loop showed, where its output cannot be used."""
    step: int = 0
    """Optimizer updates so far."""
    loss: Tensor | None = None
    """What the loop called ``backward()`` on for the last update; seen for probes with ``watched_updates``."""
    micro_batches: MicroBatches | None = None
    """Of the last update, of several micro-batches or ranks; seen for probes with ``sees_micro_batches``."""
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None
    """The loss of the loop, of outputs and targets, where it was seen to compare them by one function of torch."""
    config: dict[str, Any] = field(default_factory=dict)
    """The manager's and every plugin's settings, as strings and numbers, for the files."""
    run_id: str = ""
    resumed_from: int | None = None
    """The last step whose records are kept of the run that this one continues, -1 for none; None of a fresh one."""
    ended_by: str = ""
    """The exception that ended the training, by its name, for sinks; empty where none is known of."""

    def __post_init__(self) -> None:
        self.earlier: Callable[[], Mapping[str, Any]] = dict  # no lambda: a run that is not attached is pickled
        """What the sessions before have recorded, by stream, as :func:`probes.open_run` reads it."""
        self._probe = ""
        self.taken: list[str] = []
        """Which of several tensors that the model returns is its output here, where no user picks it."""
        self._cache: dict[Hashable, Any] = {}
        self._shares: dict[Hashable, tuple[float, list[str]]] = {}
        self._versions: dict[Hashable, list[int]] = {}
        self._dtypes: dict[str, tuple[Batch, torch.dtype]] = {}
        """Of the model, when each batch was first asked for."""
        self.bind()

    def bind(
        self,
        affords: Callable[[str, float], bool] | None = None,
        left_out: Callable[[str, str], None] | None = None,
        first_turn_limit: Callable[[], float] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Called before the run: who decides what can be afforded, who is told of what was left out, and the clock."""
        self._clock = clock or time.perf_counter
        self._affords, self._left_out, self._first_turn_limit = affords, left_out, first_turn_limit

    def begin(self, plugin: str) -> None:
        """Called before a plugin is: draws and costs are its own from here."""
        self._probe = plugin

    def end(self) -> list[tuple[float, list[str]]]:
        """Called after a step's measurements: forget what was shared; returns its costs in seconds and who used it."""
        shares, self._cache, self._shares = self._shares.values(), {}, {}
        return [(seconds, users) for seconds, users in shares if len(users) > 1]

    def affords(self, seconds: float) -> bool:
        """Whether work that a sink may leave out, and that takes so long, fits the budget now.

        If it does not, time is saved for it beside the probes that wait for their turn: ask again at the next flush.
        """
        return self._affords is None or self._affords(self._probe, seconds)

    @property
    def first_turn_limit(self) -> float:
        """Seconds that a probe's first turn may be predicted to take; infinite where schedules are exact.

        A probe whose cost grows with the model or the batch tries it on a few samples first, and measures on fewer
        where it would take longer: once, for good, and told by :meth:`left_out` and by the estimator.
        """
        return math.inf if self._first_turn_limit is None else self._first_turn_limit()

    def left_out(self, message: str) -> None:
        """Tell what a plugin did not do, because it did not fit the budget or the data, and how to have it."""
        if self._left_out is not None:
            self._left_out(self._probe, message)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter that holds numbers."""
        return next((p.device for p in self.model.parameters() if p.device.type != "meta"), torch.device("meta"))

    @property
    def given(self) -> list[Any]:
        """What the model is called with that is no tensor."""
        return others([(batch.args, batch.kwargs) for batch in (*self.batches.values(), self.shown) if batch])

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The modules that hold parameters of their own, by name, in the order of registration."""
        named = ((name or type(module).__name__, module) for name, module in named_modules(self.model))
        return {name: part for name, part in named if own_parameters(part)}

    @property
    def generator(self) -> torch.Generator:
        """A fresh generator (CPU) of the running probe, seeded from the run's seed, the probe's name and the step.

        The same numbers whichever other probes run, and after a resume. Draw on the CPU, then move.
        """
        digest = hashlib.sha256(f"{self.seed}/{self._probe}/{self.step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    @property
    def call(self) -> Batch | None:
        """Arguments with which the model can be called, of one sample; None before the loop has called it.

        Of the first batch, or, where its output cannot be used, of the first call that the loop showed.
        """
        if self.batches:
            return self.batch(next(iter(self.batches))).first(1)
        return None if self.shown is None else self.shown.first(1).to(self.device)

    def batch(self, name: str) -> Batch:
        """The fixed batch of that name, on the model's device; labels that the loop's loss ignores are -100.

        Where the model was converted since the batch was first asked for (``model.double()``, ``.bfloat16()``), its
        floating-point tensors of the old dtype are converted as well.

        Raises:
            KeyError: If there is no batch of that name.
            CannotMeasure: If the model is on the meta device.
        """
        if self.device.type == "meta":
            raise CannotMeasure("The model is on the meta device: its parameters hold no numbers to measure.")
        if name not in self.batches:
            raise KeyError(f"There is no batch {name!r}; there are: {', '.join(self.batches) or 'none'}.")
        batch = self.batches[name]
        now = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        kept, dtype = self._dtypes.setdefault(name, (batch, now))
        if kept is not batch:  # another batch of that name
            self._dtypes[name] = (batch, now)
        elif dtype != now:
            batch = batch.converted(dtype, now)
        return batch.to(self.device).ignoring(getattr(self.criterion, "ignored", IGNORED))

    def forward(self, batch: Batch, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's output tensor on a batch, differentiable; with other ``parameters`` (and buffers) when given.

        Returns:
            Shape ``(n, c)`` or ``(n,)``.

        Raises:
            CannotMeasure: If the output is not a floating-point tensor with one row for each sample.
        """
        try:
            result = self._call(batch, parameters)
        except RuntimeError as error:  # of a model that differentiates in its forward: forces, a physics loss
            if torch.is_grad_enabled() or "does not require grad" not in str(error):
                raise
            with torch.enable_grad():
                result = tree_map_only(Tensor, Tensor.detach, self._call(batch, parameters))
        self.taken[:] = filter(None, [where_picked(result, self.output)])
        output = picked(self.output, result)
        check_rows(output, batch.n, self.model)
        return output

    def _call(self, batch: Batch, parameters: Mapping[str, Tensor] | None) -> Any:
        if parameters is None:
            return self.model(*batch.args, **batch.kwargs)
        return call_at(self.model, parameters, batch.args, dict(batch.kwargs))

    def evaluate(self, batch: str) -> Tensor:
        """The output, ``(n, c)`` or ``(n,)``, on the batch of that name, without gradients: computed once a step.

        Raises:
            CannotMeasure: If the model cannot be called with that batch, or returns no output that can be used.
        """

        def compute() -> Tensor:
            given = self.batch(batch)
            with torch.no_grad():
                try:
                    return self.forward(given)
                except CannotMeasure:
                    raise
                except Exception as error:
                    raise CannotMeasure(
                        f"The model cannot be called with batch {batch!r}, {given.shapes()}: {type(error).__name__}: "
                        f"{first_line(error)}. Pass batches={{{batch!r}: (inputs, targets)}} of the form in which the "
                        f"loop calls the model."
                    ) from error

        return self.shared(("evaluate", batch), compute)

    def check_examples(self, batch: str) -> None:
        """Refuse a model that is no function of one example: call it in a probe that evaluates the model.

        The examples of the batch of that name are evaluated again in pieces, some twice; once a step for all probes.

        Raises:
            CannotMeasure: If the output is random, if it depends on the other examples of the batch, or if the model
                cannot be called with the batch.

        Cost: at most two and an eighth forward passes of the batch, shared by the probes that ask.
        """
        outputs = self.evaluate(batch)
        look = partial(why_not_a_function, self.forward, self.batch(batch), outputs, model=self.model)
        if reason := self.shared(("check_examples", batch), look):
            raise CannotMeasure(f"On batch {batch!r}: {reason}")

    def sample_seconds(self, batch: str) -> float:
        """Seconds that a forward pass takes for each sample of the batch of that name: the least of several looks."""
        clock, least = self._clock, math.inf
        for part in map(self.batch(batch).first, (2, 4, 4, 8, 8)):
            with torch.no_grad():
                start = clock()
                self.forward(part).sum().item()
                least = min(least, (clock() - start) / part.n)
            if least * LOOKS < self.first_turn_limit:
                break
        return least

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, done once a step for all probes that ask for the same ``key``; its cost is shared by them."""
        if key not in self._cache:
            start = self._clock()
            self._cache[key] = compute()
            self._shares[key] = (self._clock() - start, [])
            self._versions[key] = versions(self._cache[key])
        if self._probe not in (users := self._shares[key][1]):
            users.append(self._probe)
        return self._cache[key]  # type: ignore[no-any-return]

    def spoilt(self) -> list[Hashable]:
        """What was computed for all probes, and has been changed in place: it is forgotten."""
        found = [key for key, value in self._cache.items() if versions(value) != self._versions[key]]
        self._cache = {key: value for key, value in self._cache.items() if key not in found}
        return found
