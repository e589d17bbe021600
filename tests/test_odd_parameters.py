"""A parameter that cannot be measured costs the others nothing, whichever probe walks over them."""

import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager

PROBES = ["layers", "spectral_norm", "tangent_kernel", "complexity", "capacity", "representation", "fourier"]


class Odd(nn.Module):
    """Two layers, and one that holds nothing to measure, in front of them or behind."""

    def __init__(self, odd, first):
        super().__init__()
        torch.manual_seed(0)
        for name in ("odd", "a", "b") if first else ("a", "b", "odd"):
            setattr(self, name, odd if name == "odd" else nn.Linear(4, 4))

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def trained(model, probe):
    sink = Memory()
    manager = ProbeManager(model, [probe], sinks=[sink], overhead=None, quiet=True).attach()
    optimizer = torch.optim.SGD([*model.a.parameters(), *model.b.parameters()], lr=0.1)
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    manager.detach()
    return sink


@pytest.mark.parametrize("first", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("probe", PROBES)
def test_a_layer_on_the_meta_device_costs_no_other(probe, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = trained(Odd(nn.Identity(), first), probe)
    sink = trained(Odd(nn.Linear(3, 3, device="meta"), first), probe)
    assert not [event for event in sink.events if event.kind in ("fault", "refused", "quarantine")]
    expected = {row.name for row in alone.rows if not row.name.startswith("probes/")}
    assert expected <= {row.name for row in sink.rows}
    walks = probe in ("layers", "spectral_norm", "complexity", "capacity")
    assert any("odd" in event.message and "meta device" in event.message for event in sink.events) == walks


@pytest.mark.parametrize("first", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("empty", [(0, 3), (2, 0, 3)])
def test_a_parameter_without_a_number_costs_no_other(probe, first, empty, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = nn.Module()
    odd.weight = nn.Parameter(torch.zeros(empty))
    alone, sink = trained(Odd(nn.Identity(), first), probe), trained(Odd(odd, first), probe)
    assert not [event for event in sink.events if event.kind in ("fault", "refused", "quarantine")]
    expected = {row.name for row in alone.rows if not row.name.startswith("probes/")}
    assert expected <= {row.name for row in sink.rows}


@pytest.mark.parametrize("probe", PROBES)
def test_complex_parameters_are_measured_or_refused_in_one_line(probe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = trained(Odd(nn.Linear(3, 3, dtype=torch.complex64), False), probe)
    assert not [event for event in sink.events if event.kind in ("fault", "quarantine")]
    refused = [event.message for event in sink.events if event.kind == "refused"]
    assert bool(refused) == (probe in ("tangent_kernel", "complexity", "capacity"))
    assert all("has complex parameters ('odd.weight')" in message and "\n" not in message for message in refused)
