"""Pages that are files of the repository elsewhere, and links that lead to them from here and from GitHub alike.

A page that holds nothing but ``{include} ../FILE.md`` is that file, with its relative links and pictures as seen from
the page. A link to such a file leads to its page; one to a folder is its words alone; one to another is a download.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
INCLUDED = re.compile(r"```\{include\} (\S+)\n```\n?")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", flags=re.M | re.S)


def included(page: Path) -> Path | None:
    """The file that a page consists of; None where it has a text of its own."""
    found = INCLUDED.fullmatch(page.read_text(encoding="utf-8"))
    return (page.parent / found.group(1)).resolve() if found else None


def pages() -> dict[Path, Path]:
    """The page of each file that is one."""
    return {origin: page for page in DOCS.rglob("*.md") if (origin := included(page)) is not None}


def seen_from(page: Path, origin: Path, text: str) -> str:
    """The text of a file with relative links as they are from a page."""
    page_of = pages()

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.group(1), (origin.parent / found.group(2)).resolve(), found.group(3) or ""
        if target.is_dir():
            return words
        return f"[{words}]({os.path.relpath(page_of.get(target, target), page.parent)}{anchor})"

    def picture(found: re.Match[str]) -> str:
        return f"![{found.group(1)}]({os.path.relpath((origin.parent / found.group(2)).resolve(), page.parent)})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else PICTURE.sub(picture, LINK.sub(link, part)) for part in parts)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name)).resolve()
    if page.suffix != ".md":
        return
    origin = included(page)
    if origin is not None:
        app.env.note_dependency(str(origin))
        content[0] = origin.read_text(encoding="utf-8")
    content[0] = seen_from(page, origin or page, content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
