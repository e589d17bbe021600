"""Reading the checkpoints that training scripts save: the parameters, the step, and what the probes left in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..measurement import printable

__all__ = ["Checkpoint", "load_into", "read_checkpoint"]

WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
"""Under which a checkpoint holds the model's ``state_dict()``, the usual ones first."""
STEPS = ("global_step", "step", "iteration", "num_steps", "iter_num")
WRAPPERS = ("module.", "_orig_mod.", "model.")
FILES = ("model.safetensors", "pytorch_model.bin", "model.pt")
"""What holds the parameters in a folder that is a checkpoint."""


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    step: int
    weights: Mapping[str, Tensor]
    probes: Mapping[str, Any] | None
    """The state of a ProbeManager; None when there is none."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The parameters in a file that ``torch.save`` or safetensors wrote, or in the folder of a checkpoint.

    Nothing in it is executed (``weights_only=True``). The step is that of the probes' state, or a number in the
    checkpoint called ``global_step`` or the like, or the number in the name after ``step``, or its last number.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read so, holds no parameters, or says no step.
    """
    file = next((path / name for name in FILES if (path / name).exists()), None) if path.is_dir() else path
    if file is None:
        raise FileNotFoundError(f"The folder {path} holds none of {', '.join(FILES)}.")
    content = _load(file)
    beside = path / "probes.pt"
    probes = next(_states(content, depth=2), None)
    if probes is None and path.is_dir() and beside.exists():
        probes = next(_states(_load(beside), depth=2), None)
    weights = _weights(content)
    if weights is None:
        keys = ", ".join(map(repr, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{file} holds no parameters: it must be a state_dict, or a dict with one under one of "
            f"{', '.join(WEIGHTS)}; it holds {printable(keys)}."
        )
    step = probes["step"] if probes else _step(content, path)
    return Checkpoint(int(step), weights, probes)


def load_into(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load parameters into a model, without the prefix that a wrapper, or a module around it, put before their names.

    Raises:
        ValueError: If they are not this model's; names those that are missing and those that are too many.
    """
    own = model.state_dict().keys()
    for prefix in ("", *WRAPPERS, *_common_prefix(weights)):
        found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if own <= found.keys() and (prefix or own == found.keys()):
            break
    else:
        found = dict(weights)
    found = {name: value for name, value in found.items() if name in own} if own <= found.keys() else found
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {printable(' '.join(str(error).split()))}") from None


def _common_prefix(weights: Mapping[str, Tensor]) -> list[str]:
    first = {name.partition(".")[0] for name in weights}
    return sorted(f"{name}." for name in first)


def _load(file: Path) -> Any:
    if not file.exists():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with file.open("rb") as stream:
        begins = stream.read(4)
    if begins[:2] not in (b"PK", b"\x80\x02"):  # a zip file, or before torch 1.6 a pickle
        raise ValueError(
            f"{file} is no checkpoint: neither torch.save nor safetensors writes such a file. Pass what the training "
            f"saved, such as checkpoint-500.pt."
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{file} cannot be read without executing what is in it: {printable(str(error)).partition('. ')[0]}. Save "
            f"tensors, numbers, strings and containers of them, such as model.state_dict()."
        ) from error


def _weights(content: Any) -> Mapping[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    candidates = [content[key] for key in WEIGHTS if key in content]
    return next((found for candidate in candidates if (found := _weights(candidate)) is not None), None)


def _states(content: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The states of a ProbeManager in nested dicts."""
    if isinstance(content, Mapping):
        if {"version", "run_id", "step", "plugins", "batches"} <= content.keys():
            yield content
        elif depth:
            for value in content.values():
                yield from _states(value, depth - 1)


def _step(content: Any, path: Path) -> int:
    for name in STEPS:
        value = content.get(name) if isinstance(content, Mapping) else None
        if (
            isinstance(value, int | Tensor)
            and not isinstance(value, bool)
            and (not isinstance(value, Tensor) or value.numel() == 1)
        ):
            return int(value)
    numbers = re.findall(r"step\D{0,2}(\d+)", path.stem) or re.findall(r"\d+", path.name.removesuffix(path.suffix))
    if not numbers:
        raise ValueError(
            f"The step of {path} is not known: it holds no number called {', '.join(STEPS)}, and its name holds none, "
            f"as in checkpoint-500.pt."
        )
    return int(numbers[-1])
