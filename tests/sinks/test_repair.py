"""Processes killed while they write: nothing that was flushed is lost, and the file can be read and continued."""

import os
import random
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import warm
import xarray
from sinks.child_writer import SHAPES, expected, measured, new_run

from probes.reading import open_run
from probes.run import Event
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.hdf5.repair import exclusive, repair, repair_here
from probes.sinks.hdf5.superblock import closed_superblock, lookup3


def start(log_dir: Path, *arguments: str) -> warm.Child:
    return warm.Child(Path(__file__).with_name("child_writer.py"), log_dir, *arguments)


def kill_after(child: warm.Child, seconds: float) -> int:
    """The last step that the child reported as flushed."""
    first = child.stdout.readline()
    time.sleep(seconds)
    child.kill()
    lines = (first + child.stdout.read()).split("\n")[:-1]  # what follows the last line end may be cut off
    child.wait()
    child.stdout.close()
    return int(lines[-1])


def check(tree: xarray.DataTree, flushed: int) -> int:
    """Every row is right, none is missing, and all that was flushed is there."""
    streams = [node for node in tree.leaves if "value" in node]
    for node in streams:
        name = node.path.strip("/")
        steps = node.step.values
        start = 0 if name in SHAPES else 20 * (1 + int(name.rpartition("/")[2]))
        end = flushed if name in SHAPES else min(flushed, start + 59)
        np.testing.assert_array_equal(steps, np.arange(start, start + len(steps)))
        assert start + len(steps) > end, f"{name}: {len(steps)} rows from step {start}, flushed {flushed}"
        values = node.value.values
        if "part" in node.value.dims:
            values = values[..., 0] + 1j * values[..., 1]
        np.testing.assert_array_equal(values, [expected(name, step) for step in steps])
    events = [text.decode() if isinstance(text, bytes) else text for text in tree["events"].message.values]
    assert events == [f"step {step}" for step in range(len(events))] and len(events) > flushed
    assert {node.path.strip("/") for node in streams} >= {*SHAPES, *(f"late/{n}" for n in range(flushed // 20))}
    return len(tree["scalar/train"].step)


def check_kill(log_dir: Path, seconds: float) -> None:
    flushed = kill_after(start(log_dir), seconds)
    file = log_dir / "run.h5"
    rows = check(open_run(log_dir), flushed)
    shutil.copytree(log_dir, log_dir / "unrepaired")
    assert "damaged" not in repair_here(file)
    with xarray.open_datatree(file, engine="h5netcdf") as tree:
        assert check(tree, flushed) == rows
    for directory in (log_dir, log_dir / "unrepaired"):
        run, sink = new_run(directory, step=flushed, resumed_from=flushed), HDF5Sink()
        sink.on_attach(run)
        sink.write(run, [measured(name, flushed + 1) for name in SHAPES])
        sink.on_detach(run)
        resumed = open_run(directory)
        assert resumed["vector"].step.values.tolist() == list(range(flushed + 2))
        assert resumed["sessions"].step.values.tolist() == [0, flushed]


@pytest.mark.parametrize("attempt", range(2))
def test_a_killed_run_loses_no_flushed_row(tmp_path, attempt):
    check_kill(tmp_path, random.Random(attempt).uniform(0, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2, 25))
def test_a_run_killed_at_any_time_loses_no_flushed_row(tmp_path, attempt):
    check_kill(tmp_path, random.Random(attempt).uniform(0, 1.5))


def test_a_run_killed_while_opening_its_file_is_read_without_repair(tmp_path):
    path = tmp_path / "run.h5"
    sink = written_sink(tmp_path)
    del sink
    with path.open("r+b") as raw:
        head = bytearray(raw.read(48))
        head[11] = 1  # open for writing, not yet in SWMR mode
        head[44:] = lookup3(bytes(head[:44])).to_bytes(4, "little")
        raw.seek(0)
        raw.write(head)
    before = path.read_bytes()
    assert open_run(tmp_path)["vector"].step.values.tolist() == [0]
    assert path.read_bytes() == before


def written_sink(log_dir: Path) -> HDF5Sink:
    run, sink = new_run(log_dir), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [measured("vector", 0)])
    sink.on_detach(run)
    return sink


def test_a_live_reader_never_sees_a_wrong_row(tmp_path):
    child = start(tmp_path, "3")
    child.stdout.readline()
    polls, last = 0, 0
    while child.poll() is None:
        rows = check(open_run(tmp_path), flushed=0)
        assert rows >= last
        polls, last = polls + 1, rows
    steps = [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    assert child.returncode == 0
    assert polls > 3
    assert len(open_run(tmp_path)["vector"].step) > steps[-1]


def test_the_lock_of_another_process_is_named_and_ends_with_it(tmp_path):
    child = start(tmp_path)
    child.stdout.readline()
    with pytest.raises(RuntimeError, match=r"Another process is writing .*run\.h5. Pass another log_dir="):
        HDF5Sink().on_attach(new_run(tmp_path, resumed_from=0))
    with pytest.raises(RuntimeError, match="Another process is writing"):
        repair(tmp_path / "run.h5")
    kill_after(child, 0)
    exclusive(tmp_path / "run.h5").release()


def test_lookup3_of_a_known_text_is_its_published_value():
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def test_the_superblock_of_a_closed_file_is_its_own_closed_superblock(tmp_path):
    written_sink(tmp_path)
    data = (tmp_path / "run.h5").read_bytes()
    assert closed_superblock(data, len(data)) == data[:48]


def test_repair_leaves_a_closed_file_as_it_is(tmp_path):
    written_sink(tmp_path)
    path = tmp_path / "run.h5"
    os.utime(path, (0, 0))
    before = path.read_bytes()
    repair(path)
    assert path.read_bytes() == before and path.stat().st_mtime == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 150 steps, closed."""
    log_dir = tmp_path_factory.mktemp("whole")
    run, sink = new_run(log_dir), HDF5Sink()
    sink.on_attach(run)
    for step in range(150):
        late = [f"late/{number}" for number in range(step // 20)][-3:]
        sink.write(run, [measured(name, step) for name in [*SHAPES, *late]])
        sink.on_event(run, Event("warning", "probe", f"step {step}", step, 1.7e9 + step))
        sink.flush(run)
    sink.on_detach(run)
    return log_dir


def cut_copy(whole: Path, tmp_path: Path, part: float, closed: bool) -> Path:
    """A copy of which only the first part is there, closed or left open by a killed process."""
    file = tmp_path / "run.h5"
    data = bytearray((whole / "run.h5").read_bytes())
    if not closed:
        data[11] = 5
        data[44:48] = lookup3(bytes(data[:44])).to_bytes(4, "little")
    file.write_bytes(data[: int(part * len(data))])
    return file


def rows_are_right(tree: xarray.DataTree) -> int:
    """The number of rows, each of which is what was measured at its step."""
    count = 0
    for node in (node for node in tree.leaves if "value" in node):
        name, values = node.path.strip("/"), node.value.values
        np.testing.assert_array_equal(
            values, np.array([expected(name, step) for step in node.step.values]).reshape(values.shape)
        )
        count += len(values)
    return count


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.95])
def test_of_a_file_whose_end_is_missing_the_whole_rows_are_saved_and_no_other(whole, tmp_path, part, closed):
    file = cut_copy(whole, tmp_path, part, closed)
    before = file.read_bytes()
    try:
        rows_are_right(open_run(tmp_path))  # refused, or right: never a wrong row, never an endless wait
    except ValueError as error:
        assert "damaged" in str(error)
    message = repair_here(file)
    assert (
        "was damaged, and is written anew. Lost: " in message and (tmp_path / "run.damaged-1.h5").read_bytes() == before
    )
    tree = open_run(tmp_path)
    rows = rows_are_right(tree)
    total = rows_are_right(open_run(whole))
    assert rows < total and (rows > 0.5 * total or part < 0.95)
    assert tree["events"].kind.values[-1] == "repair" and "Lost: " in str(tree["events"].message.values[-1])
    with xarray.open_datatree(file, engine="netcdf4") as plain:
        assert len(list(plain.leaves)) == len(list(tree.leaves))
    assert repair_here(file) == f"{file} is sound."


def test_a_salvaged_file_can_be_continued(whole, tmp_path):
    repair_here(cut_copy(whole, tmp_path, 0.95, closed=False))
    run, sink = new_run(tmp_path, step=49, resumed_from=49), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [measured(name, 50) for name in SHAPES])
    sink.on_detach(run)
    assert open_run(tmp_path)["scalar/train"].step.values.tolist() == list(range(51))


def test_what_cannot_be_salvaged_is_refused_and_left_as_it_is(whole, tmp_path):
    file = cut_copy(whole, tmp_path, 0.001, closed=True)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is damaged beyond repair"):
        repair(file)
    assert file.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "run.lock"]
    with pytest.raises(FileNotFoundError, match="There is no file"):
        repair(tmp_path / "other.h5")


def test_repair_cuts_a_row_of_which_not_every_column_was_written(tmp_path):
    written_sink(tmp_path)
    path = tmp_path / "run.h5"
    with h5py.File(path, "r+") as file:
        file["vector/value"].resize(2, axis=0)
    with path.open("r+b") as raw:
        head = bytearray(raw.read(48))
        head[11] = 5
        head[44:] = lookup3(bytes(head[:44])).to_bytes(4, "little")
        raw.seek(0)
        raw.write(head)
    repair(path)
    with h5py.File(path) as file:
        assert file["vector/value"].shape == (1, 256)


def test_repair_rejects_a_file_of_another_format(tmp_path):
    (tmp_path / "run.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        repair(tmp_path / "run.h5")
