"""``probes new NAME``: a distribution of one's own, with a probe that works, its tests and all that publishing needs.

The files are in ``probes/commands/template``, each with the ending ``.template``: what is between two ``@`` is filled
in.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from ..session.discovery import installed

__all__ = ["scaffold"]

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
MAX_LENGTH = 30
IMPORTED = {"Axis", "Iterator", "Measurement", "Probe", "ProbeContract", "Run", "Schedule", "Tensor"}
"""What the template's files import: a probe of such a name would hide it."""


def scaffold(name: str, parent: Path) -> Path:
    """Write a distribution ``probes-<name>`` into a directory of that name.

    Args:
        name: Of the probe, in lower case, words joined by ``-`` or ``_``; with ``probes-`` before it or without.
        parent: The directory in which the new one is made.

    Returns:
        The new directory.

    Raises:
        ValueError: If it is not such a name, or an installed probe, distribution or module has it.
        FileExistsError: If the directory is there already.

    Example:
        >>> import tempfile
        >>> path = scaffold("margin", Path(tempfile.mkdtemp()))
        >>> path.name, sorted(item.name for item in path.iterdir())[-3:]
        ('probes-margin', ['pyproject.toml', 'src', 'tests'])
    """
    words = _words(name)
    names = {
        "name": "_".join(words),
        "distribution": "-".join(["probes", *words]),
        "package": "_".join(["probes", *words]),
        "class": "".join(word.capitalize() for word in words),
        "core": version("torch-probes"),
        "year": str(date.today().year),
    }
    _look_for_clashes(name, names)
    path = parent / names["distribution"]
    if path.exists():
        raise FileExistsError(f"{str(path)!r} is there already. Choose another name, or remove it.")
    _write(Path(__file__).parent / "template", path, names)
    return path


def _words(name: str) -> list[str]:
    short = re.sub(r"^probes[-_]", "", name)
    if not NAME.fullmatch(short) or len(short) > MAX_LENGTH:
        raise ValueError(
            f"`name` must be a name such as gradient-noise: lower-case letters and digits, beginning with a letter, in "
            f"words joined by - or _, at most {MAX_LENGTH} characters; got {name!r}."
        )
    return re.split("[-_]", short)


def _look_for_clashes(name: str, names: dict[str, str]) -> None:
    if names["name"] in (found := installed()):
        entry = found[names["name"]]
        whose = f" (of {entry.dist.name} {entry.dist.version})" if entry.dist else ""
        raise ValueError(f"A probe named {names['name']!r} is installed already{whose}. Choose another name.")
    if importlib.util.find_spec(names["package"]) is not None:
        raise ValueError(f"A module {names['package']!r} is there already. Choose another name than {name!r}.")
    try:
        distribution(names["distribution"])
    except PackageNotFoundError:
        pass
    else:
        raise ValueError(f"A distribution {names['distribution']!r} is installed already. Choose another name.")
    if names["class"] in IMPORTED or keyword.iskeyword(names["class"]):
        raise ValueError(f"The class of a probe {name!r} would be {names['class']!r}, which is taken. Choose another.")


def _write(source: Path, target: Path, names: dict[str, str]) -> None:
    """Copy a directory of templates, with the names filled in, in paths too."""
    target.mkdir(parents=True)
    for item in sorted(source.iterdir()):
        path = target / _filled(item.name.removesuffix(".template"), names)
        if item.is_dir():
            _write(item, path, names)
        elif item.name.endswith(".template"):
            path.write_text(_filled(item.read_text(encoding="utf-8"), names), encoding="utf-8")


def _filled(text: str, names: dict[str, str]) -> str:
    for key, value in names.items():
        text = text.replace(f"@{key}@", value)
    return text
