"""Tiny trainings on which a probe is tried: models that differ in what authors forget, one loop, and what came of it.

A training repeats itself to the last bit, whatever was drawn from the global random states before: they are seeded
anew in every iteration. What they are when probes measure can be chosen, so that a probe that draws from them is found.
"""

from __future__ import annotations

import dis
import io
import logging
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..batches import Batch
from ..guard.fingerprint import Digest, of_model, of_optimizer, of_process, of_random_states
from ..guard.process import random_states_kept
from ..guard.unnoticed import ModelChanged
from ..loop.backward_watch import GradientHook
from ..loop.step_hook import StepHook
from ..manager import ProbeManager
from ..measurement import Measurement
from ..probe import Probe
from ..session.discovery import label
from ..sinks.recorder import Recorder as Recorder
from .deadline import Overdue, limited
from .subjects import Subject

__all__ = ["Recorder", "Trial", "hooks", "optimizer_hooks", "place", "refuses"]

STEPS, SAMPLES, BATCH = 5, 32, 8

log = logging.getLogger("probes")


# ------------------------------------------------------------------------------------------------------------- models


# --------------------------------------------------------------------------------------------------------- one training


class Trial:
    """A training of a few steps, with a probe or without: what was measured, what training was, and what ended it.

    Args:
        subject: What is trained.
        probe: What is attached; None for a bare training.
        others: Probes before it.
        samples: In the batch that probes measure on.
        drawn: What the global random states are seeded with when probes measure.
        spoil: Called with the model before its second update.
        checkpoint: What :meth:`checkpoint` gave, to go on from there.
        deadline: Seconds that it may take.
    """

    def __init__(
        self,
        subject: Subject,
        probe: Probe | None = None,
        *,
        others: Sequence[Probe] = (),
        samples: int = SAMPLES,
        drawn: int = 0,
        spoil: Callable[[nn.Module], object] | None = None,
        checkpoint: dict[str, Any] | None = None,
        deadline: float = 60.0,
    ) -> None:
        self.subject, self.probe, self.others, self.samples = subject, probe, others, samples
        self.drawn, self.spoil, self.deadline = drawn, spoil, deadline
        self.places: list[tuple[str, Digest]] = []
        """What training was, point by point."""
        self.error: BaseException | None = None
        """What the probe has raised, and ended the training with."""
        self.step = 0
        self.manager: ProbeManager | None = None
        self._recorder = Recorder()
        self._checkpoint = checkpoint
        self._begun = False

    @property
    def rows(self) -> list[Measurement]:
        """What was measured by the probe."""
        others = {"probes", *(label(probe)[0] for probe in self.others)}
        return [row for row in self._recorder.rows if row.probe not in others]

    def run(self, until: int = STEPS, detach: bool = True) -> Trial:
        """Train until a step, and end it there unless it is to go on."""
        with random_states_kept(), _quiet(), tempfile.TemporaryDirectory(prefix="probes-trial-") as directory:
            try:
                with limited(self.deadline):
                    if not self._begun:
                        self._begin(Path(directory))
                    self._train(until)
                    if detach:
                        self.end()
            except (Exception, Overdue) as error:
                self.error = error
                self._abandon()
        return self

    def end(self) -> None:
        """Detach, and look at what is left behind."""
        if self.manager is not None:
            self.manager.detach()
        self._observe("after detach")
        left = {**hooks(self.model), "optimizer": optimizer_hooks([self.optimizer])}
        self.places[-1][1]["hooks"] = str(left)
        self.places[-1][1]["attributes of modules"] = str([sorted(vars(module)) for module in self.model.modules()])

    def checkpoint(self) -> dict[str, Any]:
        """What a script saves, read back as scripts read it."""
        file = io.BytesIO()
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        assert self.manager is not None
        torch.save({**states, "manager": self.manager.state_dict()}, file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
        return loaded

    def _begin(self, directory: Path) -> None:
        self._begun = True
        subject = self.subject
        _seed(7)
        self.model = subject.model().to(subject.dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.inputs, self.targets = subject.data(self.samples)
        if self.inputs.is_floating_point():
            self.inputs = self.inputs.to(subject.dtype)
        if self.targets.is_floating_point():
            self.targets = self.targets.to(subject.dtype)
        saved = self._checkpoint
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]
        if self.probe is not None:
            batch = Batch((self.inputs,), targets=None if subject.lacks == "targets" else self.targets)
            self.manager = ProbeManager(
                self.model,
                [*self.others, self.probe],
                {} if subject.lacks == "batch" else {"train": batch},
                sinks=[self._recorder],
                log_dir=directory,
                overhead=None,
                on_error="raise",
                deadline=self.deadline,
                quiet=True,
            )
            if saved is not None:
                self.manager.load_state_dict(saved["manager"])
            self.manager.attach(self.optimizer)

    def _train(self, until: int) -> None:
        while self.step < until:
            _seed(1000 + self.step)
            index = torch.randperm(self.samples)[:BATCH]
            x, y = self.inputs[index], self.targets[index]
            if x.is_floating_point():  # as augmentations do
                x = x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
            self.optimizer.zero_grad()
            self.subject.loss(self.model, x, y).backward()  # type: ignore[no-untyped-call]
            self._observe(f"before update {self.step + 1}")
            if self.spoil is not None and self.step == 1:
                with torch.no_grad():
                    self.spoil(self.model)
            _seed(self.drawn + self.step)
            self.optimizer.step()
            self.step += 1
            self._observe(f"after update {self.step}")

    def _observe(self, what: str) -> None:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        digest = dict(of_model(self.model))
        digest.update(of_optimizer(self.optimizer, names))
        digest.update(of_random_states())
        digest.update(of_process())
        self.places.append((what, digest))

    def _abandon(self) -> None:
        """Detach what has failed; that may fail too."""
        try:
            with limited(self.deadline):
                if self.manager is not None:
                    self.manager.detach()
        except (Exception, Overdue):
            log.debug("Detaching failed too.", exc_info=True)


def _seed(number: int) -> None:
    random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002


def hooks(model: nn.Module, ours: bool = True) -> dict[str, int]:
    """How many hooks each module has, each parameter, and all modules together; those that have any.

    Args:
        model: The model.
        ours: Whether those are counted that look at the loss and at gradients: they are there before some turns, and
            only then.
    """
    tables = [name for name in vars(nn.Module()) if name.endswith("_hooks") or "_hooks_" in name]
    found = {
        f"{name} {table}": len(getattr(module, table)) for name, module in model.named_modules() for table in tables
    }
    for name, parameter in model.named_parameters():
        arrived = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))
        there = [hook for table in arrived for hook in (table or {}).values()]
        found[f"tensor {name}"] = len([hook for hook in there if ours or not isinstance(hook, GradientHook)])
    shared = nn.modules.module
    found |= {
        name: len(table)
        for name, table in vars(shared).items()
        if name.startswith("_global") and isinstance(table, dict)
    }
    return {name: count for name, count in found.items() if count}


def optimizer_hooks(optimizers: Sequence[Optimizer]) -> list[int]:
    """How many step hooks there are, of all optimizers and of each, that are not those of a manager.

    A trial that was given up may keep its manager until that is collected, in the middle of another trial.
    """
    tables: list[Any] = [
        [hook for hook in table.values() if not isinstance(hook, StepHook)]
        for table in (_global_optimizer_post_hooks, _global_optimizer_pre_hooks)
    ]
    for optimizer in optimizers:
        tables += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    return [len(table) for table in tables]


@contextmanager
def _quiet() -> Iterator[None]:
    """What is logged of faults is told by the trial; what the watchdog says is said while it hangs."""

    def told(record: logging.LogRecord) -> bool:
        return record.module == "watchdog"

    log.addFilter(told)
    try:
        yield
    finally:
        log.removeFilter(told)


# ---------------------------------------------------------------------------------------------- what ended a training


def refuses(error: BaseException | None) -> bool:
    """Whether a probe has said on purpose that it cannot: by ``raise``, with words, in code that is not a library's.

    An exception of torch, an assertion, or what Python raises by itself is a crash: its words are about something else.

    Example:
        >>> refuses(ValueError("not raised at all"))
        False
    """
    if not isinstance(error, Exception) or isinstance(error, ModelChanged | AssertionError) or not str(error).strip():
        return False
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    if package in ("probes", "torch", "numpy", "scipy") or package in sys.stdlib_module_names - {"__main__"}:
        return False
    code = trace.tb_frame.f_code.co_code
    return dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"


def place(error: BaseException) -> str:
    """The line of the probe's own code in which an exception was raised, or came through."""
    frames = traceback.extract_tb(error.__traceback__)
    core = f"{Path(__file__).parent}{os.sep}"
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(core) and f"{os.sep}torch{os.sep}" not in frame.filename
    ]
    last = (own or frames or [None])[-1]  # type: ignore[list-item]
    return "" if last is None else f"{Path(last.filename).name}:{last.lineno}"
