"""Measuring without being noticed: whatever a probe does to the model or to a global state is undone.

Inside the guard the model computes in eval mode, with gradients enabled and autocast off, so that a measurement has one
meaning whatever the loop is doing; afterwards, also after an exception, everything is as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["ModelChanged", "random_states_kept", "unnoticed"]


class ModelChanged(RuntimeError):
    """A probe changed a parameter in place, which cannot be undone without a second copy of the model."""


@contextmanager
def unnoticed(model: nn.Module) -> Iterator[None]:
    """Undo on exit whatever happens to random states, buffers, modes, gradients and forward hooks.

    Saved and restored: the random states of Python, numpy, torch and every initialised accelerator; the buffers, modes
    (``training``), forward hooks, ``requires_grad`` and ``.grad`` of the model; default dtype, determinism and matmul
    settings. Gradients are taken away meanwhile, so that a stray ``backward()`` adds to nothing. Modes are set without
    calling the user's ``train()``, which may do more than that. Parameters are not copied: the memory this costs is
    that of the buffers. Nothing here synchronizes with an accelerator.

    Raises:
        ModelChanged: If a parameter was changed in place: the one thing that is detected but not undone.
    """
    # A lazy module has parameters that are none yet.
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if not is_lazy(parameter)]
    versions = [_version(parameter) for _, parameter in parameters]
    with ExitStack() as restore:
        for undo in (_settings(), _random_states(), _modules(model), _buffers(model), _gradients(parameters)):
            restore.callback(undo)
        device = parameters[0][1].device.type if parameters else "cpu"
        if torch.is_autocast_enabled(device):
            restore.enter_context(torch.autocast(device, enabled=False))
        restore.enter_context(torch.inference_mode(False))
        restore.enter_context(torch.enable_grad())
        yield
    for (name, parameter), version in zip(parameters, versions, strict=True):
        if _version(parameter) != version:
            raise ModelChanged(
                f"parameter {name!r} was changed in place; training is no longer what it would have been"
            )


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Undo on exit whatever was drawn from, or seeded in, the random states of Python, numpy, torch and accelerators.

    Example:
        >>> before = torch.get_rng_state()
        >>> with random_states_kept():
        ...     _ = torch.manual_seed(7)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    undo = _random_states()
    try:
        yield
    finally:
        undo()


def _random_states() -> Callable[[], None]:
    restorers: list[Callable[[], object]] = []

    def keep(state: Any, setter: Callable[[Any], object]) -> None:
        restorers.append(lambda: setter(state))

    keep(random.getstate(), random.setstate)
    keep(np.random.get_state(), np.random.set_state)  # noqa: NPY002 - the legacy state is the one loaders draw from
    keep(torch.get_rng_state(), torch.set_rng_state)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        keep(torch.cuda.get_rng_state_all(), torch.cuda.set_rng_state_all)
    if torch.backends.mps.is_available():
        keep(torch.mps.get_rng_state(), torch.mps.set_rng_state)
    if torch.xpu.is_available() and torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        keep(torch.xpu.get_rng_state_all(), torch.xpu.set_rng_state_all)
    return lambda: _call_all(restorers)


def _settings() -> Callable[[], None]:
    default_dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}

    def undo() -> None:
        torch.set_default_dtype(default_dtype)
        if (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()) != (
            deterministic,
            warn_only,
        ):
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for name, value in flags.items():
            if getattr(cudnn, name) != value:
                setattr(cudnn, name, value)

    return undo


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _modules(model: nn.Module) -> Callable[[], None]:
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    hooks = [
        (table, set(table))
        for module in modules
        for name in _HOOKS
        if (table := getattr(module, name, None)) is not None
    ]
    for module in training:
        module.training = False

    def undo() -> None:
        were_training = set(map(id, training))
        for module in modules:
            if module.training != (id(module) in were_training):
                module.training = id(module) in were_training
        for table, before in hooks:
            for key in set(table) - before:
                del table[key]

    return undo


def _buffers(model: nn.Module) -> Callable[[], None]:
    saved = [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]

    def undo() -> None:
        for table, name, buffer, copy in saved:
            # Batch norm writes its statistics without raising their version, so all are written back; through .data,
            # which does not raise it either: a graph that the loop still holds stays valid.
            buffer.data.copy_(copy)
            if table.get(name) is not buffer:
                table[name] = buffer

    return undo


def _gradients(parameters: list[tuple[str, nn.Parameter]]) -> Callable[[], None]:
    saved = [(parameter, parameter.grad, parameter.requires_grad) for _, parameter in parameters]
    for parameter, gradient, _ in saved:
        if gradient is not None:
            parameter.grad = None

    def undo() -> None:
        for parameter, gradient, requires_grad in saved:
            if parameter.grad is not gradient:
                parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

    return undo


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _call_all(functions: list[Callable[[], object]]) -> None:
    for function in functions:
        function()
