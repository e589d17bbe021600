"""Plugins are found as third parties register them: real distributions on the import path."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from probes import ProbeManager
from probes.session.discovery import BrokenPlugin, installed, load

GOOD = """
from probes import Measurement, Probe

class Toy(Probe):
    name = "toy"
    def measure(self, run, step):
        yield Measurement("toy/one", 1.0)
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    def install(name, body, attribute="Toy", entry=None):
        (tmp_path / f"probes_{name}.py").write_text(body)
        info = tmp_path / f"probes_{name}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: probes-{name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[probes]\n{entry or name} = probes_{name}:{attribute}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PROBES_PLUGINS", name)

    yield install
    for module in [module for module in sys.modules if module in ("probes_toy", "probes_bad", "probes_rival")]:
        del sys.modules[module]


def step(model, manager):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with manager.attach(optimizer):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
        return manager.report()


def test_a_third_partys_probe_runs_by_default_once_installed(distribution):
    distribution("toy", GOOD)
    manager = ProbeManager(nn.Linear(2, 1), sinks=[])
    assert "toy" in step(manager.run.model, manager)
    assert manager.run.step == 1


@pytest.mark.parametrize("chosen", [None, ["bad"]])
@pytest.mark.parametrize(
    ("body", "attribute", "reason"),
    [
        ("import foo_that_is_not_there", "Toy", "ModuleNotFoundError"),
        ("Toy = 3", "Toy", "must be a subclass"),
        ("", "Toy", "AttributeError"),
        ("import sys; sys.exit('bye')", "Toy", "SystemExit('bye')"),
    ],
)
def test_a_broken_plugin_is_named_and_training_goes_on(distribution, caplog, chosen, body, attribute, reason):
    distribution("bad", body, attribute)
    manager = ProbeManager(nn.Linear(2, 1), probes=chosen, sinks=[])
    report = step(manager.run.model, manager)
    assert manager.run.step == 1 and "'bad' (probes-bad 0.3)" in caplog.text and reason in caplog.text
    assert caplog.text.count("Training goes on without it.") == 1 and "'bad' (probes-bad 0.3)" in report


def test_what_a_plugin_sets_when_it_is_imported_is_undone(distribution):
    body = "import random, torch\nrandom.seed(0)\ntorch.manual_seed(0)\ntorch.set_default_dtype(torch.float64)\n"
    distribution("toy", body + GOOD)
    model = nn.Linear(2, 1)
    before, states = torch.get_default_dtype(), (random.getstate(), torch.get_rng_state().tolist())
    manager = ProbeManager(model, sinks=[])
    assert torch.get_default_dtype() is before and (random.getstate(), torch.get_rng_state().tolist()) == states
    assert "toy" in step(manager.run.model, manager)


def test_of_two_of_one_name_ours_is_taken_and_the_other_named(distribution, caplog):
    distribution("toy", GOOD)
    distribution("rival", GOOD, entry="layers")
    manager = ProbeManager(nn.Linear(2, 1), probes=["layers", "toy"], sinks=[])
    report = step(manager.run.model, manager)
    assert load("layers").__module__ == "probes_layers.probe"
    told = "Of probes of one name that of 'layers' (torch-probes 0.1.0) is taken, not 'layers' (probes-rival 0.3): pass"
    assert caplog.text.count(told) == 1 and "toy" in report


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"No probe is named 'nothing'. Installed probes: .*fourier"):
        load("nothing")


def test_every_shipped_entry_point_loads():
    for name, entry in installed().items():
        if entry.module.startswith("probes_"):
            assert load(name).__module__.startswith(entry.module)


def test_a_broken_plugin_is_an_import_error(distribution):
    distribution("bad", "raise RuntimeError('at import')")
    with pytest.raises(BrokenPlugin, match="at import"):
        load("bad")


PLUGINS = {
    "probes_fourier": {"probes_ntk"},  # which of many outputs are chosen
    "probes_layers": {"probes_ntk"},  # which layer a parameter is of
    "probes_ntk": set(),
    "probes_mine": set(),
    "probes_complexity": {"probes_fourier", "probes_ntk"},  # their pure functions
    "probes_curvature": {"probes_ntk"},  # the call of a model, Lanczos' iteration, standard errors
    "probes_representation": {"probes_ntk"},  # the effective rank
}
"""Each with the others that it may import."""
IMPORTING = """
import json, os, sys
import probes, probes.manager, probes.reading, probes.sinks.hdf5, probes.sinks.tensorboard
print(json.dumps([*sys.modules]), flush=True)
for plugin in sys.argv[1:]:
    if os.fork() == 0:  # so that each is imported where no other has been
        __import__(plugin)
        print(json.dumps([*sys.modules]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def imported():
    """What a fresh interpreter has imported with the core, and then with each plugin."""
    command = [sys.executable, "-c", IMPORTING, *PLUGINS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(["core", *PLUGINS], modules, strict=True))


def test_the_core_imports_no_plugin_and_no_optional_package(imported):
    optional = {
        "xarray", "h5netcdf", "matplotlib", "rich", "typer", "sklearn", "torchvision", "tensorboard", "lightning",
        "pytorch_lightning", "transformers", "accelerate", "ignite",
    }  # fmt: skip
    assert "probes.manager" in imported["core"]
    assert not [name for name in imported["core"] if name.startswith("probes_") or name.partition(".")[0] in optional]


@pytest.mark.parametrize(("plugin", "allowed"), PLUGINS.items())
def test_plugins_import_only_what_the_map_says(imported, plugin, allowed):
    found = {name.partition(".")[0] for name in imported[plugin] if name.startswith("probes_")}
    assert found == {plugin, *allowed}


def test_the_map_has_every_plugin():
    plugins = Path(__file__).parents[2] / "plugins"
    assert PLUGINS.keys() == {path.parent.name for path in plugins.glob("*/__init__.py")}


def test_what_is_installed_later_is_found(distribution):
    distribution("toy", GOOD)
    assert "toy" in installed() and "late" not in installed()
    places = list(sys.path)
    distribution("late", GOOD)
    sys.path[:] = places
    assert "late" in installed()


def test_only_these_of_ours_run_by_default():
    """What is added to every user's training is decided here, not by leaving a line out."""
    ours = {name for name in installed() if load(name).__module__.startswith("probes_")}
    runs = {name for name in ours if load(name).by_default}
    assert runs == {"fourier", "layers", "spectral_norm", "tangent_kernel"}
