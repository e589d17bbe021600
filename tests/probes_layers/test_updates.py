"""Sums over updates against differences and norms in float64, written out; and what is not seen."""

import itertools
import math

import pytest
import torch
from torch import nn

from probes_layers import UpdateWatch, gradient_sums, square_sum
from probes_layers.updates import copies, update_sums


@pytest.mark.parametrize("shape", [(), (3,), (5000,), (7, 1024), (3, 2, 1025), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_square_sum(shape, dtype):
    x = torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    exact = float(sum(abs(item) ** 2 for item in x.flatten().tolist()))
    assert float(square_sum(x)) == pytest.approx(exact, rel=1e-6, abs=1e-12)


def test_square_sum_of_many_numbers_loses_nothing():
    x = torch.randn(3_000_000)
    exact = float(x.double().square().sum())
    assert float(square_sum(x)) == pytest.approx(exact, rel=1e-7)
    assert float(square_sum(x.view(1000, 3000).T)) == pytest.approx(exact, rel=1e-7)  # not contiguous
    plain = float(torch.linalg.vector_norm(x)) ** 2
    assert abs(plain / exact - 1) > 1e-6  # what it is for


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_gradient_sums():
    gradient = torch.tensor([[0.0, -3.0], [4.0, 0.0]])
    assert gradient_sums(gradient).tolist() == [25, 4, 2, 0]
    assert gradient_sums(gradient, scale=torch.tensor(2.0)).tolist() == [6.25, 4, 2, 0]
    broken = torch.tensor([math.nan, math.inf, 0.0, 1.0])
    assert gradient_sums(broken)[1:].tolist() == [4, 1, 2]
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], [[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]], (5, 2))
    assert gradient_sums(sparse).tolist() == [4 + 9, 10, 8, 0]


def test_copies_are_equal_and_apart():
    tensors = [
        torch.tensor(2.0), torch.randn(3, 5, dtype=torch.float64), torch.ones(3, dtype=torch.bfloat16),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(4, 6).T, torch.ones(1).expand(4),
        torch.randn(2, dtype=torch.complex64).conj(), torch.empty(0, 3),
    ]  # fmt: skip
    for tensor, copy in zip(tensors, copies(iter(tensors)), strict=True):
        assert copy.dtype == tensor.dtype and torch.equal(copy, tensor)
        assert copy.is_contiguous() and (copy.data_ptr() != tensor.data_ptr() or not copy.numel())


def test_products_of_updates_are_as_precise_as_their_norms():
    torch.manual_seed(0)
    now, last = torch.rand(200_000) + 0.5, torch.rand(200_000) + 0.5
    exact = float((now.double() * last.double()).sum())
    assert float(update_sums(now, torch.zeros_like(now), last.clone())[4]) == pytest.approx(exact, rel=3e-8)
    assert abs(float(torch.dot(now, last)) / exact - 1) > 3e-8  # what it is for


def test_weights_with_the_channels_last_have_the_update_before():
    parameter, watch = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)), UpdateWatch()
    for sums in steps(parameter, watch, 3 * [torch.full((4, 3, 2, 2), 0.1)])[1:]:
        update, last, product = sums[2:5].tolist()
        assert update == pytest.approx(0.48, rel=1e-4) and last == pytest.approx(0.48, rel=1e-4)
        assert product == pytest.approx(0.48, rel=1e-4)


def steps(parameter, watch, updates, start=0):
    """Apply updates; the sums after each."""
    found = []
    for step, update in enumerate(updates, start + 1):
        watch.before([parameter])
        with torch.no_grad():
            parameter.add_(update)
        watch.after(step)
        found.append(watch.sums({id(parameter): 0}, 1, step)[1][:, 0])
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_updates_are_differences_of_the_weights(dtype):
    torch.manual_seed(0)
    parameter, watch = nn.Parameter(torch.randn(50, 100).to(dtype)), UpdateWatch()
    weights, found = [parameter.detach().double().clone()], []
    for step in range(1, 4):
        found += steps(parameter, watch, [0.1 * torch.randn(50, 100).to(dtype)], step - 1)
        weights.append(parameter.detach().double().clone())
    moved = [after - before for before, after in itertools.pairwise(weights)]
    for index, (count, before, update, last, product, followed) in enumerate(torch.stack(found).tolist()):
        assert count == 5000 and before == pytest.approx(float(weights[index].square().sum()), rel=5e-7)
        assert update == pytest.approx(float(moved[index].square().sum()), rel=5e-7)
        if index == 0:
            assert last == product == followed == 0
        else:
            assert last == pytest.approx(float(moved[index - 1].square().sum()), rel=5e-7)
            size = math.sqrt(last * update)
            assert product == pytest.approx(float((moved[index] * moved[index - 1]).sum()), abs=1e-6 * size)
            assert followed == update


def test_an_update_that_was_skipped_begins_where_it_did():
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    watch.before([parameter])
    watch.before([parameter])  # of the next attempt
    with torch.no_grad():
        parameter.add_(3)
    watch.before([parameter])  # a nested call
    watch.after(1)
    assert watch.sums({id(parameter): 0}, 1, 1)[1][2].item() == 18


def test_of_an_update_before_another_only_the_cosine_with_it_is_wanted():
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    parameter.grad = torch.ones(2)
    watch.before([parameter], only_update=True)
    with torch.no_grad():
        parameter.add_(1)
    watch.after(1)
    assert not any(sums.any() for sums in watch.sums({id(parameter): 0}, 1, 1)) and watch.without_gradient(1) == []
    (found,) = steps(parameter, watch, [torch.full((2,), -2.0)], start=1)
    assert found.tolist() == [2, 2, 8, 2, -4, 8]


def test_an_update_long_ago_is_not_the_last_one():
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    steps(parameter, watch, [torch.ones(2)])
    (found,) = steps(parameter, watch, [torch.ones(2)], start=7)
    assert found.tolist() == [2, 2, 2, 0, 0, 0]


def test_a_parameter_without_a_gradient_is_named_and_not_zero():
    given, other, watch = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3)), UpdateWatch()
    given.grad = torch.zeros(2)
    watch.before([given, other])
    watch.after(1)
    assert watch.without_gradient(1) == [other]
    gradient, _ = watch.sums({id(given): 0, id(other): 1}, 2, 1)
    assert gradient[1].tolist() == [2, 0]


def test_a_converted_parameter_has_no_update():
    layer, watch = nn.Linear(2, 1), UpdateWatch()
    watch.before(layer.parameters())
    layer.double()
    watch.after(1)
    assert not watch.sums({id(p): 0 for p in layer.parameters()}, 1, 1)[1].any()


def test_state_goes_on():
    updates = [torch.full((2,), value) for value in (1.0, 2.0, 4.0)]
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    whole = steps(parameter, watch, updates)
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    steps(parameter, watch, updates[:2])
    fresh = UpdateWatch()
    fresh.resume(parameter, watch.state()[id(parameter)])
    assert torch.equal(steps(parameter, fresh, updates[2:], start=2)[0], whole[2])


def test_an_update_that_is_not_over_goes_on():
    parameter, watch = nn.Parameter(torch.zeros(2)), UpdateWatch()
    parameter.grad = torch.ones(2)
    watch.before([parameter])
    with torch.no_grad():
        parameter.add_(3)
    fresh = UpdateWatch()
    fresh.resume(parameter, watch.state()[id(parameter)])
    fresh.after(1)
    gradient, update = fresh.sums({id(parameter): 0}, 1, 1)
    assert gradient[0].item() == 2 and update[2].item() == 18


@pytest.mark.parametrize("size", [1e19, 1e-25, 1e-22])
def test_squares_that_overflow_or_vanish_in_single_precision_count(size):
    assert float(square_sum(torch.full((10_000,), size))) == pytest.approx(1e4 * size**2, rel=1e-6)
