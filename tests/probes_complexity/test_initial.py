"""Squares of many numbers."""

import pytest
import torch

from probes_complexity.initial import square_norms


def test_millions_of_squares_add_up():
    """In single precision a CPU would add up 1.2 % too little of these, and Adam's first updates are like them."""
    tensors = [torch.full((20_000_000,), 1e-3), torch.ones(3), torch.ones(2, dtype=torch.complex64)]
    assert square_norms(tensors).tolist() == pytest.approx([20.0, 3.0, 2.0], rel=1e-6)
