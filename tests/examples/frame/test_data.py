import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from examples.frame.data import cifar10, fashion_mnist, kmnist, mnist, mnist_subset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images a set whose grey values say which image they are."""
    grey = dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), (28, 28))
    for name, shape in {**grey, "cifar10": (32, 32, 3)}.items():
        x = np.arange(10, dtype=np.uint8).reshape(-1, *[1] * len(shape)) * np.ones(shape, np.uint8)
        y = np.arange(10, dtype=np.uint8)
        labels = y[:, None] if name == "cifar10" else y  # Keras' CIFAR-10 has a column of labels
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=labels, x_test=x[:4] + 100, y_test=labels[:4])
    return tmp_path


@pytest.mark.parametrize("load", [mnist, fashion_mnist, kmnist])
def test_grey_images_are_floats_in_one_channel(load, folder):
    images, labels = load(folder)
    assert images.shape == (10, 1, 28, 28) and images.dtype == torch.float32
    assert labels.tolist() == list(range(10)) and labels.dtype == torch.int64
    torch.testing.assert_close(images[:, 0, 5, 7] * 255, torch.arange(10.0))


def test_cifar10_has_its_channels_first(folder):
    path = folder / "cifar10.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["x_train"][3, 10, 20] = (255, 51, 0)
    np.savez(path, **arrays)
    images, labels = cifar10(folder)
    assert images.shape == (10, 3, 32, 32) and labels.shape == (10,)
    torch.testing.assert_close(images[3, :, 10, 20], torch.tensor([1.0, 0.2, 0.0]))


def test_the_test_set_is_another_set(folder):
    images, _ = mnist(folder, train=False)
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [100, 101, 102, 103]


def test_a_sample_is_seeded_and_keeps_images_with_their_labels(folder):
    images, labels = mnist(folder, n=6, seed=1)
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
    assert len(set(labels.tolist())) == 6
    assert torch.equal(labels, mnist(folder, n=6, seed=1)[1])
    assert any(not torch.equal(labels, mnist(folder, n=6, seed=seed)[1]) for seed in range(2, 6))


def test_the_folder_may_be_named_by_the_environment(folder, monkeypatch):
    monkeypatch.setenv("PROBES_DATA", str(folder))
    assert len(mnist()[0]) == 10


def test_drawing_a_sample_does_not_change_the_random_state(folder):
    before = torch.get_rng_state()
    mnist(folder, n=3)
    assert torch.equal(before, torch.get_rng_state())


def test_mnist_rejects_more_samples_than_there_are(folder):
    with pytest.raises(ValueError, match="`n` must be between 1 and the 10 samples of mnist, got 11"):
        mnist(folder, n=11)


def test_mnist_rejects_a_file_of_another_layout(folder):
    np.savez(folder / "mnist.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="must hold x_train, y_train, x_test and y_test, got images"):
        mnist(folder)
    np.savez(folder / "mnist.npz", x_train=np.zeros((3, 784), np.uint8), y_train=np.zeros(3, np.uint8))
    with pytest.raises(
        ValueError, match=re.escape("uint8 images of shape (N, 28, 28) and N labels, got uint8 (3, 784)")
    ):
        mnist(folder)


def test_missing_data_says_which_file_in_which_layout_and_which_variable(tmp_path, monkeypatch):
    def no_network(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets, "CIFAR10", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(tmp_path)
    for words in ("PROBES_DATA", "cifar10.npz", "(N, 32, 32, 3)", "x_train", str(tmp_path), "Error downloading"):
        assert words in str(caught.value)


def test_torchvision_is_asked_when_there_is_no_file(tmp_path, monkeypatch):
    class Downloaded:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert root == tmp_path and not train and download
            self.data = torch.full((2, 28, 28), 255, dtype=torch.uint8)
            self.targets = torch.tensor([4, 2])

    monkeypatch.setattr(datasets, "MNIST", Downloaded)
    images, labels = mnist(tmp_path, train=False)
    assert images.shape == (2, 1, 28, 28) and images.unique().tolist() == [1.0] and labels.tolist() == [4, 2]


def test_the_subset_has_200_digits_of_each_class_and_the_mean_of_mnist():
    images, labels = mnist_subset()
    assert images.shape == (2000, 1, 28, 28) and labels.bincount().tolist() == [200] * 10
    assert images.min() == 0 and images.max() == 1
    # The published mean of the training set is 0.1307; the subset's own standard error is 0.001.
    assert images.mean().item() == pytest.approx(0.1307, abs=0.003)
