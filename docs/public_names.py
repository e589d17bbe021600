"""``.. public-names:: package``: the reference of a package, from what its ``__init__`` exports, in its own groups."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import inspect as sphinx_inspect
from sphinx.util.docutils import SphinxDirective

MOST_LETTERS = 120
"""Of a value that is shown."""


def public_names(module: ModuleType) -> list[tuple[str, dict[str, str]]]:
    """The names that a module exports, each with the module that defines it, by the comment above them.

    They are those of ``__all__`` or, where there is none, those that are imported ``as`` themselves.
    """
    if hasattr(module, "__all__"):
        return [("", dict.fromkeys(module.__all__, module.__name__))]
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    comments = {
        number: line.removeprefix("# ")
        for number, line in enumerate(source.splitlines(), 1)
        if re.match(r"# (?!ruff)", line)
    }
    groups: dict[str, dict[str, str]] = {}
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    for node in sorted(found, key=lambda node: node.lineno):
        above = [number for number in comments if number < node.lineno]
        names = {item.name: f"{module.__name__}.{node.module}" for item in node.names if item.name == item.asname}
        groups.setdefault(comments[above[-1]] if above else "", {}).update(names)
    return [(title, names) for title, names in groups.items() if names]


def _described(module: str, name: str, origin: str) -> list[str]:
    item = getattr(import_module(module), name)
    if inspect.isclass(item):
        kind = "autoexception" if issubclass(item, BaseException) else "autoclass"
        return [f".. {kind}:: {module}.{name}", "   :members:", ""]
    if inspect.isroutine(item):
        return [f".. autofunction:: {module}.{name}", ""]
    analyzer = ModuleAnalyzer.for_module(origin)
    words = analyzer.find_attr_docs().get(("", name), [])
    value = re.sub(r"[\w.]+\.(?=\w)", "", repr(item))
    shown = [f"   :value: {value}"] if len(value) <= MOST_LETTERS else []
    return [f".. py:data:: {name}", f"   :module: {module}", *shown, "", *(f"   {line}" for line in words), ""]


class PublicNames(SphinxDirective):
    """Describes every public name of the module that is its argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        with mock(self.config.autodoc_mock_imports):
            module = import_module(self.arguments[0])
        groups = public_names(module)
        if not groups:
            raise self.error(f"{module.__name__} exports no name")
        lines = [f".. automodule:: {module.__name__}", "   :no-members:", ""]
        for title, names in groups:
            if title:
                lines += [f".. rubric:: {title[0].upper()}{title[1:]}", ""]
            for name, origin in names.items():
                lines += _described(module.__name__, name, origin)
        self.env.note_dependency(str(module.__file__))
        return self.parse_text_to_nodes("\n".join(lines))


def _keep(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    if what in ("attribute", "data", "property"):
        _kept[what, name] = list(lines)


def _put_back(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Undo what napoleon does to the words on an attribute: it takes those before a colon for a type."""
    words = _kept.pop((what, name), None)
    if words is not None and not any(re.fullmatch(r"(Returns|Raises|Example):", line) for line in words):
        lines[:] = words


def _own_signature(
    app: Sphinx, what: str, name: str, item: Any, options: object, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Of a class whose base is not installed: its own, not the stand-in's. And as Python reads it."""
    if what == "class" and signature == "(*args: Any, **kwargs: Any)" and "__init__" in vars(item):
        own = sphinx_inspect.signature(item.__init__, bound_method=True)
        signature = sphinx_inspect.stringify_signature(own, unqualified_typehints=True)
    return signature and signature.replace("<factory>", "..."), result


_kept: dict[tuple[str, str], list[str]] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-signature", _own_signature)
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _put_back, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
