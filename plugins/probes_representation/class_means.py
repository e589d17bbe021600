"""The means of classes, and how far examples are from theirs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["ClassMeans", "class_means"]


class ClassMeans(NamedTuple):
    """The C classes that are there."""

    means: Tensor
    """Shape ``(C, d)``, float64."""
    centred: Tensor
    """Less their own mean: the paper's mu_c - mu_G, as rows. Shape ``(C, d)``."""
    within: Tensor
    """Examples less the mean of their class. Shape ``(n, d)``."""
    members: Tensor
    """The class of each example, as a row of ``means``. Shape ``(n,)``."""
    classes: Tensor
    """The labels of the rows, ascending. Shape ``(C,)``."""

    @property
    def weights(self) -> Tensor:
        """The weight of each example in an average over classes and over the examples of each. Shape ``(n,)``."""
        counts = torch.bincount(self.members, minlength=len(self.classes))
        return 1.0 / (counts[self.members].double() * len(self.classes))


def class_means(features: Tensor, labels: Tensor) -> ClassMeans:
    r"""Means of the features of each class.

    .. math:: \mu_c = \operatorname{Ave}_i h_{i,c}, \qquad \mu_G = \operatorname{Ave}_c \mu_c

    The classes of the paper are balanced. Those of a batch never are, so each class counts alike here, whatever its
    number of examples: then the centred means sum to zero, as those of a frame do.

    Args:
        features: Shape ``(n, d)``, any unit.
        labels: Integers, shape ``(n,)``.

    Returns:
        In the unit of the features.

    Raises:
        ValueError: If there is not one label for each example, or no example.

    Example:
        >>> found = class_means(torch.tensor([[1.0], [3.0], [6.0]]), torch.tensor([4, 4, 7]))
        >>> found.means.tolist(), found.centred.tolist(), found.classes.tolist()
        ([[2.0], [6.0]], [[-2.0], [2.0]], [4, 7])

    Reference:
        Papyan, Han & Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training",
        PNAS 117, 2020, section "Formalizing the main observations" (notation).
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"`features` must have shape (n, d), one row at least, got {tuple(features.shape)}.")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"`labels` must hold one class for each of the {len(features)} examples, got shape {tuple(labels.shape)}."
        )
    features = to_float64(features)
    classes, index = torch.unique(labels.to(features.device), return_inverse=True)
    counts = torch.bincount(index, minlength=len(classes))
    start = features[:1]  # of equal features nothing is left, not even rounding
    members = torch.nn.functional.one_hot(index, len(classes)).to(features.dtype)
    offsets = members.T @ (features - start) / counts[:, None]
    return ClassMeans(offsets + start, offsets - offsets.mean(0), features - start - offsets[index], index, classes)
