"""Parameters that are no plain tensors: what can be measured is, what cannot is named, and training is what it is."""

import pytest
import torch
from loops import Memory
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from probes import Measurement, Probe, ProbeManager, every
from probes.loop.sharding import in_parts, is_sharded, refusal


class Norms(Probe):
    name = "norms"

    def measure(self, run, step):
        yield Measurement("norm/plain", run.model[2].weight.norm())
        yield Measurement("norm/other", run.model[0].weight.norm())


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    weight = model[0].weight.detach()
    model[0].weight = nn.Parameter(TwoTensor(weight.clone(), weight.clone()))
    model.register_buffer("pair", TwoTensor(torch.ones(2), torch.ones(2)))
    return model


def train(probes=None, sink=None):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, probes or [], sinks=[sink] if sink else [], overhead=None)
    if probes:
        manager.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3)), torch.randint(2, (8,))).backward()
        optimizer.step()
    report = manager.report()
    manager.detach()
    weights = [parameter.a if isinstance(parameter, TwoTensor) else parameter for parameter in model.parameters()]
    return [weight.detach().clone() for weight in weights], report


def test_a_model_with_a_tensor_subclass_trains_as_it_would_and_is_measured_where_it_can_be(caplog):
    sink = Memory()
    bare, (probed, report) = train()[0], train([Norms(every(1))], sink)
    assert all(map(torch.equal, bare, probed))
    assert sink.steps("norm/plain") == [0, 1, 2] and sink.steps("norm/other") == []
    assert "full_tensor() of a DTensor" in report and "got TwoTensor" in report


def test_a_sparse_value_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"'a' must be a dense .* layout torch.sparse_coo.* Pass .* to_dense\(\)"):
        Measurement("a", torch.eye(2).to_sparse(), dims=("i", "j"))


def test_a_plain_model_is_in_one_piece():
    model = network()
    assert not is_sharded(model) and not in_parts(model) and refusal(model, model) == ""
