"""Every hook of the package, in the order in which a training run reaches them. The first file to read.

A probe or a sink is an object with some of these hooks: a method of such a name is a hook, decorated with
:data:`~probes.hookimpl` or not. pluggy registers the plugins and checks the names and arguments of their hooks. It does
not call them: ``probes.session.calls.Plugins`` does, one by one, in the order in which they were given, since pluggy
would let an exception of one keep the others from being called and reach the user's loop. So its options ``wrapper``,
``tryfirst`` and ``trylast`` are refused, and no hook returns its first result alone.

.. code-block:: text

    attach                          on_attach(run)
    for batch in loader:
        output = model(x)           (capture keeps inputs, targets, output of the first batch; no plugin runs)
        loss.backward()
        optimizer.step()            before_step(run, ...)         before every update: must be cheap
                                    on_step(run, step)            after every step: must be cheap
                                    rank_part(), join_parts(...)  of a model that is sharded over ranks, before measure
                                    measure(run, step)            only plugins that are due; guarded and timed
                                    write(run, measurements)      sinks take what was measured
                                    on_event(run, event)          something that deserves to be told: a fault, a skip
        after 1 s, every 10 s       flush(run)                    sinks make what they took durable
    save                            flush(run), state_dict()
    resume                          load_state_dict(state)
    detach                          on_detach(run)
    fork                            on_fork()                     in the child: let go of files without writing

A *step* is one true optimizer update of the watched model: not a batch (gradient accumulation), not a nested
``super().step()``, not an update that a gradient scaler skipped. Step 0 is the model before its first update.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import torch

    from .measurement import Measurement
    from .run import Event, Run

hookspec = pluggy.HookspecMarker("probes")
hookimpl = pluggy.HookimplMarker("probes")
"""Marks a method of a probe or a sink as a hook, which its name does too."""


@hookspec
def on_attach(run: Run) -> None:
    """Called once, when the manager attaches, before the first step; the batches may not be known yet."""


@hookspec
def before_step(run: Run, optimizer: torch.optim.Optimizer | None, closure: bool) -> None:
    """Called before every update, outside the guard, under the same conditions as :func:`on_step`.

    Several calls may come before one :func:`on_step`: of several optimizers, of nested calls, of a skipped update. A
    probe that wants to see a few updates before each of its turns, and no others, says so in ``Probe.watched_updates``:
    it costs nothing in between.

    Args:
        run: The run.
        optimizer: What will make the update; None where the loop makes it by hand.
        closure: Whether the gradients are still to come: of a closure, or of a loop that calls ``manager.step()``.
    """


@hookspec
def on_step(run: Run, step: int) -> None:
    """Called after every step, outside the guard: read what is cheap, change nothing, do not synchronize."""


@hookspec
def rank_part(run: Run) -> Any:
    """Return, and forget, what this rank alone has seen of a sharded model: called on every rank before a turn.

    Only a probe that has this hook and :func:`join_parts` may look at the updates of a model under ``fully_shard``:
    ``before_step`` and ``on_step`` are called on every rank then. Tensors, numbers and strings only. One that needs no
    batch besides has its turns under tensor parallelism too, where no rank has the model in whole: it must not call it.
    """


@hookspec
def join_parts(parts: list[Any]) -> None:
    """Take what all ranks have seen, in the order of the ranks; called on rank 0 only."""


@hookspec
def measure(run: Run, step: int) -> Iterable[Measurement]:  # type: ignore[empty-body]
    """Yield measurements of the model as it is after ``step`` steps; called when the plugin's schedule is due."""


@hookspec
def write(run: Run, measurements: list[Measurement]) -> None:
    """Take measurements of one step; may keep them in memory until :func:`flush`."""


@hookspec
def on_event(run: Run, event: Event) -> None:
    """Take one event of the run: a fault, a quarantine, a skipped measurement, an attach or detach."""


@hookspec
def flush(run: Run) -> None:
    """Make durable what was written: a second after the first rows, then every 10 s, before a checkpoint, at detach."""


@hookspec
def state_dict() -> dict[str, Any]:  # type: ignore[empty-body]
    """Return what the plugin needs to go on after a resume: tensors, numbers and strings only."""


@hookspec
def load_state_dict(state: dict[str, Any]) -> None:
    """Take back what :func:`state_dict` returned; called before the first step of the resumed run."""


@hookspec
def on_detach(run: Run) -> None:
    """Called once, when the manager detaches, also after an exception in the user's loop: close everything."""


@hookspec
def on_fork() -> None:
    """Called in a forked child, where nothing is measured: let go of every file, and of its locks, without writing."""
