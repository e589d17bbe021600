"""What is installed is read from the plugins' source: real distributions on the import path."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import probes
from probes.commands.listing import listing, table

IMPORTED = """
import sys
sys.argv = ["probes", *sys.argv[1:]]
try:
    from probes.commands.cli import main
    main()
finally:
    print("imported:", *[name for name in ("torch", "numpy", "probes_fourier") if name in sys.modules])
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    def install(entries, files):
        for name, body in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(body)
        info = tmp_path / "probes_toy-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probes-toy\nVersion: 0.3\n")
        lines = "\n".join(f"{name} = {place}" for name, place in entries.items())
        (info / "entry_points.txt").write_text(f"[probes]\n{lines}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    for module in [module for module in sys.modules if module.startswith("probes_toy")]:
        del sys.modules[module]


def rows():
    return {row["name"]: row for row in listing()}


@pytest.mark.parametrize("command", ["--help", "list"])
def test_help_and_list_import_neither_torch_nor_a_plugin(command):
    done = subprocess.run([sys.executable, "-c", IMPORTED, command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported:\n") and "list" in done.stdout + command, done.stdout


def test_every_shipped_plugin_is_read_from_its_source_as_it_is_when_loaded():
    from probes.session.discovery import load

    for row in listing():
        if row["distribution"].startswith("torch-probes") and row["kind"] == "probe":
            found = load(row["name"])
            assert not row["loaded"] and row["by_default"] is found.by_default
            assert row["words"].split()[:2] == found.__doc__.replace(":func:", "").replace("`", "").split()[:2]


def test_a_class_is_followed_through_imports_and_bases(distribution):
    files = {
        "probes_toy/__init__.py": "raise SystemExit\nfrom .probe import Toy, Loud\n",
        "probes_toy/probe.py": (
            "from probes import Probe\nfrom .base import Quiet as Q\n"
            'class Toy(Q):\n    """Measures :class:`Toy`.\n\n    More."""\n'
            'class Loud(Probe):\n    """Loud."""\n'
        ),
        "probes_toy/base.py": "import probes\nclass Quiet(probes.Probe):\n    by_default = False\n",
    }
    distribution({"toy": "probes_toy:Toy", "loud": "probes_toy:Loud"}, files)
    loud = rows()["loud"]
    assert (loud["words"], loud["by_default"], loud["loaded"]) == ("Loud.", True, False)
    row = rows()["toy"]
    assert (row["words"], row["by_default"], row["loaded"]) == ("Measures Toy.", False, False)
    assert row["distribution"] == "probes-toy 0.3" and "probes_toy" not in sys.modules


def test_what_the_source_does_not_say_is_loaded(distribution):
    body = 'import probes\nclass Toy(probes.Probe):\n    """A toy."""\n    by_default = bool(0)\nSame = Toy\n'
    distribution({"toy": "probes_toy:Toy", "same": "probes_toy:Same"}, {"probes_toy.py": body})
    found = rows()
    for name in ("toy", "same"):
        assert (found[name]["words"], found[name]["by_default"], found[name]["loaded"]) == ("A toy.", False, True)


@pytest.mark.parametrize(
    ("place", "body", "error"),
    [
        ("probes_toy:Toy", "class Toy(:\n", "SyntaxError"),
        ("probes_toy:Other", "", "AttributeError"),
        ("probes_toy.sub:Toy", "", "ModuleNotFoundError"),
        ("probes_toy:Toy", "Toy = 3", "must be a subclass"),
    ],
)
def test_a_broken_plugin_is_shown_with_its_error(distribution, place, body, error):
    distribution({"toy": place}, {"probes_toy.py": body})
    row = rows()["toy"]
    assert error in row["error"] and "'toy' (probes-toy 0.3)" in row["error"] and not row["by_default"]


def test_in_a_narrow_terminal_what_a_plugin_does_is_below_its_name():
    lines = "\n".join(map(str, table(listing(), 80))).split("\n")
    assert max(map(len, lines)) <= 80
    at = next(index for index, line in enumerate(lines) if line.startswith("fourier "))
    assert lines[at].split()[1:] == ["probe", "torch-probes", "0.1.0", "runs"]
    assert lines[at + 1].startswith("    Amplitudes of the frequencies")


def test_public_names_are_those_that_type_checkers_see():
    (block,) = [node for node in ast.parse(Path(probes.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == probes._HOMES
    for name, home in seen.items():
        assert getattr(probes, name) is getattr(sys.modules[f"probes.{home}"], name)
    assert {*probes.__all__} == {*seen} and {*seen} <= {*dir(probes)}


def test_the_first_public_name_imports_the_rest_as_before():
    script = (
        "import sys, probes\n"
        "assert 'torch' not in sys.modules\n"
        "from probes import every\n"
        "assert 'probes.manager' in sys.modules and 'h5py' not in sys.modules\n"
        "from probes import hookspecs\n"
        "assert probes.schedule.every is every and not hasattr(probes, 'nothing')\n"
        "from probes.budget import spending\n"
        "assert spending.imported > 0\n"
        "from probes import *\n"
        "assert ProbeManager is probes.ProbeManager and open_run\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
