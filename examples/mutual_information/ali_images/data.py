"""Digits, faces, and stand-ins that need no download."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ...frame.data import mnist, mnist_subset
from ..classifier import Images
from ..generative import generator_of
from .settings import Settings


class Faces:
    """The photographs of CelebA, the centre of 178 by 178 pixels in the given size; read by torchvision when asked for.

    Args:
        size: Height and width.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        root: Data folder; by default the environment variable ``PROBES_DATA``, else ``data``.

    Raises:
        FileNotFoundError: If the data set is not there.
    """

    def __init__(self, size: int, split: str, root: str | Path | None = None) -> None:
        from torchvision import datasets, transforms  # type: ignore[import-untyped]

        folder = Path(root if root is not None else os.environ.get("PROBES_DATA") or "data")
        steps = [transforms.CenterCrop(178), transforms.Resize(size), transforms.ToTensor()]
        try:
            self.data = datasets.CelebA(folder, split, target_type="attr", transform=transforms.Compose(steps))
        except RuntimeError as error:
            raise FileNotFoundError(
                f"CelebA is not in {folder.resolve() / 'celeba'}. From "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html download img_align_celeba.zip, unpack it there, and "
                "put beside it identity_CelebA.txt, list_attr_celeba.txt, list_bbox_celeba.txt, "
                "list_eval_partition.txt and list_landmarks_align_celeba.txt; or name by the environment variable "
                "PROBES_DATA the folder that holds celeba/."
            ) from error
        self.attributes: Tensor = self.data.attr.float()  # (n, 40), 0 or 1

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return 2 * torch.stack([self.data[index][0] for index in chosen.tolist()]) - 1


def load(settings: Settings, train: bool) -> tuple[Images, Tensor]:
    """Images and labels: classes of digits, the 40 attributes of faces."""
    if settings.data == "faces":
        faces = Faces(settings.image[1], "train" if train else "test")
        return faces, faces.attributes
    if settings.data == "noise":
        generator = generator_of(0, train)
        attributes = torch.randint(2, (100, 40), generator=generator).float()
        return 2 * torch.rand(100, *settings.image, generator=generator) - 1, attributes
    images, labels = mnist_subset() if settings.data == "subset" else mnist(train=train)
    return 2 * avg_pool2d(images, 28 // settings.image[1]) - 1, labels
