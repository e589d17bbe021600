"""How ranks tell each other something without a collective: notes in the store that every process group has."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..session.plugins import text_of

__all__ = ["DETACHED", "Channel", "Lost", "Place", "side_group"]

DETACHED = "has detached"
"""Why a rank has left that was asked to."""


@dataclass
class Place:
    """Where the managers of all ranks that belong together find each other: the same on every rank."""

    number: int = field(default_factory=itertools.count().__next__)
    """In the order in which managers were attached."""
    round: int = 0
    taken: bool = False
    """Whether the ranks have found each other in this round."""

    def enter(self) -> Channel:
        """Begin another round, if one has been."""
        if self.taken:
            self.round, self.taken = self.round + 1, False
        return Channel(f"probes/{self.number}/{self.round}")


class Lost(RuntimeError):
    """The store is gone, or a rank."""


class Channel:
    """Notes from rank to rank, by name, in the store of the default process group; only :meth:`wait` waits.

    Raises:
        Lost: From every method, if the store cannot be reached.
    """

    patience = 30.0
    """Seconds that a rank waits for another, at most, before it goes on without it."""
    first = 600.0
    """Seconds for what takes nobody knows how long: all of the probes' first turns, before the first update."""

    def __init__(self, prefix: str) -> None:
        with _reaching():
            store = dist.distributed_c10d._get_default_store()
            with suppress(Exception):  # a connection of its own, where torch has that: torch's threads use the other
                store = store.clone()  # type: ignore[attr-defined,unused-ignore]
            self.store: Any = dist.distributed_c10d.PrefixStore(prefix, store)

    def post(self, key: str, tree: Any) -> None:
        """Leave a note: tensors, numbers, strings and containers of them, of moderate size."""
        with _reaching():
            torch.save(tree, buffer := io.BytesIO())
            self.store.set(key, buffer.getvalue())

    def has(self, key: str) -> bool:
        """Whether a note is there."""
        with _reaching():
            return bool(self.store.check([key]))

    def read(self, key: str) -> Any:
        """A note that is there, with tensors on the CPU; nothing in it is executed."""
        with _reaching():
            return torch.load(io.BytesIO(self.store.get(key)), map_location="cpu", weights_only=True)

    def erase(self, key: str) -> None:
        """Take a note away."""
        with suppress(Exception):  # not every store can
            self.store.delete_key(key)

    def wait(self, *keys: str, seconds: float) -> str | None:
        """The first note that is there; None when there is none in time."""
        end, pause = time.monotonic() + seconds, 1e-4
        while True:
            last = time.monotonic() >= end  # asked before the notes: what was left just in time counts
            found = next(filter(self.has, keys), None)
            if found or last:
                return found
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Lost(f"the ranks cannot reach each other: {text_of(error)}") from error


def side_group(channel: Channel, members: list[int]) -> Any:
    """A group of our own, on the CPU, each of whose calls ends in time."""
    store, place = dist.distributed_c10d.PrefixStore("gloo", channel.store), members.index(dist.get_rank())
    return dist.ProcessGroupGloo(store, place, len(members), timedelta(seconds=channel.patience))
