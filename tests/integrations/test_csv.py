"""The CSV files hold what run.h5 holds."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run


class Everything(Probe):
    def measure(self, run, step):
        yield Measurement("a/number", step / 3)
        yield Measurement("a/whole", step, unit="steps")
        axes = {"layer": ["first, one", 'the "second"'], "k": Axis([0.1, 1e-7, 3.0], "cycles")}
        value = np.arange(6.0).reshape(2, 3) / 7 + step
        yield Measurement("a/table", value, ("layer", "k"), axes, standard_error=value / 9)
        yield Measurement("a/complex", [1 + 2j * step, np.nan], ("k",), standard_error=[2j, 1.0])
        yield Measurement("a/" + 300 * "x", float(step))
        yield Measurement("a/not_finite", [np.inf, -np.inf, np.nan], ("k",))


def train(manager, model, optimizer, steps):
    with manager.attach(optimizer):
        for _ in range(steps):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
        return manager.state_dict()


def make(log_dir, sinks=("hdf5", "csv"), **settings):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [Everything(every(1))]
    return (
        ProbeManager(model, probes, sinks=list(sinks), log_dir=log_dir, overhead=None, on_error="raise"),
        model,
        optimizer,
    )


def read(log_dir, name):
    return pd.read_csv(log_dir / "csv" / f"{name}.csv")


def test_every_number_is_that_of_the_run_file(tmp_path):
    train(*make(tmp_path), 3)
    tree = open_run(tmp_path)
    for name in ("a/number", "a/whole", "a/table", "a/not_finite"):
        stream, table = tree[name], read(tmp_path, name)
        expected = stream["value"].stack(row=stream["value"].dims)
        np.testing.assert_array_equal(table["value"], expected.values)
        steps = expected["step"].values if "step" in expected.coords else stream["step"].values
        np.testing.assert_array_equal(table["step"], steps)
        for dim in stream["value"].dims[1:]:
            np.testing.assert_array_equal(table[dim], expected[dim].values)
    np.testing.assert_array_equal(read(tmp_path, "a/table")["standard_error"], read(tmp_path, "a/table")["value"] / 9)
    assert read(tmp_path, "a/complex")["value_imag"][2] == 2.0
    assert read(tmp_path, "a/complex")["standard_error_imag"][2] == 2.0
    (long,) = (tmp_path / "csv" / "a").glob("x*.csv")
    assert read(tmp_path, f"a/{long.stem}")["value"].tolist() == read(tmp_path, "a/number")["step"].tolist()
    assert open_run(tmp_path)["a/number"]["wall_time"].values[1] == pd.Timestamp(
        round(read(tmp_path, "a/number")["wall_time"][1] * 1e6), unit="us"
    )


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    train(*make(tmp_path / "whole"), 6)
    state = train(*make(tmp_path / "cut"), 3)
    crashed, model, optimizer = make(tmp_path / "cut")
    crashed.load_state_dict(state)
    train(crashed, model, optimizer, 2)  # past the checkpoint, and lost
    path = tmp_path / "cut" / "csv" / "a" / "number.csv"
    path.write_text(path.read_text() + "7,16")  # a row cut by a kill
    resumed, model, optimizer = make(tmp_path / "cut")
    resumed.load_state_dict(state)
    train(resumed, model, optimizer, 3)
    for name in ("a/number", "a/table", "a/complex"):
        whole, cut = (read(tmp_path / run, name).drop(columns="wall_time") for run in ("whole", "cut"))
        pd.testing.assert_frame_equal(whole, cut)


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    train(*make(tmp_path, sinks=["csv"]), 2)
    before = (tmp_path / "csv" / "a" / "number.csv").read_text()
    with pytest.raises(FileExistsError, match="holds the files of another run"):
        train(*make(tmp_path, sinks=["csv"]), 2)
    assert (tmp_path / "csv" / "a" / "number.csv").read_text() == before


def test_rows_appear_with_each_flush(tmp_path):
    manager, model, optimizer = make(tmp_path)
    with manager.attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
        manager.state_dict()  # flushes
        with (tmp_path / "csv" / "a" / "whole.csv").open() as file:
            assert [row["value"] for row in csv.DictReader(file)] == ["0.0", "1.0"]
