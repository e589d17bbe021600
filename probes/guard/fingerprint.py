"""Fingerprints of everything that training is made of, to compare two runs of it bit by bit."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .process import SETTINGS

__all__ = [
    "Digest",
    "checksums",
    "differences",
    "has_memory",
    "of_model",
    "of_optimizer",
    "of_process",
    "of_random_states",
    "same_bits",
    "tensor_hash",
]

Digest = dict[str, str]
"""What is compared, by name, and its fingerprint."""


def tensor_hash(tensor: Tensor | None) -> str:
    """A fingerprint of a tensor's bits, its type and its shape; reads it to the CPU, and changes nothing."""
    if tensor is None:
        return "none"
    if is_lazy(tensor):
        return "lazy"
    if tensor.is_meta or tensor.layout is not torch.strided:
        return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}, not compared"
    with torch.inference_mode():
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{hashlib.blake2b(numbers.data, digest_size=8).hexdigest()} {tensor.dtype} {tuple(tensor.shape)}"


def of_model(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Parameters, gradients, buffers, ``requires_grad`` and modes of a model."""
    for name, parameter in model.named_parameters():
        yield f"{prefix}parameter {name}", tensor_hash(parameter)
        yield f"{prefix}gradient {name}", "none" if is_lazy(parameter) else tensor_hash(parameter.grad)
        yield f"{prefix}requires_grad {name}", str(parameter.requires_grad)
    for name, buffer in model.named_buffers():
        yield f"{prefix}buffer {name}", tensor_hash(buffer)
    for name, module in model.named_modules():
        yield f"{prefix}training {name or type(module).__name__}", str(module.training)


def of_optimizer(optimizer: Optimizer, names: Mapping[int, str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings and state of an optimizer; parameters by the ``names`` of their ids, or by where they stand."""
    for number, group in enumerate(optimizer.param_groups):
        settings = {key: value for key, value in group.items() if key != "params"}
        yield f"{prefix}settings of group {number}", _value_hash(settings)
        for index, parameter in enumerate(group["params"]):
            name = names.get(id(parameter))
            if name is None:
                name = f"{index} of group {number}"
                yield f"{prefix}parameter {name}", tensor_hash(parameter)
                yield f"{prefix}gradient {name}", "none" if is_lazy(parameter) else tensor_hash(parameter.grad)
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"{prefix}{key} of {name}", _value_hash(value)


def of_random_states() -> Iterator[tuple[str, str]]:
    """The random states of Python, numpy, torch and every accelerator that is in use."""
    yield "random state of torch", tensor_hash(torch.get_rng_state())
    yield "random state of numpy", _value_hash(np.random.get_state(legacy=False))  # noqa: NPY002 - the one that loaders draw from
    yield "random state of Python", _value_hash(random.getstate())
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield "random state of CUDA", _value_hash(torch.cuda.get_rng_state_all())
    if torch.backends.mps.is_available():
        yield "random state of MPS", tensor_hash(torch.mps.get_rng_state())
    if torch.xpu.is_available() and torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        yield "random state of XPU", _value_hash(torch.xpu.get_rng_state_all())


def of_process() -> Iterator[tuple[str, str]]:
    """What the whole process shares, and a careless measurement might leave changed."""
    for setting in SETTINGS:
        yield f"setting {setting.name}", setting.text(setting.get())
    yield "setting inference mode", str(torch.is_inference_mode_enabled())


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """The names of what differs between two digests, those that only one of them has included."""
    return [
        name
        for name in [*first, *(name for name in second if name not in first)]
        if first.get(name) != second.get(name)
    ]


def _value_hash(value: Any) -> str:
    """A fingerprint of nested containers of tensors, arrays and numbers."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in _parts(value):
        hashed.update(part.encode())
    return hashed.hexdigest()


def _parts(value: Any) -> Iterable[str]:
    if isinstance(value, Tensor):
        yield tensor_hash(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{key}:"
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}:"
        for item in value:
            yield from _parts(item)
    else:
        yield f"{value!r};"


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor may be read: FSDP frees the storage of what it has gathered, and leaves the tensor as it was."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_nested
    if not plain or tensor.is_meta or tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return bool((tensor.storage_offset() + last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes())


def same_bits(one: Tensor, other: Tensor) -> bool:
    plain = one.layout is torch.strided and not (one.is_quantized or one.is_nested)
    if not plain or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    numbers = [torch.view_as_real(item.resolve_conj()) if item.is_complex() else item for item in (one, other)]
    integers = _INTEGERS[numbers[0].element_size()]
    first, second = (item.resolve_neg().contiguous().view(integers) for item in numbers)
    return torch.equal(first, second)


def checksums(parameters: list[nn.Parameter]) -> dict[torch.device, Tensor]:
    """Sums of the bits, on each device: a change through ``.data`` does not raise the version."""
    sums: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        integers = _INTEGERS.get(parameter.element_size())
        # Of a distributed or a quantized parameter there is no such view.
        plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided and not parameter.is_meta
        if plain and integers is not None and has_memory(parameter):
            sums.setdefault(parameter.device, []).extend(_sums_of_bits(parameter.detach(), integers))
    return {device: torch.cat(values) for device, values in sums.items()}


def _sums_of_bits(tensor: Tensor, integers: torch.dtype) -> list[Tensor]:
    """One for each stretch, so that changes far from each other cannot cancel; as words, to read it half as long."""
    step = tensor.element_size()
    if not tensor.is_contiguous() or tensor.nbytes % 8 or tensor.storage_offset() * step % 8:
        return [tensor.view(integers).sum()[None]]
    words = tensor.reshape(-1).view(torch.int64)
    whole = len(words) // STRETCH * STRETCH
    sums = [words[:whole].view(-1, STRETCH).sum(1)] if whole else []
    return sums if whole == len(words) else [*sums, words[whole:].sum()[None]]


STRETCH = 1024
"""Words of 64 bits."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
