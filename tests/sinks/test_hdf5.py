"""What the sink writes, read by plain h5py and by xarray's two engines; and what it refuses and survives."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray
from torch import nn

from probes.measurement import Axis, Measurement
from probes.reading import open_run
from probes.run import Event, Run
from probes.sinks.hdf5 import HDF5Sink, writer
from probes.sinks.hdf5.sink import MAX_ROWS, holds_run


def new_run(log_dir: Path, run_id: str = "a1", **settings) -> Run:
    return Run(nn.Linear(1, 1), log_dir, seed=7, output=lambda output: output, run_id=run_id, **settings)


def at_step(step: int, name: str, value, *args, **settings) -> Measurement:
    return Measurement(name, value, *args, **settings).taken(step, 1.7e9 + step, "probe", "0.1")


def spectrum(step: int) -> Measurement:
    return at_step(
        step,
        "fourier/amplitude/train",
        torch.tensor([1.0, float("nan"), float("inf")]) + step,
        ("frequency",),
        {"frequency": Axis([5, 10, 15], "cycles", "frequency of the sine")},
        unit="nats",
        standard_error=torch.full((3,), 0.5),
        estimator="DFT",
        num_samples=100,
        description="amplitude of the learned function",
    )


def layers(step: int) -> Measurement:
    return at_step(step, "norm", [1.0, 2.0 + step], ("layer",), {"layer": ["conv1", "fcé"]})


def recorded(log_dir: Path, measurements: list[Measurement], run: Run | None = None, events=()) -> Path:
    run, sink = run or new_run(log_dir), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, measurements)
    for event in events:
        sink.on_event(run, event)
    sink.on_detach(run)
    return log_dir / "run.h5"


def steps(log_dir: Path, name: str) -> list[int]:
    return open_run(log_dir)[name].step.values.tolist()


# ------------------------------------------------------------------------------------------------------- what it writes


def test_hdf5_sink_roundtrip_through_plain_h5py(tmp_path):
    with h5py.File(recorded(tmp_path, [spectrum(0), spectrum(3)])) as file:
        stream = file["fourier/amplitude/train"]
        np.testing.assert_array_equal(stream["value"][:], np.float32([[1, np.nan, np.inf], [4, np.nan, np.inf]]))
        assert stream["value"].dtype == np.float32
        np.testing.assert_array_equal(stream["standard_error"][:], np.full((2, 3), 0.5))
        assert stream["step"][:].tolist() == [0, 3]
        assert stream["wall_time"][:].tolist() == [1.7e9, 1.7e9 + 3]
        assert stream["value"].dims[1][0][:].tolist() == [5, 10, 15]
        assert stream["frequency"].attrs["units"] == "cycles"
        attributes = dict(stream["value"].attrs)
        assert attributes["units"] == "nats" and attributes["estimator"] == "DFT" and attributes["num_samples"] == 100
        assert attributes["probe"] == "probe" and attributes["probe_version"] == "0.1"
        assert attributes["dtype"] == "float32"
        assert attributes["long_name"] == "amplitude of the learned function"


def test_the_head_says_where_the_run_comes_from(tmp_path):
    run = new_run(tmp_path, config={"overhead": 0.05, "path": Path("x")})
    with h5py.File(recorded(tmp_path, [layers(0)], run)) as file:
        head = file.attrs
        assert head["schema_name"] == "torch-probes" and head["schema_version"] == "2" and head["seed"] == 7
        assert head["run_id"] == "a1" and head["rank"] == 0 and head["world_size"] == 1
        assert json.loads(head["config_json"]) == {"overhead": 0.05, "path": "x"}
        assert json.loads(head["modules_json"]) == {"Linear": [""]}
        assert json.loads(head["versions_json"])["torch"] == torch.__version__
        assert head["Conventions"] == "CF-1.11" and {"created", "git_commit", "git_dirty", "title"} <= set(head)


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_hdf5_sink_roundtrip_through_xarray(tmp_path, engine):
    path = recorded(
        tmp_path,
        [
            spectrum(0),
            spectrum(3),
            layers(0),
            at_step(0, "phase", [1 + 2j], ("k",)),
            at_step(0, "mask", [True], ("k",)),
        ],
        events=[Event("fault", "probe", "it broke", 3, 1.7e9)],
    )
    with xarray.open_dataset(path, group="fourier/amplitude/train", engine=engine) as stream:
        assert stream.value.sel(step=3, frequency=5) == 4
        assert stream.value.attrs["units"] == "nats" and stream.frequency.attrs["units"] == "cycles"
        assert stream.wall_time.values[0] == np.datetime64("2023-11-14T22:13:20")
        assert "wall_time" in stream.coords
    with xarray.open_datatree(path, engine=engine) as tree:
        assert tree["norm"].value.sel(layer="fcé", step=0) == 2
        assert tree["phase"].value.sel(part="imag", step=0, k=0) == 2
        assert tree["mask"].value.values.tolist() == [[1]]
        assert tree["events"].step.values.tolist() == [3] and tree["sessions"].step.values.tolist() == [0]


def test_steps_out_of_order_or_repeated_are_kept_as_they_came(tmp_path):
    recorded(tmp_path, [layers(5), layers(2), layers(5)])
    assert steps(tmp_path, "norm") == [5, 2, 5]


def test_a_scalar_that_starts_in_single_precision_is_not_rounded_later(tmp_path):
    recorded(tmp_path, [at_step(0, "loss", torch.tensor(0.5)), at_step(1, "loss", 0.1)])
    assert open_run(tmp_path)["loss"].value.values.tolist() == [0.5, 0.1]


def test_a_message_longer_than_its_field_is_cut_between_characters(tmp_path):
    recorded(tmp_path, [], events=[Event("warning", "é" * 100, "x" + "é" * 1000, 0, 0.0)])
    events = open_run(tmp_path)["events"]
    assert events.plugin.values.tolist() == ["é" * 32] and events.message.values.tolist() == ["x" + "é" * 511]


def test_the_file_appears_with_the_first_flush_that_has_something(tmp_path):
    run, sink = new_run(tmp_path / "new"), HDF5Sink()
    sink.on_attach(run)
    sink.flush(run)
    assert not (tmp_path / "new" / "run.h5").exists()
    sink.write(run, [layers(0)])
    sink.flush(run)
    assert steps(tmp_path / "new", "norm") == [0]
    sink.on_detach(run)


def test_many_rows_are_written_without_being_asked(tmp_path):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    for step in range(MAX_ROWS + 1):
        sink.write(run, [layers(step)])
    assert len(steps(tmp_path, "norm")) == MAX_ROWS
    sink.on_detach(run)


@pytest.mark.parametrize("safe_copy", [writer.SAFE_COPY, 0])
def test_a_stream_may_come_late(tmp_path, monkeypatch, safe_copy):
    monkeypatch.setattr(writer, "SAFE_COPY", safe_copy)
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    for step in range(4):
        sink.write(run, [layers(step), *([spectrum(step)] if step >= 2 else [])])
        sink.flush(run)
    sink.on_detach(run)
    assert steps(tmp_path, "norm") == [0, 1, 2, 3] and steps(tmp_path, "fourier/amplitude/train") == [2, 3]
    assert sorted(os.listdir(tmp_path)) == ["run.h5", "run.lock"]


def test_flushing_every_row_costs_at_most_a_tenth_more_than_the_numbers(tmp_path):
    run, sink = new_run(tmp_path), HDF5Sink()
    sink.on_attach(run)
    rows, raw = 1200, 0
    for step in range(rows):
        sink.write(run, [at_step(step, "loss", 1.0), at_step(step, "v", np.full(256, step, np.float32), ("index",))])
        sink.flush(run)
        raw += (8 + 256 * 4) + 2 * 16  # the values; step and wall time of both
    sink.on_detach(run)
    assert (tmp_path / "run.h5").stat().st_size <= 1.1 * raw


# -------------------------------------------------------------------------------------------------------------- resume


def test_a_resumed_run_is_cut_to_its_checkpoint_and_goes_on(tmp_path):
    events = [Event("warning", "probe", "kept", 2, 0.0), Event("warning", "probe", "cut", 3, 0.0)]
    recorded(tmp_path, [layers(4), *map(layers, range(4)), spectrum(3)], events=events)
    run = new_run(tmp_path, step=2, resumed_from=2)
    recorded(tmp_path, [layers(3), spectrum(3)], run, [Event("attach", "", "again", 2, 0.0)])
    tree = open_run(tmp_path)
    assert tree["norm"].value.values[:, 1].tolist() == [2, 3, 4, 5] and steps(tmp_path, "norm") == [0, 1, 2, 3]
    assert steps(tmp_path, "fourier/amplitude/train") == [3]
    assert tree["events"].message.values.tolist() == ["kept", "again"]
    assert tree["sessions"].step.values.tolist() == [0, 2]


def test_a_resumed_run_that_measures_nothing_is_cut_too(tmp_path):
    recorded(tmp_path, [layers(0), layers(9)])
    recorded(tmp_path, [], new_run(tmp_path, step=5, resumed_from=5))
    assert steps(tmp_path, "norm") == [0]


def test_one_sink_may_be_attached_again_to_its_run(tmp_path):
    run, sink = new_run(tmp_path), HDF5Sink()
    for step in range(3):
        run.step = step
        sink.on_attach(run)
        sink.write(run, [layers(step)])
        sink.on_detach(run)
    assert steps(tmp_path, "norm") == [0, 1, 2]


def test_the_file_of_another_run_is_left_alone(tmp_path):
    path = recorded(tmp_path, [layers(9)])
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"of run 'a1', recorded up to step 9. Pass another log_dir=, or call"):
        HDF5Sink().on_attach(new_run(tmp_path, "b2"))
    with pytest.raises(FileExistsError, match=r"checkpoint is of run 'b2', but .* is of run 'a1'"):
        HDF5Sink().on_attach(new_run(tmp_path, "b2", resumed_from=3))
    assert path.read_bytes() == before


def test_holds_run_says_what_a_directory_holds(tmp_path):
    assert holds_run(tmp_path) is None
    recorded(tmp_path, [layers(9), layers(4)])
    assert holds_run(tmp_path) == "of run 'a1', recorded up to step 9"
    (tmp_path / "run.h5").write_text("something else")
    assert holds_run(tmp_path) == "not a readable run file"
    with h5py.File(tmp_path / "run.h5", "w", libver="v110"):
        pass
    assert holds_run(tmp_path) == "a file that torch-probes did not write"
