"""What the events of a run say of its probes and sinks, in words: which failed, and why nothing was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..measurement import printable

__all__ = ["failed", "over", "troubles"]


def failed(tree: Any) -> dict[str, tuple[str, list[int]]]:
    """Of each plugin that has failed, by its label, its last failure and the steps; each fault of ours is one too."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for kind, plugin, message, step in _events(tree):
        if kind in ("fault", "quarantine"):
            found.setdefault(plugin or message, []).append((kind, message, step))
    told = {}
    for plugin, events in found.items():
        faults = [message for kind, message, _ in events if kind == "fault"] or [events[-1][1]]
        text = faults[-1].removesuffix(" Training goes on.").rstrip(".")
        text += f" ({len(faults)} times)" if len(faults) > 1 else ""
        text += "; it was called no more" if events[-1][0] == "quarantine" else ""
        told[plugin] = text, [step for *_, step in events]
    return told


def over(kinds: Sequence[str]) -> bool:
    """Whether a run with events of these kinds has been detached."""
    return [kind for kind in kinds if kind in ("attach", "detach")][-1:] == ["detach"]


def troubles(tree: Any) -> Iterator[tuple[str, str, list[int]]]:
    """Why a run that is over has no row, and which plugins have failed: a text, where it is seen, and the steps."""
    events = _events(tree)
    streams = (node for node in tree.leaves if "value" in node and not node.path.startswith("/probes/"))
    if over([kind for kind, *_ in events]) and not any(node.sizes["step"] for node in streams):
        reasons = dict.fromkeys(message for kind, _, message, _ in events if kind in ("warning", "refused"))
        text = " ".join(reasons).removeprefix("Nothing was measured.").strip()
        yield f"Nothing was measured. {text}".rstrip(". "), "events", [events[-1][-1]]
    for text, steps in failed(tree).values():
        yield text, "events", steps


def _events(tree: Any) -> list[tuple[str, str, str, int]]:
    """Kind, plugin, message and step of each event."""
    if "events" not in tree.children:
        return []
    columns = (tree["events"][name].values.tolist() for name in ("kind", "plugin", "message", "step"))
    return [(str(kind), str(who), printable(str(text)), step) for kind, who, text, step in zip(*columns, strict=True)]
