"""What the viewer says of a run and of its streams, in words."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from typing import Any

from probes.drawing.words import counted
from probes.measurement import printable

__all__ = [
    "about_run",
    "form",
    "in_words",
    "label",
    "made",
    "short",
    "spent",
    "enumerated",
    "told_apart",
    "unit_in_words",
]

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def about_run(created: str, steps: int, rows: int) -> list[str]:
    """When a run was begun, and how much of it there is."""
    return [*([f"begun {created}"] if created else []), counted(steps, "step"), counted(rows, "row")]


def form(dims: list[dict[str, Any]], unit: str, is_complex: bool) -> str:
    """What a row of a stream holds, such as ``layer (3) x frequency (12) in nats``: only equal ones are compared."""
    sizes = " x ".join(f"{dim['name']} ({len(dim.get('labels', dim.get('values', ())))})" for dim in dims)
    words = f"{'complex ' if is_complex else ''}{sizes or 'one number'}{'' if unit in ('', '1') else f' in {unit}'}"
    return printable(words)


def unit_in_words(unit: str) -> str:
    """A unit as it stands behind a name, with its powers raised; nothing for a pure number.

    Example:
        >>> unit_in_words("m^2 s^-1")
        ' (m² s⁻¹)'
    """
    if unit in ("", "1", "index"):
        return ""
    raised = re.sub(r"\^(-?[0-9]+)", lambda power: power[1].translate(RAISED), printable(unit))
    return f" ({raised})"


def label(name: str, unit: str) -> str:
    """A name with its unit, as it stands along an axis."""
    return f"{printable(name).replace('_', ' ')}{unit_in_words(unit)}"


def told_apart(names: list[str]) -> list[str]:
    """Names of which none is empty and no two are alike.

    Example:
        >>> told_apart(["a", "", "a"])
        ['a (1)', '(empty)', 'a (2)']
    """
    names = [name or "(empty)" for name in names]
    taken, numbers = set(names), {name: itertools.count(1) for name, count in Counter(names).items() if count > 1}
    return [
        next(each for n in numbers[name] if (each := f"{name} ({n})") not in taken) if name in numbers else name
        for name in names
    ]


def enumerated(names: list[str], most: int = 3) -> str:
    """Names in a sentence, not more than a few.

    Example:
        >>> enumerated(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = [f"{len(names) - most} more"] if len(names) > most else []
    *before, last = [*names[:most], *more]
    return f"{', '.join(before)} and {last}" if before else last


def short(labels: list[str]) -> list[str]:
    """Labels without the parts, at dots, that all begin and end with; of those before them the last one is kept.

    Example:
        >>> short(["model.encoder.layer.0.query.weight", "model.encoder.layer.1.value.weight"])
        ['…layer.0.query…', '…layer.1.value…']
    """
    parts = [re.split(r"(?<=[. ])", label) for label in labels]
    least = min(map(len, parts), default=1) - 1  # something of each is left
    before = _alike(parts, least)
    after = _alike([each[::-1] for each in parts], least - before)
    start = max(0, before - 1)
    return [
        f"{'…' if start else ''}{''.join(each[start : len(each) - after]).rstrip('.')}{'…' if after else ''}"
        for each in parts
    ]


def _alike(parts: list[list[str]], most: int) -> int:
    """How many parts, from the first on, are the same in all."""
    return next((n for n in range(most) if len({each[n] for each in parts}) > 1), most)


def made(estimator: str, samples: int | None = None, probe: str = "") -> str:
    """How the numbers of a stream were obtained."""
    said = [estimator and f"Estimator: {estimator}.", "" if samples is None else f"{counted(samples, 'sample')}."]
    return printable(" ".join(filter(None, [*said, probe and f"Probe {probe}."])))


def spent(seconds: list[float], share: float | None) -> str:
    """What the probes cost, beside the wall time where that is known."""
    return f"{sum(seconds):.3g} s in all{'' if share is None else f', {100 * share:.3g} % of the wall time'}"


def in_words(values: dict[str, Any]) -> dict[str, str]:
    """Settings as they are shown; one that is infinite is not one that is missing."""
    words = {key: value if isinstance(value := _finite(item), str) else _json(value) for key, item in values.items()}
    return {printable(key): printable(value) for key, value in words.items()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(item) for key, item in values.items()}
    if isinstance(values, list):
        return [_finite(item) for item in values]
    return str(values) if isinstance(values, float) and not math.isfinite(values) else values
