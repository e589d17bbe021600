import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from probes.batches import Batch, as_batch, tensors


def test_a_large_tensor_is_sampled_with_its_targets():
    x = torch.arange(1000.0)[:, None]
    batch = as_batch((x, x[:, 0] * 2), n=50, seed=3)
    assert batch.n == 50
    torch.testing.assert_close(batch.inputs[:, 0] * 2, batch.targets)
    assert (batch.targets.diff() > 0).all()  # in the order of the data, without repeats


def test_the_sample_depends_on_the_seed_alone():
    x = torch.arange(1000.0)
    torch.manual_seed(0)
    first = as_batch(x, n=20, seed=1).inputs
    torch.manual_seed(1)
    assert torch.equal(first, as_batch(x, n=20, seed=1).inputs)
    assert not torch.equal(first, as_batch(x, n=20, seed=2).inputs)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_large_sparse_tensor_is_sampled_too(layout):
    dense = torch.eye(300)
    batch = as_batch((dense.to_sparse(layout=layout), torch.arange(300)), n=7)
    assert batch.args[0].layout is layout and batch.targets.tolist() == as_batch(dense, n=7).inputs.argmax(1).tolist()
    assert torch.equal(batch.args[0].to_dense(), dense[batch.targets])
    assert torch.equal(batch.first(2).args[0].to_dense(), dense[batch.targets[:2]])


def test_a_small_batch_is_taken_whole():
    x = torch.randn(7, 3)
    assert torch.equal(as_batch(x).inputs, x)


def test_numpy_arrays_are_taken():
    assert as_batch((np.zeros((5, 2), np.float32), np.arange(5))).targets.tolist() == [0, 1, 2, 3, 4]


def test_a_dict_is_the_keyword_arguments_and_its_labels_the_targets():
    batch = as_batch({"x": torch.randn(4, 2), "labels": torch.arange(4)})
    assert set(batch.kwargs) == {"x", "labels"} and batch.targets.tolist() == [0, 1, 2, 3] and batch.args == ()


def test_a_loader_is_read_through_its_data_set():
    data = TensorDataset(torch.arange(500.0)[:, None], torch.arange(500))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    batch = as_batch(loader, n=30)
    assert torch.equal(before, torch.get_rng_state())
    assert batch.n == 30 and torch.equal(batch.inputs[:, 0], batch.targets.float())


def test_the_batch_is_a_copy():
    x = torch.zeros(3, 1)
    batch = as_batch(x)
    x.add_(1)
    assert batch.inputs.sum() == 0


def test_the_main_input_is_the_first_floating_one():
    ids, weights = torch.zeros(2, 3, dtype=torch.long), torch.randn(2, 3)
    assert as_batch({"ids": ids, "weights": weights}).inputs.shape == (2, 3)
    assert Batch((ids,)).inputs is None


def test_with_inputs_exchanges_the_main_input_and_repeats_the_rest():
    batch = Batch((torch.zeros(4, 2),), {"mask": torch.arange(4), "scale": torch.tensor(2.0)})
    other = batch.with_inputs(torch.ones(9, 2))
    assert other.inputs.shape == (9, 2) and other.kwargs["mask"].tolist() == [0] * 9 and other.kwargs["scale"] == 2


def test_with_inputs_rejects_rows_of_another_shape():
    with pytest.raises(ValueError, match=r"rows of shape \(2,\), as the model's batch has; got rows of shape \(3,\)"):
        Batch((torch.zeros(4, 2),)).with_inputs(torch.ones(9, 3))


def test_with_inputs_rejects_integer_inputs():
    with pytest.raises(ValueError, match="no floating-point input"):
        Batch((torch.zeros(4, 2, dtype=torch.long),)).with_inputs(torch.ones(9, 2))


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Stream(), TypeError, "iterable-style data set"),
        (DataLoader(Stream()), TypeError, "iterable-style data set"),
        (Empty(), ValueError, "empty data set"),
        (3, TypeError, "must be a tensor of inputs"),
        ("abc", TypeError, "must be a tensor of inputs"),
        ((torch.zeros(3, 1), torch.zeros(2)), ValueError, "one target for each input"),
        ((torch.zeros(3, 1), "labels"), TypeError, "targets of `batches"),
        (torch.zeros(0, 2), ValueError, "is empty: it holds a tensor of shape"),
    ],
)
def test_as_batch_rejects(data, error, message):
    with pytest.raises(error, match=message):
        as_batch(data, name="test")


def test_a_packed_sequence_is_looked_into():
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
    assert [list(leaf.shape) for leaf in tensors(packed)] == [[5, 4], [3]]
