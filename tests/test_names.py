"""Layers of a model that is compiled in part have the names they have without."""

import json

import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager
from probes.names import named_modules, plain_name
from probes.sinks.hdf5.provenance import provenance
from probes_representation import Representation

PROBES = ["layers", "spectral_norm", "tangent_kernel", "complexity", "capacity", "representation", "mutual_information"]


class Parts(nn.Module):
    def __init__(self, compiled):
        super().__init__()
        torch.manual_seed(0)
        made = torch.compile if compiled else lambda module, **_: module
        self.first = made(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), backend="eager")
        self.alone = made(nn.Linear(8, 8), backend="eager")
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.alone(self.first(x))))


def measured(model, probe):
    """The names of streams, and the texts on their axes."""
    sink = Memory()
    manager = ProbeManager(model, [probe], sinks=[sink], overhead=None, quiet=True).attach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    manager.detach()
    assert not [event for event in sink.events if event.kind == "fault"]
    texts = [axis.values.tolist() for row in sink.rows for axis in (row.coords or {}).values()]
    return {row.name for row in sink.rows}, [text for text in texts if text and isinstance(text[0], str)]


@pytest.mark.filterwarnings("ignore")  # of Dynamo, about the gradient of what is between two compiled parts
@pytest.mark.parametrize("probe", PROBES)
def test_names_of_layers_are_those_of_the_model_that_was_compiled(probe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    assert measured(Parts(compiled=True), probe) == measured(Parts(compiled=False), probe)


def test_a_compiled_module_is_named_once_and_its_wrapper_is_not():
    model, plain = Parts(compiled=True), Parts(compiled=False)
    assert [name for name, _ in named_modules(model)] == [name for name, _ in plain.named_modules()]
    assert type(dict(named_modules(model))["alone"]) is nn.Linear
    assert [plain_name(name) for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("probe", PROBES)
def test_what_is_beside_a_part_that_torchscript_has_compiled_is_measured(probe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scripted = Parts(compiled=False)
    scripted.first = torch.jit.script(scripted.first)
    streams, texts = measured(scripted, probe)
    if probe == "layers":
        assert "layers/activation_rms/train" in streams and ["alone", "Parts.relu", "last"] in texts
    elif probe in ("representation", "mutual_information"):
        assert streams == measured(Parts(compiled=False), probe)[0] and ["alone", "last"] in texts
    else:
        assert streams


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_layer_that_torchscript_has_compiled_is_refused_when_named():
    model = Parts(compiled=False)
    model.first = torch.jit.script(model.first)
    manager = ProbeManager(model, [Representation(layers=["first"])], sinks=[Memory()], overhead=None, quiet=True)
    with manager.attach():
        for _ in range(2):
            model(torch.randn(40, 4)).sum().backward()
            manager.step()
        assert "must be names of modules of the model, got 'first'. It has: alone, last." in manager.report()


def test_the_file_names_modules_as_the_streams_do():
    compiled, plain = (ProbeManager(Parts(compiled), quiet=True).run for compiled in (True, False))
    one, two = (json.loads(provenance(run)["modules_json"]) for run in (compiled, plain))
    assert one == two and "first.0" in one["Linear"]
