"""Counting steps: true optimizer updates of the watched model, whoever calls the optimizer and however.

The count is taken in the optimizer's post hook, which sees every built-in optimizer and every subclass, under
schedulers, frameworks and compilation, and does not see gradient accumulation. Three things need care:

* a subclass whose ``step`` calls ``super().step()``, and a container that steps its members, call the hook several
  times for one update: only the outermost call counts;
* a gradient scaler with inf gradients does not call ``step`` at all, unless the optimizer is fused: then it is called,
  changes nothing, and says so in ``found_inf``, which lives on the accelerator: reading it would synchronize, so it is
  read only when the count could matter;
* several optimizers of one model step one after the other: the step is the count of the one that stepped most.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["StepCounter", "unwrap_optimizer"]


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer itself, without the wrapper that a framework put around it.

    Raises:
        TypeError: If it is not a torch optimizer.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer (or a subclass that calls its __init__), got "
            f"{type(optimizer).__name__}. Steps are counted in its step hook."
        )
    return optimizer


class StepCounter:
    """Counts the steps of one model and calls back before the first and after each.

    Args:
        model: The watched model.
        optimizers: Its optimizers; when empty, every optimizer that holds a parameter of the model counts.
        before_first: Called once, before the first update.
        on_step: Called with the step after an update that may be due.
        due: The least step at which ``on_step`` must be called with an exact count; before it, skipped fused updates
            may not have been resolved yet. ``0`` for always.
        before_step: Called before every update, nested and skipped ones too; without it, nothing of ours runs there.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        before_first: Callable[[], None],
        on_step: Callable[[int], None],
        due: Callable[[], int],
        before_step: Callable[[], None] | None = None,
    ) -> None:
        self.step = 0
        self._model = weakref.ref(model)
        self._given = bool(optimizers)
        self._before_first, self._on_step, self._due = before_first, on_step, due
        self._before_step = before_step
        self._counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._verdicts: weakref.WeakKeyDictionary[Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
        self._unresolved: list[tuple[Optimizer, Tensor]] = []
        self._offset = 0
        # The hooks refer weakly: an optimizer (or torch, for the global ones) must not keep the model alive.
        post, pre = _Hook(self, "_after"), _Hook(self, "_before")
        if optimizers:
            self._pre = [optimizer.register_step_pre_hook(pre) for optimizer in optimizers]
            self._post = [optimizer.register_step_post_hook(post) for optimizer in optimizers]
        else:
            self._pre = [register_optimizer_step_pre_hook(pre)]
            self._post = [register_optimizer_step_post_hook(post)]
        weakref.finalize(self, _remove, [*self._pre, *self._post]).atexit = False

    def remove(self) -> None:
        """Remove every step hook."""
        _remove([*self._pre, *self._post])

    def resume(self, step: int) -> None:
        """Go on counting from a checkpoint's step."""
        self._offset = self.step = step

    @property
    def seen(self) -> list[Optimizer]:
        """The optimizers that have stepped so far."""
        return list(self._counts)

    def _watched(self, optimizer: Optimizer) -> bool:
        if self._given:
            return True
        verdict = self._verdicts.get(optimizer)
        if verdict is None or (not verdict[1] and verdict[0] != len(optimizer.param_groups)):
            verdict = self._verdicts[optimizer] = (
                len(optimizer.param_groups),
                shares_parameters(optimizer, self._model()),
            )
        return verdict[1]

    def _before(self, optimizer: Optimizer) -> None:
        if not self._watched(optimizer):
            return
        if not self._counts:
            self._before_first()
        if self._before_step is not None:
            self._before_step()

    def _after(self, optimizer: Optimizer) -> None:
        if not self._watched(optimizer) or self._nested():
            return
        if self._pre and self._before_step is None:
            # Here and not in _before: torch is iterating over the hooks there.
            _remove(self._pre)
            self._pre = []
        found_inf = getattr(optimizer, "found_inf", None)
        if isinstance(found_inf, Tensor):
            self._unresolved.append((optimizer, found_inf.detach().clone()))
        self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
        step = self._offset + max(self._counts.values())
        if step <= self.step:
            return  # another optimizer of the same model has counted this step already
        if self._unresolved and step >= self._due():
            for skipped, inf in self._unresolved:
                self._counts[skipped] -= bool(inf.item())
            self._unresolved.clear()
            step = self._offset + max(self._counts.values())
            if step <= self.step:
                self.step = step
                return
        self.step = step
        self._on_step(step)

    def _nested(self) -> bool:
        """Whether this call comes from within another ``step`` of a watched optimizer."""
        frame = sys._getframe(3)  # _after <- _Hook.__call__ <- the wrapper that torch puts around every step
        code, frame = frame.f_code, frame.f_back  # type: ignore[assignment]
        while frame is not None:
            if frame.f_code is code:
                args = frame.f_locals.get("args")
                if args and isinstance(args[0], Optimizer) and self._watched(args[0]):
                    return True
            frame = frame.f_back  # type: ignore[assignment]
        return False


class _Hook:
    """A step hook that holds its counter weakly and returns nothing."""

    def __init__(self, counter: StepCounter, method: str) -> None:
        self.counter, self.method = weakref.ref(counter), method

    def __call__(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        counter = self.counter()
        if counter is not None:
            getattr(counter, self.method)(optimizer)


def shares_parameters(optimizer: Optimizer, model: nn.Module | None) -> bool:
    """Whether the optimizer holds a parameter of the model."""
    if model is None:
        return False
    own = set(map(id, model.parameters()))
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])


def _remove(handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
