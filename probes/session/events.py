"""How hooks are called and what goes to the log."""

from __future__ import annotations

from typing import Any, Literal

import pluggy

from ..run import log

__all__ = ["OnError", "invoke", "log", "text_of"]

OnError = Literal["log", "raise"]


MAX_TEXT = 1000


def invoke(hook: pluggy.HookImpl, **arguments: Any) -> Any:
    """Call a hook with the arguments it takes."""
    return hook.function(*(arguments[name] for name in hook.argnames))


def text_of(item: object) -> str:
    """Its ``repr``, of moderate length, whatever that does."""
    try:
        text = repr(item)
    except Exception:
        text = f"{type(item).__name__} (its repr fails)"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
