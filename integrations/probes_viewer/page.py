"""A run as one HTML file: it opens from disk, without network, and can be sent to a colleague."""

from __future__ import annotations

import base64
import html
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probes.measurement import printable

from .contents import as_json, shown, thinned
from .runs import contents_of, summary_of
from .words import enumerated, told_apart

__all__ = ["STATIC", "page", "report"]

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
"""Nothing is loaded from anywhere."""
MAX_MEGABYTES = 20.0


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    max_megabytes: float = MAX_MEGABYTES,
    *,
    told: Callable[[str], object] | None = None,
) -> Path:
    """Write runs with their pictures, findings, settings, costs and events into one HTML file.

    Args:
        runs: The log directories, or one.
        out: The file. One that is there is replaced.
        max_megabytes: Its greatest size. The streams with the most numbers are thinned for it, every second step,
            every fourth ..., the same ones of each run; the page says so where it shows them, and where it is larger
            all the same, with the last row of each.
        told: Called with a line on what was thinned, if anything was.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If a log directory holds no run.
        ValueError: If the size is no positive number, or the file is one of a run.

    For example, ``report("runs/vgg19", "vgg19.html")``.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    out = Path(out).expanduser()
    if out.suffix == ".h5" or "tfevents" in out.name or out.is_dir() or str(out) == "-":
        raise ValueError(
            f"`out` must be the name of an HTML file, got {out}, which is a directory, a run's own file, or no name."
        )
    written = page(given, max_megabytes, told=told)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(written, encoding="utf-8")
    return out


def page(
    runs: Sequence[str | Path],
    max_megabytes: float = MAX_MEGABYTES,
    stream: str = "",
    told: Callable[[str], object] | None = None,
) -> str:
    """The text of the same file; it begins with ``stream``, the first one below it, or the overview."""
    if not (isinstance(max_megabytes, int | float) and max_megabytes > 0):
        raise ValueError(f"`max_megabytes` must be a positive number, got {max_megabytes!r}.")
    if not runs:
        raise ValueError("`runs` must be the log directory of a run, or several, got none.")
    paths = [Path(run).expanduser() for run in runs]
    documents = [_document(path) for path in paths]
    _name_apart(documents, paths)
    most = max_megabytes * 1e6
    empty = [{**each, "streams": dict.fromkeys(each["streams"], "")} for each in documents]
    thin, fits = _thinned(documents, most - len(_written(empty, stream).encode()))
    said = (
        [f"of {enumerated(thin)} only some rows are here, for a page of at most {max_megabytes:g} MB"] if thin else []
    )
    said += [] if fits else [f"this page is larger than the {max_megabytes:g} MB it may have"]
    for document in documents:
        document["catalogue"]["notes"] += said
    if told is not None and said:
        told("; ".join(said))
    names = [meta["name"] for document in documents for meta in document["catalogue"]["streams"]]
    if stream not in names:  # of a group the first stream
        stream = next((name for name in names if name.startswith(f"{stream}/")), "") if stream else ""
    return _written(documents, stream)


def _name_apart(documents: list[dict[str, Any]], paths: Sequence[Path]) -> None:
    """Runs whose directories have one name are named by their paths; what is given twice, with a number each."""
    at = [(path.parent if path.is_file() else path).absolute() for path in paths]
    above = os.path.commonpath([path.parent for path in at])
    names = [each["name"] for each in documents]
    names = [
        shown(os.path.relpath(path, above)) if names.count(name) > 1 else name
        for name, path in zip(names, at, strict=True)
    ]
    for document, name in zip(documents, told_apart(names), strict=True):
        document["name"] = document["summary"]["name"] = name


def _written(documents: list[dict[str, Any]], stream: str) -> str:
    data = as_json({"runs": documents, "stream": stream}).replace(
        "<", "\\u003c"
    )  # no text of a run ends the element that holds it
    modules = {
        f"probes-viewer/{path.name}": _as_url(path.read_text(encoding="utf-8")) for path in sorted(STATIC.glob("*.js"))
    }
    title = html.escape(", ".join(document["name"] for document in documents))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width">
<title>{title} · probes</title>
<style>
{(STATIC / "style.css").read_text(encoding="utf-8")}</style>
<script type="importmap">{as_json({"imports": modules})}</script>
</head>
<body>
<div id="probes"><p style="padding: 2em">This page draws itself with JavaScript, which is not run here.</p></div>
<script type="application/json" id="probes-data">{data}</script>
<script type="module">import "probes-viewer/index.js";</script>
</body>
</html>
"""


def _as_url(source: str) -> str:
    """A module as an address that holds it; a module of such an address finds the others by their names."""
    named = re.sub(r'from "\./([\w.]+)"', r'from "probes-viewer/\1"', source)
    return f"data:text/javascript;base64,{base64.b64encode(named.encode()).decode()}"


def _document(path: Path) -> dict[str, Any]:
    contents = contents_of(path)
    catalogue = contents.catalogue()
    try:
        looked = {"findings": contents.findings(), "unknown": ""}
    except Exception as error:  # one rule that fails does not keep the pictures away
        looked = {"findings": [], "unknown": printable(str(error))}
    return {
        "name": catalogue["name"],
        "summary": summary_of(catalogue, path),
        "catalogue": catalogue,
        **looked,
        "streams": {meta["name"]: contents.stream(meta["name"]) for meta in catalogue["streams"]},
    }


def _thinned(documents: list[dict[str, Any]], most: float) -> tuple[list[str], bool]:
    """Make text of the streams, the largest with fewer rows until they are small enough in all; which, whether so."""
    whole: dict[str, list[bytes]] = {}
    thin: set[str] = set()
    rows: dict[str, int] = {}  # of the run that has most
    for document in documents:
        for meta in document["catalogue"]["streams"]:
            whole.setdefault(meta["name"], []).append(document["streams"][meta["name"]])
            rows[meta["name"]] = max(rows.get(meta["name"], 0), meta["rows"])
    packed = {name: [_packed(data) for data in runs] for name, runs in whole.items()}
    sizes = {name: sum(map(len, texts)) for name, texts in packed.items()}
    every = dict.fromkeys(whole, 1)
    able = {name for name, count in rows.items() if count > 1}
    while sum(sizes.values()) > most and able:
        name = max(able, key=lambda name: sizes[name])
        every[name] *= 2
        texts = [_packed(data) for data in thinned(whole[name], every[name])]
        size = sum(map(len, texts))
        if size >= sizes[name] or every[name] >= rows[name]:
            able.remove(name)  # it is as small as it can be
        if size < sizes[name]:
            packed[name], sizes[name] = texts, size
            thin.add(name)
    for document in documents:
        document["streams"] = {name: packed[name].pop(0) for name in document["streams"]}
    return sorted(thin), sum(sizes.values()) <= most


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()
