"""What one rank tells another arrives as it was."""

import numpy as np
import pytest
import torch

from probes import Axis, Measurement
from probes.ranks.packing import from_plain, pack, to_plain, unpack


def test_a_tree_of_tensors_and_numbers_roundtrip():
    tree = {
        "half": torch.randn(3, 2, dtype=torch.bfloat16), "none": (None, True, 1, 0.1, 1 + 2j, "text", b"\0\xff"),
        7: [torch.empty(0, 3), torch.tensor(True), torch.randn(3, 4).T], "array": np.array(["a", "bc"]),
    }  # fmt: skip
    found = unpack(pack(tree))
    assert list(found) == list(tree) and found["none"] == tree["none"] and found["array"].tolist() == ["a", "bc"]
    for one, other in zip([found["half"], *found[7]], [tree["half"], *tree[7]], strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_numbers_that_are_no_numbers_and_complex_ones_roundtrip():
    nan, infinite = unpack(pack([float("nan"), float("-inf")]))
    assert nan != nan and infinite == float("-inf")
    conjugate = torch.randn(3, dtype=torch.complex64).conj()
    assert torch.equal(unpack(pack(conjugate)), conjugate)


def test_tensors_arrive_in_memory_that_torch_has_aligned():
    tensors = unpack(pack([torch.zeros(size) for size in range(1, 200, 7)]))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)


def test_a_measurement_roundtrip():
    row = Measurement(
        "a/b", np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32), ("y", "x"),
        {"x": Axis([1, 2, 3], "cm", "width"), "y": ["p", "q"]}, "nats", np.ones((2, 3)), "exact", np.int64(5), "of it",
    )  # fmt: skip
    found = from_plain(unpack(pack(to_plain(row))))
    assert found.disagreement(row) is None and found.value.tobytes() == row.value.tobytes()
    assert (
        found.value.dtype == np.float32 and found.coords["x"].unit == "cm" and found.coords["x"].description == "width"
    )
    assert (found.unit, found.estimator, found.num_samples, found.description) == ("nats", "exact", 5, "of it")


def test_what_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match=r"got builtins\.object"):
        pack({"a": [object()]})
