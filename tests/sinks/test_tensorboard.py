"""Read back with TensorBoard's own loader."""

import json
import re
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from loops import run_steps
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.summary.writer.record_writer import RecordWriter

from probes import Axis, Measurement, Probe, ProbeManager, every
from probes.run import Event, Run
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.tensorboard import TensorBoardSink
from probes.sinks.views import gray, scalars


def read(path):
    loaded = EventAccumulator(str(path), size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    loaded.Reload()
    return loaded


@pytest.fixture
def run(tmp_path):
    return Run(model=torch.nn.Linear(1, 1), log_dir=tmp_path, seed=0, output=lambda out: out)


def write(run, *items, steps=(0, 1)):
    sink = TensorBoardSink()
    for step in steps:
        sink.write(run, [item.taken(step, 100.0 + step, "p", "1") for item in items])
    sink.flush(run)
    sink.on_detach(run)
    return read(run.log_dir)


def test_scalars_roundtrip(run):
    events = write(run, Measurement("a/loss", 2.5)).Scalars("a/loss")
    assert [(event.step, event.value, event.wall_time) for event in events] == [(0, 2.5, 100.0), (1, 2.5, 101.0)]


def test_a_spectrum_is_a_histogram_of_its_values_over_its_coordinates(run):
    places, heights = np.arange(1, 33), np.linspace(0, 1, 32)
    loaded = write(run, Measurement("f/amplitude", heights, ("frequency",), {"frequency": Axis(places, "cycles")}))
    histogram = loaded.Histograms("f/amplitude")[0].histogram_value
    np.testing.assert_allclose(histogram.bucket[1:], heights)
    np.testing.assert_allclose(histogram.bucket_limit[:2], [0.5, 1.5])
    assert not [tag for tag in loaded.Tags()["scalars"] if tag.startswith("f/")]


SPECTRUM = Measurement("f/amplitude", [1.0, 2.0, 3.0], ("frequency",), {"frequency": Axis([1, 2, 3], "cycles")})


def write_and_flush(run, names, steps):
    sink = TensorBoardSink()
    for step in steps:
        items = [Measurement(name, SPECTRUM.value, SPECTRUM.dims, SPECTRUM.coords) for name in names]
        sink.write(run, [item.taken(step, 100.0 + step, "p", "1") for item in items])
        sink.flush(run)
    sink.on_detach(run)
    return read(run.log_dir)


def test_a_spectrum_is_a_picture_over_all_steps_after_32_64_and_at_the_end(run):
    images = write_and_flush(run, ["f/amplitude"], range(70)).Images("f/amplitude/over_training")
    assert [image.step for image in images] == [31, 63, 69] and all(image.width > 400 for image in images)


def test_pictures_keep_within_the_budget_and_what_is_left_out_is_told_once(run):
    asked, told = [], []

    def affords(plugin, seconds):
        asked.append(seconds)
        return len(asked) == 3

    run.bind(affords, lambda plugin, message: told.append(message))
    loaded = write_and_flush(run, ["a", "b"], range(35))
    # The third time it is asked is at step 33; at the end neither is up to date, and the one never drawn comes first.
    assert [image.step for image in loaded.Images("a/over_training")] == [33]
    assert "b/over_training" not in loaded.Tags()["images"]
    assert len(told) == 1 and told[0].startswith("2 of TensorBoard's pictures over training were not drawn")
    assert f"`probes plot {run.log_dir}` draws all" in told[0]
    assert all(0 < seconds <= 1 for seconds in asked)


def test_the_picture_that_is_most_out_of_date_comes_first(run):
    grants = iter([True, *[False] * 9, True])  # at step 31, at each flush until step 39, and at the end
    run.bind(lambda plugin, seconds: next(grants, False), lambda plugin, message: None)
    loaded = write_and_flush(run, ["a", "b"], range(40))
    # At the end both are out of date; one was drawn before.
    steps = {name: [image.step for image in loaded.Images(f"{name}/over_training")] for name in "ab"}
    assert steps == {"a": [31], "b": [39]}


def test_what_probes_say_of_themselves_is_not_shown(run):
    loaded = write(run, Measurement("probes/turn_seconds/norm", 0.1), Measurement("probes/share", 0.1))
    assert not [tag for kind in ("scalars", "tensors") for tag in loaded.Tags()[kind] if tag.startswith("probes/")]


LAYERS = {"layer": ["0", "fc.weight"]}


def layout(path):
    """The charts by category, and the pattern of each, as the dashboard is given them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it brings with it
        from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    provider = MultiplexerDataProvider(multiplexer := EventMultiplexer({"r": str(path)}), str(path))
    multiplexer.Reload()
    plugin = CustomScalarsPlugin(TBContext(logdir=str(path), data_provider=provider))
    shown = plugin.layout_impl(RequestContext(), "")
    return {
        category["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        for category in json.loads(shown).get("category", [])
    }


def test_each_family_has_a_chart_for_each_stream_with_all_its_layers(run):
    item = Measurement("layers/ratio", [1.0, 2.0], ("layer",), LAYERS, unit="nats", description="a ratio")
    write(run, item, Measurement("layers/total", 2.0), Measurement("loss", 3.0), Measurement("layers/ratio/train", 4.0))
    charts = layout(run.log_dir)
    assert {family: list(titles) for family, titles in charts.items()} == {
        "layers": ["ratio: a ratio (nats)", "total", "ratio/train"], "loss": ["loss"],
    }  # fmt: skip
    tags = read(run.log_dir).Tags()["scalars"]
    found = {
        title: {tag for tag in tags if re.match(pattern, tag)}
        for family in charts.values()
        for title, (pattern,) in family.items()
    }
    assert found["total"] == {"layers/total"} and found["loss"] == {"loss"}
    assert found["ratio: a ratio (nats)"] >= {"layers/ratio/0", "layers/ratio/fc.weight"}


def test_the_layout_grows_with_the_streams_and_the_last_one_counts(run):
    sink = TensorBoardSink()
    for step in range(40):
        sink.write(run, [Measurement(f"a/s{step}", 1.0).taken(step, 100.0 + step, "p", "1")])
        sink.flush(run)
    seen = len(layout(run.log_dir)["a"])
    sink.on_detach(run)
    assert 40 / 1.25 <= seen <= 40 and len(layout(run.log_dir)["a"]) == 40
    written = read(run.log_dir).Tensors("custom_scalars__config__")
    assert 5 < len(written) < 20  # not at every flush


def test_a_resumed_run_has_one_layout_in_both_loaders(run):
    write(run, Measurement("a/loss", 1.0), steps=range(3))
    run.resumed_from = 1
    write(run, Measurement("a/loss", 1.0), Measurement("b/error", 1.0), steps=range(2, 5))
    assert layout(run.log_dir) == {"a": {"loss": ["a/loss$"]}, "b": {"error": ["b/error$"]}}
    assert [event.step for event in read(run.log_dir).Scalars("a/loss")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("loader", [EventAccumulator, PluginAccumulator])
def test_each_tag_says_what_it_is_and_in_which_unit(run, loader):
    coords = {"k": Axis([1, 2], "cycles")}
    write(
        run,
        Measurement("a/loss", 2.5, unit="nats", description="mean *loss*", estimator="of the batch"),
        Measurement("f/amplitude", [1.0, 2.0], ("k",), coords, description="amplitude"),
    )
    loaded = loader(str(run.log_dir))
    loaded.Reload()
    metadata = loaded.SummaryMetadata("a/loss")
    assert metadata.summary_description == r"mean \*loss\*. Unit: nats. Estimator: of the batch."
    assert metadata.plugin_data.plugin_name == "scalars"
    assert loaded.SummaryMetadata("f/amplitude").summary_description == "amplitude. No unit."
    assert loaded.SummaryMetadata("f/amplitude").plugin_data.plugin_name == "histograms"


def test_a_plane_is_a_picture_of_all_steps(run):
    coords = {"layer": ["a", "b"], "plane": ["right", "up"]}
    loaded = write(run, Measurement("k/plane", np.eye(2), ("layer", "plane"), coords), steps=range(3))
    (image,) = loaded.Images("k/plane/over_training")
    assert image.step == 2 and image.width > 400


def test_a_short_spectrum_is_scalars_too(run):
    item = Measurement("f/amplitude", [1.0, 2.0], ("frequency",), {"frequency": Axis([5, 10], "cycles")})
    loaded = write(run, item)
    assert [event.value for event in loaded.Scalars("f/amplitude/frequency=10")] == [2.0, 2.0]


def test_layers_are_scalars_by_name(run):
    loaded = write(run, Measurement("w", [1.0, 2.0], ("layer",), {"layer": ["0", "fc.weight"]}))
    assert loaded.Scalars("w/fc.weight")[0].value == 2.0


def test_tags_have_as_many_digits_as_tell_coordinates_apart(run):
    def tags(places):
        return [tag for tag, _ in scalars(Measurement("w", np.zeros(len(places)), ("k",), {"k": places}))]

    assert tags([0.1, 5, 1e-05]) == ["w/k=0.1", "w/k=5", "w/k=1e-05"]
    assert tags([1e6, 1e6 + 1, 1e6 + 2]) == ["w/k=1000000", "w/k=1000001", "w/k=1000002"]
    assert tags([0.1, np.nan]) == ["w/k=0.1", "w/k=nan"]
    assert tags([0.5, 0.5]) == ["w/k=0.5", "w/k=0.5_2"]


def test_entries_of_one_name_stay_apart(run):
    loaded = write(run, Measurement("w", [1.0, 2.0, 3.0], ("layer",), {"layer": ["a", "a", "a_2"]}))
    values = {tag: [event.value for event in loaded.Scalars(tag)] for tag in loaded.Tags()["scalars"]}
    assert values == {"w/a": [1, 1], "w/a_2": [2, 2], "w/a_2_2": [3, 3]}


def test_an_image_spans_black_to_white(run):
    loaded = write(run, Measurement("picture", np.array([[0.0, np.nan], [2.0, 4.0]]), ("y", "x")), steps=(3,))
    image = loaded.Images("picture")[0]
    assert (image.step, image.width, image.height) == (3, 2, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_strange_numbers_do_not_raise(run, value):
    axis = {"frequency": Axis([1, 2], "cycles")}
    write(run, Measurement("v", [value, 1.0], ("frequency",), axis), Measurement("s", value), Measurement("c", 1j))


def test_events_are_text(run):
    sink = TensorBoardSink()
    sink.on_event(run, Event("fault", "'p'", "what __went__ [wrong]", 7, 100.0))
    sink.on_detach(run)
    text = read(run.log_dir).Tensors("events/fault/text_summary")[0]
    assert text.step == 7 and text.tensor_proto.string_val[0] == rb"what \_\_went\_\_ \[wrong\]"


@pytest.mark.parametrize("loader", [EventAccumulator, PluginAccumulator])
def test_a_resumed_run_hides_what_lies_past_its_checkpoint(run, loader):
    import time

    item = Measurement("a/loss", 1.0)
    write(run, item, steps=range(20))
    time.sleep(1.1)  # event files are named by the second
    run.resumed_from = 9
    write(run, item, steps=range(10, 30))
    loaded = loader(str(run.log_dir), size_guidance={"scalars": 0, "tensors": 0})
    loaded.Reload()
    tag = loaded.Scalars("a/loss") if loader is EventAccumulator else loaded.Tensors("a/loss")
    assert [event.step for event in tag] == list(range(30))


def test_files_of_sessions_are_read_in_their_order(run):
    for _ in range(2):
        write(run, Measurement("a/loss", 2.5))
    first, second = sorted(path.name for path in run.log_dir.iterdir())
    assert int(second.split(".")[3]) > int(first.split(".")[3])  # the rest of the name does not tell their order


def test_pictures_of_a_resumed_run_begin_where_training_began(tmp_path):
    class Spectrum(Probe):
        def measure(self, run, step):
            yield Measurement("f/amplitude", [1.0, 2.0, 3.0], ("k",), {"k": Axis([0.1, 0.2, 0.3], "cycles")})

    drawn = []

    class Sink(TensorBoardSink):
        def _draw(self, run, rows):
            before = self._before_resume(run, rows[-1].name)
            drawn.append([*(before["step"].values if before is not None else []), *(row.step for row in rows)])
            super()._draw(run, rows)

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Spectrum(every(1))], sinks=[HDF5Sink(), Sink()], log_dir=tmp_path, overhead=None)
    with manager.attach(optimizer):
        run_steps(model, optimizer, 3)
        state = manager.state_dict()
        run_steps(model, optimizer, 2)
    manager = ProbeManager(model, [Spectrum(every(1))], sinks=[HDF5Sink(), Sink()], log_dir=tmp_path, overhead=None)
    manager.load_state_dict(state)
    with manager.attach(optimizer):
        run_steps(model, optimizer, 3)
    assert drawn == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]
    assert [image.step for image in read(tmp_path).Images("f/amplitude/over_training")][-1] == 6


HUGE = 1.7e308


@pytest.mark.parametrize(
    "places", [[1.0, 2.0, 3.0], [-HUGE, 0.0, HUGE], [-HUGE, HUGE / 2, HUGE], [1.0, np.inf, np.inf], [np.nan, 1.0, 2.0]]
)
def test_huge_values_and_coordinates_are_drawn_without_a_warning(run, places):
    items = [
        Measurement("bars", [HUGE, HUGE, 0.0], ("k",), {"k": places}),
        Measurement("picture", [[-HUGE, 0.0], [HUGE, np.nan]], ("y", "x")),
        Measurement("number", HUGE),
    ]
    sink = TensorBoardSink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for step in (0, 1):
            sink.write(run, [item.taken(step, 100.0 + step, "p", "1") for item in items])
        sink.flush(run)
        sink.on_detach(run)
    with np.errstate(over="ignore", invalid="ignore"):  # of the reader
        loaded = read(run.log_dir)
    assert {"bars/over_training", "picture"} <= set(loaded.Tags()["images"])
    if np.isfinite(places).all():
        histogram = loaded.Histograms("bars")[0].histogram_value
        assert histogram.bucket == [0.0, HUGE, HUGE, 0.0]
        assert np.isfinite([histogram.num, histogram.sum, histogram.sum_squares, *histogram.bucket_limit]).all()


def test_an_event_with_half_a_surrogate_pair_is_written(run):
    sink = TensorBoardSink()
    sink.on_event(run, Event("warning", "p", "a\ud800b", 3, 1.0))
    sink.on_detach(run)
    assert read(run.log_dir).Tags()["tensors"]


def test_an_event_after_the_end_begins_no_file(run):
    sink = TensorBoardSink()
    sink.write(run, [Measurement("a", 1.0).taken(0, 100.0, "p", "1")])
    sink.on_detach(run)
    files = sorted(run.log_dir.iterdir())
    sink.on_event(run, Event("hang", "slow", "Training waited 2 s for on_detach.", 1, 101.0))
    assert sorted(run.log_dir.iterdir()) == files
    sink.on_attach(run)
    sink.on_event(run, Event("fault", "p", "of a new session", 1, 102.0))
    sink.on_detach(run)
    assert len(sorted(run.log_dir.iterdir())) == len(files) + 1


def test_what_fails_in_the_writers_thread_is_raised_by_each_write_and_not_there(monkeypatch, run):
    told, failed, write_record = [], [], RecordWriter.write

    def write_head_only(self, data):  # as on a disk that is full: the file can be begun
        if b"a/loss" in data:
            raise OSError(28, "No space left on device")
        write_record(self, data)

    monkeypatch.setattr(threading, "excepthook", told.append)
    monkeypatch.setattr(RecordWriter, "write", write_head_only)
    sink = TensorBoardSink()
    for step in range(6):
        try:
            sink.write(run, [Measurement("a/loss", 2.5).taken(step, 100.0 + step, "p", "1")])
        except OSError:
            failed.append(step)
        time.sleep(0.1)  # in which the thread writes
    sink.on_detach(run)
    assert not told
    assert failed == [1, 2, 3, 4, 5]  # in a row, which ends the sink


def test_an_image_of_huge_values_goes_from_black_to_white():
    assert gray(np.array([[-HUGE, 0.0], [HUGE, np.nan]])).tolist() == [[0, 128], [255, 0]]
