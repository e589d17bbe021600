"""Formulas as MathML, which browsers draw by themselves: no script has to be fetched."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

SPELLED = [
    (re.compile(r"\\(\||Vert\b)"), "\N{DOUBLE VERTICAL LINE}"),
    (re.compile(r"(?<=ig)\\langle\b"), "\N{MATHEMATICAL LEFT ANGLE BRACKET}"),
    (re.compile(r"(?<=ig)\\rangle\b"), "\N{MATHEMATICAL RIGHT ANGLE BRACKET}"),
    (re.compile(r"\\arg\s*\\(max|min)"), r"\\operatorname{arg\\,\1}"),
    (re.compile(r"\\arg\b"), r"\\operatorname{arg}"),
    (re.compile(r"\\Pr\b"), r"\\operatorname{Pr}"),
]
"""What the converter does not know, in other words."""


def mathml(formula: str, block: bool) -> str:
    """A formula of LaTeX as MathML.

    Raises:
        ValueError: If a command is not known.
    """
    text = formula
    for known, other in SPELLED:
        text = known.sub(other, text)
    drawn = convert(text, display="block" if block else "inline")
    if left := re.findall(r"\\\w+", drawn):
        raise ValueError(f"{', '.join(left)} in {formula!r}")
    return drawn


def _draw(translator: nodes.NodeVisitor, node: nodes.Element, block: bool) -> None:
    parts = []
    for formula in filter(str.strip, node.astext().split("\n\n")):
        try:
            parts.append(mathml(formula, block))
        except Exception as error:
            log.warning("a formula cannot be drawn: %s", error, location=node)
    translator.body.append(f'<div class="math">{"".join(parts)}</div>' if block else "".join(parts))
    raise nodes.SkipNode


def _inline(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    _draw(translator, node, block=False)


def _block(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    _draw(translator, node, block=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
