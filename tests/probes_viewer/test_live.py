"""Cursor, focus, drag and zoom while rows come and choices draw the page anew; and reading by keys."""

import numpy as np
import pytest
from torch import nn
from viewer_runs import at, large, place, until, write

from probes.measurement import Measurement
from probes.run import Run
from probes.sinks.hdf5 import HDF5Sink
from probes_viewer import report

CHART = "document.querySelector('.plot').chart"
FOCUS = "document.activeElement"


def row(step):
    layers = {"layer": ["one", "two", "three", "four", "five"]}
    yield Measurement("l/layers", np.array([1.0, 3.0, 3.0, 7.0, 9.0]) * (1 + step), ("layer",), layers)
    yield Measurement("l/profile", np.arange(40.0) * (1 + step), ("frequency",), {"frequency": np.arange(40.0)})
    yield Measurement("l/film", np.arange(20.0).reshape(4, 5) * (1 + step), ("y", "x"))
    plane = {"layer": ["a", "b"], "plane": ["I(X;T)", "I(T;Y)"]}
    yield Measurement("l/plane", np.array([[step, 2.0], [1.0, step]]), ("layer", "plane"), plane)


@pytest.fixture
def growing(tmp_path):
    """A run that is being written, with eight rows; called with a step, it has one more."""
    log_dir = tmp_path / "runs" / "one"
    log_dir.mkdir(parents=True)
    run = Run(nn.Linear(1, 1), log_dir, seed=0, output=lambda output: output, run_id="one", config={})
    sink = HDF5Sink()
    sink.on_attach(run)

    def add(step, more=()):
        sink.write(run, [item.taken(step, 1.7e9 + step, "'probe'", "1") for item in [*row(step), *more]])
        sink.flush(run)

    for step in range(8):
        add(step)
    yield add
    sink.on_detach(run)


@pytest.fixture
def live(look, server_over, growing, tmp_path):
    """Opens a stream of that run."""
    return lambda query: look(f"{server_over(tmp_path / 'runs')}#run=one&{query}")


def rows_come(page, growing, step, more=()):
    growing(step, more)
    until(page, f"document.querySelector('figure').figure.data?.[0]?.step.at(-1) === {step}")


@pytest.fixture(scope="session")
def kept_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    write(folder / "one", [(step, row(step)) for step in range(8)])
    return report(folder / "one", folder / "one.html")


def test_cursor_and_focus_stay_as_rows_come(live, growing):
    page = live("stream=l/layers")
    page.focus(".plot")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("one, step 3: 4")
    rows_come(page, growing, 8)
    assert page.evaluate(f"{FOCUS}.className") == "plot"
    assert page.inner_text(".readout").startswith("one, step 3: 4")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("one, step 4: 5")
    page.focus(".legend .item >> nth=1")
    rows_come(page, growing, 9, [Measurement("l/new", 1.0)])  # and a stream that was not there
    page.wait_for_selector("nav a:text-is('new')")
    until(page, f"{FOCUS}.textContent === 'two'")


def test_the_cursor_of_all_charts_stays_as_rows_come(live, growing):
    page = live("stream=")
    page.set_viewport_size({"width": 1300, "height": 2500})
    until(page, "new Set(Array.from(document.querySelectorAll('.plot'), (p) => p.closest('figure'))).size === 4")
    page.focus("figure[data-stream='l/layers'] .plot")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    shared = (
        "Array.from(document.querySelectorAll('.plot'), (p) => p.chart).filter((c) => c.spec.share)"
        ".map((c) => [c.at?.[0], c.readout.textContent !== ''])"
    )
    before = page.evaluate(shared)
    assert len(before) > 1 and all(each == [1, True] for each in before)
    growing(8)
    until(
        page,
        "Array.from(document.querySelectorAll('figure'), (f) => f.figure.data?.[0].step.at(-1)).every((s) => s === 8)",
    )
    assert page.evaluate(shared) == before


def test_a_drag_goes_on_as_rows_come(live, growing):
    page = live("stream=l/layers&steps=linear")
    (x0, y), (x1, _), (x2, _) = (place(page, step, 8) for step in (1, 3, 5))
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=3)
    growing(8)
    page.wait_for_timeout(3500)
    assert page.evaluate(f"{CHART}.drag !== null")
    page.mouse.move(x2, y, steps=3)
    page.mouse.up()
    np.testing.assert_allclose(page.evaluate(f"{CHART}.frame.windows.x"), [1, 5], atol=0.05)
    until(page, "document.querySelector('figure').figure.data?.[0]?.step.at(-1) === 8")  # and then they are drawn
    np.testing.assert_allclose(page.evaluate(f"{CHART}.frame.windows.x"), [1, 5], atol=0.05)


def test_the_zoom_of_a_profile_stays_as_rows_come_and_when_a_key_draws_anew(live, growing):
    page = live("stream=l/profile&view=profile")
    page.evaluate(f"{CHART}.setZoom([10, 20])")
    rows_come(page, growing, 8)
    until(page, f"{CHART}.frame.windows.x.join() === '10,20'")
    page.keyboard.press("l")
    until(page, f"location.hash.includes('values=linear') && {CHART}.frame.windows.x[0] === 10")
    page.keyboard.press("v")  # over steps it is not that of frequencies
    until(page, "location.hash.includes('view=lines')")
    until(page, f"{CHART}.frame.windows.x[0] < 1")


@pytest.mark.parametrize("key", ["l", "s"])
def test_a_key_that_draws_anew_keeps_focus_and_cursor(look, kept_file, key):
    page = large(look, kept_file, "l/layers")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(key)
    until(page, f"{FOCUS}.className === 'plot' && {FOCUS}.chart")
    assert page.inner_text(".readout").startswith("one, step 1: 2")


def test_a_slider_keeps_the_focus(look, kept_file):
    page = large(look, kept_file, "l/film")
    page.focus(".slider input")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
        until(page, f"{FOCUS}.closest('.slider') !== null")
    assert page.input_value(".slider input") == "4"


def test_arrow_keys_go_from_line_to_line(look, kept_file):
    page = large(look, kept_file, "l/layers")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    heard = [page.inner_text(".readout")]
    for _ in range(5):
        page.keyboard.press("ArrowUp")
        heard.append(page.inner_text(".readout"))
    names = ["one", "two", "three", "four", "five", "five"]  # also the two that are equal
    assert [words.split(",")[0] for words in heard] == names
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")  # along the same line
    assert page.inner_text(".readout") == "four, step 1: 14"


def test_arrow_keys_go_along_the_ways_through_a_plane(look, kept_file):
    page = large(look, kept_file, "l/plane")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout") == "a, step 1: 1, 2"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout") == "b, step 2: 1, 2"


def test_keys_zoom_at_the_cursor(look, kept_file):
    page = large(look, kept_file, "l/layers", steps="linear")
    page.focus(".plot")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    assert page.evaluate(f"{CHART}.frame.windows.x") == [1.25, 4.75]  # half of 0 to 7, around 3
    assert at(page, 3, 4).min() < 215  # still a chart
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    low, high = page.evaluate(f"{CHART}.frame.windows.x")
    assert high - low == 3.5 and low < 6 < high  # it follows the cursor
    page.keyboard.press("-")
    assert page.evaluate(f"{CHART}.frame.windows.x") == [0, 7] and "zoom" not in page.url
