"""What is measured on the device is what float64 gives on the CPU, to the rounding of the device's dtype."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import Batch, at, every
from probes_complexity import PathComplexity
from probes_fourier import FourierSpectrum
from probes_mine import MutualInformation
from probes_ntk import KernelMotion, TangentKernel, estimate_spectrum, tangent_diagonal, tangent_kernel

from .training import DEVICE, DTYPES, Loop, network, perceptron, train, values, vectors

pytestmark = pytest.mark.device


def jacobian(model, inputs):
    """Of every output at every example, one gradient at a time: shape ``(c, n, parameters)``."""
    rows = [
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(model(one[None])[0, a], list(model.parameters()))])
            for one in inputs
        ]
        for a in range(3)
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_the_tangent_kernel_is_that_of_gradients_one_at_a_time_in_float64_on_the_cpu(dtype):
    torch.manual_seed(0)
    model, inputs = network().eval().to(dtype), torch.randn(5, 1, 6, 6).to(dtype)
    phi = jacobian(copy.deepcopy(model).double(), inputs.double())
    naive = torch.einsum("aip,bjp->aibj", phi, phi)
    model, inputs = model.to(DEVICE), inputs.to(DEVICE)
    gram = tangent_kernel(model, inputs, layers=True)
    diagonal = tangent_diagonal(model, inputs).diagonal
    # Every factor of an entry has gone through some ten rounded operations, and is summed over some hundred terms in an
    # order that the device chooses; most of these errors cancel. On the CPU two units of rounding are left: of float32
    # for a model in half precision, whose kernel is evaluated in float32.
    tolerance = 32 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * float(naive.abs().max())
    assert gram.kernel.device.type == diagonal.device.type == DEVICE.type
    assert gram.kernel.dtype == torch.promote_types(dtype, torch.float32)
    assert float((gram.kernel.cpu().double() - naive).abs().max()) < tolerance
    assert float((sum(gram.layers.values()).cpu().double() - naive).abs().max()) < tolerance
    of_itself = torch.einsum("aip,aip->ai", phi, phi)
    assert float((diagonal.cpu().double() - of_itself).abs().max()) < tolerance


def test_a_spectrum_from_products_is_that_of_the_cpu():
    torch.manual_seed(0)
    model, inputs, labels = network().eval(), torch.randn(20, 1, 6, 6), torch.arange(20) % 3
    found = [
        estimate_spectrum(copy.deepcopy(model).to(device), inputs.to(device), centering="outputs",
                          targets=labels.to(device), layers=True)
        for device in (DEVICE, "cpu")
    ]  # fmt: skip
    numbers = [
        [each.trace.value, each.effective_rank.value, each.alignment.value, each.density.trace_ratio(5).value,
         *(part.alignment.value for part in each.layers.values())]
        for each in found
    ]  # fmt: skip
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


@pytest.mark.parametrize("probe", [lambda: TangentKernel(at([0]), products=60), lambda: KernelMotion(at([0]))])
def test_kernels_that_are_not_formed_or_move(probe):
    rows, reference = (measured(probe(), device, torch.float32) for device in (DEVICE, torch.device("cpu")))
    assert_close(rows, reference, 1e-3)


def measured(probe, device, dtype, make=perceptron, data=vectors, steps=1):
    """The rows of a training on a device, on a batch that is given from the CPU."""
    x, y = data()
    return train(
        [probe],
        lambda: Loop(make, data, lambda p: torch.optim.SGD(p, lr=0.1), device, dtype),
        steps,
        batches={"train": Batch((x.to(dtype),), targets=y)},
    ).rows


def of_probes(rows):
    return {(row.name, row.step): row for row in rows if not row.name.startswith("probes/")}


def assert_close(rows, reference, tolerance):
    """All numbers, relative to the largest of their row."""
    rows, reference = of_probes(rows), of_probes(reference)
    assert rows.keys() == reference.keys() and rows
    for key, row in rows.items():
        expected = np.asarray(reference[key].value)
        assert expected.shape == row.value.shape and not np.isnan(expected).any(), key
        assert np.abs(row.value - expected).max() <= tolerance * np.abs(expected).max(), key


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_amplitudes_along_a_path_are_those_of_numpy_in_float64(dtype):
    ends = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def path(z):
        return (z[:, None] * ends[0].to(z) + (1 - z[:, None]) * ends[1].to(z)).to(z)

    rows = measured(FourierSpectrum(every(1), path=path, num_points=64), DEVICE, dtype)
    z = torch.arange(64, dtype=torch.float64) / 64
    with torch.no_grad():
        outputs = Loop(perceptron, vectors, device="cpu", dtype=torch.float64).model(path(z)).numpy()
    coefficients = np.fft.rfft(outputs, axis=0)[1:] / 64
    expected = np.abs(coefficients).T * np.where(np.arange(1, 33) == 32, 1, 2)
    # Outputs of size 1 are rounded in some ten operations; the transform is a mean and adds nothing to that.
    assert np.abs(values(rows, "fourier/amplitude/path", 0)[0] - expected).max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_amplitudes_between_samples_are_those_of_the_cpu(dtype):
    reference = measured(FourierSpectrum(every(1)), "cpu", torch.float64, steps=2)
    # Amplitudes relative to the largest, as above; the two summaries are quotients of sums over them. Two updates with
    # rounded gradients come before the last row.
    assert_close(measured(FourierSpectrum(every(1)), DEVICE, dtype, steps=2), reference, 200 * torch.finfo(dtype).eps)


def test_exact_amplitudes_are_those_of_the_cpu():
    def rectified():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    exact, sampled = {"exact": True}, {"num_points": 4096, "num_segments": 4}
    rows, on_cpu, by_sampling = (
        values(
            measured(FourierSpectrum(every(1), frequencies=[1, 2, 5], **how), device, dtype, rectified),
            "fourier/amplitude_by_output/train",
            0,
        )
        for device, dtype, how in (
            (DEVICE, torch.float32, exact), ("cpu", torch.float32, exact), ("cpu", torch.float64, sampled),
        )
    )  # fmt: skip
    # Evaluated in float64 whatever the dtype; of step 0, at which the weights are equal to the last bit. The transform
    # of 4096 points, and the straight line taken off before it, have an error of the distance between two points.
    assert np.abs(rows - on_cpu).max() < 1e-9 and np.abs(rows - by_sampling).max() < 1e-3 * rows.max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_path_complexity_is_the_sum_of_update_norms_times_feature_norms_in_float64(dtype):
    def few():
        return vectors(20)

    rows = measured(PathComplexity(every(1), trace="exact"), DEVICE, dtype, data=few, steps=3)
    loop = Loop(perceptron, few, lambda p: torch.optim.SGD(p, lr=0.1), "cpu", torch.float64)
    initial = nn.utils.parameters_to_vector(loop.model.parameters()).detach()
    complexity, length = [0.0], 0.0
    for number in range(3):
        features = float(jacobian(loop.model, loop.x).norm())
        before = nn.utils.parameters_to_vector(loop.model.parameters()).detach()
        loop.update(number)
        norm = float((nn.utils.parameters_to_vector(loop.model.parameters()).detach() - before).norm())
        complexity.append(complexity[-1] + norm * features)
        length += norm
    displacement = float((nn.utils.parameters_to_vector(loop.model.parameters()).detach() - initial).norm())
    # An update is the difference of parameters that are some ten times larger, of which it keeps the rounding.
    close = {"rel": 100 * torch.finfo(dtype).eps}
    assert values(rows, "complexity/path_complexity/train").tolist() == pytest.approx(complexity, **close)
    assert values(rows, "complexity/path_length", 3).item() == pytest.approx(length, **close)
    assert values(rows, "complexity/displacement", 3).item() == pytest.approx(displacement, **close)


def test_mutual_information_is_that_of_the_cpu():
    def few():
        return vectors(100)

    rows, reference = (
        measured(MutualInformation(at([1]), noise=0.3, layers=["2", "4"]), device, dtype, data=few)
        for device, dtype in ((DEVICE, torch.float32), ("cpu", torch.float64))
    )
    # Activations are rounded; everything after them is float64. The classifiers' training multiplies what it begins
    # with, by less than a hundred.
    assert_close(rows, reference, 1000 * torch.finfo(torch.float32).eps)
    lower = values(rows, "information/inputs_lower/train", 1)
    assert (lower <= math.log(100) + 1e-12).all() and (lower > 1).all()


def test_the_loss_that_the_loop_shows_gives_the_batch_and_targets_on_the_device():
    result = train([FourierSpectrum(every(1))], lambda: Loop(perceptron, vectors), 1)
    batch = result.manager.run.batches["train"]
    assert batch.args[0].device.type == batch.targets.device.type == DEVICE.type
    assert torch.equal(batch.args[0].cpu(), vectors()[0][:100]) and torch.equal(batch.targets.cpu(), vectors()[1][:100])
    assert F.one_hot(batch.targets, 3).sum() == 100
