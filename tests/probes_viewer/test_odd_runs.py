"""Runs whose streams are not what their names promise, pages with a size to keep to, and names that are taken."""

import html
import json
import os
import re
import shutil

import h5py
import numpy as np
import pytest
from viewer_runs import write

from probes import open_run
from probes.measurement import Measurement
from probes.summary import findings
from probes_viewer import report
from probes_viewer.contents import HDF5Contents
from probes_viewer.runs import RunList


def data_of(file):
    return json.loads(re.search(r'id="probes-data">(.*?)</script>', file.read_text(encoding="utf-8"), re.DOTALL)[1])


def notes_of(file):
    return data_of(file)["runs"][0]["catalogue"]["notes"]


@pytest.mark.parametrize(
    "own",
    [
        [Measurement("probes/measured", 3.0)],
        [Measurement("probes/seconds", [1.0, 2.0], ("plugin",))],
        [Measurement("probes/seconds", [[1.0, 2.0]], ("a", "plugin"), {"plugin": ["x", "y"], "a": ["x"]})],
        [Measurement("probes/seconds", [1.0 + 2j], ("plugin",), {"plugin": ["x"]})],
        [Measurement("probes/share", [1.0, 2.0], ("k",))],
    ],
)
def test_a_stream_that_is_called_like_the_costs_is_a_stream(tmp_path, own):
    write(tmp_path / "run", [(step, [Measurement("loop/loss", 1.0), *own]) for step in range(3)])
    found = data_of(report(tmp_path / "run", tmp_path / "run.html"))["runs"][0]["catalogue"]
    assert {"loop/loss", own[0].name} <= {meta["name"] for meta in found["streams"]}
    assert "wall time" not in found["costs"]["words"]


@pytest.mark.parametrize("loss", [[1.0, 2.0], 1 + 2j])
def test_a_loss_that_is_no_single_number_is_passed_over(tmp_path, loss):
    dims = ("task",) if isinstance(loss, list) else ()
    write(tmp_path / "run", [(step, [Measurement("loop/loss", loss, dims)]) for step in range(8)])
    assert findings(open_run(tmp_path / "run")) == []
    bad = np.multiply(loss, np.nan)
    rows = [(step, [Measurement("loop/loss", loss if step > 3 else bad, dims)]) for step in range(8)]
    write(tmp_path / "bad", rows)
    assert [(item.alarm, item.steps) for item in findings(open_run(tmp_path / "bad"))] == [(True, (0, 3))]
    assert report([tmp_path / "run", tmp_path / "bad"], tmp_path / "run.html").exists()


def test_a_rule_that_fails_does_not_keep_the_page_away(look, tmp_path, monkeypatch):
    write(tmp_path / "run", [(0, [Measurement("loop/loss", 1.0)])])
    monkeypatch.setattr(HDF5Contents, "findings", lambda self: [][0])
    page = look(f"file://{report(tmp_path / 'run', tmp_path / 'run.html')}")
    assert "Not known: list index out of range" in page.inner_text("main")


def test_coordinates_that_are_infinite_reach_the_page(tmp_path):
    at = {"threshold": [np.inf, 1.0, -np.inf]}
    write(tmp_path / "run", [(0, [Measurement("k/a", [1.0, 2.0, 3.0], ("threshold",), at)])])
    (meta,) = HDF5Contents(tmp_path / "run" / "run.h5").catalogue()["streams"]
    assert meta["dims"][0]["values"] == ["Infinity", 1.0, "-Infinity"]


def test_a_page_is_as_small_as_it_can_be_and_says_where_that_is_too_large(tmp_path):
    random = np.random.default_rng(0)

    def rows():
        for step in range(100):
            wide = [Measurement(f"s/{k}", random.normal(size=300), ("frequency",)) for k in range(3)]
            yield step, [*wide, *([Measurement("s/image", random.normal(size=(100, 300)), ("y", "x"))] * (step == 0))]

    write(tmp_path / "run", rows())
    large = report(tmp_path / "run", tmp_path / "large.html", 20)
    assert len(notes_of(large)) == 3  # begun, steps, rows
    kept = report(tmp_path / "run", tmp_path / "kept.html", 0.7)  # an image that cannot shrink is not the end of it
    assert kept.stat().st_size <= 0.7e6
    assert notes_of(kept)[3:] == ["of s/0, s/1 and s/2 only some rows are here, for a page of at most 0.7 MB"]
    small = report(tmp_path / "run", tmp_path / "small.html", 0.3)
    assert "larger than the 0.3 MB" in notes_of(small)[-1]


def test_names_along_a_stream_count_and_the_command_says_what_is_too_large(tmp_path, capsys):
    from probes_viewer.commands import report_

    layers = {"layer": [f"transformer.encoder.layers.{i}.attention.output.dense.weight" for i in range(2000)]}
    wide = [Measurement(f"n/{k}", np.ones(2000), ("layer",), layers) for k in range(6)]
    write(tmp_path / "run", [(step, wide) for step in range(3)])
    file = tmp_path / "page.html"
    report_([tmp_path / "run"], file, 0.5)
    assert "larger than the 0.5 MB" in capsys.readouterr().err
    assert "larger than the 0.5 MB" in notes_of(file)[-1]


def test_runs_of_one_name_are_told_apart_also_from_one_that_has_a_number(tmp_path):
    write(tmp_path / "x" / "r", [(0, [Measurement("loop/loss", 1.0)])])
    for place in ("y/r", "z/r (1)"):
        shutil.copytree(tmp_path / "x" / "r", tmp_path / place)
    file = report([tmp_path / "x" / "r", tmp_path / "y" / "r", tmp_path / "z" / "r (1)"], tmp_path / "page.html")
    assert [run["name"] for run in data_of(file)["runs"]] == ["x/r", "y/r", "r (1)"]
    again = report([tmp_path / "x" / "r"] * 2, tmp_path / "page.html")
    assert [run["name"] for run in data_of(again)["runs"]] == ["r (1)", "r (2)"]


def test_links_to_runs_are_followed_once(tmp_path):
    write(tmp_path / "elsewhere" / "r", [(0, [Measurement("loop/loss", 1.0)])])
    write(tmp_path / "runs" / "run_2", [(0, [Measurement("loop/loss", 1.0)])])
    for link, to in (("linked", "../elsewhere/r"), ("latest", "run_2"), ("run_2/around", "..")):
        (tmp_path / "runs" / link).symlink_to(to, target_is_directory=True)
    assert {row["name"] for row in RunList(tmp_path / "runs").rows()} == {"linked", "run_2"}


def test_what_vanishes_while_runs_are_listed_is_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write(tmp_path / name, [(0, [Measurement("loop/loss", 1.0)])])
    walk = os.walk

    def walk_of_a_rotation(folder, **settings):
        for each in walk(folder, **settings):
            shutil.rmtree(tmp_path / "a", ignore_errors=True)
            yield each

    monkeypatch.setattr(os, "walk", walk_of_a_rotation)
    assert [row["name"] for row in RunList(tmp_path).rows()] == ["b"]


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [("schema_version", "3", "it is of format 3"), ("schema_name", "keras", "not one that torch-probes wrote")],
)
def test_a_file_of_another_format_is_not_called_damaged(tmp_path, attribute, value, why):
    write(tmp_path / "run", [(0, [Measurement("loop/loss", 1.0)])])
    with h5py.File(tmp_path / "run" / "run.h5", "a") as file:
        file.attrs[attribute] = value
    for read in (open_run, lambda path: report(path, tmp_path / "page.html")):
        with pytest.raises(ValueError, match=rf"run\.h5 cannot be read: .*{why}") as caught:
            read(tmp_path / "run")
        assert "damaged" not in str(caught.value)


def test_a_stream_without_a_row_is_no_finding(tmp_path):
    write(tmp_path / "run", [(0, [Measurement("loop/loss", 1.0)])])
    with h5py.File(tmp_path / "run" / "run.h5", "a") as file:  # as after a resume from before the first row
        for column in file["loop/loss"].values():
            if column.maxshape[0] is None:
                column.resize(0, axis=0)
    assert HDF5Contents(tmp_path / "run" / "run.h5").findings() == []


def test_a_group_is_shown_with_its_first_stream(tmp_path):
    write(tmp_path / "run", [(0, [Measurement("o/b", 1.0), Measurement("o/a", 1.0), Measurement("p", 1.0)])])
    tree = open_run(tmp_path / "run")
    for name, shown in (("o", "o/a"), ("p", "p"), ("/", "")):
        page = html.unescape(tree[name].show()._repr_html_())
        assert json.loads(re.search(r'"stream": ("[^"]*")}', page)[1]) == shown
