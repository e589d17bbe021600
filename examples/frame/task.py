"""A training loop that can be interrupted at any moment and goes on from where it was."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.progress import Progress

__all__ = ["Interruption", "Task"]

CHECKPOINT_SECONDS = 30.0


class Stateful(Protocol):
    """A model, an optimizer, a probe manager."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Interruption:
    """Ctrl-C as a wish that the loop grants between two steps; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.wished = False

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True


class Task:
    """What one seed of an experiment trains: its folder, its device, and a loop that resumes.

    Args:
        folder: Where checkpoint and measurements go.
        seed: Of phases, initial weights and whatever else is drawn.
        device: Where models and data live.
        interruption: Asked after every step.
        progress: Shows a bar for every loop.
        label: Of the bar.

    Example::

        task.resume(model=model, optimizer=optimizer, probes=manager)  # does nothing in a new folder
        with manager.attach(optimizer):
            for _ in task.steps(1000):
                ...                                                    # one optimizer step
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        device: torch.device,
        interruption: Interruption | None = None,
        progress: Progress | None = None,
        label: str = "",
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.device = device
        self.step = 0
        self.label = label or f"seed {seed}"
        self._interruption = interruption or Interruption()
        self._progress = progress or Progress(disable=True)
        self._objects: dict[str, Stateful] = {}
        self._seconds = self._cpu_seconds = 0.0
        self._parts: list[Task] = []

    @property
    def log_dir(self) -> Path:
        """Where the probe manager of this task writes."""
        return self.folder / "log"

    @property
    def seconds(self) -> float:
        """Wall time of all loops of this task and its parts, over all sessions."""
        return self._seconds + sum(part.seconds for part in self._parts)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the same, of this process."""
        return self._cpu_seconds + sum(part.cpu_seconds for part in self._parts)

    def part(self, name: str) -> Task:
        """A task of the same seed with its own folder: one of several networks trained for a seed."""
        label = f"{self.label}, {name}"
        part = Task(self.folder / name, self.seed, self.device, self._interruption, self._progress, label)
        self._parts.append(part)
        return part

    def resume(self, **objects: Stateful) -> None:
        """Say what the checkpoint holds, by name, and load it if there is one: before probes are attached."""
        self._objects = objects
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            # Stopped before its first checkpoint: what was measured belongs to a run that nobody can go on with.
            shutil.rmtree(self.log_dir, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, item in objects.items():
            item.load_state_dict(saved["objects"][name])
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        self.step, self._seconds, self._cpu_seconds = saved["step"], saved["seconds"], saved.get("cpu_seconds", 0.0)

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to be done, as the number of steps before each; saves every 30 s, at Ctrl-C and at the end.

        Raises:
            KeyboardInterrupt: After Ctrl-C, once the checkpoint is written.
        """
        bar = self._progress.add_task(self.label, total=total, completed=self.step)
        last, last_cpu = time.perf_counter(), time.process_time()
        while self.step < total:
            try:
                yield self.step
            except GeneratorExit:  # the loop has reached its goal
                self._seconds += time.perf_counter() - last
                self._cpu_seconds += time.process_time() - last_cpu
                self._progress.update(bar, total=self.step + 1, completed=self.step + 1)
                raise
            self.step += 1
            self._progress.update(bar, completed=self.step)
            now = time.perf_counter()
            if self._interruption.wished or self.step == total or now - last > CHECKPOINT_SECONDS:
                cpu = time.process_time()
                self._seconds, self._cpu_seconds = self._seconds + now - last, self._cpu_seconds + cpu - last_cpu
                last, last_cpu = now, cpu
                self._save()
            if self._interruption.wished:
                raise KeyboardInterrupt

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self._seconds,
            "cpu_seconds": self._cpu_seconds,
            "objects": {name: item.state_dict() for name, item in self._objects.items()},
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        partial = self.folder / "checkpoint.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")  # whole or not at all
