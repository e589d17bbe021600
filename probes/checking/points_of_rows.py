"""The points of the contract that look at what a probe has yielded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..measurement import Axis
from .deadline import Overdue
from .evidence import COST_SAMPLES, Evidence, NotChecked, Unmet
from .trials import place, refuses

__all__ = ["costs", "independent", "nan_safe", "units"]

FRAMEWORKS = (
    "lightning", "pytorch_lightning", "transformers", "accelerate", "ignite", "wandb", "mlflow", "ray",
)  # fmt: skip
"""What the integrations adapt to; a probe leaves them to those."""
NO_UNITS = ("", "-", "none", "unitless", "dimensionless", "n/a", "a.u.")


def nan_safe(contract: Evidence) -> str:
    """When parameters become NaN or infinite it yields what it yields, or refuses in words: no crash, no hang."""

    def fill(value: float) -> Callable[[nn.Module], object]:
        return lambda model: [parameter.fill_(value) for parameter in model.parameters()]

    def one(model: nn.Module) -> None:
        next(model.parameters()).view(-1)[0] = torch.inf

    tried = 0
    for trial in contract.measured[:2]:
        for what, spoil in (("NaN", fill(torch.nan)), ("1e30, so that it overflows", fill(1e30)), ("infinite", one)):
            error = contract.trial(trial.subject, spoil=spoil).run().error
            if error is not None and not refuses(error):
                raise Unmet(
                    f"When parameters of {trial.subject.name} become {what}, it ends in {error!r} at {place(error)}.",
                    "Yield NaN for what is not defined, torch.linalg and root finders do not take it: look with "
                    "isfinite() first. Bound every iteration.",
                )
            tried += 1
    return f"{tried} trainings that diverge"


def units(contract: Evidence) -> str:
    """Every measurement has a unit and a description, its dimensions coordinates with units; the class a docstring."""
    wrong = []
    if not (contract.cls.__doc__ or "").strip():
        wrong.append("the class has no docstring, which `probes list` shows")
    streams = {row.name: row for trial in contract.measured for row in trial.rows}
    for name, row in streams.items():
        if problem := _unit_problem(row.unit):
            wrong.append(f"{name}: its unit {problem}")
        if not row.description:
            wrong.append(f"{name}: no description")
        for dim, axis in row.coords.items():
            if problem := _unit_problem(axis.unit):
                wrong.append(f"{name}: the unit of {dim!r} {problem}")
            elif _only_numbered(axis):
                wrong.append(f"{name}: {dim!r} has no coordinates")
    if wrong:
        raise Unmet(
            f"{'; '.join(wrong)}.",
            'Pass unit="nats", or "1" of what is dimensionless, description="...", and for each dimension '
            'coords={dim: Axis(values, unit)}, with the unit "index" of a mere index.',
        )
    return f"{len(streams)} stream{'s' * (len(streams) > 1)}"


def independent(contract: Evidence) -> str:
    """Importing it imports no training framework: probes measure, integrations adapt."""
    script = (
        "import sys, importlib.util, runpy\n"
        "before = set(sys.modules)\n"
        "name, file = sys.argv[1:]\n"
        "if importlib.util.find_spec(name): importlib.import_module(name)\n"
        "else: runpy.run_path(file, run_name=name)\n"  # of no package: a file that was named
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    name = contract.cls.__module__
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script, name, getattr(sys.modules.get(name), "__file__", None) or name],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise NotChecked(f"{name!r} cannot be imported by itself: {last}")
    found = set(done.stdout.split()) & {*FRAMEWORKS, *(f"probes_{name}" for name in FRAMEWORKS)}
    if found:
        raise Unmet(
            f"Importing {contract.cls.__module__} imports {', '.join(sorted(found))}.",
            "Import it in the function that uses it: whoever has the probe installed pays for the import.",
        )
    return contract.cls.__module__


def costs(contract: Evidence) -> str:
    """What a turn costs, by the number of samples; it is told, and judged by nobody."""
    try:
        found = contract.costs
    except (Exception, Overdue) as error:
        if isinstance(error, NotChecked):
            raise
        samples = " or ".join(map(str, COST_SAMPLES))
        raise Unmet(f"With {samples} samples it ends in {error!r} at {place(error)}.", "Take any number.") from error
    return "; ".join(
        f"{cost.samples} samples: {1e3 * cost.first:.1f} ms at first, {1e3 * cost.later:.1f} ms later, "
        f"{cost.memory / 2**20:.3g} MiB"
        for cost in found
    )


def _unit_problem(unit: Any) -> str:
    if not isinstance(unit, str):
        return f"must be a string, got {unit!r}"
    if unit.strip().lower() in NO_UNITS:
        return f"is {unit!r}; of what has none, it is '1'"
    if unit != unit.strip() or unit[0] + unit[-1] in ("[]", "()", "{}"):
        return f"is {unit!r}; write it without spaces and brackets around it"
    return ""


def _only_numbered(axis: Axis) -> bool:
    """Whether a dimension has the coordinates that it gets when none are given."""
    values = axis.values
    numbered = values.dtype.kind in "iu" and np.array_equal(values, np.arange(len(values)))
    return numbered and axis.unit == "1" and not axis.description
