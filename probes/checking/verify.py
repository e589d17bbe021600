"""Whether the probes change a script's training: it is run with them and without, and compared at every update.

``probes verify train.py --epochs 1`` runs the script in processes of their own: without probes, without them once more,
since a script that does not repeat itself shows nothing, and with them. Before and after every optimizer update
fingerprints are taken of parameters, gradients, buffers, modes, optimizer state, random states and settings of the
process, and streamed to a file. If a probe changes anything, the runs are repeated with each probe alone, to find it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..guard.fingerprint import differences
from .script_run import AT_THE_END, ScriptRun

__all__ = ["Difference", "Verdict", "verify"]


@dataclass
class Difference:
    """The first point at which two runs of a script differ."""

    place: str
    names: list[str]
    """What differs there."""
    updates: int
    """Optimizer updates until there."""


@dataclass
class Verdict:
    """What was found out about a script."""

    error: str = ""
    """Why nothing could be found out."""
    updates: int = 0
    """That were compared, of the optimizer that made most."""
    reproducible: bool = True
    """Whether the script repeats itself without probes."""
    difference: Difference | None = None
    """Between the runs with and without probes; of a script that is not reproducible, between those without."""
    culprits: list[str] = field(default_factory=list)
    """The probes that, alone, change the training."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    """Each with its ``name``, how often it ``measured`` and ``failed``, and the ``problem`` it had."""

    @property
    def equal(self) -> bool:
        """Whether the probes have changed nothing."""
        return not self.error and self.difference is None


def verify(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    steps: int | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Verdict:
    """Run a script with probes and without, and compare.

    All random states are seeded before the script begins, so that it need not do so. What it writes by itself, it
    writes in each of the runs; results of the probes go to a temporary directory.
    The budget of the probes is lifted, so that each measures whenever it is due.

    Args:
        script: A Python script that attaches a :class:`ProbeManager`.
        arguments: Its arguments.
        steps: Stop each run after so many updates.
        tell: Called with what is done next.

    Raises:
        ValueError: If there is no such script, or ``steps`` is not positive.
    """
    if not Path(script).is_file():
        raise ValueError(f"`script` must be a Python file, there is none at {str(script)!r}.")
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` must be a positive number of optimizer updates, got {steps}.")
    with tempfile.TemporaryDirectory(prefix="probes-verify-") as directory:
        run = functools.partial(ScriptRun.make, Path(directory), str(script), list(arguments))
        tell("1 of 3: without probes")
        bare = run("bare", steps, probes=False)
        if bare.error:
            return Verdict(error=bare.error)
        tell("2 of 3: without probes again")
        control = run("control", steps, probes=False)
        verdict = Verdict(error=control.error, updates=bare.updates)
        if control.error:
            return verdict
        if (difference := first_difference(bare.records, control.records)) is not None:
            verdict.reproducible, verdict.difference = False, difference
            return verdict
        tell("3 of 3: with probes")
        probed = run("probed", steps)
        verdict.probes = probed.probes
        verdict.difference = first_difference(bare.records, probed.records)
        if probed.error:
            verdict.error = f"With probes only: {probed.error}"
        elif verdict.difference is not None:
            until = verdict.difference.updates + 1
            names = [probe["name"] for probe in probed.probes]
            for index, name in enumerate(["", *names]):
                tell(f"which one: {name or 'none of them, only the manager and its files'}")
                alone = run(f"alone-{index}", until, only=index - 1)
                if first_difference(bare.records, alone.records, stopped=True) is not None:
                    verdict.culprits.append(name or "the manager itself")
        return verdict


def first_difference(first: Path, second: Path, stopped: bool = False) -> Difference | None:
    """Where two files of records part, read side by side; the second one's run may have been ``stopped`` earlier."""
    updates = 0
    with first.open(encoding="utf-8") as one, second.open(encoding="utf-8") as two:
        for a, b in itertools.zip_longest(_records(one), _records(two)):
            if (a is None or b is None) and (a or b)["place"] == AT_THE_END:
                return None  # the model has outlived one run, and not the other
            if stopped and (b is None or b["place"] == AT_THE_END):
                return None
            if a is None or b is None or a["place"] != b["place"]:
                places = " and ".join(repr(item["place"]) if item else "its end" for item in (a, b))
                return Difference(f"the runs part: one is at {places}, the other", [], updates)
            updates = a["updates"]
            if names := differences(a["digest"], b["digest"]):
                return Difference(a["place"], names, updates)
    return None


def _records(file: TextIO) -> Iterator[Any]:
    for line in file:
        yield json.loads(line)
