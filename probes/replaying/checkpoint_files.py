"""Reading the checkpoints that training scripts save: the parameters, the step, and what the probes left in them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..measurement import first_line, printable
from .checkpoint_steps import checked_step, step_of

__all__ = ["Checkpoint", "read_checkpoint"]

WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
"""Under which a checkpoint holds the model's ``state_dict()``, the usual ones first."""
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
)
"""What holds the parameters in a folder that is a checkpoint, or names the files that hold them."""
EXTRA_STATE = "_extra_state"
"""How a ``state_dict()`` calls what a module's ``get_extra_state()`` returns, which may be anything."""


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    step: int
    weights: Mapping[str, Any]
    """The model's ``state_dict()``: tensors, but for what modules keep as ``_extra_state``."""
    probes: Mapping[str, Any] | None
    """The state of a ProbeManager; None when there is none."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The parameters in a file that ``torch.save`` or safetensors wrote, or in the folder of a checkpoint.

    Nothing in it is executed (``weights_only=True``). A folder holds them in one file or, with an index, in several, as
    Hugging Face writes them. The step is that of the probes' state, or a number in the checkpoint called
    ``global_step`` or the like, or in the name of the file the number after ``step``, ``iter``, ``update``,
    ``checkpoint`` or ``epoch``, the first of these that is there, or else the only number.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read so, holds no parameters, or says no step, or one that is not a whole number
            from 0 on.
    """
    file = next((path / name for name in FILES if (path / name).exists()), None) if path.is_dir() else path
    if file is None:
        raise FileNotFoundError(f"The folder {path} holds none of {', '.join(FILES)}.")
    content = _load_parts(file) if file.suffix == ".json" else _load(file)
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
    step = checked_step(probes["step"], path) if probes else step_of(content, path)
    return Checkpoint(step, weights, probes)


def _load_parts(index: Path) -> dict[str, Any]:
    """What the files hold together that an index of Hugging Face names."""
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} is no index of a checkpoint: its 'weight_map' must say the file of each parameter."
        ) from error
    content: dict[str, Any] = {}
    for file in files:
        content.update(_load(index.parent / str(file)))
    return content


def _load(file: Path) -> Any:
    if not file.exists():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except Exception as error:
            raise ValueError(_damaged(file, error)) from error
    with file.open("rb") as stream:
        begins = stream.read(4)
    if begins != b"PK\3\4" and begins[:1] != b"\x80":  # a zip file, or before torch 1.6 a pickle
        raise ValueError(
            f"{file} is no checkpoint: neither torch.save nor safetensors writes such a file. Pass what the training "
            f"saved, such as checkpoint-500.pt."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it can be read, or it is told below
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise ValueError(_damaged(file, error)) from error
        if "Unsupported operand" in str(error):
            raise ValueError(
                f"{file} is written in a pickle protocol that cannot be read without executing what is in it. Save it "
                f"again by torch.save(content, file), without `pickle_protocol`."
            ) from error
        raise ValueError(
            f"{file} cannot be read without executing what is in it: {printable(str(error)).partition('. ')[0]}. Save "
            f"tensors, numbers, strings and containers of them, such as model.state_dict()."
        ) from error


def _damaged(file: Path, error: Exception) -> str:
    why = printable(first_line(error)).rstrip(".")
    return f"{file} cannot be read ({type(error).__name__}: {why}). It may be damaged, or cut short: save it again."


def _weights(content: Any) -> Mapping[str, Any] | None:
    if not isinstance(content, Mapping):
        return None
    if any(isinstance(value, Tensor) for value in content.values()) and all(map(_is_state, content, content.values())):
        return content
    candidates = [content[key] for key in WEIGHTS if key in content]
    return next((found for candidate in candidates if (found := _weights(candidate)) is not None), None)


def _is_state(name: Any, value: Any) -> bool:
    return isinstance(name, str) and (isinstance(value, Tensor) or name.endswith(EXTRA_STATE))


def _states(content: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The states of a ProbeManager in nested dicts."""
    if isinstance(content, Mapping):
        if {"version", "run_id", "step", "plugins", "batches"} <= content.keys():
            yield content
        elif depth:
            for value in content.values():
                yield from _states(value, depth - 1)
