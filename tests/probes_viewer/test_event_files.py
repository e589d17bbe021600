"""Runs that only TensorBoard's event files hold."""

import json
import os
import shutil

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter
from viewer_runs import until

from probes_viewer import report
from probes_viewer.event_files import EventFileContents


def scalars(log_dir, shift, rows):
    with SummaryWriter(str(log_dir)) as writer:
        for step in range(rows):
            writer.add_scalar("a", shift + step, step)


def events(log_dir, plugin, tensors, tag="t"):
    """A new-style tag with these tensors, and a scalar ``good`` beside it."""
    writer = EventFileWriter(str(log_dir))
    for step, tensor in enumerate(tensors):
        for name, kind, content in ((tag, plugin, tensor), ("good", "scalars", make_tensor_proto(np.float32(step)))):
            about = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=kind))
            value = summary_pb2.Summary.Value(tag=name, metadata=about, tensor=content)
            summary = summary_pb2.Summary(value=[value])
            writer.add_event(event_pb2.Event(step=step, wall_time=1e9 + step, summary=summary))
    writer.close()


def numbers(contents, name):
    data = contents.stream(name)
    length = int.from_bytes(data[:4], "little")
    header, place = json.loads(data[4 : 4 + length]), 4 + length
    for key, kind, shape in header["arrays"]:
        found = np.frombuffer(data, f"<{kind}", int(np.prod(shape)), place).reshape(shape)
        if key == "value":
            return found
        place += -(-found.nbytes // 8) * 8


def test_event_files_begun_anew_have_another_origin_and_more_rows_the_same(tmp_path):
    with SummaryWriter(str(tmp_path / "e")) as writer:
        writer.add_scalar("a", 1.0, 0)
        writer.flush()
        before = EventFileContents(tmp_path / "e").catalogue()
        writer.add_scalar("a", 2.0, 1)
        writer.flush()
        after = EventFileContents(tmp_path / "e").catalogue()
    assert before["origin"] == after["origin"] and before["rows"] == 1 and (after["rows"], after["steps"]) == (2, 1)
    shutil.rmtree(tmp_path / "e")
    scalars(tmp_path / "e", 0.0, 3)
    assert EventFileContents(tmp_path / "e").catalogue()["origin"] != before["origin"]


def test_event_files_begun_anew_are_not_mixed_with_the_old_and_their_rows_are_counted(look, server_over, tmp_path):
    scalars(tmp_path / "e", 0, 10)
    page = look(f"{server_over(tmp_path)}#run=e&stream=a")
    values = "Array.from(document.querySelector('figure')?.figure.data?.[0]?.value ?? []).join()"
    until(page, f"{values} === '{','.join(map(str, range(10)))}'")
    for shift, rows in ((1000, 10), (5000, 15)):
        shutil.rmtree(tmp_path / "e")
        scalars(tmp_path / "e", shift, rows)
        until(page, f"{values} === '{','.join(map(str, range(shift, shift + rows)))}'")
    page.click("text=Overview")
    assert "14 steps · 15 rows" in page.inner_text("main")
    page.click("summary")
    assert "0 steps" not in page.inner_text(".menu")


def test_histograms_with_other_buckets_are_put_onto_common_ones(tmp_path):
    random = np.random.default_rng(0)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(6):
            writer.add_histogram("grows", random.normal(size=1000) * (1 + 3 * step), step)
            writer.add_histogram("moves", random.random(1000) + 10 * step, step, bins=16)
            writer.add_histogram("stays", np.linspace(0, 1, 100), step, bins=[0, 0.25, 1])
            writer.add_histogram("one", np.full(10, 2.0), step)
    contents = EventFileContents(tmp_path)
    streams = {meta["name"]: meta for meta in contents.catalogue()["streams"]}
    for name, total in (("grows", 1000), ("moves", 1000), ("stays", 100), ("one", 10)):
        found = numbers(contents, name)
        assert found.shape == (6, len(streams[name]["dims"][0]["values"])), name
        np.testing.assert_allclose(found.sum(axis=1), total, rtol=1e-6)
        assert ("common" in streams[name]["made"]) == (name in ("grows", "moves"))
    centres, found = np.array(streams["moves"]["dims"][0]["values"]), numbers(contents, "moves")
    np.testing.assert_allclose((found * centres).sum(axis=1) / 1000, 10 * np.arange(6) + 0.5, atol=0.3)


BAD = {
    "text": ("scalars", [make_tensor_proto(b"<script>")] * 3),
    "vector": ("scalars", [make_tensor_proto(np.ones(3))] * 3),
    "empty": ("scalars", [make_tensor_proto(np.ones(0))] * 3),
    "bytes": ("scalars", [tensor_pb2.TensorProto(dtype=1, tensor_content=b"abc")] * 3),
    "flat": ("histograms", [make_tensor_proto(np.ones(3))] * 3),
    "none": ("histograms", [make_tensor_proto(np.ones((0, 3)))] * 3),
    "words": ("histograms", [make_tensor_proto(np.array([[b"a", b"b", b"c"]]))] * 3),
}


@pytest.mark.parametrize("name", BAD)
def test_a_tag_that_is_no_number_is_explained_and_the_others_shown(tmp_path, name):
    events(tmp_path / "run", *BAD[name], tag="b\x1bd")
    found = EventFileContents(tmp_path / "run").catalogue()
    assert [meta["name"] for meta in found["streams"]] == ["good"] and found["rows"] == 3
    assert any("3 rows of 'b" in note and "left out: they" in note for note in found["notes"])
    assert report(tmp_path / "run", tmp_path / "run.html").exists()


def test_a_pipe_is_no_run(tmp_path):
    from probes.commands.runs import runs
    from probes_viewer.event_files import has_event_files
    from probes_viewer.runs import RunList

    for name in ("run.h5", "events.out.tfevents.1"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / name)
    assert RunList(tmp_path).rows() == [] and runs(tmp_path) == []
    assert not has_event_files(tmp_path / "events.out.tfevents.1") and not has_event_files(tmp_path)
