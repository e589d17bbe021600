"""TangentKernel: every stream against the functions it is made of, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import probes_ntk.probe
from probes import CannotMeasure
from probes.batches import Batch
from probes.run import Run
from probes_ntk import (
    TangentKernel,
    alignment,
    center,
    effective_rank,
    eigenfunctions,
    eigenvalues,
    tangent_kernel,
    trace_ratio,
)


def run_of(model, **batches):
    return Run(model.eval(), Path("unused"), seed=0, output=lambda out: out, batches=batches)


def measured(probe, run):
    return {measurement.name: measurement for measurement in probe.measure(run, 0)}


def told_by(probe, run):
    """What the probe measures, and what it says that it has left out."""
    told = []
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    return measured(probe, run), told


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(24, 4, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    return {"train": Batch((inputs[:12],), targets=labels[:12]), "test": Batch((inputs[12:],), targets=labels[12:])}


@pytest.mark.parametrize("centering", ["none", "outputs", "all"])
def test_every_stream_is_the_quantity_of_its_name(model, batches, centering):
    result = measured(TangentKernel(centering=centering), run_of(model, **batches))
    for name, batch in batches.items():
        gram = tangent_kernel(model, batch, layers=True)
        values = eigenvalues(center(gram.kernel, centering)).numpy()

        def check(quantity, expected, name=name):
            np.testing.assert_allclose(result[f"ntk/{quantity}/{name}"].value, expected, rtol=1e-6, atol=1e-9)

        check("eigenvalues", values)
        check("max_eigenvalue", values.max())
        check("mean_eigenvalue", values.mean())
        check("median_eigenvalue", np.median(values))
        check("trace", values.sum())
        check("effective_rank", effective_rank(torch.from_numpy(values)))
        check("trace_ratio", [trace_ratio(torch.from_numpy(values), k) for k in (1, 3, 6)])
        check("alignment", alignment(gram.kernel, batch.targets, centering))
        check("alignment_uncentered", alignment(gram.kernel, batch.targets, "none"))
        check("layer_alignment", [alignment(part, batch.targets, centering) for part in gram.layers.values()])
        layers = result[f"ntk/layer_trace/{name}"]
        assert layers.coords["layer"].values.tolist() == ["0", "2", "4"]
        np.testing.assert_allclose(layers.value.sum(), values.sum(), rtol=1e-6)
        assert result[f"ntk/eigenvalues/{name}"].coords["eigenvalue"].values.tolist() == list(range(1, 37))
    assert len(result) == 2 * 11
    for measurement in result.values():
        assert measurement.num_samples == 12 and "exact kernel of 12 samples and 3 outputs" in measurement.estimator


def test_batches_without_targets_have_no_alignment(model, batches):
    result = measured(TangentKernel(), run_of(model, train=batches["train"].with_targets(None)))
    assert "ntk/trace/train" in result and not any("alignment" in name for name in result)


def test_labels_that_do_not_go_with_the_outputs_cost_the_alignment_alone(model, batches):
    run = run_of(model, train=batches["train"].with_targets(torch.zeros(12, 7, dtype=torch.long)))
    result, told = told_by(TangentKernel(), run)
    assert result["ntk/trace/train"].value > 0 and (result["ntk/layer_trace/train"].value > 0).all()
    assert np.isnan(result["ntk/alignment/train"].value) and np.isnan(result["ntk/layer_alignment/train"].value).all()
    assert len(told) == 1 and "they are (7,) labels a sample, and the outputs 3 numbers. Pass batches=" in told[0]
    numbers = batches["train"].with_targets(torch.eye(3).long().repeat(4, 1))  # one for each output
    assert measured(TangentKernel(), run_of(model, train=numbers))["ntk/alignment/train"].value > 0


def test_only_the_batches_and_samples_asked_for(model, batches):
    result = measured(TangentKernel(batches="test", num_samples=5), run_of(model, **batches))
    assert {name.rsplit("/", 1)[1] for name in result} == {"test"}
    assert result["ntk/eigenvalues/test"].value.shape == (15,)


def test_kernels_of_many_outputs_stay_small_by_default():
    torch.manual_seed(0)
    model = nn.Linear(2, 50)
    result = measured(TangentKernel(), run_of(model, train=Batch((torch.randn(30, 2),))))
    assert result["ntk/eigenvalues/train"].value.shape == (300,)  # 10 of the 50 outputs of all samples


def test_the_kernel_is_computed_once_for_all_probes_of_a_step(model, batches, monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return tangent_kernel(*args, **kwargs)

    monkeypatch.setattr(probes_ntk.probe, "tangent_kernel", counted)
    run = run_of(model, **batches)
    measured(TangentKernel(), run)
    measured(TangentKernel(centering="all"), run)
    assert len(calls) == 2  # one for each batch
    run.end()
    measured(TangentKernel(batches="test"), run)
    assert len(calls) == 3


def test_a_layer_without_gradient_has_no_alignment_and_hides_nothing(model, batches):
    with torch.no_grad():
        model[4].weight.zero_()
    result = measured(TangentKernel(batches="train"), run_of(model, **batches))
    aligned = result["ntk/layer_alignment/train"].value
    # The last weight is zero: nothing flows back to the layers before.
    assert np.isnan(aligned[:2]).all() and aligned[2] > 0 and np.isfinite(result["ntk/trace/train"].value)


def test_pictures_of_eigenfunctions_stand_upright_whatever_the_order_of_the_grid():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(0, 1, 4))
    order = torch.randperm(20)
    run = run_of(model, grid=Batch((grid[order],)))
    result = measured(TangentKernel(eigenfunctions=2), run)
    functions = eigenfunctions(center(tangent_kernel(model, grid).kernel, "outputs")).functions
    for j in (1, 2):
        picture = result[f"ntk/eigenfunction_{j}/grid"]
        assert picture.dims == ("y", "x") and picture.value.shape == (4, 5)
        np.testing.assert_allclose(picture.coords["x"].values, np.linspace(-1, 1, 5), atol=1e-6)
        expected = functions[j - 1, 0].reshape(5, 4).T.numpy()
        sign = np.sign((expected * picture.value).sum())
        np.testing.assert_allclose(picture.value, sign * expected, atol=1e-5)
    assert "ntk/eigenfunction_3/grid" not in result


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (torch.rand(6, 2), 1, r"over a grid: every x with every y once. The 6 inputs have 6 different x and 6"),
        (torch.rand(6, 3), 1, r"inputs of two numbers, shape (n, 2), got (6, 3)"),
        (torch.rand(6, 2), 2, "a model of one output, this one has 2"),
    ],
)
def test_where_there_is_no_plane_no_picture_is_drawn_and_all_else_is_measured(inputs, outputs, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 4), nn.Tanh(), nn.Linear(4, outputs))
    result, told = told_by(TangentKernel(eigenfunctions=1), run_of(model, train=Batch((inputs,))))
    assert result["ntk/effective_rank/train"].value > 1 and "ntk/eigenfunction_1/train" not in result
    assert len(told) == 1 and message in told[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centering": "mean"}, "'none', 'outputs', 'all', got 'mean'"),
        ({"num_samples": 1}, "at least 2, got 1"),
        ({"num_outputs": 0}, "at least 1, got 0"),
        ({"eigenfunctions": -1}, "number of pictures, got -1"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        TangentKernel(**arguments)


UNDEFINED = {"alignment", "alignment_uncentered", "layer_alignment"}


def undefined(result, batch="train"):
    """The quantities of which a number is NaN."""
    return {name.split("/")[1] for name, m in result.items() if name.endswith(batch) and np.isnan(m.value).any()}


@pytest.mark.parametrize(
    ("targets", "lost", "message"),
    [
        (torch.zeros(12, dtype=torch.long), {"alignment", "layer_alignment"}, "are all alike"),
        (torch.full((12, 3), 0.1), {"alignment", "layer_alignment"}, "are all alike"),
        (torch.full((12,), -100), UNDEFINED, "are -100 in every sample"),
        (torch.tensor([0, 1, 5] * 4), UNDEFINED, "labels from 0 to 5 are not all among its classes"),
        (torch.tensor([0, 1, -1] * 4), UNDEFINED, "labels from -1 to 1 are not"),
        (torch.zeros(12, 5), UNDEFINED, "(5,) numbers a sample"),
    ],
)
def test_targets_that_nothing_aligns_with_cost_the_alignment_alone(model, batches, targets, lost, message):
    result, told = told_by(TangentKernel(), run_of(model, train=batches["train"].with_targets(targets)))
    assert undefined(result) == lost and len(result) == 11
    assert len(told) == 1 and message in told[0] and "Pass batches={'train': (inputs, targets)}" in told[0]


@pytest.mark.parametrize("centering", ["none", "outputs", "all"])
def test_samples_with_a_label_that_losses_ignore_are_left_out_of_the_alignment(model, batches, centering):
    inputs, labels = batches["train"].inputs, batches["train"].targets.clone()
    labels[[1, 4, 5]] = -100
    keep = labels >= 0
    result, told = told_by(TangentKernel(centering=centering), run_of(model, train=Batch((inputs,), targets=labels)))
    gram = tangent_kernel(model, inputs[keep], layers=True)

    def check(quantity, expected):
        np.testing.assert_allclose(result[f"ntk/{quantity}/train"].value, expected, rtol=1e-5)

    check("alignment", alignment(gram.kernel, labels[keep], centering))
    check("alignment_uncentered", alignment(gram.kernel, labels[keep], "none"))
    check("layer_alignment", [alignment(part, labels[keep], centering) for part in gram.layers.values()])
    assert not told and "of the 9 samples without a label of -100" in result["ntk/alignment/train"].estimator
    assert result["ntk/eigenvalues/train"].value.shape == (36,)


@pytest.mark.parametrize("how", ["dead", "nan", "one output"])
def test_while_the_kernel_is_undefined_its_numbers_are_nan_and_later_they_are_back(model, batches, how):
    probe, run = TangentKernel(), run_of(model, **batches)
    before, _ = told_by(probe, run)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        if how == "dead":
            model[1] = nn.ReLU()
            model[0].bias.sub_(1e3)
            model[2].bias.zero_()
        elif how == "nan":
            model[0].weight.fill_(float("nan"))
        else:
            model[4].bias[1] = float("inf")
    run.end()
    during, told = told_by(probe, run)
    assert during.keys() == before.keys()
    assert all(during[name].value.shape == before[name].value.shape for name in before)
    assert np.isnan(during["ntk/effective_rank/train"].value)
    if how == "dead":
        assert during["ntk/trace/train"].value == 0 and not told
    else:
        assert undefined(during) == {name.split("/")[1] for name in before} and "are not finite" in told[0]
    model[1] = nn.Tanh()
    model.load_state_dict(kept)
    run.end()
    after, _ = told_by(probe, run)
    assert all(np.array_equal(after[name].value, before[name].value) for name in before)


def test_a_batch_of_one_sample_is_refused_in_a_line_and_costs_no_other(model, batches):
    one = Batch((torch.randn(1, 4),), targets=torch.tensor([0]))
    with pytest.raises(CannotMeasure, match=r"'train' is of one sample.*Pass batches=\{'train': \(inputs, targets\)\}"):
        measured(TangentKernel(), run_of(model, train=one))
    result, told = told_by(TangentKernel(), run_of(model, train=one, test=batches["test"]))
    assert {name.rsplit("/", 1)[1] for name in result} == {"test"} and not undefined(result, "test")
    assert len(told) == 1 and "'train' is of one sample" in told[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_streams_go_on_when_the_model_changes_its_dtype(model, batches, dtype):
    probe = TangentKernel()
    before = measured(probe, run_of(model, **batches))
    cast = {
        name: Batch((batch.inputs.to(dtype),), targets=batch.targets) for name, batch in batches.items()
    }  # what the core does
    after = measured(probe, run_of(model.to(dtype), **cast))
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        assert (new.value.shape, new.dims, new.unit) == (old.value.shape, old.dims, old.unit)
        assert ("float64" if dtype == torch.float64 else "float32") in new.estimator
    assert after["ntk/trace/train"].value == pytest.approx(before["ntk/trace/train"].value, rel=0.05)


def test_a_kernel_that_takes_float64_says_so(model, batches):
    far = Batch((batches["train"].inputs + 1e4,), targets=batches["train"].targets)
    result = measured(TangentKernel(), run_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), train=far))
    assert "float64" in result["ntk/trace/train"].estimator and not undefined(result)
