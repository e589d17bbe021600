"""Run files that were never closed: reading them, and repairing them so that any program can.

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

import io
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock, Timeout

from .table import cut_to_common_length, tables

__all__ = ["closed_superblock", "exclusive", "lookup3", "open_for_reading", "repair"]

SUPERBLOCK = struct.Struct("<8sBBBBQQQQI")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
WORD = 0xFFFFFFFF


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


def repair(path: str | Path) -> None:
    """Make the file of a killed run like one that was closed, in place: plain readers open it, rows can be appended.

    Nothing that was flushed is lost; a row of which only some columns were written is cut. A file that was closed is
    left as it is.

    Raises:
        RuntimeError: If a process is still writing the file.
        ValueError: If it is not a run file.
    """
    path = Path(path)
    with exclusive(path):
        mend(path)


def mend(path: Path) -> None:
    """:func:`repair` for one who has the file to himself."""
    with path.open("r+b") as raw:
        superblock = raw.read(SUPERBLOCK.size)
        closed = closed_superblock(superblock, path.stat().st_size)
        if not superblock[11]:
            return
        raw.seek(0)
        raw.write(closed)
    with h5py.File(path, "r+", libver=("v110", "v110"), locking=False) as file:
        for table in tables(file):
            cut_to_common_length(table)


def exclusive(path: Path) -> FileLock:
    """Take the lock beside a run file; the system releases it when the process ends, however it ends.

    Raises:
        RuntimeError: If another process, or another manager of this one, holds it.
    """
    lock = FileLock(path.with_suffix(".lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"Another process is writing {path}. Pass another log_dir=, one for each process, or wait until that "
            f"process has ended."
        ) from None
    return lock


@contextmanager
def open_for_reading(path: Path) -> Iterator[Any]:
    """The h5py file: finished, being written, or left by a killed process; nothing on disk is changed.

    Raises:
        ValueError: If it is not an HDF5 file, or is damaged.
    """
    file = None
    for _ in range(10):
        # No HDF5 lock: it would only keep the writer from reopening its file.
        try:
            file = h5py.File(path, "r", swmr=True, locking=False)
            break
        except OSError:
            time.sleep(0.02)  # the writer is between opening the file and starting SWMR mode
    if file is None:
        # Killed just there. What is in the file is whole, only its superblock is not: mend that in memory.
        image = path.read_bytes()
        image = closed_superblock(image, len(image)) + image[SUPERBLOCK.size :]
    try:
        with file or h5py.File(io.BytesIO(image), "r") as opened:
            yield opened
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
