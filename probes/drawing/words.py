"""What is written on a picture: titles, labels of axes, names of layers."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import numpy as np

from ..measurement import printable

__all__ = ["caption", "counted", "heading", "label", "named", "quantity", "text", "with_unit"]


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 step``, ``2,000 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def text(words: object) -> str:
    """Words as they are: a name with dollar signs is no formula."""
    return "\n".join(map(printable, str(words).split("\n"))).replace("$", r"\$")


def heading(value: Any, path: str) -> str:
    """What a stream is, in words; its path where nothing says so."""
    words = str(value.attrs.get("long_name") or path)
    return words if words == path else words[:1].upper() + words[1:]


def caption(root: Any, path: str, words: str) -> str:
    """Of what a picture is: the stream, the model's class and the run's name, as far as they are known."""
    attributes = getattr(root, "attrs", {})
    model = _read(attributes.get("config_json", "{}")).get("model", "")
    name = getattr(root, "name", None)
    return "  ·  ".join(filter(None, (path if path != words else "", str(model), f"run {name}" if name else "")))


def quantity(value: Any, path: str) -> str:
    """A short name for an axis: ``update ratio`` of ``layers/update_ratio/train``."""
    parts = path.split("/")
    return parts[min(1, len(parts) - 1)].replace("_", " ") or str(value.attrs.get("long_name") or value.name or "")


def with_unit(words: str, variable: Any) -> str:
    """Words with the unit of a variable."""
    unit = str(variable.attrs.get("units", "1")).replace("^2", "²").replace("^3", "³")
    return words if unit in ("1", "") else f"{words} ({unit})"


def label(coordinate: Any, dim: Any) -> str:
    """The label of the axis of a dimension."""
    return text(textwrap.fill(with_unit(str(dim).replace("_", " "), coordinate), 42))


def named(value: Any, root: Any) -> Any:
    """The same value, with the class of each module before the names of layers, where the run has recorded it."""
    modules = _read(getattr(root, "attrs", {}).get("modules_json", "{}"))
    classes = {str(name): kind for kind, names in modules.items() if isinstance(names, list) for name in names}
    for dim in value.dims:
        labels = value[dim].values
        if labels.dtype.kind in "OUS" and dim != "plane":
            kinds = [classes.get(str(name), classes.get(str(name).removesuffix(".weight"), "")) for name in labels]
            full = [f"{kind} {name}" if kind else str(name) for kind, name in zip(kinds, labels, strict=True)]
            value = value.assign_coords({dim: (dim, np.array(full, dtype=object), value[dim].attrs)})
    return value


def _read(document: Any) -> dict[str, Any]:
    try:
        found = json.loads(document)
    except (TypeError, ValueError):  # of a file that somebody else has changed
        return {}
    return found if isinstance(found, dict) else {}
