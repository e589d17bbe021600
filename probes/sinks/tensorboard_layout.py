"""What TensorBoard shows beside the numbers: charts of several curves by family, and words for each tag.

The tab CUSTOM SCALARS has a category for each family of streams (``layers``, ``fourier``, ...) with one chart for each
stream, all its layers in it. Its layout is one small summary, written anew when more streams are known; the last one
counts. The charts find their curves by name, so that those of several runs fall together.
"""

from __future__ import annotations

import re
from typing import Any

from ..measurement import Measurement, printable, storable

__all__ = ["Charts", "describe"]

GROWTH = 1.25
"""The layout is written anew when there are so many times as many charts, and at the end."""


class Charts:
    """The charts of a run: a regular expression for each stream, by family and title."""

    def __init__(self) -> None:
        self._families: dict[str, dict[str, str]] = {}
        self._known: set[str] = set()
        self._written = 0

    def add(self, item: Measurement, tags: list[str]) -> None:
        """Take up a stream with its tags, once."""
        if not tags or item.name in self._known:
            return
        self._known.add(item.name)
        family, _, quantity = item.name.partition("/")
        words = f": {printable(item.description)}" if item.description else ""
        unit = f" ({item.unit})" if item.unit not in ("1", "") else ""
        inner = "/.+" if any("/" in tag[len(item.name) + 1 :] for tag in tags) else "/[^/]+"
        pattern = re.escape(item.name) + ("" if tags == [item.name] else inner) + "$"
        self._families.setdefault(family, {})[f"{quantity or family}{words}{unit}"] = pattern

    def due(self, end: bool = False) -> dict[str, Any] | None:
        """The layout, as ``SummaryWriter.add_custom_scalars`` takes it, if it is to be written now."""
        if len(self._known) <= (self._written if end else self._written * GROWTH):
            return None
        self._written = len(self._known)
        return {
            family: {title: ["Multiline", [pattern]] for title, pattern in charts.items()}
            for family, charts in self._families.items()
        }


def describe(summary: Any, item: Measurement, plugin: str) -> Any:
    """The same summary with what its tag is, in words: TensorBoard shows them beside its title."""
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
        DATA_CLASS_SCALAR,
        DATA_CLASS_TENSOR,
    )

    unit = f"Unit: {item.unit}." if item.unit not in ("1", "") else "No unit."
    parts = (
        f"{item.description}." if item.description else "",
        unit,
        f"Estimator: {item.estimator}." if item.estimator else "",
    )
    metadata = summary.value[0].metadata
    metadata.summary_description = escaped(printable(" ".join(filter(None, parts))))
    metadata.plugin_data.plugin_name = plugin
    metadata.data_class = DATA_CLASS_SCALAR if plugin == "scalars" else DATA_CLASS_TENSOR
    return summary


def escaped(words: str) -> str:
    """Words as the dashboard shows them, which takes them for Markdown."""
    return re.sub(r"([\\`*_\[\]])", r"\\\1", storable(words))
