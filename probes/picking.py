"""Which tensor of what a model returns is its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .batches import tensors
from .measurement import CannotMeasure, first_line

__all__ = ["Entry", "entries", "pick_output", "picked", "returned", "where_picked"]

DEPTH = 3
"""How deep in dicts, tuples and objects a tensor is looked for: beyond, it is no output but a part of something."""


def pick_output(result: Any) -> Tensor:
    """The output tensor of what a model returns: itself, its ``logits``, or its first that is more than one number.

    Raises:
        CannotMeasure: If there is no such tensor; the message names the argument to pass.

    Example:
        >>> import torch
        >>> pick_output((torch.tensor(0.5), torch.zeros(3, 2))).shape  # a loss, and the logits
        torch.Size([3, 2])
    """
    if isinstance(result, Tensor) and result.is_floating_point():
        return result
    if not isinstance(result, Tensor) and (found := entries(result)):
        return found[0][1]
    if isinstance(result, tuple | list) and len(result) and isinstance(result[0], Tensor):
        return pick_output(result[0])
    raise CannotMeasure(
        f"The model returns {_described(result)}, in which no floating-point output tensor was found. Pass output=, a "
        f"function that picks it, e.g. output=lambda result: {_example(result)}."
    )


def where_picked(result: Any, output: Callable[[Any], Tensor] = pick_output) -> str:
    """Which of several tensors is taken, in code, and why; empty if a model returns one, or the user picks it.

    Example:
        >>> import torch
        >>> where_picked({"loss": torch.tensor(0.5), "scores": torch.zeros(3, 2), "hidden": torch.zeros(3, 9)})
        "result['scores'] of 'hidden', 'loss', 'scores'"
    """
    found = [] if isinstance(result, Tensor) else entries(result)
    if not found or not (output is pick_output or isinstance(output, Entry)):
        return ""
    chosen = next((entry for entry, _ in found if entry == output), None)
    keys = sorted(map(str, result)) if isinstance(result, Mapping) else []
    others = ", ".join(map(repr, keys)) if keys else f"{len(result)}" if isinstance(result, tuple | list) else ""
    where = f"result{(chosen or found[0][0]).code}" + (f" of {others}" if others else "")
    return where + (", which the loss of the loop compares" if chosen else "")


@dataclass(frozen=True)
class Entry:
    """Picks one of several tensors that a model returns: where that is not there, as :func:`pick_output` does."""

    path: tuple[Any, ...]
    """The keys, indices and attributes that lead to it."""
    code: str
    """The same as it is written behind what the model returns."""

    def __call__(self, result: Any) -> Tensor:
        here = [] if isinstance(result, Tensor) else [tensor for entry, tensor in entries(result) if entry == self]
        return here[0] if here else pick_output(result)


def entries(result: Any) -> list[tuple[Entry, Tensor]]:
    """The floating-point tensors of more than one number in what a model returns: logits first, nested ones last."""
    found = list(_walk(result, Entry((), "")))
    return sorted(found, key=lambda item: (len(item[0].path), item[0].code not in ("['logits']", ".logits")))


def returned(result: Any) -> list[Tensor]:
    """The tensors in what a model returns; of objects as :func:`entries` finds them."""
    return [result] if isinstance(result, Tensor) else [*tensors(result), *(item for _, item in entries(result))]


def _walk(result: Any, at: Entry) -> Iterator[tuple[Entry, Tensor]]:
    """Every such tensor, at any depth."""
    if isinstance(result, Mapping):
        inside = [(key, f"[{key!r}]", item) for key, item in result.items()]
    elif isinstance(result, tuple | list) and not hasattr(result, "_fields"):
        inside = [(index, f"[{index}]", item) for index, item in enumerate(result)]
    else:
        inside = [(name, f".{name}", item) for name, item in _attributes(result).items()]
    for key, code, item in inside:
        entry = Entry((*at.path, key), at.code + code)
        if isinstance(item, Tensor):
            if item.is_floating_point() and item.ndim:
                yield entry, item
        elif len(entry.path) < DEPTH and not isinstance(item, nn.Module):
            yield from _walk(item, entry)


def _attributes(result: Any) -> dict[str, Any]:
    if hasattr(result, "_fields"):
        return result._asdict()  # type: ignore[no-any-return]
    return {} if isinstance(result, type) else dict(getattr(result, "__dict__", {}))


def picked(output: Callable[[Any], Tensor], result: Any) -> Tensor:
    """``output`` of what a model returns.

    Raises:
        CannotMeasure: If it fails, or gives no floating-point tensor; the message shows one that works.
    """
    try:
        found = output(result)
    except CannotMeasure:
        raise
    except Exception as error:
        why = f"fails on it ({type(error).__name__}: {first_line(error)})"
    else:
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
        why = f"gives {_described(found)}"
    raise CannotMeasure(
        f"The model returns {_described(result)}, and output= {why}. It must be a function that picks the "
        f"floating-point output tensor, e.g. output=lambda result: {_example(result)}."
    )


def _described(result: Any) -> str:
    what = f"a tensor of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
    return f"{what} with keys {sorted(map(str, result))}" if isinstance(result, Mapping) else what


def _example(result: Any) -> str:
    """How to pick the first floating-point tensor that is in it, in code."""
    if isinstance(result, Tensor):
        if result.is_floating_point() and result.ndim:
            return "result"
        return "result.float()" if not result.is_complex() else "result.abs()"
    found = entries(result)
    return f"result{found[0][0].code}" if found else "result.scores, of a model that returns some"
