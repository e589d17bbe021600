"""TangentKernel of a kernel that is not formed, beside the one that is."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import probes_ntk.probe
from probes import CannotMeasure, ProbeManager, every, open_run
from probes.batches import Batch
from probes.run import Run
from probes_ntk import TangentKernel

DIFFERS = {"ntk/eigenvalues/train", "ntk/median_eigenvalue/train", "ntk/alignment_uncentered/train"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 5)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(40, 8, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    return Batch((inputs,), targets=labels)


def measured(probe, model, batch):
    """What the probe measures, and what it says that it has left out."""
    told = []
    run = Run(model, Path("unused"), seed=0, output=lambda out: out, batches={"train": batch})
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    return {measurement.name: measurement for measurement in probe.measure(run, 0)}, told


@pytest.mark.parametrize("centering", ["none", "outputs", "all"])
def test_the_streams_are_those_of_the_formed_kernel_within_their_errors(model, batch, centering):
    exact, _ = measured(TangentKernel(centering=centering), model, batch)
    found, told = measured(TangentKernel(centering=centering, products=100), model, batch)
    assert told == [] and found.keys() == exact.keys() - DIFFERS | {"ntk/eigenvalues/train"}
    for name in found.keys() - DIFFERS:
        one, other = found[name], exact[name]
        assert (one.dims, one.unit, one.value.shape) == (other.dims, other.unit, other.value.shape), name
        assert [axis.values.tolist() for axis in one.coords.values()] == [
            axis.values.tolist() for axis in other.coords.values()
        ]
        errors = 3 * (0 if one.standard_error is None else one.standard_error)
        assert (abs(one.value - other.value) <= errors + 1e-4 * abs(other.value)).all(), name
        assert (errors <= 0.5 * abs(other.value)).all(), name
    found, exact = found["ntk/eigenvalues/train"], exact["ntk/eigenvalues/train"]
    np.testing.assert_allclose(found.value, exact.value[:10], rtol=1e-3)
    assert "100 products with the kernel of 40 samples and 5 outputs, never formed" in found.estimator


def test_only_a_kernel_that_is_too_large_is_not_formed(model, batch, monkeypatch):
    names = {True: 10, False: 200}
    assert len(measured(TangentKernel(), model, batch)[0]["ntk/eigenvalues/train"].value) == names[False]
    little = TangentKernel(memory=128e6 + 200 * 200 * 4 * 5)  # of three layers the kernel would take six times this
    assert len(measured(little, model, batch)[0]["ntk/eigenvalues/train"].value) == names[True]
    monkeypatch.setattr(probes_ntk.probe, "FORMED", 199)
    assert len(measured(TangentKernel(), model, batch)[0]["ntk/eigenvalues/train"].value) == names[True]
    assert len(measured(TangentKernel(products=0), model, batch)[0]["ntk/eigenvalues/train"].value) == names[False]


def test_a_layer_that_does_not_train_has_no_alignment(model, batch):
    model[2].requires_grad_(False)
    found, _ = measured(TangentKernel(products=60), model, batch)
    assert found["ntk/layer_trace/train"].value[1] == 0 and np.isnan(found["ntk/layer_alignment/train"].value[1])
    assert np.isfinite(found["ntk/layer_alignment/train"].value[[0, 2]]).all()


def test_what_is_left_out_is_told_and_costs_nothing_else(model, batch):
    labels = batch.targets.clone()
    labels[:4] = -100
    found, told = measured(TangentKernel(products=60), model, Batch(batch.args, targets=labels))
    assert "leaves out no row" in told[0] and np.isnan(found["ntk/alignment/train"].value)
    assert np.isfinite(found["ntk/effective_rank/train"].value)
    found, told = measured(TangentKernel(products=60, eigenfunctions=2), model, batch)
    assert "Pass products=0" in told[0] and np.isfinite(found["ntk/alignment/train"].value)
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    found, told = measured(TangentKernel(products=60), model, batch)
    assert "not finite" in told[0] and all(np.isnan(each.value).all() for each in found.values())
    assert found["ntk/eigenvalues/train"].value.shape == (10,)


class Unruly(nn.Module):
    """Whose derivative has none."""

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 2 * gradient

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        return self.Double.apply(self.layer(x))


def test_a_model_without_second_derivatives_is_refused_in_a_line(batch):
    with pytest.raises(CannotMeasure, match="second derivatives"):
        measured(TangentKernel(products=60), Unruly(), batch)


@pytest.mark.parametrize("products", [1, 23, -1, 2.5])
def test_bad_arguments_are_refused_at_once(products):
    with pytest.raises(ValueError, match="`products` must be 0 or an integer from 24 on"):
        TangentKernel(products=products)


def test_training_is_the_same_to_the_last_bit(batch, tmp_path):
    def trained(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 5))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        manager = None
        if watched:
            manager = ProbeManager(
                model, [TangentKernel(every(1), products=24)], batches={"train": copy.copy(batch)},
                log_dir=tmp_path / "run", overhead=None,
            )  # fmt: skip
            manager.attach()
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.args[0]), batch.targets).backward()
            optimizer.step()
        if manager is not None:
            manager.detach()
        return [*model.state_dict().values(), torch.rand(3)]

    assert all(torch.equal(one, other) for one, other in zip(trained(False), trained(True), strict=True))
    rank = open_run(tmp_path / "run")["ntk/effective_rank/train"]
    assert len(rank.step) >= 5
