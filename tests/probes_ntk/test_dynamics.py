import copy

import pytest
import torch

from probes_ntk import function_update, tangent_kernel


def test_modes_sum_to_the_update_of_a_small_step_of_gradient_descent(small):
    model, inputs, _ = small
    targets = torch.randn(7, 3, dtype=torch.float64)
    rate = 1e-6
    outputs = model(inputs)
    (gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(outputs, targets), outputs)
    update = function_update(tangent_kernel(model, inputs).kernel, gradient, rate)
    moved = copy.deepcopy(model)
    torch.nn.functional.mse_loss(moved(inputs), targets).backward()
    torch.optim.SGD(moved.parameters(), lr=rate).step()
    change = (moved(inputs) - outputs).detach().T
    sum_of_modes = torch.einsum("j,jai->ai", update.coefficients, update.functions)
    torch.testing.assert_close(sum_of_modes, change, rtol=1e-5, atol=1e-5 * change.abs().max().item())


def test_each_mode_of_a_linear_regression_decays_at_its_speed():
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(5, 9, dtype=torch.float64, generator=generator)
    y = torch.randn(5, dtype=torch.float64, generator=generator)
    rate = 0.01
    update = function_update(phi @ phi.T, -y, rate)  # the squared loss, at f = 0
    residuals = update.functions[:, 0] @ y
    torch.testing.assert_close(update.coefficients, update.speeds * residuals)
    torch.testing.assert_close(update.speeds, rate * torch.linalg.svdvals(phi) ** 2)


def test_update_refuses_a_gradient_of_another_shape_and_no_learning_rate():
    with pytest.raises(ValueError, match=r"must have shape \(3, 1\), as the outputs have, got \(3, 2\)"):
        function_update(torch.eye(3), torch.ones(3, 2), 0.1)
    with pytest.raises(ValueError, match="`learning_rate` must be positive, got 0"):
        function_update(torch.eye(3), torch.ones(3), 0)
