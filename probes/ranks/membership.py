"""Which ranks train a model together, and which of them take part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..guard.fingerprint import checksums
from ..loop import sharding
from ..loop.wrappers import wrappers
from ..session.calls import Plugins
from ..session.events import text_of
from ..session.plugin import Plugin

__all__ = [
    "DETACHED",
    "MAX_STATE",
    "buffers_of",
    "fingerprint",
    "givable",
    "joins_parts",
    "names_of",
    "partners",
    "sees_updates",
    "signature",
]

MAX_STATE = 4 << 20
"""Bytes of a probe's state, or of the buffers, beyond which it does not travel."""


DETACHED = "has detached"


def signature(plugins: Plugins, model: nn.Module) -> str:
    """What must be the same on two ranks for one to measure in the other's stead: model, probes, their settings."""
    probes = [
        (plugin.key, plugin.label, {k: text_of(v) for k, v in vars(plugin.implementation).items() if k[:1] != "_"})
        for plugin in plugins.all
        if "measure" in plugin.hooks and hasattr(plugin.implementation, "__dict__")
    ]
    parameters = [(name, None if is_lazy(p) else (list(p.shape), str(p.dtype))) for name, p in model.named_parameters()]
    text = json.dumps([torch.__version__, type(model).__qualname__, probes, parameters])
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()


def fingerprint(model: nn.Module) -> list[int]:
    """The sums of the bits of all parameters."""
    sums = checksums([p for p in model.parameters() if not is_lazy(p)])
    return [int(value) for values in sums.values() for value in values.tolist()]


def partners(called: nn.Module, model: nn.Module) -> tuple[str, list[int]]:
    """Whether ranks train this model together, ``"replicas"`` or ``"shards"`` of it, and which; empty if not."""
    if sharding.is_sharded(model):
        return "shards", sharding.ranks(model)
    for wrapper in wrappers(called):
        if isinstance(wrapper, DistributedDataParallel):
            return "replicas", sorted(dist.get_process_group_ranks(wrapper.process_group))
    return "", []


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if not is_lazy(buffer)}


def names_of(ranks: Sequence[int]) -> str:
    return f"Rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def sees_updates(plugin: Plugin) -> bool:
    """Whether a probe looks at every update."""
    return bool({"on_step", "before_step"} & plugin.hooks.keys())


def joins_parts(plugin: Plugin) -> bool:
    """Whether a probe can look at the updates of a sharded model."""
    return {"rank_part", "join_parts"} <= plugin.hooks.keys()


def givable(plugin: Plugin) -> bool:
    """Whether a turn of a probe may be taken by any rank."""
    return (
        bool(getattr(plugin.implementation, "any_rank", False))
        and not plugin.problem
        and not sees_updates(plugin)
        and ("state_dict" in plugin.hooks) == ("load_state_dict" in plugin.hooks)
    )
