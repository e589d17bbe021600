"""Layers of a model that is compiled in part have the names they have without."""

import copy
import json

import numpy as np
import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager
from probes.names import call_at, named_modules, plain_name
from probes.sinks.hdf5.provenance import provenance
from probes_curvature import hessian_eigenvalues
from probes_fourier import affine_spectral_norm, double
from probes_ntk import estimate_spectrum
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


class Tied(nn.Module):
    """One matrix under three names, one of them of a module that stands in two places; a bias that is not there."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.again = self.head
        self.norm = nn.BatchNorm1d(5)

    def forward(self, tokens):
        return self.norm(self.head(self.embedding(tokens)) + self.again(self.embedding(tokens)))


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_a_tied_parameter_is_given_by_any_of_its_names(name):
    model, tokens = Tied().eval(), torch.arange(5)
    weight, mean = torch.randn(5, 3), torch.randn(5)
    tensors = {name: weight, "norm.running_mean": mean}
    with torch.no_grad():
        before = model(tokens)
        changed = call_at(model, tensors, (tokens,), {})
        torch.testing.assert_close(changed, model.norm(2 * weight @ weight.T - mean), rtol=1e-4, atol=1e-5)
        # torch leaves the new weights in a module that stands in two places.
        torchs = torch.func.functional_call(copy.deepcopy(model), tensors, (tokens,))
        torch.testing.assert_close(changed, torchs, rtol=0, atol=0)
        torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)
    assert set(tensors) == {name, "norm.running_mean"}


class Twice(nn.Module):
    """A layer that runs twice; ``places`` are the names under which it is registered beside the first."""

    def __init__(self, places=("encoder", "decoder")):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        for place in places:
            self.add_module(place, nn.Sequential(self.layer))

    def forward(self, x):
        return self.last(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


@pytest.mark.parametrize("probe", ["curvature", "kernel_motion", "tangent_kernel", "complexity", "fourier"])
def test_a_layer_that_stands_in_several_places_is_measured_as_if_it_stood_in_one(probe):
    def values(places):
        sink, model = Memory(), Twice(places)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
        manager = ProbeManager(model, [probe], sinks=[sink], overhead=None, quiet=True, seed=0)
        with manager.attach(optimizer):
            for _ in range(4):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        rows = [row for row in sink.rows if not row.name.startswith("probes")]
        return [(row.name, row.step, np.array(row.value).tolist()) for row in rows]

    once = values(())
    assert once and values(("encoder", "decoder")) == once


def test_functions_leave_a_model_whose_layer_stands_in_several_places_as_it_was():
    model, x, y = Twice(), torch.randn(9, 4), torch.arange(9) % 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hessian_eigenvalues(model, nn.functional.cross_entropy, x, y, 1)
    double(model.eval())(x.double())
    estimate_spectrum(model, x, centering="outputs", products=24)
    affine_spectral_norm(nn.Sequential(model.layer, model.encoder), (4,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Old(nn.Sequential):
    """As classes were written before torch 2.0."""

    def named_parameters(self, prefix="", recurse=True):
        return super().named_parameters(prefix, recurse)


class Cycle(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.itself = inner, self

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("probe", ["curvature", "kernel_motion", "tangent_kernel"])
@pytest.mark.parametrize("make", [Old, lambda *layers: Cycle(nn.Sequential(*layers))])
def test_models_that_torch_cannot_call_at_other_weights_are_measured(probe, make):
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    names, _ = measured(make(*copy.deepcopy(plain)), probe)
    assert names and names == measured(plain, probe)[0]
