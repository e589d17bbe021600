"""The house: who may import whom, read off the source; no circle; every hook documented and tested."""

import ast
from pathlib import Path

import pytest

from probes.session.plugins import HOOKS

ROOT = Path(__file__).parents[1]
CORE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "probes").rglob("*.py")
}
FLOORS = [
    {"batches", "measurement", "schedule", "precision"},
    {"names"},
    {"outputs", "picking"},
    {"run"},
    {"probe", "hookspecs"},
    {"guard"},
    {"loop"},
    {"budget"},
    {"drawing"},
    {"plots", "summary"},
    {"sinks"},
    {"reading"},
    {"session"},
    {"ranks"},
    {"manager"},
    {"checking", "replaying"},
    {"testing"},
    {"commands"},
]
"""Rooms and public doors, from the ground: each imports from its own floor's room and from those below."""
EXCEPTIONS = {
    "session": {"sinks.log_dir"},  # and no other of them: the default ones are found by name, as anybody's
}


def imports(module):
    """What a module of the core imports of it, wherever in its text."""
    path = CORE[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            while name and name not in CORE:
                name = name.rpartition(".")[0]
            if name and name != module:
                found.add(name)
    return found


def room(module):
    return module.split(".")[1] if "." in module else "probes"


def floor(name):
    return next((height for height, rooms in enumerate(FLOORS) if name in rooms), len(FLOORS))


@pytest.mark.parametrize("module", sorted(CORE))
def test_a_room_imports_from_the_floors_below(module):
    own = room(module)
    if own in ("probes", "__main__"):  # the front doors
        return
    assert any(own in rooms for rooms in FLOORS), f"{own} is on no floor"
    for other in imports(module):
        place = room(other)
        assert place == own or floor(place) < floor(own), f"{module} imports {other}"
        if own in EXCEPTIONS and place == "sinks":
            assert other.removeprefix("probes.") in EXCEPTIONS[own], f"{module} imports {other}"


def test_there_is_no_circle_of_imports():
    graph = {module: imports(module) for module in CORE if module != "probes"}
    while graph:
        ground = {module for module, others in graph.items() if not others & graph.keys()}
        assert ground, f"a circle among {sorted(graph)}"
        graph = {module: others for module, others in graph.items() if module not in ground}


def test_no_room_goes_through_the_front_door():
    for module in CORE.keys() - {"probes"}:
        assert "probes" not in imports(module), f"{module} takes a public name, which imports all of them"


def test_the_core_knows_no_plugin_and_no_framework():
    for module, path in CORE.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            foreign = {"lightning", "transformers", "accelerate", "ignite", "wandb", "mlflow", "ray", "trackio"}
            assert not [name for name in names if name.startswith("probes_") or name.split(".")[0] in foreign], module


@pytest.mark.parametrize("plugin", sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()))
def test_plugins_use_of_one_another_what_is_public(plugin):
    for path in (ROOT / "plugins" / plugin).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("probes_") and not module.startswith(plugin):
                assert "." not in module, f"{path.name} imports {module}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_tested(hook):
    source = (ROOT / "probes" / "hookspecs.py").read_text(encoding="utf-8")
    spec = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == hook)
    assert len(ast.get_docstring(spec) or "") > 30, "say who calls it, when, and what it is for"
    assert f"{hook}(" in (ast.get_docstring(ast.parse(source)) or ""), "draw it into the loop"
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    assert any(f"def {hook}(" in text for text in tests)


def test_rooms_and_files_stay_small():
    widest = max(len(list(folder.glob("*.py"))) for folder in (ROOT / "probes").rglob("*") if folder.is_dir())
    longest = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in CORE.items()}
    assert widest <= 16
    assert {module: lines for module, lines in longest.items() if lines > 300} == {}


def test_files_of_experiments_can_be_read_as_their_sections_are():
    written = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "examples").glob("*/**/*.py")
    }
    frame = ROOT / "examples" / "frame"
    assert {path: lines for path, lines in written.items() if lines > 200 and frame not in path.parents} == {}
