"""The image data sets of the thesis, as tensors: downloaded by torchvision, or read from ``.npz`` files.

Images are float32 in [0, 1] (grey value / 255, nothing else is normalized), channels first; labels are int64.
A data folder is looked at first, the argument ``root`` or the environment variable ``PROBES_DATA``. It may hold
``mnist.npz``, ``fashion_mnist.npz``, ``kmnist.npz`` and ``cifar10.npz`` in the layout that Keras made a convention:

==========================  =====  =========================================================
``x_train``, ``x_test``     uint8  (N, 28, 28), for CIFAR-10 (N, 32, 32, 3)
``y_train``, ``y_test``     uint8  (N,) or (N, 1)
==========================  =====  =========================================================

When the file is not there torchvision downloads the data set into that folder (without one, into ``data/``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["cifar10", "fashion_mnist", "kmnist", "mnist", "mnist_subset"]

Array = NDArray[Any]


def mnist(
    root: str | Path | None = None, *, train: bool = True, n: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Handwritten digits: 60,000 to train on, 10,000 to test on.

    Args:
        root: Data folder; by default the environment variable ``PROBES_DATA``, else ``data``.
        train: Whether the training set or the test set.
        n: Number of samples, a seeded sample without replacement in the order of the set; None for all.
        seed: Seed of the sample.

    Returns:
        Images in [0, 1] of shape ``(n, 1, 28, 28)`` and labels 0 to 9 of shape ``(n,)``.

    Raises:
        FileNotFoundError: If the data set is neither there nor can be downloaded.
        ValueError: If the file does not have that layout, or holds fewer than ``n`` samples.
    """
    return _tensors("mnist", "MNIST", (28, 28), root, train, n, seed)


def fashion_mnist(
    root: str | Path | None = None, *, train: bool = True, n: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures of clothes, in the size and number of MNIST; arguments, shapes and errors as for :func:`mnist`."""
    return _tensors("fashion_mnist", "FashionMNIST", (28, 28), root, train, n, seed)


def kmnist(
    root: str | Path | None = None, *, train: bool = True, n: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cursive characters of Japan, as many and as large as MNIST; arguments, shapes and errors as for :func:`mnist`."""
    return _tensors("kmnist", "KMNIST", (28, 28), root, train, n, seed)


def cifar10(
    root: str | Path | None = None, *, train: bool = True, n: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Photographs of 10 classes, 50,000 to train on, 10,000 to test on; images of shape ``(n, 3, 32, 32)``, arguments
    and errors as for :func:`mnist`."""
    return _tensors("cifar10", "CIFAR10", (32, 32, 3), root, train, n, seed)


def mnist_subset() -> tuple[Tensor, Tensor]:
    """The 2,000 MNIST training digits that come with the examples, 200 of each class (``examples/data/README.md``).

    Returns:
        Images in [0, 1] of shape ``(2000, 1, 28, 28)`` and labels 0 to 9 of shape ``(2000,)``.

    Example:
        >>> images, labels = mnist_subset()
        >>> images.shape, labels.bincount().unique().item()
        (torch.Size([2000, 1, 28, 28]), 200)
    """
    with np.load(Path(__file__).parents[1] / "data" / "mnist2000.npz") as file:
        return _images(file["x"]), torch.from_numpy(file["y"].astype(np.int64))


def _tensors(
    name: str, class_name: str, shape: tuple[int, ...], root: str | Path | None, train: bool, n: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    folder = Path(root if root is not None else os.environ.get("PROBES_DATA") or "data")
    path = folder / f"{name}.npz"
    x, y = _from_npz(path, train) if path.exists() else _from_torchvision(class_name, folder, train, path, shape)
    if x.dtype != np.uint8 or x.ndim != len(shape) + 1 or x.shape[1:] != shape or len(x) != y.size:
        raise ValueError(
            f"{path} must hold uint8 images of shape (N, {', '.join(map(str, shape))}) and N labels, got {x.dtype} "
            f"{x.shape} and labels of shape {y.shape}."
        )
    labels = torch.from_numpy(y.reshape(-1).astype(np.int64))
    if n is None:
        return _images(x), labels
    if not 1 <= n <= len(x):
        raise ValueError(f"`n` must be between 1 and the {len(x)} samples of {name}, got {n}.")
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n].sort().values
    return _images(x[chosen.numpy()]), labels[chosen]


def _from_npz(path: Path, train: bool) -> tuple[Array, Array]:
    part = "train" if train else "test"
    with np.load(path) as file:
        missing = {f"x_{part}", f"y_{part}"} - set(file.files)
        if missing:
            raise ValueError(f"{path} must hold x_train, y_train, x_test and y_test, got {', '.join(file.files)}.")
        return file[f"x_{part}"], file[f"y_{part}"]


def _from_torchvision(
    class_name: str, folder: Path, train: bool, path: Path, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    try:
        from torchvision import datasets  # type: ignore[import-untyped]

        data = getattr(datasets, class_name)(folder, train=train, download=True)
    except (ImportError, OSError, RuntimeError) as error:  # not installed, no network, no mirror answers
        raise FileNotFoundError(
            f"{class_name} is not in {folder.resolve()} and torchvision could not download it ({error}). Set the "
            f"environment variable PROBES_DATA to a folder that holds {path.name}: a file of numpy.savez with the "
            f"uint8 arrays x_train and x_test of shape (N, {', '.join(map(str, shape))}), y_train and y_test of shape "
            f"(N,)."
        ) from error
    return np.asarray(data.data), np.asarray(data.targets)


def _images(x: Array) -> Tensor:
    images = torch.from_numpy(x).float() / 255
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
