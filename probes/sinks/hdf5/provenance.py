"""Where a run comes from: what is written once at the head of its file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from ...names import named_modules, own_parameters
from ...run import Run

__all__ = ["git_state", "provenance"]


def provenance(run: Run) -> dict[str, Any]:
    """Root attributes of a run file; cost: two calls of git, about 10 ms."""
    commit, dirty = git_state()
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "Conventions": "CF-1.11",
        "title": f"Measurements of {type(run.model).__name__} during training",
        "run_id": run.run_id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": commit,
        "git_dirty": int(dirty),
        "seed": run.seed,
        "rank": torch.distributed.get_rank() if distributed else 0,
        "world_size": torch.distributed.get_world_size() if distributed else 1,
        "config_json": json.dumps(run.config, default=str),
        "modules_json": json.dumps(_modules(run.model)),
        "versions_json": json.dumps(_versions()),
    }


def _modules(model: nn.Module) -> dict[str, list[str]]:
    """By class, the names of the modules that streams name: those with parameters of their own or without children."""
    found: dict[str, list[str]] = {}
    for name, module in named_modules(model):
        if own_parameters(module) or next(module.children(), None) is None:
            found.setdefault(type(module).__name__, []).append(name)
    return found


def git_state() -> tuple[str, bool]:
    """The commit of the working directory and whether tracked files differ from it; ``("", False)`` without git."""
    commit = _git("rev-parse", "HEAD")
    return commit, bool(commit and _git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    # Without optional locks `git status` leaves the user's index alone.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions() -> dict[str, str]:
    try:
        own = metadata.version("torch-probes")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = ""
    return {
        "torch-probes": own,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "platform": platform.platform(),
    }
