"""What is installed, read from the source of the plugins: nothing of them is imported, nor is torch.

The class that an entry point names is looked for in the text of its module, through ``from ... import`` and base
classes. Where it is not found there, the plugin is loaded, which also says why if it is broken. So what is broken only
when it runs, such as an import of something missing, is not seen here; ``probes check NAME`` sees it.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, NamedTuple

from ..session.discovery import DEFAULT_SINKS, KINDS, installed

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["listing", "table"]

NARROW = 110
"""In fewer columns than these, what a plugin does is written below its name."""


class Found(NamedTuple):
    """A class in the text of a module."""

    node: ast.ClassDef
    module: str


def listing() -> list[dict[str, Any]]:
    """The installed probes, sinks and executors: a row of plain values for each.

    ``loaded`` says whether the plugin had to be imported; ``error`` why it cannot be; ``by_default`` whether it runs
    when the user names none; ``words`` are the first line of its docstring.
    """
    _read.cache_clear()  # sources may have changed
    return [_row(kind, entry) for kind, (group, _) in KINDS.items() for entry in installed(group).values()]


def table(rows: list[dict[str, Any]], width: int) -> list[RichTable | str]:
    """The rows of :func:`listing` for a terminal of so many columns."""
    from rich.markup import escape
    from rich.table import Column, Table

    shown = Table(Column("name", no_wrap=True), "kind", "distribution", "by default", "what it does", box=None)
    lines: list[RichTable | str] = []
    for row in rows:
        runs = "" if row["error"] else "runs" if row["by_default"] else "when named"
        cells, words = (row["name"], row["kind"], row["distribution"], runs), row["error"] or row["words"]
        shown.add_row(*map(escape, cells), f"[red]{escape(words)}[/red]" if row["error"] else escape(words))
        lines.append("{:20}{:10}{:22}{}".format(*cells).rstrip())
        lines.append(textwrap.fill(words, width, initial_indent="    ", subsequent_indent="    "))
    return lines if width < NARROW else [shown]


def _row(kind: str, entry: EntryPoint) -> dict[str, Any]:
    row = {
        "name": entry.name,
        "kind": kind,
        "distribution": f"{entry.dist.name} {entry.dist.version}" if entry.dist else "",
        "by_default": entry.name in DEFAULT_SINKS,
        "words": "",
        "error": "",
        "loaded": False,
    }
    found = None
    try:
        found = _find_class(entry.module, entry.attr) if entry.attr else None
        if found is not None and kind == "probe":
            row["by_default"] = _attribute(found, "by_default")
    except (LookupError, ValueError, OSError, ImportError, SyntaxError):
        found = None
    words = ast.get_docstring(found.node) if found else _load(row)
    row["words"] = re.sub(r":\w+:|`", "", (words or "").strip().partition("\n")[0])
    return row


def _load(row: dict[str, Any]) -> str | None:
    """Import the plugin of a row; return its docstring."""
    from ..session.discovery import load

    row["loaded"] = True
    try:
        loaded = load(row["name"], row["kind"])
    except ImportError as error:
        row["error"], row["by_default"] = str(error), False
        return None
    row["by_default"] = getattr(loaded, "by_default", row["by_default"])
    return loaded.__doc__


def _find_class(module: str, name: str, depth: int = 8) -> Found | None:
    """Where a class is written that a module has under a name; None where the text does not say.

    Raises:
        OSError, ImportError, SyntaxError, ValueError: If there is no such module, or its text cannot be read.
    """
    if not depth or "." in name:
        return None
    spec, body = _read(module)
    found: list[Found | None] = []
    for node in _statements(body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            found.append(Found(node, module))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
                    where = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    found.append(_find_class(where, alias.name, depth - 1))
    return found[0] if len(found) == 1 else None  # of several, running the module decides


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those at the top of a module, also under an ``if`` (as ``if TYPE_CHECKING``) or a ``try``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            handlers = [statement for handler in getattr(node, "handlers", ()) for statement in handler.body]
            yield from _statements([*node.body, *handlers, *node.orelse])


def _attribute(found: Found, name: str, depth: int = 8) -> Any:
    """What a class or the first of its bases sets an attribute to, where it is written as a constant.

    Raises:
        LookupError: If the text does not say.
    """
    for node in found.node.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    for base in found.node.bases:
        other = _find_class(found.module, base.id) if isinstance(base, ast.Name) and depth else None
        if other is None:
            break  # it may have it
        try:
            return _attribute(other, name, depth - 1)
        except LookupError:
            continue
    raise LookupError(name)


@functools.cache
def _read(module: str) -> tuple[ModuleSpec, list[ast.stmt]]:
    """Where a module is, found without importing the packages that it is in, and its text.

    Raises:
        ImportError: If it is nowhere.
    """
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            break
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    if spec is None or spec.name != module:
        raise ImportError(f"There is no module {module!r}.")
    text = spec.loader.get_source(module) if isinstance(spec.loader, InspectLoader) else None
    return spec, ast.parse(text or "").body
