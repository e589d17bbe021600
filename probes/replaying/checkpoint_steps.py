"""The step of a checkpoint: a number that it holds, or one in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..measurement import printable

__all__ = ["checked_step", "step_of"]

HELD = ("global_step", "step", "iteration", "num_steps", "iter_num")
"""What training scripts call the step in a checkpoint, the usual names first."""
WORDS = {
    "step": r"steps?",
    "iter": r"iter(?:ation)?s?",
    "update": r"updates?",
    "checkpoint": r"(?:ckpt|chkpt|checkpoint)s?",
    "epoch": r"epochs?",
}
"""Words before the step in the name of a file, the surest first."""
NUMBER = r"(\d+(?:\.\d+)?)([a-z]*)"
"""Digits, and the letters right after them."""
UNITS = {"k": 1_000, "m": 1_000_000}


def step_of(content: Any, path: Path) -> int:
    """The step that a checkpoint holds, such as ``{"global_step": 500}``, or that of its name.

    In a name it is the number right after ``step``, or else after ``iter``, ``update``, ``checkpoint`` or ``epoch``;
    ``10k`` there is 10000. A name without such a word must have one number.

    Raises:
        ValueError: If there is no such number, if there are several, or if it is not a whole number from 0 on.
    """
    for name in HELD:
        value = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return checked_step(value, path)
    stem = path.name if path.is_dir() or re.search(r"\d", path.suffix) else path.stem
    for pattern in WORDS.values():
        if found := re.findall(rf"{pattern}[\W_]{{0,3}}{NUMBER}", stem, re.IGNORECASE):
            return _only(found, path, UNITS)
    return _only(re.findall(NUMBER, stem, re.IGNORECASE), path, {})


def checked_step(value: float, path: Path) -> int:
    """The step as an integer.

    Raises:
        ValueError: If it is not a whole number from 0 on.
    """
    if not (0 <= value < 2**63 and value == int(value)):
        raise ValueError(f"The step in {path} must be a whole number from 0 on, below 2**63, got {value}.")
    return int(value)


def _only(found: list[tuple[str, str]], path: Path, units: Mapping[str, int]) -> int:
    """The number that all of these are."""
    texts = list(dict.fromkeys(digits + letters for digits, letters in found))
    values = {_value(digits, letters.lower(), units) for digits, letters in found}
    if len(values) == 1 and (value := values.pop()) is not None:
        return checked_step(value, path)
    if not texts:
        why = "holds none"
    elif len(texts) == 1:
        why = f"holds {printable(texts[0])!r}, which is not a whole number"
    else:
        why = f"holds several, {printable(', '.join(texts))}, of which none is the only one after a word such as step"
    raise ValueError(
        f"The step of {path} is not known: it holds no number called {', '.join(HELD)}, and its name {why}. Rename it, "
        f"as in checkpoint-500.pt."
    )


def _value(digits: str, letters: str, units: Mapping[str, int]) -> int | None:
    """The whole number that is meant; None where it is none, or where a letter after it may be a unit."""
    if len(letters) == 1 and letters not in units:
        return None
    value = float(digits) * units.get(letters, 1) if "." in digits else int(digits) * units.get(letters, 1)
    return int(value) if value == int(value) else None
