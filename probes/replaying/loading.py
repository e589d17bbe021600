"""Loading the parameters of a checkpoint into a model, whatever wrappers have put before their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..measurement import printable
from ..names import plain_name

__all__ = ["load_into"]

WRAPPERS = ("module", "model")
"""What wrappers (DDP, Lightning) call the model that they hold."""


def load_into(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Load parameters into a model, without what wrappers, or a module around it, put before their names.

    The ``_orig_mod`` of ``torch.compile`` may be anywhere in a name, in the checkpoint's or the model's. Before the
    name may stand ``module.`` and ``model.``, any number of times, and one other module, such as ``net.``. Of tied
    weights, which are one parameter of the model under several names, one name is enough.

    Raises:
        ValueError: If they are not this model's; names those that are missing and those that are too many. Also if
            different parameters fit, such as those under ``net.`` and those under ``ema_net.``; names the prefixes.
    """
    state, tied = model.state_dict(), _tied(model)
    names = {plain_name(name): name for name in state}
    own = {plain: state[name] for plain, name in names.items()}
    given = {plain_name(name): value for name, value in weights.items()}
    if len(given) < len(weights):  # two names that differ by _orig_mod stay two
        given = dict(weights)
    named = {prefix: found for prefix in _prefixes(given) if (found := _found(given, prefix, own, tied)) is not None}
    fitting = {prefix: found for prefix, found in named.items() if _has_shapes_of(own, found)}
    if len(fitting) > 1:
        first, *others = fitting.values()
        if not all(_equal(first, other) for other in others):
            places = ", ".join(repr(printable(prefix)) if prefix else "no prefix" for prefix in fitting)
            raise ValueError(
                f"{path} holds different parameters that fit the model, under {places}. Save those that are meant in a "
                f"file of their own, such as torch.save(model.state_dict(), 'checkpoint-500.pt')."
            )
    chosen = next(chain(fitting.values(), named.values()), given)
    try:
        model.load_state_dict({names.get(name, name): value for name, value in chosen.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {printable(' '.join(str(error).split()))}") from None


def _prefixes(names: Iterable[str]) -> list[str]:
    """What may stand before the model's own names: wrappers, and one other module among them. The shortest first."""
    found = {""}
    for name in names:
        prefix, others = "", 0
        for part in name.split(".")[:-1]:
            prefix, others = f"{prefix}{part}.", others + (part not in WRAPPERS)
            if others > 1:
                break
            found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _tied(model: nn.Module) -> dict[str, list[str]]:
    """For each tensor of the model, all names that it has."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        names[id(tensor)].append(plain_name(name))
    return {name: group for group in names.values() for name in group}


def _found(
    given: Mapping[str, Any], prefix: str, own: Mapping[str, Any], tied: Mapping[str, list[str]]
) -> dict[str, Any] | None:
    """By the model's own names, what is given under a prefix; None if a tensor is missing."""
    found = {}
    for name, value in own.items():
        there = next((each for other in (name, *tied.get(name, ())) if (each := prefix + other) in given), None)
        if there is not None:
            found[name] = given[there]
        elif isinstance(value, Tensor):
            return None
    return found


def _has_shapes_of(own: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    tensors = [(own[name], value) for name, value in found.items() if isinstance(own[name], Tensor)]
    return all(is_lazy(mine) or mine.shape == value.shape for mine, value in tensors)


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    pairs = [(value, other[name]) for name, value in one.items() if isinstance(value, Tensor)]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
