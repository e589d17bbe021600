"""Accelerate needs no integration: one line before or after ``prepare``, and ``register_for_checkpointing``."""

import h5py
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from integration_runs import assert_same_records, assert_same_weights, batches, events, network, probes, steps, weights
from torch import nn

from probes import ProbeManager
from probes.sinks.hdf5 import HDF5Sink

LOSS = nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Accelerate keeps settings for the whole process."""
    monkeypatch.chdir(tmp_path)
    reset()
    yield
    reset()


def reset():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def manager_of(model, log_dir):
    return ProbeManager(model, probes(), sinks=[HDF5Sink()], log_dir=log_dir, overhead=None)


class Training:
    def __init__(self, log_dir=None, when="after", given=True, precision="no", accumulation=1, dropout=0.3):
        reset()
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulation,
            project_dir=log_dir and str(log_dir) + "-project",
        )  # fmt: skip
        self.model = network(dropout)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.manager = None
        if log_dir is not None and when == "before":
            self.manager = manager_of(self.model, log_dir).attach(self.optimizer if given else None)
        self.called, self.prepared = self.accelerator.prepare(self.model, self.optimizer)
        if log_dir is not None and when == "after":
            self.manager = manager_of(self.called, log_dir).attach(self.prepared if given else None)
        if self.manager is not None:
            self.accelerator.register_for_checkpointing(self.manager)
        torch.manual_seed(3)

    def train(self, epochs=2):
        for _ in range(epochs):
            for x, y in batches():
                with self.accelerator.accumulate(self.called):
                    self.accelerator.backward(LOSS(self.called(x), y))
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.called.parameters(), 0.5)
                    self.prepared.step()
                    self.prepared.zero_grad()


def plain(log_dir, precision, accumulation):
    model = network(0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.manual_seed(3)
    with manager_of(model, log_dir).attach(optimizer):
        for _ in range(2):
            for count, (x, y) in enumerate(batches(), 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    output = model(x)
                (LOSS(output.float(), y) / accumulation).backward()
                if count % accumulation == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
    return weights(model)


@pytest.mark.parametrize(
    ("when", "given"),
    [
        ("before", False),
        ("after", True),
        pytest.param("before", True, marks=pytest.mark.slow),
        pytest.param("after", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("precision", "accumulation"), [("no", 1), ("bf16", 2)])
def test_one_line_before_or_after_prepare(when, given, precision, accumulation, tmp_path):
    settings = {"precision": precision, "accumulation": accumulation}
    bare = Training(**settings)
    bare.train()
    probed = Training(tmp_path / "run", when, given, **settings)
    probed.train()
    probed.manager.detach()
    assert_same_weights(weights(bare.model), weights(probed.model))
    assert_same_weights(weights(bare.model), plain(tmp_path / "plain", precision, accumulation))
    assert_same_records(tmp_path / "run", tmp_path / "plain")
    assert steps(tmp_path / "run") == list(range(12 // accumulation + 1))
    assert events(tmp_path / "run") == ["attach", "detach"]


def test_probes_measure_without_the_autocast_that_prepare_puts_into_the_forward(tmp_path):
    training = Training(tmp_path / "run", precision="bf16")
    forward = training.model.forward
    training.train(1)
    assert training.model.forward is forward
    training.model.eval()
    with torch.no_grad():
        x = batches()[0][0]
        mixed, exact = training.model(x), nn.Sequential.forward(training.model, x)
    training.manager.detach()
    assert not torch.equal(mixed, exact)
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert torch.equal(torch.tensor(file["outputs/train/value"][-1]), exact)


@pytest.mark.parametrize("saved", ["attached", "detached"])
def test_a_resumed_training_has_the_records_of_an_uninterrupted_one(saved, tmp_path):
    whole = Training(tmp_path / "whole")
    whole.train(4)
    whole.manager.detach()

    first = Training(tmp_path / "cut")
    first.train(2)
    if saved == "detached":
        first.manager.detach()
    first.accelerator.save_state(str(tmp_path / "state"))
    if saved == "attached":
        first.train(1)  # lost in a crash
        first.manager.detach()

    second = Training(tmp_path / "cut")
    second.accelerator.load_state(str(tmp_path / "state"))
    second.train(2)
    second.manager.detach()
    assert_same_weights(weights(whole.model), weights(second.model))
    assert_same_records(tmp_path / "whole", tmp_path / "cut")
    assert second.manager.run.step == 24 and not (tmp_path / "cut_2").exists()
