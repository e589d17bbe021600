"""What the whole process shares: one table of it, which the guard restores and fingerprints compare."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from ..precision import matmul_precision, set_matmul_precision
from .modes import keep_modes
from .undo import Undo, keep_others_out, undo_all

__all__ = [
    "SETTINGS",
    "Setting",
    "keep_compiler",
    "keep_random_states",
    "keep_settings",
    "random_states_kept",
    "soften",
]


@contextmanager
def random_states_kept(settings: bool = False) -> Iterator[None]:
    """Undo on exit whatever was drawn from, or seeded in, the random states of Python, numpy, torch and accelerators.

    Args:
        settings: Whether what is in :data:`SETTINGS` is undone too, and no mode of the script's sees what is computed.

    Example:
        >>> before = torch.get_rng_state()
        >>> with random_states_kept():
        ...     _ = torch.manual_seed(7)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    undo: list[Undo] = []
    try:
        try:
            keep_others_out(undo)
            if settings:
                keep_modes(undo)
            keep_random_states(undo)
            if settings:
                keep_settings(undo)
            yield
        finally:
            undo_all(undo)
    finally:
        undo_all(undo)


def keep_random_states(undo: list[Undo]) -> None:
    def keep(state: Any, setter: Callable[[Any], object]) -> None:
        undo.append(lambda: setter(state))

    keep(random.getstate(), random.setstate)
    keep(np.random.get_state(legacy=False), np.random.set_state)  # noqa: NPY002 - the legacy state is the one loaders draw from
    keep(torch.get_rng_state(), torch.set_rng_state)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        keep(torch.cuda.get_rng_state_all(), torch.cuda.set_rng_state_all)
    if torch.backends.mps.is_available():
        keep(torch.mps.get_rng_state(), torch.mps.set_rng_state)
    if torch.xpu.is_available() and torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        keep(torch.xpu.get_rng_state_all(), torch.xpu.set_rng_state_all)


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_determinism(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_anomaly(state: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(*state)


def _autocast() -> tuple[Any, ...]:
    devices = dict.fromkeys(("cpu", torch._C._get_accelerator().type))
    each = [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]
    return each, torch.is_autocast_cache_enabled()


def _set_autocast(state: tuple[Any, ...]) -> None:
    for device, enabled, dtype in state[0]:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(state[1])


_ATTENTIONS = ("flash", "mem_efficient", "math", "cudnn")


def _attention() -> list[bool]:
    return [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in _ATTENTIONS]


def _set_attention(state: list[bool]) -> None:
    for name, enabled in zip(_ATTENTIONS, state, strict=True):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(enabled)


def _default_device() -> torch.device | None:
    """None where none was set: to set it, even to what it is, costs every later call of torch."""
    context: Any = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _keeps_denormals() -> bool:
    return float(np.float32(1e-39) * np.float32(0.5)) != 0  # torch has a setter only; it is the processor's flag


def _set_denormals(state: bool) -> None:
    torch.set_flush_denormal(not state)


def _cudnn() -> dict[str, Any]:
    return {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}


def _set_cudnn(state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(torch.backends.cudnn, name, value)


def _set_mkldnn(state: bool) -> None:
    torch._C._set_mkldnn_enabled(state)  # the public property refuses to be set where flags are frozen


def _set_filters(state: list[Any]) -> None:
    warnings.filters[:] = state  # type: ignore[index]
    with warnings.catch_warnings():  # which tells Python: what was shown under other filters may be an error now
        pass


def _exchange(old: list[Any], new: list[Any]) -> None:
    if warnings.filters == old:  # or else others have set theirs
        warnings.filters[:] = new


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # only the main thread may set them
    return {number: signal.getsignal(number) for number in signal.Signals}


def _set_handlers(state: dict[signal.Signals, Any]) -> None:
    for number, handler in state.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _handler_names(state: dict[signal.Signals, Any]) -> str:
    return str({number.name: getattr(handler, "__qualname__", repr(handler)) for number, handler in state.items()})


def _collection() -> tuple[bool, tuple[int, ...], bool]:
    return gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > 0


def _set_collection(state: tuple[bool, tuple[int, ...], bool]) -> None:
    gc.enable() if state[0] else gc.disable()
    gc.set_threshold(*state[1])
    if not state[2] and gc.get_freeze_count():
        gc.unfreeze()


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it is gone: nobody can go back to it
        return None


def _set_directory(state: str | None) -> None:
    if state is not None:
        os.chdir(state)


def _set_tracing(state: tuple[Any, Any]) -> None:
    sys.settrace(state[0])
    sys.setprofile(state[1])


class Setting(NamedTuple):
    """Something that the whole process shares, and a careless measurement might leave changed."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    text: Callable[[Any], str] = str
    """What it is in words, for comparing two processes."""


SETTINGS = (
    Setting("gradients enabled", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("default device", _default_device, torch.set_default_device),
    Setting("deterministic algorithms", _determinism, _set_determinism),
    Setting("anomaly mode", _anomaly, _set_anomaly),
    Setting("matmul precision", matmul_precision, set_matmul_precision),
    Setting("autocast", _autocast, _set_autocast),
    Setting("attention backends", _attention, _set_attention),
    Setting("attention fast path", torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    Setting("cudnn", _cudnn, _set_cudnn),
    Setting("mkldnn", torch._C._get_mkldnn_enabled, _set_mkldnn),
    Setting("threads", torch.get_num_threads, torch.set_num_threads),
    Setting("denormal numbers", _keeps_denormals, _set_denormals),
    Setting("numpy errors", np.geterr, lambda state: np.seterr(**state)),
    Setting("warning filters", lambda: list(warnings.filters), _set_filters),
    Setting("garbage collection", _collection, _set_collection),
    Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval),
    Setting("working directory", _directory, _set_directory),
    Setting("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
    Setting("signal handlers", _handlers, _set_handlers, _handler_names),
)
"""All of it: what is added here is restored by the guard, and compared by :mod:`probes.guard.fingerprint`."""


def keep_settings(undo: list[Undo]) -> None:
    for setting in SETTINGS:
        undo.append(_undo_of(setting))


def _undo_of(setting: Setting) -> Undo:
    before = setting.get()
    return lambda: None if setting.get() == before else setting.put(before)


def soften(undo: list[Undo]) -> None:
    """Ask less of a measurement than the script may ask of itself to find its own faults; :data:`SETTINGS` are kept."""
    before = list(warnings.filters)
    if not strict and any(entry[0] == "error" for entry in before):
        # Ignored, not shown: of what is shown Python keeps a note, and asks that before the filters ever after.
        softer = [("ignore", *entry[1:]) if entry[0] == "error" else entry for entry in before]
        undo.append(lambda: _exchange(softer, before))
        _exchange(before, softer)
    for kind, how in np.geterr().items():
        if how == "raise":
            np.seterr(**{kind: "warn"})  # type: ignore[arg-type]
    if torch.is_anomaly_enabled():
        torch.autograd.set_detect_anomaly(False)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=True)
    # Training has no fast path either: it skips layers of a transformer, and hands nested tensors from one to the next.
    torch.backends.mha.set_fastpath_enabled(False)
    set_matmul_precision()


strict = False
"""Whether warnings stay errors within the guard: in our own tests they do."""


def keep_compiler(undo: list[Undo]) -> None:
    """Run what is compiled, the model or a part of it, eagerly: other shapes and modes would have it compiled again.

    Torch gives up compiling what was compiled too often, and training would be slower, and another, from then on.
    """
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # from 2.6
        stance: list[Any] = []
        undo.append(lambda: stance[0].__exit__(None, None, None) if stance else None)
        stance.append(torch.compiler.set_stance("force_eager"))
