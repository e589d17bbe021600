"""The fixed batches that probes measure on, built without touching any global random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

__all__ = [
    "IGNORED", "Batch", "MicroBatches", "as_batch", "ignoring", "mapped", "others", "seeded", "tensors", "versions",
]  # fmt: skip

IGNORED = -100
"""The label of samples that are to count for nothing, as losses of torch have it."""


@dataclass(frozen=True)
class Batch:
    """The arguments of one forward call on ``n`` samples, and the targets that belong to them."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", dict(self.kwargs))
        if not any(leaf.ndim for leaf in tensors((self.args, self.kwargs))):
            raise TypeError("A batch must hold at least one tensor with a row for each sample.")
        if self.n == 0:
            raise ValueError("A batch must hold at least one sample, got an empty tensor.")

    @cached_property
    def n(self) -> int:
        """Number of samples: the rows of the first tensor."""
        return next(len(leaf) for leaf in tensors((self.args, self.kwargs)) if leaf.ndim)

    @property
    def inputs(self) -> Tensor | None:
        """The main input: the first dense floating-point tensor with a row for each sample; None when there is none."""
        dense = (leaf for leaf in tensors((self.args, self.kwargs)) if leaf.layout is torch.strided)
        return next((leaf for leaf in dense if leaf.is_floating_point() and self._rows(leaf)), None)

    def with_inputs(self, inputs: Tensor, samples: Tensor | None = None) -> Batch:
        """The same call on other values of the main input, with any number of rows.

        Targets are dropped.

        Args:
            inputs: Shape ``(rows, *shape)``.
            samples: For each row, the sample whose part of every other tensor goes with it; by default the first.

        Raises:
            ValueError: If the batch has no floating-point input, or the shape of a row differs.
        """
        main = self.inputs
        if main is None:
            raise ValueError("The batch has no floating-point input (token ids cannot be interpolated).")
        if inputs.shape[1:] != main.shape[1:]:
            raise ValueError(
                f"Inputs must have rows of shape {tuple(main.shape[1:])}, as the model's batch has; got rows of shape "
                f"{tuple(inputs.shape[1:])}."
            )

        def exchange(leaf: Tensor) -> Tensor:
            if leaf is main:
                return inputs.to(device=main.device, dtype=main.dtype)
            if not self._rows(leaf):
                return leaf
            return leaf[:1].expand(len(inputs), *leaf.shape[1:]) if samples is None else leaf[samples.to(leaf.device)]

        args, kwargs = mapped((self.args, self.kwargs), exchange)
        return Batch(args, kwargs)

    def first(self, n: int) -> Batch:
        """The first ``n`` samples."""
        return self if n >= self.n else self._part(slice(n))

    def select(self, index: Tensor) -> Batch:
        """The samples of the given indices."""
        return self._part(index)

    def _part(self, rows: Tensor | slice) -> Batch:
        given = self.args, self.kwargs, self.targets
        return Batch(*mapped(given, lambda leaf: _taken(leaf, rows) if self._rows(leaf) else leaf))

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*mapped((self.args, self.kwargs, self.targets), lambda leaf: leaf.to(device)))

    def converted(self, old: torch.dtype, new: torch.dtype) -> Batch:
        """The batch with its arguments of one dtype in another."""
        args, kwargs = mapped((self.args, self.kwargs), lambda leaf: leaf.to(new) if leaf.dtype == old else leaf)
        return replace(self, args=args, kwargs=kwargs)

    def clone(self) -> Batch:
        """A copy that the loop cannot change, cut from any graph."""
        given = self.args, self.kwargs, self.targets
        arrays = lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf  # noqa: E731
        return Batch(*mapped(given, lambda leaf: leaf.detach().clone(), arrays))

    def with_targets(self, targets: Tensor | None) -> Batch:
        """The same samples with other targets."""
        return replace(self, targets=targets)

    def ignoring(self, label: int) -> Batch:
        """The same samples with -100, which losses of torch ignore, in place of a label."""
        return self if self.targets is None else self.with_targets(ignoring(self.targets, label))

    def shapes(self) -> str:
        """The shapes of its arguments, and which of them have not one row for each sample."""
        leaves = tensors((self.args, self.kwargs))
        text = f"of shape {', '.join(str(tuple(leaf.shape)) for leaf in leaves)}"
        if whole := [str(tuple(leaf.shape)) for leaf in leaves if leaf.ndim and not self._rows(leaf)]:
            text += (
                f" (what has not one row for each of the {self.n} samples is passed whole: {', '.join(whole)}; let the "
                f"model take samples in the first dimension)"
            )
        return text

    def _rows(self, leaf: Tensor) -> bool:
        return leaf.ndim > 0 and len(leaf) == self.n


def as_batch(data: Any, n: int = 100, seed: int = 0, name: str = "batch") -> Batch:
    """A fixed batch of at most ``n`` samples from whatever a user has at hand.

    More than ``n`` samples are sampled without replacement, seeded, in the order of the data. A :class:`Batch` is
    taken whole. Reading a data set or loader may draw random numbers (augmentation): call it inside the guard.

    Args:
        data: A tensor of inputs; ``(inputs, targets)``; a dict of keyword arguments for the model, whose
            ``"labels"`` or ``"label"`` are the targets (for a model that takes the dict itself as its one argument
            pass ``Batch((data,), targets=...)``); a map-style Dataset or a DataLoader over one; or a
            :class:`Batch`.
        n: Number of samples.
        seed: Seed of the sample.
        name: What the batch is called in messages.

    Raises:
        TypeError: If ``data`` is none of these, or an iterable-style data set, which cannot be read twice.
        ValueError: If it is empty, or inputs and targets differ in length.

    Example:
        >>> as_batch((torch.zeros(1000, 3), torch.zeros(1000)), n=10).inputs.shape
        torch.Size([10, 3])
    """
    if isinstance(data, Batch):
        return data.clone()
    if isinstance(data, DataLoader):
        return _from_dataset(data.dataset, data.collate_fn, n, seed, name)
    if isinstance(data, Dataset):
        return _from_dataset(data, default_collate, n, seed, name)
    batch = _from_collated(data, name)
    if batch.n > n:
        batch = batch.select(_sample(batch.n, n, seed))
    return batch.clone()


def _from_dataset(dataset: Any, collate: Any, n: int, seed: int, name: str) -> Batch:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"`batches[{name!r}]` is an iterable-style data set, which reading would advance. "
            f"Pass a batch of it instead, e.g. (inputs, targets)."
        )
    if len(dataset) == 0:
        raise ValueError(f"`batches[{name!r}]` is an empty data set.")
    indices = _sample(len(dataset), n, seed).tolist()
    return _from_collated(collate([dataset[index] for index in indices]), name).clone()


def _from_collated(data: Any, name: str) -> Batch:
    given, data = data, _map_arrays(data)
    if (empty := next((leaf for leaf in tensors(data) if leaf.ndim and len(leaf) == 0), None)) is not None:
        raise ValueError(f"`batches[{name!r}]` is empty: it holds a tensor of shape {tuple(empty.shape)}.")
    if isinstance(data, Tensor):
        return Batch((data,))
    if isinstance(data, Mapping) and tensors(data):
        targets = next((data[key] for key in ("labels", "label") if isinstance(data.get(key), Tensor)), None)
        return _checked(Batch((), data, targets), name)
    if isinstance(data, Sequence) and not isinstance(data, str) and 1 <= len(data) <= 2 and tensors(data):
        inputs, targets = (*data, None)[:2]
        if targets is not None and not isinstance(targets, Tensor):
            raise TypeError(f"The targets of `batches[{name!r}]` must be a tensor, got {type(given[1]).__name__}.")
        if isinstance(inputs, Mapping):
            return _checked(Batch((), inputs, targets), name)
        return _checked(Batch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, targets), name)
    raise TypeError(
        f"`batches[{name!r}]` must be a tensor of inputs, a tuple (inputs, targets), a dict of the model's keyword "
        f"arguments, a Dataset or a DataLoader; got {type(data).__name__}."
    )


def _checked(batch: Batch, name: str) -> Batch:
    if batch.targets is not None and (batch.targets.ndim == 0 or len(batch.targets) != batch.n):
        raise ValueError(
            f"`batches[{name!r}]` has {batch.n} inputs but targets of shape {tuple(batch.targets.shape)}; "
            f"there must be one target for each input."
        )
    return batch


def _sample(size: int, n: int, seed: int) -> Tensor:
    if size <= n:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:n].sort().values


def _map_arrays(data: Any) -> Any:
    """Numpy arrays, alone or in a tuple or dict, as tensors."""
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data)
    if isinstance(data, Mapping):
        return {key: _map_arrays(item) for key, item in data.items()}
    if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
        return tuple(_map_arrays(item) for item in data)
    return data


def _taken(leaf: Tensor, rows: Tensor | slice) -> Tensor:
    if leaf.layout not in (torch.sparse_coo, torch.sparse_csr):
        return leaf[rows if isinstance(rows, slice) else rows.to(leaf.device)]
    index = torch.arange(len(leaf), device=leaf.device)[rows]
    taken = leaf.to_sparse(layout=torch.sparse_coo).index_select(0, index)  # the one way of sparse tensors
    return taken.to_sparse(layout=leaf.layout)


def mapped(tree: Any, function: Callable[[Tensor], Any], other: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """``function`` of every tensor of nested tuples, lists and dicts, and ``other`` of everything else."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(item, function, other) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        make: Any = type(tree)
        return make._make(mapped(item, function, other) for item in tree)  # without what a class of its own asks for
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(item, function, other) for item in tree)
    return other(tree)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and dicts, in order."""
    found: list[Tensor] = []
    mapped(tree, found.append)
    return found


def others(tree: Any) -> list[Any]:
    """What those hold that is no tensor: generators, arrays, objects of a script's own."""
    found: list[Any] = []
    mapped(tree, lambda leaf: leaf, found.append)
    return found


def ignoring(targets: Tensor, label: int) -> Tensor:
    """Class labels with -100, which losses of torch ignore, in place of one of them; other targets as they are."""
    if label == IGNORED or targets.is_floating_point() or targets.is_complex():
        return targets
    signed = targets if targets.dtype.is_signed else targets.long()
    return signed.masked_fill(signed == label, IGNORED)


def versions(tree: Any) -> list[int]:
    """How often each of those tensors was changed in place, as far as they tell."""
    return [leaf._version for leaf in tensors(tree) if not leaf.is_inference()]


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """The generator that was given, or one of the CPU whose seed is 0.

    Raises:
        TypeError: If it is another thing, such as a seed.

    Example:
        >>> seeded(None).initial_seed()
        0
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator or None, got {generator!r}.")
    return torch.Generator().manual_seed(0) if generator is None else generator


class MicroBatches(NamedTuple):
    r"""Inner products of the gradients :math:`g_1, \dots, g_m` that one update was made of, in their order."""

    squares: Tensor
    r""":math:`|g_j|^2`. Shape ``(m,)``, float64, on the CPU."""
    with_earlier: Tensor
    r""":math:`g_j \cdot (g_1 + \dots + g_{j - 1})`, the first 0. Shape ``(m,)``."""
    ranks: int = 1
    """Over how many ranks DDP averaged their sum; if several, m may be 1, and they are those of rank 0."""
    averaged_square: float = math.nan
    """The squared norm of that average."""
