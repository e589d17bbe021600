"""One run of a script, of which the state of training is recorded at each step."""

from __future__ import annotations

import gc
import json
import os
import random
import runpy
import subprocess
import sys
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..guard.fingerprint import Digest, of_model, of_optimizer, of_process, of_random_states
from ..run import Run
from ..session.plugins import Plugin
from ..session.settings import Settings, watchers

__all__ = ["AT_THE_END", "ScriptRun"]

AT_THE_END = "at the end"


@dataclass
class ScriptRun:
    """What a run has left."""

    records: Path
    error: str
    updates: int
    probes: list[dict[str, Any]]

    @classmethod
    def make(
        cls,
        directory: Path,
        script: str,
        arguments: list[str],
        name: str,
        steps: int | None,
        probes: bool = True,
        only: int | None = None,
    ) -> ScriptRun:
        """Run the script in a process of its own; ``only`` is the number of the one probe, -1 for none of them."""
        place = directory / name
        place.mkdir()
        settings = {"place": str(place), "steps": steps, "only": only}
        environment = {"PYTHONHASHSEED": "0", **os.environ, "PROBES": "on" if probes else "off"}
        with (place / "output").open("w", encoding="utf-8") as output:
            code = subprocess.run(
                [sys.executable, "-m", "probes.checking.script_run", json.dumps(settings), script, *arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            ).returncode
        summary: dict[str, Any] = {"attached": 0, "updates": 0, "probes": [], "error": ""}
        if (place / "summary").exists():
            summary |= json.loads((place / "summary").read_text(encoding="utf-8"))
        (place / "records").touch()
        error = ""
        if code or summary["error"]:
            lines = (place / "output").read_text(encoding="utf-8", errors="replace").splitlines()
            last = "\n".join(lines[-30:]) or "(nothing was printed)"
            error = f"{script} failed with exit code {code}. It ended with:\n{last}"
        elif not summary["attached"]:
            error = (
                f"{script} never attaches a ProbeManager, so there is nothing to verify. Add "
                f"ProbeManager(model).attach() before its training loop."
            )
        elif not summary["updates"]:
            error = f"{script} never takes an optimizer step, so there is nothing to compare."
        return cls(place / "records", error, summary["updates"], summary["probes"])


class Enough(SystemExit):
    """Ends the script when enough updates were made."""


class StateRecorder:
    """Within the script's process: takes a record before and after every update."""

    def __init__(self, place: Path, steps: int | None, only: int | None) -> None:
        self.place, self.steps, self.only = place, steps, only
        self.file = (place / "records").open("w", encoding="utf-8")
        self.models: list[weakref.ref[nn.Module]] = []
        self.counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self.updates = self.managers = 0
        self.plugins: list[Plugin] = []
        self.pid = os.getpid()

    def begin(self) -> None:
        """Listen to every optimizer and every manager."""
        register_optimizer_step_pre_hook(self.before)
        register_optimizer_step_post_hook(self.after)
        watchers.append(self)

    def made(self, settings: Settings) -> None:
        """Lift the budget, and let each manager write to a place of its own, with one probe alone if that is asked."""
        settings.directory, settings.overhead = self.place / f"results-{self.managers}", None
        if self.only is not None:
            settings.made_probes = settings.made_probes[self.only : self.only + 1] if self.only >= 0 else []

    def attached(self, run: Run, probes: Sequence[Plugin]) -> None:
        """Look at this model too from now on."""
        self.managers += 1
        self.models.append(weakref.ref(run.model))
        self.plugins += probes

    def before(self, optimizer: Optimizer, *_: object) -> None:
        self.record(f"before update {self.counts.get(optimizer, 0) + 1} of {type(optimizer).__name__}", optimizer)

    def after(self, optimizer: Optimizer, *_: object) -> None:
        self.counts[optimizer] = count = self.counts.get(optimizer, 0) + 1
        self.updates = max(self.updates, count)
        self.record(f"after update {count} of {type(optimizer).__name__}", optimizer)
        if self.steps is not None and count >= self.steps:
            raise Enough(0)

    def record(self, place: str, optimizer: Optimizer | None = None) -> None:
        if os.getpid() != self.pid:  # a process that the script has forked
            return
        digest: Digest = {}
        names: dict[int, str] = {}
        alive = [model for reference in self.models if (model := reference()) is not None]
        for number, model in enumerate(dict.fromkeys(alive)):
            prefix = f"{type(model).__name__} {number}: " if len(alive) > 1 else ""
            digest.update(of_model(model, prefix))
            names |= {id(parameter): prefix + name for name, parameter in model.named_parameters()}
        if optimizer is not None:
            digest.update(of_optimizer(optimizer, names, f"{type(optimizer).__name__}: "))
        digest.update(of_random_states())
        digest.update(of_process())
        if optimizer is not None or alive:
            self.file.write(json.dumps({"place": place, "updates": self.updates, "digest": digest}) + "\n")

    def end(self, error: str) -> None:
        """Record what is left, and say how it went."""
        self.record(AT_THE_END)
        self.file.close()
        probes = [
            {
                "name": plugin.key,
                "measured": plugin.measured,
                "failed": plugin.failed,
                "problem": plugin.problem or plugin.last_failure,
            }
            for plugin in self.plugins
        ]
        summary = {"attached": self.managers, "updates": self.updates, "probes": probes, "error": error}
        (self.place / "summary").write_text(json.dumps(summary), encoding="utf-8")


def record(settings: str, script: str, arguments: list[str]) -> int:
    """Run a script as if it had been called, and record it."""
    given = json.loads(settings)
    recorder = StateRecorder(Path(given["place"]), given["steps"], given["only"])
    recorder.begin()
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    # A script that seeds nothing, or not everything, repeats itself nevertheless.
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    code: Any = 0
    error = ""
    try:
        kept = runpy.run_path(script, run_name="__main__")  # noqa: F841 - keeps the script's model until the end
    except Enough:
        recorder.end("")
        return 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        error = traceback.format_exc()
    if isinstance(code, str):
        print(code)
    code = int(code) if isinstance(code, int) else int(code is not None)
    if error:
        print(error)
    gc.collect()
    recorder.end(error or (f"exit code {code}" if code else ""))
    return code or int(bool(error))


if __name__ == "__main__":
    # The script may import this module; what runs here is called __main__.
    sys.exit(record(sys.argv[1], sys.argv[2], sys.argv[3:]))
