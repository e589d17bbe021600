"""What this process does for the others: measure, hand over its shards, or nothing."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import nn
from torch.optim import Optimizer

from ..loop.hidden import hide, reveal
from ..run import Run
from ..session.events import log, text_of
from ..session.session import Together
from ..session.turns import Turns
from .channel import Place
from .helper import Helper
from .team import Team

__all__ = ["OTHER_RANK", "help_rank_0", "in_ranks", "together", "why_inactive"]

OTHER_RANK = "rank 0 measures and writes for all processes"


def why_inactive() -> str:
    """Why nothing is watched in this process; empty if it is."""
    if os.environ.get("PROBES", "").strip().lower() in ("off", "0", "false", "no"):
        return "the environment variable PROBES switches the probes off"
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The script is imported by a process that it has started, e.g. a loader's worker.
        return "this process only imports the training script"
    rank = torch.distributed.get_rank() if in_ranks() else int(os.environ.get("RANK", "0") or 0)
    return "" if rank == 0 else OTHER_RANK


def in_ranks() -> bool:
    """Whether this process trains with others."""
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def together(called: nn.Module, place: Place | None, turns: Turns) -> Together | None:
    """On rank 0, what it does with the others; None where it can reach none."""
    if place is not None:
        with suppress(Exception):  # of a backend without a store
            return Team(called, place, turns)
    return None


def help_rank_0(
    called: nn.Module, run: Run, probes: Sequence[object], optimizers: list[Optimizer], place: Place, deadline: float
) -> Callable[[], None]:
    """On another rank, hand over what rank 0 needs of a sharded model, as long as the model lives.

    Returns:
        What ends it.
    """
    try:
        helper = Helper(called, run, probes, optimizers, place, deadline)
    except Exception as error:
        log.info("This rank hands nothing to rank 0: %s", text_of(error))
        return lambda: None
    model = run.model
    hide(model, helper)

    def close() -> None:
        helper.close()
        reveal(model, helper)

    return close
