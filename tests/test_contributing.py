"""The way through the code that CONTRIBUTING.md shows: it is there, and not too long."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WAY = re.findall(r"^\| \d+ \| `([\w/.]+)` \| (.+?) \| (\d+) \|$", TEXT, flags=re.M)
"""File, what to read of it, and how many lines that is."""


def lines(file, what):
    """From the first line of the first function to the last one of the last."""
    source = (ROOT / file).read_text(encoding="utf-8")
    if what == "all":
        return len(source.splitlines())
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    first, *_, last = [functions[name] for name in re.findall(r"`(\w+)`", what) * 2]
    return last.end_lineno - min([first.lineno, *(item.lineno for item in first.decorator_list)]) + 1


@pytest.mark.parametrize(("file", "what", "stated"), WAY)
def test_what_is_to_be_read_is_there_and_about_as_long_as_stated(file, what, stated):
    assert lines(file, what) == pytest.approx(int(stated), rel=0.1, abs=5)


def test_the_way_to_the_file_is_at_most_1200_lines_from_the_hooks_to_hdf5():
    files = [file for file, _, _ in WAY]
    assert files[0] == "probes/hookspecs.py" and files[-1].startswith("probes/sinks/hdf5/")
    assert {f"probes/session/{name}.py" for name in ("session", "turns", "streams", "accounts")} < set(files)
    assert sum(lines(file, what) for file, what, _ in WAY) <= 1200


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_within_the_repository_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert all((ROOT / target).exists() for target in targets)
    assert name != "CONTRIBUTING.md" or len(targets) > 4


def test_every_room_is_named():
    rooms = {f"{path.parent.name}/" for path in (ROOT / "probes").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `(\w+/)` \|", TEXT, flags=re.M))
