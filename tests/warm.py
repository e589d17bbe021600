"""Scripts in processes of their own, at a tenth of the price: forked from one process that has imported torch already.

A fresh interpreter takes seconds to import torch and what measuring needs, and most tests that want another process do
not want that. Each script still is ``__main__`` of a process of its own, with its own arguments, directory, environment
and streams, and goes through the whole of Python's ending, though not through that of torch's libraries. Tests of what
is imported, or of how a process is started, take :mod:`subprocess`.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
import weakref
from pathlib import Path

IMPORTED = (
    "torch._dynamo", "torch.utils.tensorboard", "tensorboard.backend.event_processing.event_accumulator", "h5py",
    "h5netcdf", "xarray", "probes", "probes.manager", "probes.sinks.hdf5", "probes.sinks.tensorboard",
)  # fmt: skip
ENDED = ("sys", "builtins", "__main__", "probes")
"""How the names of modules begin that Python's ending takes apart in a forked process, too."""

_parents: dict[str, types.ModuleType] = {}
atexit.register(lambda: _hide())  # registered before all else, and called after it


# ----------------------------------------------------------------------------------------------------------- the tests


class Child:
    """A script that runs; of :class:`subprocess.Popen`, what the tests need."""

    def __init__(
        self, code: str | Path, *arguments: object, cwd=None, env=None, out=None, err=None, address=None
    ) -> None:
        if isinstance(code, Path):
            source, name, place = code.read_text(encoding="utf-8"), str(code), str(code.parent)
        else:
            source, name, place = code, "-c", ""
        job = {
            "source": source, "name": name, "place": place, "argv": [name, *map(str, arguments)],
            "cwd": str(cwd or os.getcwd()), "env": {**os.environ, **(env or {})},
        }  # fmt: skip
        text = json.dumps(job).encode()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address or _address())
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading)
        """Of a script whose output goes nowhere else."""
        with os.fdopen(writing, "wb") as pipe:
            streams = array.array("i", [(out or pipe).fileno(), (err or sys.__stderr__).fileno()])
            self._server.sendmsg([len(text).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            self._server.sendall(text)
            self.pid = int.from_bytes(_read(self._server, 8), "big")
        self.returncode: int | None = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal, of a script that has ended."""
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """The exit code of a script, when it has ended."""
        if self.returncode is None:
            with self._server:
                self.returncode = int.from_bytes(_read(self._server, 8), "big", signed=True)
        return self.returncode


def run(code: str | Path, *arguments: object, cwd=None, env=None) -> subprocess.CompletedProcess[str]:
    """Run a script, given as text or by its path, to its end, as ``subprocess.run`` does with captured output."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = Child(code, *arguments, cwd=cwd, env=env, out=out, err=err)
        status = child.wait()
        child.stdout.close()
        written = []
        for stream in (out, err):
            stream.seek(0)
            written.append(stream.read().decode())
    return subprocess.CompletedProcess([code, *arguments], status, *written)


@functools.cache
def python() -> str:
    """The path of a command that does what ``python`` does: for code under test that calls :data:`sys.executable`."""
    address = _address()
    path = Path(address).with_name("python")
    path.write_text(f"#!{sys.executable} -S\nimport runpy\nrunpy.run_path({__file__!r})['ask']({address!r})\n")
    path.chmod(0o700)
    return str(path)


def ask(address: str) -> None:
    """What that command does."""
    option, *arguments = sys.argv[1:]
    code: str | Path = Path(option)
    if option in ("-c", "-m"):
        code, *arguments = arguments
        if option == "-m":
            code = f"import runpy; runpy.run_module({code!r}, run_name='__main__', alter_sys=True)"
    status = Child(code, *arguments, out=sys.stdout, err=sys.stderr, address=address).wait()
    sys.exit(status) if status >= 0 else os.kill(os.getpid(), -status)


@functools.cache
def _address() -> str:
    """Where the process listens from which scripts are forked; it is started at the first of them."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    address = f"{folder.name}/socket"
    # It ends when its standard input does: when this process has ended, in whatever way.
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    owner = os.getpid()

    def close() -> None:
        if os.getpid() == owner:  # and no child that a test has forked
            server.stdin.close(), server.stdout.close(), server.wait()
            folder.cleanup()

    atexit.register(close)
    return address


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the process that scripts are forked from has ended")
        data += more
    return data


# ---------------------------------------------------------------------------------------------------------- the server


def serve(address: str) -> dict:
    """Fork a process for each script that is asked for. Returns in those processes, with what each is to run."""
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        gc.collect()
        gc.freeze()  # a child that looks at all these objects when it ends would copy their memory
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in readable:
                os._exit(0)
            connection, _ = listener.accept()
            with connection:
                watcher = os.fork()
                if watcher == 0:
                    listener.close()
                    return watch(connection)
            _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def watch(connection: socket.socket) -> dict:
    """Fork the script's process, tell its number and, when it has ended, its exit code. Returns in that process."""
    size, control, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(2 * array.array("i").itemsize))
    streams = array.array("i", control[0][2])
    job = json.loads(_read(connection, int.from_bytes(size, "big")))
    child = os.fork()
    if child == 0:
        connection.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        return job
    for stream in streams:
        os.close(stream)
    connection.sendall(child.to_bytes(8, "big"))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(status.to_bytes(8, "big", signed=True))
    os._exit(0)


def ordinary_heap() -> None:
    """Have a forked process begin with the heap of any other, and end without taking apart what its parent has made.

    When all that was registered for Python's ending has been called, the parent's objects are hidden from the rest of
    it, which would copy their memory: from the collector, and from the list of modules, whose globals would be cleared.
    The modules of this project are not: they end as in any process. Nor do finalizers of the parent's run, which take
    torch's operators from its libraries. Where the C library can (glibc's), the process is gone as soon as Python has
    ended: what would follow, torch's libraries taking themselves apart, takes longer than most of the scripts.
    """
    gc.unfreeze()
    _parents.update((name, module) for name, module in sys.modules.items() if not name.startswith(ENDED))
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


def _hide() -> None:
    if not _parents:
        return
    gc.freeze()
    increase = ctypes.pythonapi.Py_IncRef
    increase.argtypes = [ctypes.py_object]
    for name, module in _parents.items():
        if sys.modules.get(name) is module:
            increase(module)  # it is never freed
            del sys.modules[name]


def begin(job: dict) -> types.CodeType:
    """Make this process what ``python`` with the script's name would be."""
    ordinary_heap()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    more = [path for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [job["place"], *more]
    sys.argv = job["argv"]
    sys.modules["warm"] = sys.modules["__main__"]  # for a script that forks others
    sys.modules["__main__"] = types.ModuleType("__main__")
    if job["place"]:
        sys.modules["__main__"].__file__ = job["name"]
    return compile(job["source"], job["name"], "exec")


if __name__ == "__main__":
    exec(begin(serve(sys.argv[1])), sys.modules["__main__"].__dict__)
