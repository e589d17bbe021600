"""Sums of millions of numbers in single precision."""

import threading

import pytest
import torch

from probes.precision import full_precision, inner_products


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 100, 128, 1000])
def test_inner_products(dtype, count):
    rows, vector = torch.randn(3, count).to(dtype), torch.randn(count).to(dtype)
    exact = (rows.double() * vector.double()).sum(1)
    allowed = float(4 * torch.finfo(dtype).eps * rows.double().norm(dim=1).max() * vector.double().norm())
    torch.testing.assert_close(inner_products(rows, vector), exact, rtol=0, atol=allowed)


def test_inner_products_of_what_is_not_contiguous():
    rows, vector = torch.randn(1000, 3, dtype=torch.float64).T, torch.randn(1000, 2, dtype=torch.float64)[:, 0]
    torch.testing.assert_close(inner_products(rows, vector), rows @ vector)


def test_full_precision_is_left_as_it_was_found_by_threads_too():
    before, inside, over = torch.get_float32_matmul_precision(), threading.Barrier(2), threading.Event()

    def stay():
        with full_precision():
            inside.wait(10)
            over.wait(10)

    other = threading.Thread(target=stay)
    try:
        torch.set_float32_matmul_precision("medium")
        with full_precision():
            other.start()
            inside.wait(10)
        assert torch.get_float32_matmul_precision() == "highest"  # the other one is still within
        over.set()
        other.join()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_inner_products_of_no_rows():
    assert inner_products(torch.empty(0, 200), torch.ones(200)).shape == (0,)


@pytest.mark.parametrize("vector", [torch.randn(10_000_000), torch.full((10_000_000,), 0.37)])
def test_inner_products_of_millions_lose_nothing(vector):
    rows = torch.stack([vector, -vector])
    exact = float(vector.double() @ vector.double())
    assert inner_products(rows, vector).tolist() == pytest.approx([exact, -exact], rel=1e-6)
