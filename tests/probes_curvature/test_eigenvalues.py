"""The largest eigenvalues beside those of the matrix, however they lie; and what a search costs."""

import pytest
import torch
from curvature_matrices import diagonal, explicit, millions
from torch import nn
from torch.nn import functional as F

from probes import CannotMeasure
from probes_curvature import Objective, ggn_eigenvalues, hessian_eigenvalues, largest_eigenvalues


def largest(matrix, k):
    return torch.linalg.eigvalsh(matrix).flip(0)[:k]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("memory", [1e9, 2e4])
def test_they_are_those_of_the_matrices(tanh, seed, memory):
    model, inputs, targets = tanh
    whole, gauss_newton = explicit(model, F.cross_entropy, inputs, targets)
    generator = torch.Generator().manual_seed(seed)
    for found, matrix in (
        (hessian_eigenvalues(model, F.cross_entropy, inputs, targets, generator=generator, memory=memory), whole),
        (ggn_eigenvalues(model, F.cross_entropy, inputs, targets, generator=generator, memory=memory), gauss_newton),
    ):
        torch.testing.assert_close(found.values, largest(matrix, 5), rtol=1e-8, atol=1e-9)
        away = matrix @ found.vectors.T - found.vectors.T * found.values
        assert float((away.norm(dim=0) - found.residuals).abs().max()) < 1e-12
        torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(5, dtype=torch.float64))


def test_equal_eigenvalues_are_all_found():
    torch.manual_seed(0)
    model = nn.Linear(30, 8).double()  # of each eigenvalue eight
    inputs, targets = torch.randn(20, 30).double(), torch.randn(20, 8).double()
    whole, _ = explicit(model, F.mse_loss, inputs, targets)
    found = hessian_eigenvalues(model, F.mse_loss, inputs, targets, 10)
    torch.testing.assert_close(found.values, largest(whole, 10), rtol=1e-8, atol=0)


def test_largest_is_not_of_largest_magnitude():
    found = hessian_eigenvalues(*diagonal([1.0, -9.0, 3.0, -5.0, 0.5]), 2)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("k", [5, 50])
def test_of_few_parameters_all_are_found(k):
    found = hessian_eigenvalues(*diagonal([1.0, -2.0, 3.0, 3.0, 0.0]), k)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 3.0, 1.0, 0.0, -2.0], dtype=torch.float64))


def test_a_matrix_of_zeros_has_eigenvalues_of_zero():
    found = hessian_eigenvalues(nn.Linear(3, 1), lambda f, y: f.mean(), torch.ones(4, 3), torch.zeros(4), 2)
    assert found.values.tolist() == [0.0, 0.0] and found.residuals.tolist() == [0.0, 0.0]


def test_a_search_that_starts_where_the_last_one_ended_is_shorter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)).double()
    batch = torch.randn(50, 20).double(), torch.randint(0, 5, (50,))
    cold = hessian_eigenvalues(model, F.cross_entropy, *batch, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-7 * torch.randn_like(parameter)
    vectors = hessian_eigenvalues(model, F.cross_entropy, *batch, 3, start=cold.vectors)
    summed = hessian_eigenvalues(model, F.cross_entropy, *batch, 3, start=cold.vectors.sum(0)[None])
    again = hessian_eigenvalues(model, F.cross_entropy, *batch, 3)
    torch.testing.assert_close(vectors.values, again.values, rtol=1e-6, atol=0)
    assert max(vectors.products, summed.products) < again.products


@pytest.mark.parametrize("largest", [1.02, 1.15, 2.0])
def test_a_start_at_another_eigenvector_hides_none(largest):
    values = torch.cat([torch.tensor([largest, 1.0]), torch.linspace(0, 0.9, 998)]).double()
    start = torch.zeros(1, 1000, dtype=torch.float64)
    start[0, 1] = 1
    found = hessian_eigenvalues(*diagonal(values), 1, start=start)
    assert float(found.values[0]) == pytest.approx(largest)


def test_few_vectors_are_enough(tanh):
    objective = Objective(tanh[0], F.cross_entropy, *tanh[1:])
    whole, _ = explicit(tanh[0], F.cross_entropy, *tanh[1:])
    found = largest_eigenvalues(objective, objective.hessian_product, 3, memory=1.0)  # eight at a time
    torch.testing.assert_close(found.values, largest(whole, 3), rtol=1e-8, atol=0)


def test_what_has_not_converged_says_so(tanh):
    whole, _ = explicit(tanh[0], F.cross_entropy, *tanh[1:])
    found = hessian_eigenvalues(tanh[0], F.cross_entropy, *tanh[1:], 3, products=6)
    assert found.products == 6 and float(found.residuals.max()) > 1e-3
    nearest = (torch.linalg.eigvalsh(whole) - found.values[:, None]).abs().amin(1)
    assert bool((nearest <= found.residuals).all())  # as the bound says


def test_relu_networks_in_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    inputs, targets = torch.randn(40, 10), torch.randint(0, 3, (40,))
    found = hessian_eigenvalues(model, F.cross_entropy, inputs, targets)
    whole, _ = explicit(model.double(), F.cross_entropy, inputs.double(), targets)
    torch.testing.assert_close(found.values, largest(whole, 5), rtol=1e-4, atol=1e-6)


def test_of_millions_of_parameters_they_are_as_precise():
    start = torch.zeros(4, 4_000_000).fill_diagonal_(1.0) + 1e-5 * torch.randn(4, 4_000_000)
    found = largest_eigenvalues(*millions(), 3, start=start, products=20)
    torch.testing.assert_close(found.values, torch.tensor([5.0, 4.0, 3.0]).double(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("less", ["medium", "autocast"])
def test_less_precise_products_of_the_process_are_not_used(less):
    """On a CPU with bfloat16 instructions they were: the largest was 383."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 4))
    given = F.cross_entropy, torch.randn(100, 20), torch.randint(0, 4, (100,))
    expected = hessian_eigenvalues(model, *given)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium" if less == "medium" else before)
        with torch.autocast("cpu", torch.bfloat16, enabled=less == "autocast"):
            found = hessian_eigenvalues(model, *given)
            assert torch.is_autocast_enabled("cpu") == (less == "autocast")
        assert torch.get_float32_matmul_precision() == ("medium" if less == "medium" else before)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.products == expected.products
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=0)


def test_of_a_compiled_model_they_are_those_of_the_model():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    given = F.mse_loss, torch.randn(10, 3), torch.randn(10, 2)
    found = hessian_eigenvalues(torch.compile(model, backend="aot_eager"), *given)
    torch.testing.assert_close(found.values, hessian_eigenvalues(model, *given).values, rtol=0, atol=0)


def test_a_model_that_answers_to_every_name_is_not_taken_for_a_compiled_one():
    class Answering(nn.Sequential):
        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return "something"

    torch.manual_seed(0)
    plain, given = nn.Linear(3, 2), (F.mse_loss, torch.randn(10, 3), torch.randn(10, 2))
    model = Answering()
    model._modules["0"] = plain
    expected = hessian_eigenvalues(plain, *given).values
    torch.testing.assert_close(hessian_eigenvalues(model, *given).values, expected, rtol=0, atol=0)


def test_a_loss_with_tensors_of_another_precision_is_refused():
    loss = nn.CrossEntropyLoss(weight=torch.ones(2).bfloat16())
    with pytest.raises(CannotMeasure, match=r"does not take outputs of torch\.float32, .* Pass loss="):
        hessian_eigenvalues(nn.Linear(3, 2).bfloat16(), loss, torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "`k` must be a positive integer, got 0"),
        ({"k": 1.5}, "`k` must be"),
        ({"k": True}, "`k` must be a positive integer, got True"),
        ({"products": 0}, "`products` must be"),
        ({"products": 4}, "`products` must be at least `k`, 5, got 4"),
        ({"memory": 0}, "`memory` must be a positive number of bytes, got 0"),
        ({"tolerance": -1.0}, "`tolerance` must be positive"),
        ({"start": torch.ones(3)}, r"`start` must have shape \(., 51\), got \(3,\)"),
        ({"start": torch.full((1, 51), torch.inf)}, "`start` must be finite"),
        ({"start": torch.ones(1, 51, dtype=torch.int64)}, "`start` must be of floating point numbers, got torch.int64"),
        ({"start": [1.0]}, r"`start` must be a tensor of vectors in rows, shape \(., 51\), got \[1.0\]"),
    ],
)
def test_bad_settings_are_named(tanh, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hessian_eigenvalues(tanh[0], F.cross_entropy, *tanh[1:], **settings)
