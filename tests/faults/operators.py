"""A fault in one of the calls of torch that a shipped probe makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from probes import Probe, every
from probes.measurement import Measurement
from probes.session import discovery

from .scene import Scene, fault

TURNS = 4
"""Of the probe: the first is undisturbed, and counts the calls; in each of the others one goes wrong."""


def spoilt(result: Any, kind: str) -> Any:
    """The result of a call of torch with another content or shape; None if it has neither."""
    if not isinstance(result, torch.Tensor) or not result.is_floating_point() or not result.numel():
        return None
    if kind in ("nan", "inf"):
        return torch.full_like(result, float(kind))
    return result.new_zeros((*result.shape[:-1], result.shape[-1] + 1)) if result.ndim else result.new_zeros(2)


class Spoil(TorchDispatchMode):
    """Has the k-th call go wrong, or the next one after it that can."""

    def __init__(self, kind: str, k: int | None) -> None:
        super().__init__()
        self.kind, self.k, self.count, self.done = kind, k, 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        now = self.k is not None and not self.done and self.count > self.k
        if now and self.kind == "out of memory":
            self.done = str(func)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if now and self.kind == "error":
            self.done = str(func)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        result = func(*args, **(kwargs or {}))
        view = any(returned.alias_info is not None for returned in func._schema.returns)  # no numbers of its own
        if now and not (view and self.kind in ("nan", "inf")) and (other := spoilt(result, self.kind)) is not None:
            self.done = str(func)
            return other
        return result


def spoil(probe: Probe, kind: str, shares: tuple[float, ...] = (0.02, 0.5, 0.98)) -> list[Spoil]:
    """Have one call go wrong in each turn of a probe but the first, at that share of the calls."""
    measure, modes = probe.measure, []
    if probe.name == "mutual_information":
        shares = tuple(share / 5 for share in shares)  # its first turn takes more calls than the others

    def spoilt_measure(run, step) -> Iterator[Measurement]:
        turn = len(modes)
        # The first turn may take more calls than the others, and one that failed took fewer.
        calls = modes[-1 if kind == "nan" else 0].count if modes else 0
        k = int(shares[turn - 1] * calls) if 0 < turn <= len(shares) else None
        modes.append(Spoil(kind, k))
        with modes[-1]:
            yield from measure(run, step)

    probe.measure = spoilt_measure  # type: ignore[method-assign]
    return modes


class Pictures(torch.nn.Module):
    """Takes images of two channels; a point is one without contrast."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = x if x.ndim == 4 else x[:, :, None, None].expand(-1, -1, 6, 6)
        return self.head(self.first(images).tanh().mean((2, 3)))


def suit(scene: Scene, name: str) -> Scene:
    """Give a probe that measures images alone a batch of them, and a network that takes them beside the points."""
    if name == "image_frequencies":
        images = torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(0))
        scene.network, scene.batches = Pictures, {"train": (images, torch.arange(24) % 3)}
    return scene


def numbers(run: Any) -> dict[str, Any]:
    """The streams of a run, but for what the core says of itself."""
    return {node.path.strip("/"): node for node in run.subtree
            if "value" in node and not node.path.startswith(("/probes/", "/witness/"))}  # fmt: skip


SAID = {
    "out of memory": "OutOfMemoryError",
    "error": "illegal memory access",
    "nan": "NaN|failed in measure",
    "inf": "",
    "shape": "",
}

for _name in discovery.installed():
    for _kind, _said in SAID.items():
        # What it computes with NaN may be a bound that another one is better than, or a scale that is then not used.
        @fault(f"{_name}: {_kind} in a call of torch", "measure",
               "" if _kind == "nan" and _name in ("mutual_information", "spectral_norm") else _said,
               slow=_kind in ("error", "inf") or _name not in ("fourier", "tangent_kernel"),
               own=_name == "image_frequencies")  # fmt: skip
        def _(scene: Scene, name=_name, kind=_kind):
            probe = discovery.load(name)(every(4))
            suit(scene, name).probes.insert(0, probe)
            spoil(probe, kind)


COMPARING = ("ntk_motion/velocity", "ntk_motion/rotation", "ntk_motion/cka")
"""Compare with earlier turns: after an undefined one with another than in a clean run."""
TRIES = "curvature/critical_sharpness"
"""Tries steps until the loss is higher, or not a number."""


def plausible(clean: Any, run: Any, modes: list[Spoil], steps: list[int]) -> dict[str, list[int]]:
    """By stream, the steps at which a call went wrong and that hold finite numbers other than those of a clean run.

    A sum goes on over a turn that was undefined, and is then as far from the clean one as its standard error says.
    """
    found: dict[str, list[int]] = {}
    told = run["events"]
    events = set(zip(told["kind"].values.tolist(), told["step"].values.tolist(), strict=True))
    for name, node in numbers(run).items():
        for index, step in enumerate(node["step"].values.tolist()):
            mode = modes[steps.index(step)]
            if not mode.done or ("fault", step) in events or name not in clean or name.startswith(TRIES):
                continue
            whole = index == steps.index(step) and np.isfinite(node["value"].values[:index]).all()
            if name.startswith(COMPARING) and not whole:
                continue
            value, truth = node["value"].values[index], clean[name]["value"].sel(step=step).values
            # An iteration that begins where the last one ended gives other digits after one that went wrong.
            limit = 1e-6 + 1e-4 * np.abs(truth)
            if "standard_error" in node and not whole:
                errors = node["standard_error"].values[: index + 1]  # the last may be what went wrong
                errors = np.nan_to_num(errors, posinf=np.inf)
                limit = limit + 3 * errors.max(axis=0)
            if np.isfinite(value).all() and not (np.abs(value - truth) <= limit).all():
                found.setdefault(name, []).append(step)
    return found
