"""What is written on a picture: titles, labels of axes, names of layers."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..measurement import printable

__all__ = [
    "caption",
    "counted",
    "heading",
    "label",
    "entries",
    "named",
    "of_layers",
    "quantity",
    "text",
    "with_class",
    "with_unit",
]


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
    for dim in of_layers({dim: value[dim].values for dim in value.dims}):
        full = np.array([with_class(str(name), classes) for name in value[dim].values], dtype=object)
        value = value.assign_coords({dim: (dim, full, value[dim].attrs)})
    return value


def of_layers(coordinates: Mapping[Any, NDArray[Any]]) -> list[Any]:
    """Of the dims with these coordinates those whose entries are layers: they are called so, or have the same names.

    Example:
        >>> names, classes = np.array(["0", "2"]), np.array(["0", "1", "2"])
        >>> of_layers({"layer": names, "other": names, "class": classes})
        ['layer', 'other']
    """
    names = {dim: list(map(str, values)) for dim, values in coordinates.items() if values.dtype.kind in "OUS"}
    layers = [names[dim] for dim in names if re.search("layer|module|weight|parameter", str(dim))]
    return [dim for dim in names if names[dim] in layers]


def with_class(name: str, classes: Mapping[str, str]) -> str:
    """The name of a layer after the class of its module, where that is known.

    Example:
        >>> with_class("relu-2", {"relu": "ReLU"})  # where it is called the second time
        'ReLU relu-2'
    """
    names = name, name.removesuffix(".weight"), re.sub(r"-\d+$", "", name)
    kind = next((classes[known] for known in names if known in classes), "")
    return f"{kind} {name}" if kind else name


def entries(coordinates: NDArray[Any]) -> list[str]:
    """Coordinates as text; numbers with as many digits as tell them apart.

    Example:
        >>> entries(np.array([0.5, 0.25])), entries(np.array([0.99999, 0.9999999]))
        (['0.5', '0.25'], ['0.99999', '0.9999999'])
    """
    if coordinates.dtype.kind not in "iuf":
        return list(map(str, coordinates))
    places = np.unique(coordinates[np.isfinite(coordinates)]).astype(float)
    gap = np.diff(places).min(initial=np.inf) or np.inf
    digits = 1 + np.ceil(np.log10(np.abs(places).max(initial=0) / gap + 1e-9) - 1e-9)
    return [f"{value:.{int(np.clip(digits, 6, 17))}g}" for value in coordinates.tolist()]


def _read(document: Any) -> dict[str, Any]:
    try:
        found = json.loads(document)
    except (TypeError, ValueError):  # of a file that somebody else has changed
        return {}
    return found if isinstance(found, dict) else {}
