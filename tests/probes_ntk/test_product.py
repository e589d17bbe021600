"""Products with a kernel that is not formed, beside the kernel, on every model that the kernel is tested on."""

import numpy as np
import pytest
import torch
from probes_ntk_models import models
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from probes import CannotMeasure
from probes_ntk import KernelOperator, center, tangent_kernel

MODELS = models()


def made(name):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model = build().double().eval()
    return model, inputs if isinstance(inputs, torch.Tensor) else torch.randn(inputs, dtype=torch.float64)


def matrix(model, inputs, how):
    kernel = center(tangent_kernel(model, inputs).kernel, how)
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "embedding_bag"])
def test_a_product_is_that_with_the_kernel(name):
    model, inputs = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = matrix(model, inputs, "none")
    operator = KernelOperator(model, inputs, "none")
    assert operator.shape == expected.shape
    vector = torch.randn(len(expected), dtype=torch.float64)
    torch.testing.assert_close(
        operator.matvec(vector), expected @ vector, rtol=1e-9, atol=1e-9 * float(expected.norm())
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("how", ["none", "outputs", "all"])
@pytest.mark.parametrize("memory", [1e9, 1.0], ids=["at once", "one by one"])
def test_centring_and_chunks(small, how, memory):
    model, inputs, _ = small
    expected = matrix(model, inputs, how)
    operator = KernelOperator(model, inputs, how, memory=memory)
    block = torch.randn(len(expected), 3, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(block), expected @ block)
    whole = matrix(model, inputs, "none")
    assert operator.features_norm(block[:, 0]).item() == pytest.approx((block[:, 0] @ whole @ block[:, 0]).item())


@pytest.mark.parametrize(("memory", "passes"), [(128 * 40, [40]), (128 * 39, [9, 9, 9, 9, 4])])
def test_examples_that_do_not_fit_pass_in_quarters_of_memory(memory, passes):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    operator = KernelOperator(model, torch.randn(40, 3), "none", memory=memory)  # four times 3 + 5 numbers an example
    seen = []
    model.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    operator.features(torch.ones(80))
    assert seen == passes


def test_scipy_takes_it_for_a_linear_operator(small):
    model, inputs, _ = small
    operator = KernelOperator(model, inputs, "outputs")
    linear = LinearOperator(
        operator.shape, lambda vector: operator.matvec(torch.as_tensor(vector)).numpy(), dtype=np.float64
    )
    expected = torch.linalg.eigvalsh(matrix(model, inputs, "outputs"))[-3:]
    np.testing.assert_allclose(eigsh(linear, k=3)[0], expected.numpy(), rtol=1e-9)


def test_bfloat16_weights_are_multiplied_in_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).bfloat16()
    inputs = torch.randn(7, 4).bfloat16()
    vector = torch.randn(21, dtype=torch.float64)
    expected = matrix(model, inputs, "none") @ vector
    found = KernelOperator(model, inputs, "none").matvec(vector)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_an_operation_without_second_derivatives_is_named():
    model, inputs = made("embedding_bag")
    operator = KernelOperator(model, inputs, "none")
    with pytest.raises(CannotMeasure, match=r"needs second derivatives.*_embedding_bag_backward"):
        operator.matvec(torch.ones(operator.shape[0]))


def test_what_cannot_be_is_named(small):
    model, inputs, _ = small
    with pytest.raises(ValueError, match="centering"):
        KernelOperator(model, inputs, "rows")
    with pytest.raises(CannotMeasure, match="no trainable parameter"):
        KernelOperator(nn.ReLU(), inputs, "none")
