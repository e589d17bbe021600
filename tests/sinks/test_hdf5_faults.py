"""What the sink refuses and survives: misfits, a full disk, a failed write."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import warm
import xarray
from sinks.test_hdf5 import at_step, layers, new_run, recorded, steps

from probes.measurement import Axis
from probes.reading import open_run
from probes.run import Event
from probes.sinks.hdf5 import HDF5Sink, run_file
from probes.sinks.hdf5.superblock import read_file


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda: at_step(1, "norm", [1.0], ("layer",)), "shape changed"),
        (lambda: at_step(1, "norm/value", 1.0), "'norm/value' is a column of the stream 'norm'"),
        (lambda: at_step(1, "events/x", 1.0), "the names events and sessions are taken"),
    ],
)
def test_a_measurement_that_does_not_fit_is_told_once_and_counted(tmp_path, bad, why):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [layers(0), bad()])
    with pytest.raises(ValueError, match=why):
        sink.flush(run)
    sink.write(run, [layers(1), bad()])
    sink.flush(run)
    with pytest.raises(OSError, match=f"2 measurements are not in .*because: .*{why}"):
        sink.on_detach(run)
    assert steps(tmp_path, "norm") == [0, 1]


def test_a_stream_that_changed_between_sessions_is_told(tmp_path):
    recorded(tmp_path, [layers(0)])
    with pytest.raises(ValueError, match="the coordinates of 'layer' changed"):
        recorded(tmp_path, [at_step(1, "norm", [1.0, 2.0], ("layer",), {"layer": ["conv1", "fc"]})],
                 new_run(tmp_path, resumed_from=0))  # fmt: skip


def test_a_full_disk_ends_the_sink_and_leaves_the_file_whole(tmp_path, monkeypatch):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [layers(0)])
    sink.flush(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    sink.write(run, [layers(1)])
    with pytest.raises(OSError, match=r"Nothing more is written to .*: only 1 MiB are free on the disk"):
        sink.flush(run)
    sink.write(run, [layers(2)])
    sink.flush(run)
    with pytest.raises(OSError, match=r"2 measurements are not in .*, because: only 1 MiB"):
        sink.on_detach(run)
    with xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree:
        assert tree["norm"].step.values.tolist() == [0]


def test_a_failed_write_is_never_tried_again(tmp_path, monkeypatch):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [layers(0)])
    sink.flush(run)
    calls = []

    def append(table, blocks):
        calls.append(blocks)
        raise OSError("Can't write data (Input/output error)")

    monkeypatch.setattr(run_file.Table, "append", append)
    for step in (1, 2):
        sink.write(run, [layers(step)])
        if step == 1:
            with pytest.raises(OSError, match=r"Nothing more is written to .*Input/output error"):
                sink.flush(run)
        sink.flush(run)
    with pytest.raises(OSError, match="2 measurements are not in"):
        sink.on_detach(run)
    assert sum("value" in blocks for blocks in calls) == 1
    assert steps(tmp_path, "norm") == [0]


LIMITED = """
import os, resource, signal, sys
import torch
from sinks.test_hdf5 import HDF5Sink, at_step, new_run, Path

torch.set_num_threads(1)
if sys.argv[2] == "late":
    del os.posix_fallocate  # the limit is then met by HDF5 itself
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_003, 400_003))
run, sink = new_run(Path(sys.argv[1])), HDF5Sink()
sink.on_attach(run)
flushed = faults = 0
for step in range(600):
    try:
        sink.write(run, [at_step(step, name, torch.full((64,), float(step)), ("k",)) for name in "abc"])
        sink.flush(run)
        flushed += not faults
    except OSError:
        faults += 1
try:
    sink.on_detach(run)
except OSError as error:
    print(flushed, faults, error)
"""


@pytest.mark.parametrize("when", ["before", "late"])
def test_a_process_whose_file_cannot_grow_ends_well_and_keeps_every_flushed_row(tmp_path, when):
    # A limit on the size of files stands for the full disk: it needs neither root nor a disk.
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = warm.run(LIMITED, tmp_path, when, env=environment)
    assert done.returncode == 0, done.stderr
    if when == "before":
        xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf").close()  # a plain reader: it was closed
    flushed, faults, message = done.stdout.split(maxsplit=2)
    assert int(faults) == 1 and "measurements are not in" in message and "File too large" in message
    for name in "abc":
        stream = open_run(tmp_path)[name]
        assert 100 < int(flushed) <= len(stream.step) <= int(flushed) + 1
        np.testing.assert_array_equal(stream.value.values[:, 0], stream.step.values)
        np.testing.assert_array_equal(stream.step.values, range(len(stream.step)))


def test_a_file_that_is_cut_short_while_it_is_written_ends_the_sink_and_hangs_nobody(tmp_path):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, [layers(0)])
    sink.flush(run)
    (tmp_path / "run.h5").write_bytes(b"")
    sink.write(run, [layers(1)])
    with pytest.raises(OSError, match="it was cut to a part of what it held while the run wrote it"):
        sink.flush(run)
    with pytest.raises(OSError, match="1 measurements are not in"):
        sink.on_detach(run)


def test_a_file_that_this_process_has_open_with_a_lock_is_read(tmp_path):
    path = tmp_path / "run.h5"
    with h5py.File(path, "w", libver="v110", locking=False) as file:
        file["a"] = [1, 2, 3]
    with h5py.File(path, "r"):
        assert read_file(path, lambda file: file["a"][:].tolist()) == [1, 2, 3]
    assert read_file(path, lambda file: file["a"][:].tolist()) == [1, 2, 3]


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
def test_a_text_that_hdf5_refuses_is_written_as_an_escape(tmp_path, bad):
    escape = bad.encode("unicode_escape").decode()

    def row(step):
        return at_step(step, "x", [1.0], (bad,), {bad: Axis([bad], bad, bad)}, unit=bad, estimator=bad, description=bad)

    recorded(tmp_path, [layers(0), row(0), row(1)], events=[Event("warning", bad, bad, 0, 1.7e9)])
    recorded(tmp_path, [layers(2), row(2)], new_run(tmp_path, resumed_from=1))
    assert steps(tmp_path, "norm") == [0, 2] and steps(tmp_path, "x") == [0, 1, 2]
    value = open_run(tmp_path)["x"].value
    assert value.coords[escape].values.tolist() == [escape]
    assert value.attrs["units"] == value.attrs["estimator"] == value.attrs["long_name"] == escape
    assert steps(tmp_path, "events") == [0]


@pytest.mark.parametrize(
    ("dims", "settings"),
    [
        (("k",), {"num_samples": 2**70}),
        (tuple(f"d{n}" for n in range(40)), {}),
    ],
)
def test_a_stream_that_hdf5_cannot_store_is_left_out_alone(tmp_path, dims, settings):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    bad = at_step(0, "x", np.ones((1,) * len(dims)), dims, **settings)
    sink.write(run, [layers(0), at_step(0, "norm/x", 1.0), bad])
    with pytest.raises(ValueError, match="'x': HDF5 cannot store it"):
        sink.flush(run)
    sink.write(run, [layers(1), at_step(1, "norm/x", 1.0)])
    with pytest.raises(OSError, match="1 measurements are not in"):
        sink.on_detach(run)
    assert steps(tmp_path, "norm/self") == steps(tmp_path, "norm/x") == [0, 1]
    with h5py.File(tmp_path / "run.h5") as file:
        assert len(file.get("x", ())) == 0


def test_a_stream_whose_coordinates_are_nan_is_written_and_resumed(tmp_path):
    def row(step):
        return at_step(step, "x", [1.0, 2.0], ("k",), {"k": [np.nan, 1.0]})

    recorded(tmp_path, [row(0), row(1)])
    recorded(tmp_path, [row(2)], new_run(tmp_path, resumed_from=1))
    assert steps(tmp_path, "x") == [0, 1, 2]
