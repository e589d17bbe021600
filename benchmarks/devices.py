"""The device that a benchmark runs on: whether it is there, and how time is taken on it."""

from __future__ import annotations

import time

import torch

__all__ = ["clock", "missing", "synchronize"]


def missing(name: str) -> str:
    """Why nothing can be measured on a device of this name, in one line; empty if it can."""
    try:
        torch.ones(1, device=name).add(1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        return f"Nothing was measured: torch finds no device {name!r} here ({why[0][:160]})."
    return ""


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def clock(device: torch.device) -> float:
    """Seconds: CPU time of this process on the CPU; on an accelerator wall time, once it has done its work."""
    synchronize(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()
