"""Reading run files in any state: finished, being written, never closed.

A process that is killed leaves two things wrong, both in the superblock, the first 48 bytes of an HDF5 file (HDF5 File
Format Specification 3.0, section II.A, superblock versions 2 and 3 with 8-byte addresses):

.. code-block:: text

    byte   0  signature                 89 48 44 46 0d 0a 1a 0a
           8  superblock version        2 or 3
           9  size of addresses         8
          10  size of lengths           8
          11  consistency flags         bit 0: open for writing, bit 2: open in SWMR mode   <- still set
          12  base address
          20  superblock extension
          28  end-of-file address                                                           <- of the last clean open
          36  root group
          44  checksum of bytes 0-43    lookup3, little-endian
"""

from __future__ import annotations

import functools
import io
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import h5py

__all__ = [
    "SUPERBLOCK",
    "OtherFormat",
    "as_if_closed",
    "check_heaps",
    "closed_superblock",
    "end_of_file",
    "lookup3",
    "read_file",
]

T = TypeVar("T")

SUPERBLOCK = struct.Struct("<8sBBBBQQQQI")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
WORD = 0xFFFFFFFF
HEAP_SIGNATURE = b"GCOL\x01"
HEAP_HEAD = struct.Struct("<5s3xQ")
BLOCK = 1 << 22


def lookup3(data: bytes) -> int:
    """The checksum of HDF5's metadata: Jenkins' ``hashlittle`` with initial value 0.

    Example:
        >>> hex(lookup3(b"Four score and seven years ago"))
        '0x17770551'

    Reference:
        Jenkins, "lookup3.c, for hash table lookup", 2006.
    """
    a = b = c = (0xDEADBEEF + len(data)) & WORD
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for start in range(0, len(words), 3):
        a, b, c = (a + words[start]) & WORD, (b + words[start + 1]) & WORD, (c + words[start + 2]) & WORD
        if start + 3 < len(words):
            for shift in (4, 6, 8, 16, 19, 4):
                a = ((a - c) & WORD) ^ _rotated(c, shift)
                a, b, c = b, (c + b) & WORD, a  # the three words change roles each time
        else:
            for shift in (14, 11, 25, 16, 4, 14, 24):
                c = ((c ^ b) - _rotated(b, shift)) & WORD
                a, b, c = b, c, a
            a, b, c = c, a, b  # seven changes of roles are one too many
    return c


def _rotated(word: int, shift: int) -> int:
    return ((word << shift) | (word >> (32 - shift))) & WORD


def closed_superblock(superblock: bytes, size: int) -> bytes:
    """The superblock that a file of ``size`` bytes would have, had it been closed.

    Raises:
        ValueError: If these are not the first 48 bytes of an HDF5 file with a superblock of version 2 or 3.
    """
    head = superblock[: SUPERBLOCK.size]
    if len(head) < SUPERBLOCK.size or head[:8] != SIGNATURE or head[8] not in (2, 3) or head[9:11] != b"\x08\x08":
        raise ValueError("The file is not an HDF5 file with a superblock of version 2 or 3, as run files have.")
    fields = list(SUPERBLOCK.unpack(head))
    fields[4] = 0  # consistency flags
    fields[7] = size  # end-of-file address
    body = SUPERBLOCK.pack(*fields)[:-4]
    return body + struct.pack("<I", lookup3(body))


def end_of_file(superblock: bytes) -> int:
    """The length that a file should have, by its superblock."""
    return int(SUPERBLOCK.unpack(superblock[: SUPERBLOCK.size])[7])


def check_heaps(path: Path) -> None:
    """Make sure of what HDF5 believes unseen: the heaps of strings of variable length carry no checksum.

    On one that is inconsistent HDF5 crashes, or reads for ever. Cost: the file is searched through, about 1 s for a GB.

    Raises:
        ValueError: If one is.
    """
    with path.open("rb") as raw:  # not memory-mapped: a writer that makes the file shorter would kill the reader
        block, block_start = raw.read(BLOCK), 0
        while len(block) >= HEAP_HEAD.size:
            start = block.find(HEAP_SIGNATURE)
            while 0 <= start <= len(block) - HEAP_HEAD.size:
                _, size = HEAP_HEAD.unpack_from(block, start)
                # A signature with another size, or without the bytes, is no heap to HDF5.
                if 4096 <= size <= path.stat().st_size - block_start - start:
                    raw.seek(block_start + start)
                    _check_heap(raw.read(size), block_start + start)
                start = block.find(HEAP_SIGNATURE, start + 1)
            block_start += len(block) - HEAP_HEAD.size + 1  # a head may lie across two blocks
            raw.seek(block_start)
            block = raw.read(BLOCK)


def _check_heap(heap: bytes, start: int) -> None:
    """One global heap collection (HDF5 File Format Specification 3.0, section III.E)."""
    position, seen = 16, set()
    while position + 16 <= len(heap):
        index, _, size = struct.unpack_from("<HH4xQ", heap, position)
        taken = 16 + (size + 7) // 8 * 8 if index else size  # the free space, number 0, includes its own head
        if index in seen or taken < 16 or position + taken > len(heap):
            raise ValueError(f"the heap at byte {start} is inconsistent")
        seen.add(index)
        position += taken


@functools.lru_cache(maxsize=64)
def _check_heaps_once(path: Path, state: tuple[int, ...]) -> None:
    """The same, not again for a file in the same state: a viewer reads one for each of its streams."""
    check_heaps(path)


class _AsIfClosed(io.FileIO):
    """A file that begins with another superblock than the one on disk."""

    head = b""

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        head = self.head[start : start + count]
        memoryview(buffer)[: len(head)] = head
        return count


@contextmanager
def as_if_closed(path: Path) -> Iterator[Any]:
    """The h5py file that there would be, had it been closed at the length that it has now; nothing on disk is changed.

    Raises:
        ValueError: If it is not an HDF5 file with such a superblock.
    """
    with _AsIfClosed(path) as raw:
        raw.head = closed_superblock(raw.read(SUPERBLOCK.size), raw.seek(0, io.SEEK_END))
        with h5py.File(raw, "r") as file:
            yield file


class OtherFormat(ValueError):
    """A file is sound, but none that can be read here."""


def read_file(path: Path, read: Callable[[Any], T]) -> T:
    """What ``read`` makes of the h5py file: finished, being written, or left by a killed process; it is not changed.

    Not in SWMR mode: there HDF5 reads a damaged block again and again, and waits twice as long each time, for ever.
    Instead, all is read once more when something did not fit together and the file has changed meanwhile.

    Raises:
        ValueError: If it is not an HDF5 file, or is damaged.
    """
    with path.open("rb") as raw:
        if not raw.read(SUPERBLOCK.size).startswith(SIGNATURE):
            raise ValueError(f"{path} is not an HDF5 file.")
    for attempt in range(100):
        before = _state(path)
        try:
            with path.open("rb") as raw:
                head = raw.read(SUPERBLOCK.size)
            _check_heaps_once(path, before)
            with as_if_closed(path) if head[11:12] != b"\0" else _closed(path) as file:
                return read(file)
        except OtherFormat as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None
        except Exception as error:  # whatever damaged bytes, or bytes made to harm, lead to
            time.sleep(0.02)
            if attempt > 2 and _state(path) == before:
                why = str(error).removesuffix(".")
                raise ValueError(f"{path} is damaged: {why}. `probes repair` saves what can be read.") from error
    raise ValueError(f"{path} changes too fast to be read, or is damaged.")


def _closed(path: Path) -> Any:
    """The h5py file of one that was closed."""
    try:
        # No HDF5 lock: it would only keep the writer from reopening its file.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return as_if_closed(path)  # this process has it open with a lock: HDF5 has no file open in both ways


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
