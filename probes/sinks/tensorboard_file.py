"""The event files of TensorBoard."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["FILES", "close", "inode", "named_after"]

FILES = "events.out.tfevents.*"


CLOSE_SECONDS = 60.0


def inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except OSError:
        return 0


@contextmanager
def named_after(earlier: Iterable[Path]) -> Iterator[None]:
    """Have an event file that is begun inside named after the earlier ones, also when the clock was set back.

    Files are read in the order of their names: a second, then, not in order, what tells apart those of one second.
    What fails in the thread that writes it is raised by the next call of its writer, and not in that thread: the
    script's ``threading.excepthook`` may end the process.
    """
    from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

    there: Any = event_file_writer._AsyncWriterThread
    thread, own = getattr(there, "in_place_of", there), threading.get_ident()  # another thread may be in here, too

    class QuietThread(thread):  # type: ignore[misc, valid-type]
        def run(self) -> None:
            self._write, self._record_writer.write = self._record_writer.write, self.write
            with suppress(Exception):  # which it keeps
                super().run()

        def write(self, record: bytes) -> None:
            try:
                self._write(record)
            except Exception as error:
                self.exception = error  # before the record counts as written, so that the next flush raises it
                raise

    parts = [file.name.split(".")[3] for file in earlier]
    second = max((int(part) for part in parts if part.isdigit()), default=0) + 1

    def begun(*args: Any, **kwargs: Any) -> Any:
        return (QuietThread if threading.get_ident() == own else thread)(*args, **kwargs)

    begun.in_place_of = thread  # type: ignore[attr-defined]
    event_file_writer.time, event_file_writer._AsyncWriterThread = TimeOfRow(second), begun
    try:
        yield
    finally:
        event_file_writer.time, event_file_writer._AsyncWriterThread = time, thread


class TimeOfRow:
    """The module ``time``, in which it is not earlier than a given second for the thread that asks for it."""

    def __init__(self, second: int) -> None:
        self._second, self._thread = second, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        now = time.time()
        return max(now, self._second) if threading.get_ident() == self._thread else now


def close(writer: Any) -> None:
    """Close a writer, which waits for a thread that writes: not for ever, if that one hangs."""
    errors: list[BaseException] = []

    def close() -> None:
        try:
            writer.close()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=close, name="probes-tensorboard-close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending
        close()
    else:
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            raise TimeoutError(f"the event file could not be closed within {CLOSE_SECONDS:.0f} s")
    if errors:
        raise errors[0]
