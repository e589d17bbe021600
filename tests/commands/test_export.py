"""What was exported is what was recorded."""

from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import torch

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.commands.export import export

LONG = f"q/{'ä' * 200}/{'x' * 300}"


class Everything(Probe):
    def measure(self, run, step):
        axes = {"layer": ["a", "b"], "k": Axis([0.1, 1e-7, 3.0], "cycles")}
        value = np.arange(6.0).reshape(2, 3) / 7 + step
        yield Measurement("q/table", value, ("layer", "k"), axes, unit="nats", standard_error=value / 9)
        yield Measurement("q/number", 0.1 + step)
        yield Measurement("q/flag", np.array([True, False]), ("k",))
        yield Measurement("q/complex", [1 + 2j * step, 3j], ("k",), unit="output", standard_error=[1j, 2.0])
        yield Measurement(LONG, 7.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path_factory.mktemp("run")
    with ProbeManager(model, [Everything(every(1))], sinks=["hdf5"], log_dir=path, overhead=None).attach(optimizer):
        for _ in range(2):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
    return open_run(path)


def test_netcdf_is_read_by_others(run, tmp_path):
    (file,) = export(run, tmp_path / "new" / "run.nc")
    with netCDF4.Dataset(file) as data:
        table = data["q/table"]
        np.testing.assert_array_equal(table["value"][:], run["q/table"]["value"].values)
        assert (table["value"].dimensions, table["value"].units) == (("step", "layer", "k"), "nats")
        assert table["k"].units == "cycles" and list(table["layer"][:]) == ["a", "b"]
        np.testing.assert_array_equal(data["q/complex"]["value_imag"][:], [[0, 3], [2, 3], [4, 3]])
        assert data["q/complex"]["value_imag"].units == "output"
        np.testing.assert_array_equal(data["q/complex"]["standard_error_real"][:], [[0, 2]] * 3)
        assert data["q/flag"]["value"][:].tolist() == [[1, 0]] * 3
        assert list(data["events"]["kind"][:]) == ["attach", "detach"]
        assert data.schema_name == "torch-probes"


@pytest.mark.parametrize(("kind", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_tables_hold_every_entry_in_order(run, tmp_path, kind, read):
    files = export(run, tmp_path / "tables", kind)
    assert tmp_path / "tables" / "q" / f"table.{kind}" in files and tmp_path / "tables" / f"events.{kind}" in files
    table = read(tmp_path / "tables" / "q" / f"table.{kind}")
    assert list(table) == ["step", "wall_time", "layer", "k", "value", "standard_error"]
    np.testing.assert_array_equal(table["value"], run["q/table"]["value"].values.ravel())
    assert list(table["step"][:7]) == [0] * 6 + [1] and list(table["layer"][:4]) == ["a"] * 3 + ["b"]
    np.testing.assert_array_equal(table["k"][:3], [0.1, 1e-7, 3.0])
    times = pd.to_datetime(table["wall_time"]).to_numpy()
    np.testing.assert_array_equal(times[::6], run["q/table"]["wall_time"].values)
    parts = read(tmp_path / "tables" / "q" / f"complex.{kind}")
    np.testing.assert_array_equal(parts["value_imag"], [0, 3, 2, 3, 4, 3])
    np.testing.assert_array_equal(parts["standard_error_imag"], [1, 0] * 3)
    assert "value" not in parts and "standard_error" not in parts
    (long,) = (tmp_path / "tables" / "q").glob("ä*/x*")
    assert list(read(long)["value"]) == [7.0] * 3 and len(long.name) == 255
    if kind == "parquet":
        assert table.attrs["units"] == "nats"


def test_the_run_is_left_as_it_is(run, tmp_path):
    export(run, tmp_path / "tables", "csv")
    assert run["q/complex"]["value"].dtype.kind == "c"


def test_of_tables_that_cannot_be_written_none_is_left(run, tmp_path, monkeypatch):
    def full(self, file, **settings):
        Path(file).write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(OSError, match="No space left"):
            export(run, tmp_path / "tables", "csv")
    assert not (tmp_path / "tables").exists()
    assert export(run, tmp_path / "tables", "csv")


def test_what_is_there_is_not_overwritten(run, tmp_path):
    (tmp_path / "run.nc").write_text("mine")
    with pytest.raises(FileExistsError, match="there already"):
        export(run, tmp_path / "run.nc")
    assert (tmp_path / "run.nc").read_text() == "mine"


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(self, path, **options):
        Path(path).write_text("the beginning")
        raise OSError("no space left")

    monkeypatch.setattr(type(run), "to_netcdf", fail)
    with pytest.raises(OSError, match="no space left"):
        export(run, tmp_path / "run.nc")
    assert not (tmp_path / "run.nc").exists()


def test_an_unknown_format_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="must be one of netcdf, csv, parquet, got 'xlsx'"):
        export(run, tmp_path / "x", "xlsx")
    assert not (tmp_path / "x").exists()
