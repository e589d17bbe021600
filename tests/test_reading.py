"""open_run on files whose content is known."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import warm
from torch import nn

from probes.measurement import Axis, Measurement
from probes.reading import open_run
from probes.run import Run
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.hdf5.repair import repair


@pytest.fixture
def writing(tmp_path):
    """Writes measurements, flushed and not closed."""
    run = Run(nn.Linear(1, 1), tmp_path, seed=0, output=lambda output: output, run_id="a1")
    sink = HDF5Sink()
    sink.on_attach(run)

    def write(step: int, *measurements: Measurement) -> Path:
        sink.write(run, [measurement.taken(step, 1.7e9 + step / 4, "probe", "1") for measurement in measurements])
        sink.flush(run)
        return tmp_path

    yield write
    sink.on_detach(run)


def test_open_run_gives_each_stream_with_its_axes_and_units(writing):
    frequency = Axis(np.array([5.0, 10.0]), "cycles", "frequency of the sine")
    path = writing(3, Measurement("f/train", [1, 2], ("frequency",), {"frequency": frequency}, "nats", [0.5, 0.25]))
    stream = open_run(path)["f/train"]
    assert stream.value.dims == ("step", "frequency") and stream.value.attrs["units"] == "nats"
    assert stream.value.sel(step=3, frequency=10) == 2 and stream.standard_error.sel(step=3, frequency=10) == 0.25
    assert stream.frequency.attrs == {"units": "cycles", "long_name": "frequency of the sine"}
    assert stream.wall_time.values.tolist() == [np.datetime64("2023-11-14T22:13:20.750", "ns").astype(int)]


@pytest.mark.parametrize(
    "value",
    [[1 + 2j, complex(0, float("inf"))], [True, False], [float("nan"), float("-inf")], [2**53 + 1, -1]],
    ids=["complex", "boolean", "not finite", "large integer"],
)
def test_open_run_gives_values_back_as_they_were(writing, value):
    read = open_run(writing(0, Measurement("x", value, ("k",)))).x.value
    assert read.dtype == np.array(value).dtype and read.dims == ("step", "k")
    np.testing.assert_array_equal(read.values[0], np.array(value))


def test_open_run_joins_complex_standard_errors(writing):
    read = open_run(writing(0, Measurement("x", [1j], ("k",), standard_error=[0.5]))).x
    assert read.standard_error.values.tolist() == [[0.5]]


def test_open_run_gives_strings_as_strings(writing):
    read = open_run(writing(0, Measurement("x", [1.0, 2.0], ("layer",), {"layer": ["conv1", "fcé"]}))).x
    assert read.value.sel(layer="fcé").values.tolist() == [2.0]


def test_open_run_reads_a_stream_that_has_streams_below_it(writing):
    writing(0, Measurement("loss", 1.0), Measurement("loss/train", 2.0), Measurement("a/b/c", 3.0))
    path = writing(1, Measurement("loss/train", 4.0))
    tree = open_run(path)
    assert tree["loss/self"].value.values.tolist() == [1.0]
    assert tree["loss/train"].value.values.tolist() == [2.0, 4.0]
    assert tree["a/b/c"].value.values.tolist() == [3.0]


def test_open_run_follows_a_run_of_the_same_process(writing):
    for step in range(3):
        assert open_run(writing(step, Measurement("x", step))).x.step.values.tolist() == list(range(step + 1))


def test_open_run_gives_whole_rows_only(writing):
    path = writing(0, Measurement("x", 1.0)) / "run.h5"
    copy = path.with_name("copy.h5")
    copy.write_bytes(path.read_bytes())
    repair(copy)
    with h5py.File(copy, "r+", libver="v110") as file:
        file["x/value"].resize(2, axis=0)
    assert open_run(copy).x.value.values.tolist() == [1.0]


def test_open_run_takes_the_file_or_its_directory_and_carries_the_head(writing):
    path = writing(0, Measurement("x", 1.0))
    assert open_run(path).attrs["run_id"] == open_run(str(path / "run.h5")).attrs["run_id"] == "a1"


def test_open_run_says_that_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log directory of a run or its run\.h5, but there is no file"):
        open_run(tmp_path)


def test_open_run_rejects_a_file_that_is_not_hdf5(tmp_path):
    (tmp_path / "run.h5").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="not an HDF5 file"):
        open_run(tmp_path)


def test_open_run_says_that_a_file_is_damaged(writing):
    path = writing(0, Measurement("x", 1.0)) / "run.h5"
    damaged = path.with_name("damaged.h5")
    data = path.read_bytes()
    damaged.write_bytes(data[:48] + bytes(len(data) - 48))
    with pytest.raises(ValueError, match=r"damaged\.h5 is damaged"):
        open_run(damaged)


def test_open_run_rejects_a_file_of_another_program(tmp_path):
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="not one that torch-probes wrote"):
        open_run(tmp_path)


def test_open_run_without_xarray_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['xarray'] = None; from probes.reading import open_run; open_run('x')"
    done = warm.run(code)
    assert "ImportError: open_run needs xarray: pip install 'torch-probes[analysis]'" in done.stderr
