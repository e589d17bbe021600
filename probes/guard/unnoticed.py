"""Measuring without being noticed: whatever a probe does to the model or to a global state is undone.

Inside the guard the model computes in eval mode, with gradients enabled and autocast off, so that a measurement has one
meaning whatever the loop is doing; afterwards, also after an exception, everything is as it was.

Every undo is registered before the change that it undoes, and may be done twice. An exception at any line of this
file, an interrupt or a lack of memory too, therefore leaves everything as it was. What cannot be closed: a second
interrupt while the first one's undoing is not done, and an interrupt before the first line of ``__exit__``, for which
the caller has :meth:`unnoticed.restore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .fingerprint import checksums
from .given import keep_given
from .held import all_modules
from .modes import keep_modes, keep_saved_tensors_hooks
from .modules import keep_modules, keep_parametrizations
from .process import keep_compiler, keep_random_states, keep_settings, soften
from .training import keep_buffers, keep_optimizers, keep_parameters, shorten_embeddings
from .undo import Undo, keep_others_out, undo_all

__all__ = ["ModelChanged", "unnoticed"]


class ModelChanged(RuntimeError):
    """A probe changed a parameter in place, which cannot be undone without a second copy of the model."""


class unnoticed:
    """Undo on exit whatever happens to random states, buffers, modes, gradients and hooks.

    Saved and restored: the random states of Python, numpy, torch and every initialised accelerator; the modules,
    parameters, buffers, modes (``training``), hooks, ``requires_grad`` and ``.grad`` of the model, and the tensors
    that its parameters hold (another dtype or device); the hooks, settings, groups and states of the optimizers, whose
    ``step`` is refused meanwhile; the hooks of all modules; everything in :data:`~probes.guard.process.SETTINGS`, from
    the default dtype to the working directory. So are the
    attributes of every module, what its plain containers hold, nested ones too, and what tensors, arrays and random
    generators hold that are among them, and objects of classes from the same package: counts, losses and caches that a
    forward leaves there; in modules that the model does not register, too. What is compiled runs eagerly meanwhile,
    since other shapes and modes would have it compiled again. What a script asks for to find its own faults (warnings
    as errors, anomaly mode, numpy's errors, a refusal of what is not deterministic) is no fault of a measurement, and
    is not asked of it; attention takes no path that training does not take; nor do its modes, of functions or of
    dispatch, see what a measurement calls. One thread at a time is within a guard. Gradients are taken away meanwhile,
    so that a stray ``backward()`` adds to nothing. The mode of a module is set without calling the user's ``train()``,
    which may do more than that. Parameters, and tensors of more than 4 MiB that are neither parameters nor buffers, are
    not copied: the memory this costs is that of the buffers. Nothing here synchronizes with an accelerator but the last
    look at whether parameters are what they were.

    Args:
        model: The model.
        optimizers: Its optimizers, as far as they are known.
        given: What it is called with that is no tensor, or what else is read within: that is kept as what it holds is.

    Raises:
        ModelChanged: If a parameter, a state of an optimizer, or what else is not copied, was changed in place: that is
            detected, not undone.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer] = (), given: Sequence[Any] = ()) -> None:
        self._model, self._optimizers, self._given = model, optimizers, given
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
        if error is not None and not isinstance(error, Exception):
            return
        modes: list[Undo] = []
        try:
            keep_modes(modes)
            self._look()
        finally:
            undo_all(modes)

    def _look(self) -> None:
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
            undo_all(self._undo)
        finally:
            undo_all(self._undo)  # goes on after an interrupt; otherwise there is nothing left

    def _save(self) -> None:
        undo, model = self._undo, self._model
        keep_others_out(undo)
        keep_modes(undo)
        keep_saved_tensors_hooks(undo)
        # A lazy module has parameters that are none yet.
        named = [(name, parameter) for name, parameter in model.named_parameters() if not is_lazy(parameter)]
        self._parameters = parameters = [parameter for _, parameter in named]
        self._versions = [(f"parameter {name!r}", parameter, _version(parameter)) for name, parameter in named]
        self._sums = checksums(parameters)
        keep_settings(undo)
        soften(undo)
        keep_compiler(undo)
        keep_parametrizations(undo)
        keep_random_states(undo)
        modules = all_modules(model, self._given)
        hidden = [
            parameter
            for name, module in modules.items()
            if name.startswith("(")
            for parameter in module._parameters.values()
            if parameter is not None and not is_lazy(parameter)
        ]
        keep_buffers(undo, modules.values())
        states = keep_optimizers(undo, self._optimizers)
        self._versions += [(name, tensor, _version(tensor)) for name, tensor in states]
        kept = keep_modules(undo, modules, self._given)
        self._versions += [(name, tensor, _version(tensor)) for name, tensor in kept]
        keep_given(undo, model)
        keep_parameters(undo, [*parameters, *hidden])
        shorten_embeddings(modules.values())
        for device in {"cpu", *(parameter.device.type for parameter in parameters[:1])}:
            if device != "meta" and torch.is_autocast_enabled(device):
                undo.append(lambda device=device: torch.set_autocast_enabled(device, True))  # type: ignore[misc]
                torch.set_autocast_enabled(device, False)
        if torch.is_inference_mode_enabled():
            mode = torch.inference_mode(False)
            mode.__enter__()
            undo.append(lambda: None if torch.is_inference_mode_enabled() else mode.__exit__(None, None, None))
        torch.set_grad_enabled(True)
        keep_modes(undo)  # once more: what a probe has entered is to see nothing of the undoing


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
