"""What a model is called with is as it was after a measurement, and the same at the next one."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from probes import Batch, Probe, ProbeManager, every, hookimpl


class Outputs(Probe):
    """Keeps what the model makes of the first batch, twice at each step."""

    def __init__(self):
        super().__init__(every(1))
        self.seen = []

    def measure(self, run, step):
        with torch.no_grad():
            self.seen += [run.forward(run.batch("train")).sum().item() for _ in range(2)]
        return []


class Net(nn.Module):
    def __init__(self, change=lambda x, given: x):
        super().__init__()
        self.body, self.change = nn.Linear(4, 3), change

    def forward(self, x, given=None):
        return self.body(self.change(x, given))


def train(model, call, watched, tmp_path, probe=None, batches=None):
    """The weights after three steps, and what the manager reports."""
    torch.manual_seed(0)
    nn.init.normal_(model.body.weight), nn.init.zeros_(model.body.bias)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probes, options = [probe or Outputs()], {"sinks": [], "overhead": None, "quiet": True}
    manager = ProbeManager(model, probes, log_dir=tmp_path, batches=batches, **options) if watched else None
    manager and manager.attach()
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(call(model), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    report = manager.report() if manager else ""
    manager and manager.detach()
    return model.body.weight.detach().clone(), report


class Memory:
    def __init__(self):
        self.mean = torch.zeros(4)


def remembering(x, memory):
    memory.mean = 0.9 * memory.mean + 0.1 * x.mean(0)
    return x + memory.mean


GIVEN = {
    "generator of torch": (
        lambda: torch.Generator().manual_seed(1), lambda x, g: x + torch.randn(x.shape, generator=g)
    ),
    "generator of numpy": (
        lambda: np.random.default_rng(1), lambda x, g: x + torch.from_numpy(g.normal(size=tuple(x.shape))).float()
    ),
    "object of the script": (Memory, remembering),
    "module": (lambda: nn.BatchNorm1d(4), lambda x, norm: norm(x)),
    "object of a library": (lambda: Library(), lambda x, kept: x + kept.count()),
    "list": (list, lambda x, kept: (kept.append(1), x + len(kept))[1]),
}  # fmt: skip


class Library:
    """As if it were of an installed package."""

    __module__ = "numpy.of_a_library"

    def __init__(self):
        self.calls = 0

    def count(self):
        self.calls += 1
        return self.calls


@pytest.mark.parametrize("what", GIVEN)
def test_what_the_model_is_given_that_is_no_tensor_is_as_it_was(what, tmp_path):
    make, change = GIVEN[what]

    def weights(watched):
        given = make()
        return train(Net(change), lambda model: model(torch.randn(5, 4), given), watched, tmp_path)[0]

    assert torch.equal(weights(True), weights(False))


IN_PLACE = {
    "clamps": (lambda x, given: x.clamp_(min=0), lambda model, x: model(x)),
    "normalises": (lambda x, given: x.sub_(x.mean(1, keepdim=True)).mul_(3), lambda model, x: model(x)),
    "takes out of a dict": (lambda x, given: x + given.pop("more"), lambda model, x: model(x, {"more": x})),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_a_model_may_change_what_it_is_given(what, tmp_path):
    change, call = IN_PLACE[what]
    model, probe, x = Net(change), Outputs(), torch.randn(5, 4)
    found, report = train(model, lambda model: call(model, x.clone()), True, tmp_path, probe)
    assert torch.equal(found, train(Net(change), lambda model: call(model, x.clone()), False, tmp_path)[0])
    assert len(probe.seen) == 8 and probe.seen[0::2] == probe.seen[1::2]
    with torch.no_grad():
        assert probe.seen[-1] == call(model.eval(), x.clone()).sum().item()
    assert "5 samples with targets" in report


def test_inputs_are_copied_only_at_the_first_call_of_a_model_that_leaves_them(tmp_path, monkeypatch):
    copies, clone = [], torch.Tensor.clone
    model, probe = Net(), Outputs()
    monkeypatch.setattr(torch.Tensor, "clone", lambda x, **k: copies.append(tuple(x.shape)) or clone(x, **k))
    x = torch.randn(6, 4)[:5]
    train(model, lambda model: model(x), True, tmp_path, probe)
    assert copies.count((5, 4)) == 2  # as the first batch, and to measure on it


def test_a_given_batch_is_copied(tmp_path):
    x, probe = torch.randn(5, 4), Outputs()
    before = x.clone()
    batch = Batch((x,), targets=torch.tensor([0, 1, 2, 0, 1]))
    model = Net(lambda x, given: x.clamp_(min=0))
    train(model, lambda model: model(torch.randn(5, 4)), True, tmp_path, probe, {"train": batch})
    assert torch.equal(x, before) and len(set(probe.seen[:2])) == 1


def test_an_array_that_the_loop_fills_again_is_copied(tmp_path):
    array, probe, model = np.zeros(4, dtype=np.float32), Outputs(), Net(lambda x, given: x + torch.from_numpy(given))
    manager = ProbeManager(model, [probe], log_dir=tmp_path, sinks=[], overhead=None, quiet=True).attach()
    model(torch.randn(5, 4), array).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for _ in range(3):
        optimizer.step()
        array += 1
    manager.detach()
    assert len(set(probe.seen)) == 1 and len(probe.seen) == 8


class Drawing(Dataset):
    """Draws from a generator of its own, and opens its file when it is first read."""

    def __init__(self):
        self.generator, self.file = np.random.default_rng(0), None

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.file = self.file or object()
        return torch.from_numpy(self.generator.normal(size=4)).float(), index % 3


class Collate:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, items):
        x, y = default_collate(items)
        return x[torch.randperm(len(x), generator=self.generator)], y


@pytest.mark.parametrize("as_loader", [False, True])
def test_a_data_set_is_read_and_as_it_was(as_loader, tmp_path):
    def rows(watched):
        data, collate = Drawing(), Collate()
        loader = DataLoader(data, 5, collate_fn=collate)
        batches = {"train": loader if as_loader else data}
        options = {"batches": batches, "log_dir": tmp_path, "sinks": [], "quiet": True}
        manager = ProbeManager(Net(), [], **options).attach() if watched else None
        assert data.file is None
        manager and manager.detach()
        return next(iter(loader))[0]

    assert torch.equal(rows(True), rows(False))


class Counts:
    """A probe that is no Probe, and is reached from the model."""

    name = "counts"

    def __init__(self):
        self.schedule, self.calls = every(1), 0

    @hookimpl
    def measure(self, run, step):
        self.calls += 1
        return []


def test_what_a_probe_keeps_is_its_own_where_the_model_refers_to_it(tmp_path):
    model, probe = Net(), Counts()
    model.probe = probe
    train(model, lambda model: model(torch.randn(5, 4)), True, tmp_path, probe)
    assert probe.calls == 4


class Attributes(nn.Module):
    """Keeps what it has counted as an attribute of a function, or in another dict of an object."""

    def __init__(self):
        super().__init__()
        self.body, self.memory = nn.Linear(4, 3), Memory()

    def forward(self, x):
        Attributes.forward.calls = getattr(Attributes.forward, "calls", 0) + 1
        self.memory.__dict__ = {"mean": self.memory.mean + 1}
        return self.body(x + self.memory.mean) * Attributes.forward.calls


def test_attributes_of_functions_and_replaced_dicts_are_put_back(tmp_path):
    def weights(watched):
        Attributes.forward.__dict__.clear()
        return train(Attributes(), lambda model: model(torch.randn(5, 4)), watched, tmp_path)[0]

    assert torch.equal(weights(True), weights(False))


class Clears(nn.Module):
    """Puts zeros in the place of NaN, of which there are none in the first samples."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x):
        missing = x.isnan()
        if missing.any():
            x[missing] = 0
        return self.body(x)


class Parts(Outputs):
    """Calls the model with two samples first, and with all after that."""

    def measure(self, run, step):
        with torch.no_grad():
            run.forward(run.batch("train").first(2))
        return super().measure(run, step)


def test_what_a_model_does_to_its_inputs_is_looked_at_for_all_samples(tmp_path):
    x, probe = torch.randn(5, 4), Parts()
    x[4, 0] = torch.nan
    _, report = train(Clears(), lambda model: model(x.clone()), True, tmp_path, probe)
    assert len(probe.seen) == 8 and "changed" not in report


class Saves(Probe):
    def __init__(self):
        super().__init__(every(1))
        self.copies = []

    def measure(self, run, step):
        with torch.no_grad():
            run.forward(run.batch("train"))
            self.copies += [pickle.loads(pickle.dumps(run.model)), copy.deepcopy(run.model)]
        return []


def test_a_probe_may_save_and_copy_the_model(tmp_path):
    model, probe, x = InPlace(None), Saves(), torch.randn(5, 4)
    train(model, lambda model: model(x.clone()), True, tmp_path, probe)
    assert len(probe.copies) == 8
    with torch.no_grad():
        assert torch.equal(probe.copies[-1](x.clone()), probe.copies[-2](x.clone()))


class InPlace(Net):
    def forward(self, x):
        return self.body(x.clamp_(min=0))
