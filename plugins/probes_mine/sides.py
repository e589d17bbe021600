"""What is given as the samples of a variable, and as their groups: checked, and brought into one form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["Side", "checked_numbers", "numbered_groups", "refuse_complex", "side_of"]


@dataclass(frozen=True)
class Side:
    """One variable: numbers, or codes of classes."""

    values: Tensor
    """float64 ``(n, d)`` without constant components; codes of classes ``(n, 1)``."""
    size: int
    """Components, or classes less one."""
    discrete: bool

    def numeric(self) -> Tensor:
        """Classes as indicators."""
        return one_hot(self.values[:, 0].long()).double() if self.discrete else self.values


def checked_numbers(samples: Any, name: str) -> Tensor:
    """Check samples that must be numbers: float64 on the CPU, shape ``(n, d)``, constant components too."""
    array = samples.detach() if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim == 0:
        raise ValueError(f"`{name}` must be samples, shape (n, ...), got a single number.")
    if not isinstance(array, Tensor):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` must be real numbers, got {array.dtype}.")
        array = torch.from_numpy(np.ascontiguousarray(array.astype(np.float64)))
    if array.is_complex():
        raise TypeError(f"`{name}` must be real numbers, got {array.dtype}. Pass real and imaginary part.")
    values = array.cpu().double().reshape(len(array), -1 if array.numel() else 0)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in {bad} of {len(values)} samples. Drop them.")
    return values


def side_of(samples: Any, name: str, discrete: bool | None) -> Side:
    """Check the samples of one variable; whether they are classes is guessed where ``discrete`` is None."""
    array = samples if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim == 0:
        raise ValueError(f"`{name}` must be samples, shape (n, ...), got a single number.")
    column = math.prod(array.shape[1:]) == 1
    if isinstance(array, Tensor):
        if array.is_complex():
            raise TypeError(
                f"`{name}` must be real numbers or classes, got {array.dtype}. Pass real and imaginary part."
            )
        integral, array = not array.is_floating_point(), array.detach().cpu()
    else:
        integral = array.dtype.kind in "biuOUS"
        if array.dtype.kind in "OUS":
            if not column:
                raise TypeError(f"`{name}` must be numbers, or one column of classes, got {array.dtype} {array.shape}.")
            discrete = True if discrete is None else discrete
        elif array.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` must be real numbers or classes, got {array.dtype}.")
    codes = None
    if integral and column:  # before they are rounded: names may be numbers above 2^53
        codes = _codes(np.asarray(array).reshape(-1), name)
        array = codes if np.asarray(array).dtype.kind in "OUS" else array
    if not isinstance(array, Tensor):
        array = torch.from_numpy(np.ascontiguousarray(array.astype(np.float64)))
    values = array.double().reshape(len(array), -1 if array.numel() else 0)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in {bad} of {len(values)} samples. Drop them.")
    if discrete is None:
        discrete = codes is not None and len(codes) > 0 and int(codes.max()) + 1 <= max(2, len(codes) / 20)
    if discrete:
        if not column:
            raise ValueError(f"`{name}` must be one column to be discrete, got shape {tuple(array.shape)}.")
        if codes is None:
            codes = torch.unique(values[:, 0], return_inverse=True)[1]
        return Side(codes[:, None].double(), int(codes.max()) if len(codes) else -1, True)
    varies = (values != values[:1]).any(0)
    return Side(values[:, varies], int(varies.sum()), False)


def _codes(classes: NDArray[Any], name: str) -> Tensor:
    """Numbers from 0 in place of classes: integers, texts or objects."""
    if classes.dtype.kind == "O":
        bad = sum(item is None or bool(item != item) for item in classes)
        if bad:
            raise ValueError(f"`{name}` must be known, got None or NaN in {bad} of {len(classes)} samples. Drop them.")
    try:
        numbers = np.unique(classes, return_inverse=True)[1]
    except TypeError as error:
        raise TypeError(f"`{name}` must be classes of one kind, which can be ordered: {error}.") from error
    return torch.from_numpy(numbers.astype(np.int64))


def refuse_complex(*samples: Tensor) -> None:
    """Raise TypeError for complex numbers, of which a part would be dropped."""
    for sample in samples:
        if sample.is_complex():
            raise TypeError(f"Samples must be real numbers, got {sample.dtype}. Pass real and imaginary part.")


def numbered_groups(given: Any, n: int) -> Tensor:
    """Check the names of groups, and number them from 0."""
    groups = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if groups.shape != (n,):
        raise ValueError(f"`groups` must hold one number or name for each of the {n} samples, got {groups.shape}.")
    return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))
