"""What ranks must have in common to measure a model that they hold together."""

from __future__ import annotations

import hashlib
import json
import re

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..session.calls import Plugins
from ..session.events import text_of
from ..session.plugins import Plugin

__all__ = ["DETACHED", "joins_parts", "sees_updates", "signature"]

DETACHED = "has detached"


def signature(plugins: Plugins, model: nn.Module) -> str:
    """What must be the same on all ranks: the model, the probes, their settings."""
    probes = [
        (plugin.key, plugin.label, {k: text_of(v) for k, v in vars(plugin.implementation).items() if k[:1] != "_"})
        for plugin in plugins.all
        if "measure" in plugin.hooks and hasattr(plugin.implementation, "__dict__")
    ]
    parameters = [(name, None if is_lazy(p) else (list(p.shape), str(p.dtype))) for name, p in model.named_parameters()]
    text = json.dumps([torch.__version__, type(model).__qualname__, probes, parameters])
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()


def sees_updates(plugin: Plugin) -> bool:
    """Whether a probe looks at every update."""
    return bool({"on_step", "before_step"} & plugin.hooks.keys())


def joins_parts(plugin: Plugin) -> bool:
    """Whether a probe can look at the updates of a sharded model."""
    return {"rank_part", "join_parts"} <= plugin.hooks.keys()
