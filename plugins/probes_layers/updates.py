"""What an update does to parameters: norms of gradients, weights and updates, as sums of squares that can be added."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.loop.sharding import is_partial, local_part
from probes.precision import square_sum, to_float64

__all__ = ["GRADIENT", "UPDATE", "UpdateWatch", "gradient_sums", "nonzero_count", "square_sum", "update_sums"]

FEW = 1 << 13
"""Numbers whose signs are counted at once: faster than in pieces."""
PIECE = 1 << 17
"""Numbers that are looked at at once: a cache holds them, and single precision their number."""
ALIGNED = 64
"""Bytes."""
GRADIENT = ("gradient", "count", "zeros", "nonfinite")
"""What :func:`gradient_sums` returns: sum of squares, and numbers of elements."""
UPDATE = ("count", "before", "update", "last", "product", "followed")
"""The number of elements; sums of squares of the weights before an update, of the update, and, where the update before
was seen, of that one; sums of the products of the two, and of the squares of the update."""


def gradient_sums(gradient: Tensor, scale: Tensor | None = None) -> Tensor:
    """Of a gradient, what ``GRADIENT`` names. Shape ``(4,)``, float64.

    Args:
        gradient: Of one parameter; what is not stored of a sparse one is zero.
        scale: What it was multiplied with.

    Example:
        >>> gradient_sums(torch.tensor([0.0, 3.0, 4.0])).tolist()
        [25.0, 3.0, 1.0, 0.0]
    """
    count, gradient = gradient.numel(), gradient.detach()
    stored = gradient.coalesce().values() if gradient.layout == torch.sparse_coo else gradient
    squares = square_sum(stored)
    if scale is not None:
        squares = squares / to_float64(scale.detach()).square().to(squares.device)
    if squares.device.type == "cpu" and math.isfinite(float(squares)):  # there, to ask is cheaper than to count
        nonfinite = torch.zeros_like(squares)
    else:
        nonfinite = to_float64(torch.count_nonzero(stored - stored)).to(squares.device)
    zeros = count - nonzero_count(stored).to(squares.device)
    return torch.stack([squares, torch.full_like(squares, count), zeros, nonfinite])


def nonzero_count(tensor: Tensor) -> Tensor:
    """How many numbers are not zero. Scalar, float64.

    Example:
        >>> nonzero_count(torch.tensor([0.0, -2.0])).item()
        1.0
    """
    tensor = tensor.detach()
    if tensor.device.type != "cpu" or tensor.is_complex():
        return to_float64(torch.count_nonzero(tensor))
    flat = tensor.reshape(-1)
    if flat.numel() <= FEW:
        return flat.ne(0).sum().double()
    # On the CPU ten times as fast, and exact in single precision.
    ones = torch.empty(min(flat.numel(), PIECE), dtype=torch.float32, device="cpu")
    return torch.stack([torch.ne(p, 0, out=ones[: p.numel()]).sum() for p in torch.split(flat, PIECE)]).double().sum()


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies of tensors, those on the CPU side by side.

    Numpy asks the system for large pages, where it has them, and torch does not: to be given 45 MB in small ones takes
    three times as long as to fill them.
    """
    tensors, size = list(tensors), 0
    places: list[int | None] = []
    for tensor in tensors:
        plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.layout is torch.strided
        places.append(size if plain else None)
        size += -(-tensor.nbytes // ALIGNED) * ALIGNED if plain else 0
    memory = torch.from_numpy(np.empty(size, np.uint8))
    return [
        tensor.clone().contiguous() if place is None
        else memory[place : place + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        for tensor, place in zip(tensors, places, strict=True)
    ]  # fmt: skip


def update_sums(now: Tensor, before: Tensor, last: Tensor | None = None) -> Tensor:
    """Of an update, what :data:`UPDATE` names. Shape ``(6,)``, float64.

    Args:
        now: The weights after it.
        before: The weights before it, of the same dtype and contiguous; in their place the update is left.
        last: The update before, where it was seen, contiguous; in its place its difference from this one is left.

    Example:
        >>> update_sums(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]), torch.tensor([4.0, 1.0])).tolist()
        [2.0, 26.0, 9.0, 17.0, -3.0, 9.0]
    """
    weights = square_sum(before)
    torch.sub(now, before, out=before)
    squares = square_sum(before)
    count, nothing = torch.full_like(squares, before.numel()), torch.zeros_like(squares)
    if last is None:
        return torch.stack([count, weights, squares, nothing, nothing, nothing])
    lasts = square_sum(last)
    product = (lasts + squares - square_sum(last.sub_(before))) / 2  # as precise as norms are; a dot product is not
    return torch.stack([count, weights, squares, lasts, product, squares])


def _has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and not is_partial(parameter.grad)


@dataclass
class _Watched:
    """One parameter."""

    parameter: nn.Parameter
    before: Tensor | None = None
    """A copy, while the optimizer updates it."""
    closure: bool = False
    only_update: bool = False
    owned: bool = True
    gradient: Tensor | None = None
    """What ``GRADIENT`` names."""
    update: Tensor | None = None
    sums: Tensor | None = None
    """What ``UPDATE`` names."""
    step: int = -1
    """At which the last update was over."""


class UpdateWatch:
    """Looks at parameters before and after each update.

    Args:
        sharded: Whether each rank looks at its own part of the parameters of a model under ``fully_shard``.

    Example:
        >>> layer, watch = nn.Linear(2, 1), UpdateWatch()
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(3, 2)).sum().backward()
        >>> watch.before(layer.parameters())
        >>> optimizer.step()
        >>> watch.after(1)
        >>> gradient, update = watch.sums({id(layer.weight): 0}, 1, step=1)
        >>> gradient[0].tolist(), round(update[2].item(), 4)  # each weight moves by 0.1 times 3
        ([18.0], 0.18)
    """

    def __init__(self, sharded: bool = False) -> None:
        self._sharded = sharded
        self._watched: dict[int, _Watched] = {}

    def _part(self, tensor: Any) -> Tensor:
        part: Tensor = local_part(tensor) if self._sharded else tensor.detach()
        return part

    def before(
        self,
        parameters: Iterable[nn.Parameter],
        scale: Tensor | None = None,
        closure: bool = False,
        only_update: bool = False,
        owned: bool = True,
    ) -> None:
        """An optimizer is about to update these parameters.

        Args:
            parameters: Called again before the update, as of an update that was skipped, the first copy stays.
            scale: What the gradients were multiplied with.
            closure: Whether the gradients are still to come.
            only_update: Whether the update alone is of interest, for its cosine with the next.
            owned: Whether the optimizer holds them; the gradients of others are not what their optimizer will see.
        """
        new: list[_Watched] = []
        for parameter in parameters:
            seen = self._watched.get(id(parameter))
            if seen is None or seen.parameter is not parameter:
                seen = self._watched[id(parameter)] = _Watched(parameter)
            if seen.before is not None and seen.owned and not owned:
                continue  # an update of its own optimizer is not over
            if seen.before is None:
                new.append(seen)
            seen.closure, seen.only_update, seen.owned, seen.gradient = closure, only_update, owned, None
            if owned and not (closure or only_update) and _has_gradient(parameter):
                seen.gradient = gradient_sums(self._part(parameter.grad), scale)
        for seen, copy in zip(new, copies(self._part(seen.parameter) for seen in new), strict=True):
            seen.before = copy

    def after(self, step: int) -> None:
        """The updates are over; those before, one step ago, are the last ones."""
        for seen in self._watched.values():
            if seen.before is None:
                continue
            now, before, seen.before = self._part(seen.parameter), seen.before, None
            if now.shape != before.shape or now.dtype != before.dtype or now.device != before.device:
                seen.update = seen.sums = None  # converted, or moved, meanwhile
                continue
            if seen.closure and seen.owned and not seen.only_update and _has_gradient(seen.parameter):
                seen.gradient = gradient_sums(self._part(seen.parameter.grad))
            if now.dtype in (torch.float16, torch.bfloat16):  # in which differences would be rounded
                now, before = now.float(), before.float()
            if seen.only_update:
                seen.update, seen.step, seen.sums = torch.sub(now, before, out=before), step, None
                continue
            last = seen.update if seen.step == step - 1 else None
            seen.sums = update_sums(now, before, last if last is not None and last.shape == now.shape else None)
            seen.update, seen.step = before, step

    def sums(self, layers: Mapping[int, int], count: int, step: int) -> tuple[Tensor, Tensor]:
        """What ``GRADIENT`` and ``UPDATE`` name, summed over the parameters of each layer, of this step.

        Args:
            layers: The layer of each parameter, by the parameter's id.
            count: The number of layers.
            step: That of the last call of :meth:`after`.

        Returns:
            Shapes ``(4, count)`` and ``(6, count)``, float64, on the CPU; zero where nothing was seen.
        """
        gradient = torch.zeros(len(GRADIENT), count, dtype=torch.float64, device="cpu")
        update = torch.zeros(len(UPDATE), count, dtype=torch.float64, device="cpu")
        seen = [item for key, item in self._watched.items() if key in layers and item.step == step]
        for total, parts in (
            (gradient, [(item, item.gradient) for item in seen]), (update, [(item, item.sums) for item in seen])
        ):  # fmt: skip
            there = [(layers[id(item.parameter)], part) for item, part in parts if part is not None]
            if there:
                columns = torch.tensor([column for column, _ in there])
                total.index_add_(1, columns, torch.stack([part.cpu() for _, part in there], 1))
        return gradient, update

    def without_gradient(self, step: int) -> list[nn.Parameter]:
        """The parameters that had no gradient at the update of this step."""
        seen = [item for item in self._watched.values() if item.step == step and item.owned and not item.only_update]
        return [item.parameter for item in seen if item.gradient is None]

    def clear(self) -> None:
        """Forget everything, and hold no parameter."""
        self._watched.clear()

    def state(self) -> dict[int, dict[str, Any]]:
        """What goes on from here, of each parameter by its id: its last update, and the copy before one not over."""
        return {
            id(item.parameter): {
                "step": item.step, "closure": item.closure, "only_update": item.only_update, "owned": item.owned,
                "gradient": item.gradient,
                "before": None if item.before is None else item.before.clone(),
                "update": None if item.update is None else item.update.clone(),
            }
            for item in self._watched.values()
            if item.update is not None or item.before is not None
        }  # fmt: skip

    def resume(self, parameter: nn.Parameter, state: Mapping[str, Any]) -> None:
        """Go on with a parameter from its :meth:`state`."""
        there: dict[str, Any] = {
            name: value.to(parameter.device) if isinstance(value, Tensor) and name != "gradient" else value
            for name, value in state.items()
        }
        self._watched[id(parameter)] = _Watched(parameter, **there)
