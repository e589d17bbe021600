"""What a checkpoint holds of a run of the probes, and how it is taken up again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..batches import Batch
from ..guard.fingerprint import tensor_hash
from ..loop.criterion import Criterion
from ..picking import Entry, pick_output
from .plugins import keys, text_of

if TYPE_CHECKING:
    from .calls import Plugins
    from .plugins import Plugin
    from .session import Session

__all__ = ["check", "plain", "restore", "save"]

VERSION = 1
KINDS: dict[str, type] = {"version": int, "run_id": str, "log_dir": str, "seed": int, "step": int, "plugins": Mapping}
"""What a state holds in any case."""


def save(session: Session) -> dict[str, Any]:
    """The state of a run, whose sinks have flushed."""
    run, plugins = session.run, session.plugins
    states = {plugin.key: _state(plugins, plugin) for plugin in plugins.having("state_dict")}
    return {
        "version": VERSION,
        "run_id": run.run_id,
        "log_dir": str(run.log_dir),
        "seed": run.seed,
        "step": run.step,
        "recorded": session.recorded,
        "batches": {
            name: {"args": batch.args, "kwargs": dict(batch.kwargs), "targets": batch.targets}
            for name, batch in run.batches.items()
        },
        # Of several outputs, the one that the first loop's loss was seen to compare.
        "output": (run.output.path, run.output.code) if isinstance(run.output, Entry) else None,
        "criterion": run.criterion.state() if isinstance(run.criterion, Criterion) else None,
        "governor": session.governor.state_dict(),
        "due": {plugin.key: plugin.due for plugin in session.turns.probes},
        "watching": {plugin.key: plugin.watching_since for plugin in session.turns.probes},
        "turns": {plugin.key: [plugin.measured, plugin.skipped, plugin.failed] for plugin in plugins.all},
        "plugins": states,
        "settings": {plugin.key: plugin.settings for plugin in plugins.all},
        "lost": [plugin.key for plugin in plugins.all if plugin.failures["state_dict"]],
    }


def _state(plugins: Plugins, plugin: Plugin) -> Any:
    return plugins.call(plugin, "state_dict", consume=plain)


def _paired(state: Mapping[str, Any], plugins: Plugins) -> dict[str, str]:
    """By key the one in the checkpoint: of several of a name those made alike, wherever they stand in the list.

    Where none of a name is made alike, as many as there were go on in their order.
    """
    name, pairs = re.compile(r"-\d+$"), {key: key for key in keys(plugins.all)}
    now, before = {plugin.key: plugin.settings for plugin in plugins.all}, dict(state.get("settings", {}))
    for kind in {name.sub("", key) for key in (*now, *before)}:
        mine, theirs = ([key for key in made if name.sub("", key) == kind] for made in (now, before))
        if not theirs or len(mine) == len(theirs) == 1:
            continue
        found: dict[str, str] = {}
        for key in mine:
            same = (other for other in theirs if before[other] == now[key] and other not in found.values())
            if (other := next(same, None)) is not None:
                found[key] = other
        if found or len(mine) != len(theirs):
            pairs.update({key: found.get(key, "") for key in mine})
    return pairs


def plain(state: Any, where: str = "its state") -> Any:
    """A state, made sure to be one that a checkpoint can hold: the user's ``torch.save`` must not fail over it.

    Raises:
        TypeError: If it is not.
    """
    if isinstance(state, Mapping):
        for key, item in state.items():
            plain(item, f"{where}[{key!r}]")
    elif isinstance(state, list | tuple):
        for index, item in enumerate(state):
            plain(item, f"{where}[{index}]")
    elif state is not None and not isinstance(state, Tensor | int | float | complex | str | bytes):
        raise TypeError(f"{where} must be tensors, numbers, strings and containers of them, got {type(state).__name__}")
    return state


def check(state: Any) -> None:
    """Refuse what is not a state of a ProbeManager.

    Raises:
        ValueError: If it is not, or comes from a later version.
    """
    if not isinstance(state, Mapping) or not {*KINDS} <= set(state):
        raise ValueError(
            "`state` must be what ProbeManager.state_dict() returned"
            + (
                f", got keys {sorted(map(str, state))}."
                if isinstance(state, Mapping)
                else f", got {type(state).__name__}."
            )
        )
    for key, kind in KINDS.items():
        if not isinstance(state[key], kind) or (kind is int and state[key] < 0):
            least = ", 0 or greater" if kind is int else ""
            raise ValueError(f"`state[{key!r}]` must be of type {kind.__name__}{least}, got {text_of(state[key])}.")
    if state["version"] > VERSION:
        raise ValueError(
            f"`state` was written by a later version (format {state['version']}, this one reads {VERSION})."
        )


_ANOTHER = (
    "Batch {0!r} is not that of the checkpoint ({1} samples, now {2}): all is measured on it from here on, in the same "
    "streams. Leave it out of batches= to go on with the checkpoint's own."
)
_ANEW = (
    "Plugin {0} begins anew: none of this name in the checkpoint was made with the same settings, or another goes on "
    "with it."
)
_OTHERS = (
    "The probes or sinks are not those of the checkpoint: what each has cost is not recorded from here on; report() "
    "still tells it."
)


def restore(state: Mapping[str, Any], session: Session) -> None:
    """Take up a run where its checkpoint left it; the probes continue on the checkpoint's own batches."""
    run, plugins = session.run, session.plugins
    # The first batch of the resumed loop is another one: what was measured on must stay the same.
    for name, parts in state["batches"].items():
        kept = Batch(parts["args"], parts["kwargs"], parts["targets"])
        given = run.batches.setdefault(name, kept)
        if name not in session.whole:
            run.batches[name] = given.first(kept.n)  # as many as fitted then
        if _prints(run.batches[name]) != _prints(kept):
            plugins.record("warning", None, _ANOTHER.format(name, kept.n, run.batches[name].n))
        session.whole.add(name)
    if state.get("output") is not None and run.output is pick_output:
        run.output = Entry(*state["output"])
    if state.get("criterion") is not None:
        run.criterion = Criterion.of_state(state["criterion"])
    session.governor.load_state_dict(state["governor"])
    was = _paired(state, plugins)
    if list(state["turns"]) != list(was.values()) or any(key != other for key, other in was.items()):
        session.accounts.by_plugin = False
        plugins.record("warning", None, _OTHERS)
    for plugin in plugins.all:
        key = was[plugin.key]
        if not key:
            plugins.record("warning", plugin, _ANEW.format(plugin.label))
        plugin.watching_since = state.get("watching", {}).get(key)
        plugin.measured, plugin.skipped, plugin.failed = state["turns"].get(key, (0, 0, 0))
        if key in state["due"]:
            # Also the plugin's schedule may have been changed: whichever comes first after the checkpoint's step.
            plugin.due = state["due"][key]
            if plugin.schedule is not None and plugin.schedule.next(run.step - 1) != plugin.due:
                plugin.due = plugin.schedule.next(run.step)
    for plugin in plugins.having("load_state_dict"):
        key = was[plugin.key]
        if key in state.get("lost", ()):
            plugins.disable(plugin, RuntimeError("it failed when the checkpoint was made"), "its state is lost")
        elif state["plugins"].get(key) is not None:
            plugins.call(plugin, "load_state_dict", state=state["plugins"][key])


def _prints(batch: Batch) -> list[str]:
    """A fingerprint of each of its tensors."""
    leaves = tree_leaves((batch.args, dict(batch.kwargs), batch.targets))
    return [tensor_hash(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
