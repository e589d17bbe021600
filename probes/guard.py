"""Measuring without being noticed: whatever a probe does to the model or to a global state is undone.

Inside the guard the model computes in eval mode, with gradients enabled and autocast off, so that a measurement has one
meaning whatever the loop is doing; afterwards, also after an exception, everything is as it was.

Every undo is registered before the change that it undoes, and may be done twice. An exception at any line of this
file, an interrupt or a lack of memory too, therefore leaves everything as it was. What cannot be closed: a second
interrupt while the first one's undoing is not done, and an interrupt before the first line of ``__exit__``, for which
the caller has :meth:`unnoticed.restore`.
"""

from __future__ import annotations

import argparse
import array
import gc
import itertools
import operator
import os
import random
import signal
import sys
import threading
import warnings
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim import Optimizer, optimizer

__all__ = ["ModelChanged", "SETTINGS", "Setting", "checksums", "random_states_kept", "unnoticed"]

Undo = Callable[[], object]


class ModelChanged(RuntimeError):
    """A probe changed a parameter in place, which cannot be undone without a second copy of the model."""


class unnoticed:
    """Undo on exit whatever happens to random states, buffers, modes, gradients and hooks.

    Saved and restored: the random states of Python, numpy, torch and every initialised accelerator; the modules,
    parameters, buffers, modes (``training``), hooks, ``requires_grad`` and ``.grad`` of the model, and the tensors
    that its parameters hold (another dtype or device); the hooks and settings of the optimizers, whose ``step`` is
    refused meanwhile; everything in :data:`SETTINGS`, from the default dtype to the working directory. So are the
    attributes of every module, what its plain containers hold, nested ones too, and what tensors, arrays and random
    generators hold that are among them, and objects of classes from the same package: counts, losses and caches that a
    forward leaves there; in modules that the model does not register, too. What is compiled runs eagerly meanwhile,
    since other shapes and modes would have it compiled again. What a script asks for to find its own faults (warnings
    as errors, anomaly mode, numpy's errors, a refusal of what is not deterministic) is no fault of a measurement, and
    is not asked of it. Gradients are taken away meanwhile, so that a stray ``backward()`` adds to nothing. Modes are
    set without calling the user's ``train()``, which may do more than that. Parameters, and tensors of more than 4 MiB
    that are neither parameters nor buffers, are not copied: the memory this costs is that of the buffers. Nothing here
    synchronizes with an accelerator but the last look at whether parameters are what they were.

    Args:
        model: The model.
        optimizers: Its optimizers, as far as they are known.

    Raises:
        ModelChanged: If a parameter, or what else is not copied, was changed in place: that is detected, not undone.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
        self._model, self._optimizers = model, optimizers
        self._undo: list[Undo] = []
        self._parameters: list[nn.Parameter] = []
        self._versions: list[tuple[str, Tensor, int | None]] = []
        self._sums: dict[torch.device, Tensor] = {}

    def __enter__(self) -> None:
        try:
            self._save()
        except BaseException:
            self.restore()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        if error is None or isinstance(error, Exception):
            changed = [name for name, tensor, version in self._versions if _version(tensor) != version]
            sums = checksums(self._parameters)
            if changed or any(
                device not in sums or not torch.equal(sums[device], before) for device, before in self._sums.items()
            ):
                which = changed[0] if changed else "a parameter"
                raise ModelChanged(f"{which} was changed in place; training is no longer what it would have been")

    def restore(self) -> None:
        """Undo what is not undone yet.

        Raises:
            RuntimeError: If something could not be undone; everything else was.
        """
        try:
            _undo_all(self._undo)
        finally:
            _undo_all(self._undo)  # goes on after an interrupt; otherwise there is nothing left

    def _save(self) -> None:
        undo, model = self._undo, self._model
        # A lazy module has parameters that are none yet.
        named = [(name, parameter) for name, parameter in model.named_parameters() if not is_lazy(parameter)]
        self._parameters = parameters = [parameter for _, parameter in named]
        self._versions = [(f"parameter {name!r}", parameter, _version(parameter)) for name, parameter in named]
        self._sums = checksums(parameters)
        _settings(undo)
        _soften()
        _compiler(undo)
        _parametrizations(undo)
        _random_states(undo)
        modules = _all_modules(model)
        hidden = [parameter for name, module in modules.items() if name.startswith("(") for parameter in
                  module._parameters.values() if parameter is not None and not is_lazy(parameter)]  # fmt: skip
        _buffers(undo, modules.values())
        _optimizers(undo, self._optimizers)
        self._versions += [(name, tensor, _version(tensor)) for name, tensor in _modules(undo, modules)]
        _parameters(undo, [*parameters, *hidden])
        for device in {"cpu", *(parameter.device.type for parameter in parameters[:1])}:
            if device != "meta" and torch.is_autocast_enabled(device):
                undo.append(lambda device=device: torch.set_autocast_enabled(device, True))  # type: ignore[misc]
                torch.set_autocast_enabled(device, False)
        if torch.is_inference_mode_enabled():
            mode = torch.inference_mode(False)
            mode.__enter__()
            undo.append(lambda: None if torch.is_inference_mode_enabled() else mode.__exit__(None, None, None))
        torch.set_grad_enabled(True)


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
    undo: list[Undo] = []
    try:
        try:
            _random_states(undo)
            yield
        finally:
            _undo_all(undo)
    finally:
        _undo_all(undo)


def _undo_all(undo: list[Undo]) -> None:
    """Undo in reverse order; one that fails is tried again, and does not keep the others from being done."""
    failure: Exception | None = None
    while undo:
        for again in (True, False):
            try:
                undo[-1]()
                break
            except Exception as error:
                failure = failure if again else failure or error
        undo.pop()
    if failure is not None:
        raise RuntimeError(f"what a probe did could not be undone: {failure!r}") from failure


def _random_states(undo: list[Undo]) -> None:
    def keep(state: Any, setter: Callable[[Any], object]) -> None:
        undo.append(lambda: setter(state))

    keep(random.getstate(), random.setstate)
    keep(np.random.get_state(), np.random.set_state)  # noqa: NPY002 - the legacy state is the one loaders draw from
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


def _precisions() -> list[Any]:
    backends: Any = torch.backends
    owners = [backends, backends.cuda.matmul, backends.cudnn, backends.mkldnn]
    parts = ("matmul", "conv", "rnn")
    owners += [getattr(owner, part) for owner in owners[2:] for part in parts if hasattr(owner, part)]
    return [owner for owner in owners if hasattr(owner, "fp32_precision")]


def _precision() -> Any:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by the newer names, from where on torch refuses to tell the older one
        return [owner.fp32_precision for owner in _precisions()]


def _set_precision(state: Any) -> None:
    if isinstance(state, str):
        torch.set_float32_matmul_precision(state)
    else:
        for owner, precision in zip(_precisions(), state, strict=True):
            owner.fp32_precision = precision


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
    Setting("matmul precision", _precision, _set_precision),
    Setting("autocast", _autocast, _set_autocast),
    Setting("attention backends", _attention, _set_attention),
    Setting("cudnn", _cudnn, _set_cudnn),
    Setting("mkldnn", torch._C._get_mkldnn_enabled, _set_mkldnn),
    Setting("threads", torch.get_num_threads, torch.set_num_threads),
    Setting("denormal numbers", _keeps_denormals, _set_denormals),
    Setting("numpy errors", np.geterr, lambda state: np.seterr(**state)),
    Setting("warning filters", lambda: list(warnings.filters), _set_filters),
    Setting("garbage collection", _collection, _set_collection),
    Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("working directory", _directory, _set_directory),
    Setting("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
    Setting("signal handlers", _handlers, _set_handlers, _handler_names),
)
"""All of it: the guard restores it, and :mod:`probes.digest` compares it. What is added here is added to both."""


def _settings(undo: list[Undo]) -> None:
    for setting in SETTINGS:
        undo.append(_undo_of(setting))


def _undo_of(setting: Setting) -> Undo:
    before = setting.get()
    return lambda: None if setting.get() == before else setting.put(before)


def _soften() -> None:
    """Ask less of a measurement than the script may ask of itself to find its own faults; :data:`SETTINGS` are kept."""
    if not strict and any(entry[0] == "error" for entry in warnings.filters):
        _set_filters([("default", *entry[1:]) if entry[0] == "error" else entry for entry in warnings.filters])
    for kind, how in np.geterr().items():
        if how == "raise":
            np.seterr(**{kind: "warn"})  # type: ignore[arg-type]
    if torch.is_anomaly_enabled():
        torch.autograd.set_detect_anomaly(False)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=True)


strict = False
"""Whether warnings stay errors within the guard: in our own tests they do."""


def _compiler(undo: list[Undo]) -> None:
    """Run what is compiled, the model or a part of it, eagerly: other shapes and modes would have it compiled again.

    Torch gives up compiling what was compiled too often, and training would be slower, and another, from then on.
    """
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # from 2.6
        stance: list[Any] = []
        undo.append(lambda: stance[0].__exit__(None, None, None) if stance else None)
        stance.append(torch.compiler.set_stance("force_eager"))


def _parametrizations(undo: list[Undo]) -> None:
    """Compute parametrized weights anew: what the script has cached belongs to its graph, which is used once."""
    before = parametrize._cache_enabled, parametrize._cache

    def restore() -> None:
        parametrize._cache_enabled, parametrize._cache = before

    undo.append(restore)
    parametrize._cache_enabled, parametrize._cache = 0, {}


def _all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by name, and those that it does not register, whose names begin with ``(``."""
    modules = dict(model.named_modules())
    seen = {id(module) for module in modules.values()}
    waiting: list[Any] = [module.__dict__ for module in modules.values()]
    while waiting:
        for item in list(_items(waiting.pop())):
            if type(item) in _CONTAINERS_AND_TUPLE and item and len(item) <= MANY and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)
            elif isinstance(item, nn.Module) and id(item) not in seen:
                for name, module in item.named_modules():
                    if id(module) not in seen:
                        seen.add(id(module))
                        modules[f"(hidden {len(modules)}) {name}"] = module
                        waiting.append(module.__dict__)
    return modules


def _modules(undo: list[Undo], modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
    """Keep the attributes of every module, and what is in those that are plain containers, tensors, arrays, generators.

    Hooks, parameters and modes are among them, and what a forward leaves in its module: counts, losses, caches.

    Returns:
        The tensors that are too large to be copied, with names.
    """
    attributes = [(name, module.__dict__, dict(module.__dict__)) for name, module in modules.items()]
    registered = {id(tensor) for module in modules.values()
                  for tensor in itertools.chain(module._parameters.values(), module._buffers.values())}  # fmt: skip
    containers: list[Any] = []
    tensors: list[Tensor] = []
    arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
    large: list[tuple[str, Tensor]] = []
    seen: set[int] = set()
    objects: list[tuple[dict[str, Any], dict[str, Any]]] = []
    is_kept = _is_kept({type(module).__module__.partition(".")[0] for module in modules.values()})
    waiting = [(f"{name}.{key}" if name else key, value) for name, _, before in attributes
               for key, value in before.items() if is_kept(type(value))]  # fmt: skip
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in (Tensor, nn.Parameter):
            if id(value) not in registered:
                copied = value.layout is torch.strided and value.nbytes <= LARGE
                tensors.append(value) if copied else large.append((f"tensor {name!r}", value))
        elif type(value) in _GENERATORS:
            get, put = _GENERATORS[type(value)]
            undo.append(partial(put, value, get(value)))
        elif type(value) in _BYTES:
            if len(value) * getattr(value, "itemsize", 1) <= LARGE:
                undo.append(partial(_put_bytes, value, value[:]))
        elif type(value) is np.ndarray:
            if value.nbytes <= LARGE and not value.dtype.hasobject:
                arrays.append((value, value.copy()))
        elif type(value) in _CONTAINERS_AND_TUPLE:
            if type(value) is not tuple:
                containers.append(value)
            if len(value) <= MANY:
                waiting += [(name, item) for item in _items(value) if is_kept(type(item))]
        else:
            if isinstance(value, dict | list | set | deque):
                containers.append(value)
            objects.append((value.__dict__, dict(value.__dict__)))
            waiting += [(f"{name}.{key}", item) for key, item in value.__dict__.items() if is_kept(type(item))]
    # Most of them are tables of hooks, and empty.
    empty = [value for value in containers if not value]
    contents = [(value, value.copy()) for value in containers if value]

    def restore() -> None:
        for own, before in itertools.chain((pair[1:] for pair in attributes), objects):
            if own.keys() != before.keys() or any(map(operator.is_not, own.values(), before.values())):
                own.clear()
                own.update(before)
        for value in empty:
            if value:
                value.clear()
        for value, copy in contents:
            if len(value) != len(copy) or any(map(operator.is_not, _items(value), _items(copy))):
                value.clear()
                value.extend(copy) if isinstance(value, list | deque) else value.update(copy)
        for own_array, numbers in arrays:
            if own_array.tobytes() != numbers.tobytes():
                own_array[...] = numbers

    undo.append(restore)
    _tensors(undo, tensors)
    for _, own, before in attributes:
        if before.get("training"):  # a compiled part has none of its own
            own["training"] = False
        if "forward" in before and "_original_forward" in before:  # accelerate's autocast is a part of the forward
            own["forward"] = before["_original_forward"]
    return large


_CONTAINERS = (dict, OrderedDict, defaultdict, Counter, list, set, deque)
_CONTAINERS_AND_TUPLE = {*_CONTAINERS, tuple}
_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], object]]] = {
    torch.Generator: (lambda generator: generator.get_state(), lambda generator, state: generator.set_state(state)),
    random.Random: (lambda generator: generator.getstate(), lambda generator, state: generator.setstate(state)),
    np.random.RandomState: (
        lambda generator: generator.get_state(),
        lambda generator, state: generator.set_state(state),
    ),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
}
"""How the state of a module's own generator is had and put back."""
_BYTES = (bytearray, array.array)
_NAMESPACES = (SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)
_KEPT = {*_CONTAINERS_AND_TUPLE, *_GENERATORS, *_BYTES, *_NAMESPACES, Tensor, nn.Parameter, np.ndarray}
MANY = 1000
"""Entries of a container beyond which what is in them is not looked at: a table of data, not what a forward leaves."""
LARGE = 4 * 2**20
"""Bytes of a tensor or an array beyond which it is not copied, unless it is a buffer."""


def _put_bytes(numbers: Any, before: Any) -> None:
    if numbers != before:
        numbers[:] = before


def _is_kept(packages: set[str]) -> Callable[[type], bool]:
    """Whether what is of a type is kept: also objects of a class that a package of the model's own classes defines."""
    known = dict.fromkeys(_KEPT, True)
    own = packages - {"torch", "builtins"}

    def is_kept(kind: type) -> bool:
        if kind not in known:
            known[kind] = (
                kind.__module__.partition(".")[0] in own
                and getattr(kind, "__dictoffset__", 0) != 0
                and not issubclass(kind, nn.Module | Tensor | Optimizer | type)
            )
        return known[kind]

    return is_kept


def _items(container: Any) -> Iterable[Any]:
    return itertools.chain(container, container.values()) if isinstance(container, dict) else container


def _buffers(undo: list[Undo], modules: Iterable[nn.Module]) -> None:
    _tensors(undo, [buffer for module in modules for buffer in module._buffers.values()
                    if buffer is not None and not is_lazy(buffer)])  # fmt: skip


def _tensors(undo: list[Undo], tensors: list[Tensor]) -> None:
    """Keep what tensors hold."""
    saved = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors if _has_memory(tensor)]

    def restore() -> None:
        for tensor, before, copy in saved:
            if not _has_memory(tensor):
                continue
            plain = type(before) is Tensor and not before.is_nested
            if plain and not _same_memory(tensor.data, before):  # it was resized, or given other memory
                tensor.data = before
            # Batch norm writes its statistics without raising their version, so all are looked at; through .data,
            # which does not raise it either: a graph that the loop still holds stays valid.
            data = tensor.data
            # What is as it was is not written, since it may be memory that cannot be: a file that is only read.
            if data.device.type == "cpu" and _same_bits(data, copy):
                continue
            with torch.inference_mode(tensor.is_inference()):
                _put(data, copy)

    undo.append(restore)


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor may be read: FSDP frees the storage of what it has gathered, and leaves the tensor as it was."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_nested
    if not plain or tensor.is_meta or tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return bool((tensor.storage_offset() + last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    plain = one.layout is torch.strided and not (one.is_quantized or one.is_nested)
    if not plain or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    numbers = [torch.view_as_real(item.resolve_conj()) if item.is_complex() else item for item in (one, other)]
    integers = _INTEGERS[numbers[0].element_size()]
    first, second = (item.resolve_neg().contiguous().view(integers) for item in numbers)
    return torch.equal(first, second)


def _put(tensor: Tensor, copy: Tensor) -> None:
    """Write a tensor, in which ``expand`` may repeat elements: those are written once."""
    if tensor.layout is torch.strided and not tensor.is_nested:
        for dim, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[dim] > 1:
                tensor, copy = tensor.narrow(dim, 0, 1), copy.narrow(dim, 0, 1)
    tensor.copy_(copy)


def _parameters(undo: list[Undo], parameters: list[nn.Parameter]) -> None:
    saved = [(parameter, parameter.data, parameter.grad, parameter.requires_grad) for parameter in parameters]

    def restore() -> None:
        for parameter, data, gradient, requires_grad in saved:
            if type(data) is Tensor and not _same_memory(parameter.data, data):
                parameter.data = data
            if parameter.grad is not gradient:
                parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

    undo.append(restore)
    for parameter, _, gradient, _ in saved:
        if gradient is not None:
            parameter.grad = None


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.device, one.layout) != (other.dtype, other.device, other.layout):
        return False
    if one.layout is not torch.strided or one.is_meta:
        return True
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


def _optimizers(undo: list[Undo], optimizers: Sequence[Optimizer]) -> None:
    """Refuse their steps, and hide their hooks: torch is iterating over them just now, and would fail at a new one."""
    tables: list[tuple[Any, str]] = [
        (optimizer, "_global_optimizer_pre_hooks"),
        (optimizer, "_global_optimizer_post_hooks"),
        *((item, name) for item in optimizers for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")),
    ]
    hooks = [(owner, name, getattr(owner, name)) for owner, name in tables]
    steps = [(item, item.__dict__.get("step")) for item in optimizers]
    groups = [(group, dict(group)) for item in optimizers for group in item.param_groups]

    def restore() -> None:
        for owner, name, table in hooks:
            setattr(owner, name, table)
        for item, step in steps:
            if step is None:
                item.__dict__.pop("step", None)
            else:
                item.__dict__["step"] = step
        for group, before in groups:
            if group.keys() != before.keys() or any(group[key] is not value for key, value in before.items()):
                group.clear()
                group.update(before)

    undo.append(restore)
    for owner, name, table in hooks:
        setattr(owner, name, OrderedDict(table))
    for item in optimizers:
        item.__dict__["step"] = _refused


def _refused(*_: object, **__: object) -> None:
    raise RuntimeError("a probe must not call optimizer.step(): it would train the model. Step a copy of both.")


def checksums(parameters: list[nn.Parameter]) -> dict[torch.device, Tensor]:
    """The sums of the bits, on each device: a change through ``.data`` does not raise the version."""
    sums: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        integers = _INTEGERS.get(parameter.element_size())
        # Of a distributed or a quantized parameter there is no such view.
        plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided and not parameter.is_meta
        if plain and integers is not None and _has_memory(parameter):
            sums.setdefault(parameter.device, []).append(parameter.detach().view(integers).sum())
    return {device: torch.stack(values) for device, values in sums.items()}


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
