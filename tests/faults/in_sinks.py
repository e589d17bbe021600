"""Faults of sinks, and of the disk, the directory and the clock that they rely on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import h5py
from loops import Memory
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io import gfile

from probes import hookimpl
from probes.sinks import log_dir, tensorboard_file
from probes.sinks.hdf5 import HDF5Sink, run_file, table
from probes.sinks.tensorboard import TensorBoardSink

from .scene import ROWS, STEPS, Scene, fault


def flush(scene: Scene) -> None:
    """As saving a checkpoint does."""
    scene.manager.state_dict()


def in_tensorboard(scene: Scene, run) -> None:
    """TensorBoard has all the rows."""
    folder = next(scene.folder.rglob("events.out.tfevents.*")).parent
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("witness/norm")]
    assert steps == list(range(ROWS)), steps


# ------------------------------------------------------------------------------------------------------- it raises

for _hook in ("on_attach", "write", "on_event", "flush", "on_detach"):
    for _error in (OSError("disk"), SystemExit(4)):

        @fault(f"a sink raises {type(_error).__name__} in {_hook}", _hook,
               "" if _hook == "on_event" else rf"{type(_error).__name__}\(", look=in_tensorboard,
               slow=isinstance(_error, SystemExit))  # fmt: skip
        def _(scene: Scene, hook=_hook, error=_error):
            def fail(self, *_, **__):
                raise error

            broken = type("Broken", (Memory,), {"name": "broken", hook: hookimpl(lambda self: fail(self))})
            scene.sinks = [HDF5Sink(), TensorBoardSink(), broken()]  # closed in reverse: the first may tell of all
            if hook == "flush":
                scene.at.update({step: lambda: flush(scene) for step in (3, 5, 7, 9)})


@fault("a sink hangs in write for longer than the deadline", "write", r"Training waited \d+ s for write of 'slow'",
       look=in_tensorboard)  # fmt: skip
def _(scene: Scene):
    waits = iter([0.4])
    slow = type("Slow", (Memory,), {"name": "slow", "write": hookimpl(lambda self: time.sleep(next(waits, 0)))})
    scene.sinks = [HDF5Sink(), TensorBoardSink(), slow()]
    scene.settings["deadline"] = 0.2


@fault("TensorBoard cannot be imported", "write", "Plugin 'tensorboard' .* failed in .*Error")
def _(scene: Scene):
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]


@fault("both sinks fail at once", "attach", "Nothing is recorded", no_file=True)
def _(scene: Scene):
    def fail(*_):
        raise OSError(30, "Read-only file system")

    log_dir._writable = fail


# ------------------------------------------------------------------------------------------------------- disk is full


def free(mebibytes: float) -> None:
    """Have the disk look as full as that."""
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(2**40, 2**40, int(mebibytes * 2**20))


@fault("the disk is full at attach, and so is any other", "HDF5", "Nothing is recorded", no_file=True)
def _(scene: Scene):
    free(1)


@fault("the disk is full at the first write", "HDF5", "Nothing more is written to .*run.h5: only 1 MiB are free",
       no_file=True)  # fmt: skip
def _(scene: Scene):
    scene.at[1] = lambda: free(1)


@fault("the disk is full midway", "HDF5", "Nothing more is written here from step 7 on: only 1 MiB are free", kept=6,
       look=in_tensorboard)  # fmt: skip
def _(scene: Scene):
    scene.at[5] = lambda: flush(scene)
    scene.at[7] = lambda: (free(1), flush(scene))


@fault("the disk is full at the end", "HDF5", "7 measurements are not in .*run.h5, because: only 1 MiB are free|"
       "measurements are not in .*, because: only 1 MiB", kept=6, look=in_tensorboard)  # fmt: skip
def _(scene: Scene):
    scene.at[5] = lambda: flush(scene)
    scene.at[STEPS] = lambda: free(1)


@fault("files cannot grow any more", "both sinks", "", kept=6)
def _(scene: Scene):
    def limit():
        flush(scene)
        size = max(file.stat().st_size for file in (scene.folder / "run").iterdir())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))

    scene.at[5] = limit


@fault("HDF5 cannot write", "HDF5", "Nothing more is written here from step 7 on: Can't write data", kept=6,
       look=in_tensorboard)  # fmt: skip
def _(scene: Scene):
    def break_it():
        appended = table.Table.append

        def append(self, blocks):
            if "value" in blocks:
                raise OSError("Can't write data (Input/output error)")
            appended(self, blocks)

        run_file.Table.append = append
        flush(scene)

    scene.at[5] = lambda: flush(scene)
    scene.at[7] = break_it


@fault("the disk is full for TensorBoard alone", "TensorBoard", r"Plugin 'tensorboard' .* failed in write: .*No space")
def _(scene: Scene):
    def full(*_):
        raise OSError(28, "No space left on device")

    scene.at[5] = lambda: setattr(gfile.LocalFileSystem, "append", full)


@fault("TensorBoard cannot write at all", "TensorBoard", r"Plugin 'tensorboard' .* is called no more in this run")
def _(scene: Scene):
    def full(*_):
        raise OSError(28, "No space left on device")

    def break_it():
        gfile.LocalFileSystem.append = gfile.LocalFileSystem.write = full
        flush(scene)  # else the first failure may come with the last step

    scene.at[5] = break_it


@fault("closing TensorBoard's file hangs", "TensorBoard", "could not be closed within")
def _(scene: Scene):
    def break_it():
        tensorboard_file.CLOSE_SECONDS = 0.2
        writer = next(p.implementation for p in scene.manager._session.plugins.all if p.key == "tensorboard")._writer
        writer.close = lambda: time.sleep(3600)

    scene.at[STEPS] = break_it


# ------------------------------------------------------------------------------------------------ files and directories


def remove(scene: Scene, what: str) -> None:
    flush(scene)
    path = scene.folder / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@fault(
    "run.h5 is deleted", "HDF5", "run.h5 was deleted while the run wrote it; it is written again", look=in_tensorboard
)
def _(scene: Scene):
    scene.at[5] = lambda: remove(scene, "run/run.h5")


@fault(
    "run.h5 is deleted after the last flush",
    "HDF5",
    "run.h5 was deleted while the run wrote it; it is written again",
    slow=True,
)
def _(scene: Scene):
    scene.at[STEPS] = lambda: remove(scene, "run/run.h5")


@fault("the whole log_dir is deleted", "both sinks", "run.h5 was deleted while the run wrote it; it is written again")
def _(scene: Scene):
    scene.at[5] = lambda: remove(scene, "run")


@fault(
    "TensorBoard's file is deleted", "TensorBoard", "was deleted while the run wrote it: what it held is in the other"
)
def _(scene: Scene):
    scene.at[5] = lambda: (flush(scene), next((scene.folder / "run").glob("events*")).unlink())


def other_is_there(scene: Scene, run) -> None:
    assert (scene.folder / "run/run.h5").read_text() == "another"


@fault(
    "run.h5 is replaced by another file",
    "HDF5",
    "replaced by another file, which is left as it is",
    look=other_is_there,
)
def _(scene: Scene):
    def replace():
        flush(scene)
        (scene.folder / "other").write_text("another")
        os.replace(scene.folder / "other", scene.folder / "run/run.h5")

    scene.at[5] = replace


@fault("log_dir is replaced by a link to nowhere", "HDF5", "Nothing more is written to", no_file=True)
def _(scene: Scene):
    def replace():
        remove(scene, "run")
        (scene.folder / "run").symlink_to("/proc/nowhere")

    scene.at[5] = replace


def went_to(name: str):
    def look(scene: Scene, run) -> None:
        assert (scene.folder / name / "run.h5").exists(), list(scene.folder.iterdir())

    return look


@fault("log_dir holds another run", "attach", "Results go to .*run_2, not to run: `log_dir` must not hold another run",
       look=went_to("run_2"))  # fmt: skip
def _(scene: Scene):
    (scene.folder / "run").mkdir()
    with h5py.File(scene.folder / "run/run.h5", "w", libver="v110") as file:
        file.attrs["schema_name"] = "torch-probes"
        file.attrs["run_id"] = "another"


@fault("log_dir holds something else called run.h5", "attach", "Results go to .*run_2, not to run: .*not a read",
       look=went_to("run_2"))  # fmt: skip
def _(scene: Scene):
    (scene.folder / "run").mkdir()
    (scene.folder / "run/run.h5").write_text("something else")


HOLD = """
import sys, time
from pathlib import Path
from filelock import FileLock
lock = FileLock(sys.argv[1] + "/run.lock")
lock.acquire()
print("held", flush=True)
time.sleep(20)
"""


@fault("another process writes into log_dir", "attach", "Results go to .*run_2, not to run: Another process is writing",
       look=went_to("run_2"))  # fmt: skip
def _(scene: Scene):
    (scene.folder / "run").mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(scene.folder / "run")], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    scene.at[STEPS] = lambda: (other.kill(), other.wait(), other.stdout.close())


@fault("log_dir is a file", "attach", "Results go to .*run_2, not to run: `log_dir` 'run' cannot be written",
       look=went_to("run_2"), slow=True)  # fmt: skip
def _(scene: Scene):
    (scene.folder / "run").touch()


@fault("log_dir lies below a file", "attach", "Results go to .*tmp.*, not to file/run: `log_dir` 'file/run' cannot be")
def _(scene: Scene):
    (scene.folder / "file").touch()
    (scene.folder / "tmp").mkdir()
    tempfile.tempdir = str(scene.folder / "tmp")
    scene.log_dir = Path("file/run")


@fault(
    "no directory for temporary files either",
    "attach",
    "Nothing is recorded: neither file/run nor another",
    no_file=True,
)
def _(scene: Scene):
    def fail(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    (scene.folder / "file").touch()
    tempfile.mkdtemp = fail
    scene.log_dir = Path("file/run")


@fault("only 1 MiB is free in log_dir", "attach", "Results go to .*tmp.*, not to run: .*only 1 MiB are free")
def _(scene: Scene):
    (scene.folder / "tmp").mkdir()
    tempfile.tempdir = str(scene.folder / "tmp")
    usage = shutil.disk_usage
    shutil.disk_usage = lambda path: (
        usage(path) if "tmp" in Path(path).name or "tmp" in Path(path).parts[-2]
        else shutil._ntuple_diskusage(2**40, 2**40, 2**20)
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- clock


for _what, _offset in {"a day ahead": 86400.0, "a day back": -86400.0}.items():

    @fault(f"the clock jumps {_what}", "clock", look=lambda scene, run, offset=_offset: jumped(run, offset))
    def _(scene: Scene, offset=_offset):
        now = time.time

        def jump():
            time.time = lambda: now() + offset

        scene.at[5] = jump


def jumped(run, offset: float) -> None:
    times = run["witness/norm"]["wall_time"].values.astype("datetime64[us]").astype(float) / 1e6
    assert abs(times[-1] - times[0] - offset) < 60 and abs(times[5] - times[0]) < 60, times


# ------------------------------------------------------------------------------------------- a real disk, as root only


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "probes", folder], check=True)


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


def may_mount() -> bool:
    folder = Path(tempfile.mkdtemp())
    done = subprocess.run(["mount", "-t", "tmpfs", "probes", folder], capture_output=True).returncode == 0
    if done:
        subprocess.run(["umount", folder], check=True)
    folder.rmdir()
    return done


if sys.platform == "linux" and os.geteuid() == 0 and may_mount():

    @fault(
        "a tmpfs of 80 MB runs full", "both sinks", "Nothing more is written to .*run.h5: only 0 MiB are free", kept=6,
        full=True,
    )  # fmt: skip
    def _(scene: Scene):
        mount(scene.folder / "run", "size=80M")
        scene.at[5] = lambda: (flush(scene), fill(scene.folder / "run"))

    @fault(
        "a tmpfs of 1 MB",
        "attach",
        "Results go to .*run_2, not to run: .*only 1 MiB are free",
        look=went_to("run_2"),
        slow=True,
    )
    def _(scene: Scene):
        mount(scene.folder / "run", "size=1M")

    @fault("a read-only file system", "attach", "Results go to .*run_2, not to run: .*Read-only file system",
           look=went_to("run_2"))  # fmt: skip
    def _(scene: Scene):
        mount(scene.folder / "run", "size=80M,ro")

    @fault("the file system vanishes", "both sinks", "run.h5 was deleted while the run wrote it; it is written again")
    def _(scene: Scene):
        mount(scene.folder / "run", "size=200M")
        scene.at[5] = lambda: (flush(scene), subprocess.run(["umount", "-l", scene.folder / "run"], check=True))
