"""A probe or a sink, and what became of it in this run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pluggy

from ..schedule import Schedule

__all__ = ["Plugin", "keys"]


@dataclass
class Plugin:
    """A registered probe or sink, and its accounts."""

    key: str
    """Its name in this run, unique."""
    label: str
    """Its name with its distribution, for messages."""
    version: str
    implementation: Any
    hooks: dict[str, pluggy.HookImpl] = field(default_factory=dict)
    schedule: Schedule | None = None
    due: int | None = None
    problem: str = ""
    """Why it does not run; empty while it does."""
    left_out: str = ""
    """What it did not do, to stay within the budget."""
    last_failure: str = ""
    refusal: str = ""
    """Why its last turn could not be measured; empty if it could."""
    failures: Counter[str] = field(default_factory=Counter)
    """In succession, of each hook."""
    measured: int = 0
    skipped: int = 0
    failed: int = 0
    last_step: int | None = None


def keys(plugins: Iterable[Plugin]) -> list[str]:
    """The names of plugins."""
    return [plugin.key for plugin in plugins]
