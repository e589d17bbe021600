"""Doing many independent pieces of work at the same time: here, in processes of this machine, or elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..measurement import first_line
from ..session.discovery import load

__all__ = ["Located", "locate", "workers"]


@contextmanager
def workers(processes: int = 1, elsewhere: str | None = None) -> Iterator[Executor | None]:
    """An executor of so many processes, which share the cores; None for this process alone.

    Args:
        processes: How many.
        elsewhere: Name of an installed executor (entry-point group ``probes.executors``), such as ``"ray"``, instead.

    Raises:
        ValueError: If ``processes`` is not positive, or no executor has the name.
        ImportError: If what the executor needs is not installed.
    """
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}.")
    executor: Executor
    if elsewhere is not None:
        executor = load(elsewhere, "executor")()
    elif processes == 1:
        yield None
        return
    else:
        threads = max(1, (os.cpu_count() or 1) // processes)
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads of torch may hang
        executor = ProcessPoolExecutor(processes, context, torch.set_num_threads, (threads,))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Located:
    """A function that is named by where it is, ``file.py:function`` or ``package.module:function``, to be called.

    It is looked up when it is called, so that it can be sent to another process.

    Raises:
        ValueError: If the text is not of that form, and when called, if there is no such function, or it fails.
        FileNotFoundError: When called, if there is no such file.
    """

    text: str

    def __post_init__(self) -> None:
        _parts(self.text)

    def __call__(self) -> Any:
        """What the function returns."""
        function = locate(self.text)
        if not callable(function):
            raise ValueError(f"{self.text} is not a function but {function!r}.")
        try:
            return function()
        except Exception as error:
            raise ValueError(
                f"{self.text}, called without arguments, fails: {type(error).__name__}: {first_line(error)}."
            ) from error


def locate(text: str) -> Any:
    """What ``file.py:name`` or ``package.module:name`` stands for.

    Raises:
        ValueError: If the text is not of that form, or nothing has that name.
        FileNotFoundError: If there is no such file.
    """
    place, name = _parts(text)
    module = _module(place)
    if not hasattr(module, name):
        raise ValueError(f"{place} has no {name!r}.")
    return getattr(module, name)


def _parts(text: str) -> tuple[str, str]:
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"{text!r} must be file.py:name or package.module:name.")
    return place, name


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")  # as `python -m` has it: modules of the present directory
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ValueError(f"There is no module {place!r}: {error}. A file is named with its .py.") from error
    path = Path(place).resolve()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    name = f"_probes_{path.stem}"
    if (known := sys.modules.get(name)) is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as when it is run: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {first_line(error)}.") from error
        raise
    return module
