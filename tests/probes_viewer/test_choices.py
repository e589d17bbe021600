"""What is chosen on the page: what is said of it, what a link keeps of it, and lines that can be told apart."""

import csv
import re

import numpy as np
import pytest
from viewer_runs import large, until, write

from probes.measurement import Axis, Measurement
from probes_viewer import report

CHART = "document.querySelector('.plot').chart"
LINES = f"{CHART}.spec.lines"


def row(step, shift=0.0, unit="nats", number=1.0):
    at = {"threshold": [5.0, 3.0, 1.0, -3.0, -5.0]}
    ends = {"threshold": Axis([-np.inf, 0.0, np.inf])}
    yield Measurement("k/falling", np.arange(5.0) + step, ("threshold",), at)
    yield Measurement("k/ends", np.arange(3.0) + step, ("threshold",), ends)
    yield Measurement("k/unit", 1.0 + step, unit=unit)
    yield Measurement("k/complex", number * (1.0 + step))
    yield Measurement("k/layers", [1.0 + shift, 2.0 + step, 3.0], ("layer",), {"layer": ["x", "y", "z"]})
    yield Measurement("k/ten", np.arange(10.0) + step, ("layer",), {"layer": [f"l{i}" for i in range(10)]})
    yield Measurement("k/spectrum", np.arange(1.0, 21.0) + step, ("frequency",), {"frequency": np.arange(20.0)})
    yield Measurement("k/eigenvalues", np.exp(-np.arange(40.0) / 6) * (20 - step), ("eigenvalue",))
    plane = {"layer": ["a", "b"], "plane": ["I(X;T)", "I(T;Y)"]}
    yield Measurement("k/plane", np.array([[step, 2.0 + step], [1.0, step]]), ("layer", "plane"), plane)
    yield Measurement("k/film", np.arange(20.0).reshape(4, 5) * (1 + step) + shift, ("y", "x"))
    yield Measurement("k/names", np.arange(24.0).reshape(2, 2, 2, 3) + step, ("constructor", "__proto__", "b", "c"))
    yield Measurement("k/negative", -1.0 - step)
    yield Measurement("k/rows", np.arange(200.0).reshape(20, 10) + step, ("output", "frequency"))


@pytest.fixture(scope="session")
def chosen_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    write(folder / "a", [(step, row(step)) for step in range(8)])
    write(folder / "b", [(step, row(step, 1.0, "bits", 1 + 1j)) for step in (1, 3, 5, 7, 9)])
    for name in "cdef":
        write(folder / name, [(step, row(step)) for step in range(2)])
    return report([folder / name for name in "abcdef"], folder / "chosen.html")


@pytest.mark.parametrize(("stream", "said"), [("falling", "threshold −5: 4"), ("ends", "threshold ∞: 2")])
def test_coordinates_that_fall_or_are_infinite_are_read_and_written(look, chosen_file, stream, said):
    for view in ("lines", "heat map"):
        page = large(look, chosen_file, f"k/{stream}", run="a", view=view)
        assert view == "lines" or "" not in page.evaluate(f"{CHART}.frame.ticks.y.map((tick) => tick[1])")
        page.focus(".plot")
        page.keyboard.press("ArrowRight")
        for _ in range(5):
            page.keyboard.press("ArrowUp")
        words = said if view == "heat map" else said.replace(": ", ", step 0: ")
        assert words.split(",")[0] in page.inner_text(".readout")


@pytest.mark.parametrize(
    ("stream", "ours", "theirs"), [("unit", "in nats", "in bits"), ("complex", "one", "complex one")]
)
@pytest.mark.parametrize("minus", ["", "&difference=1"])
def test_numbers_of_other_units_or_kinds_are_not_put_together(look, chosen_file, stream, ours, theirs, minus):
    page = look(f"file://{chosen_file}#run=a&run=b&stream=k/{stream}{minus}")
    until(page, "document.querySelectorAll('main .plot canvas').length > 2")
    caption = page.inner_text("figcaption")
    assert "neither overlaid nor subtracted" in caption and ours in caption and theirs in caption
    with page.expect_download() as download:
        page.click("text=CSV")
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 13
    if stream == "complex":
        assert {each["imaginary"] for each in rows if each["run"] == "a"} == {""}
        assert [each["imaginary"] for each in rows if each["run"] == "b"] == ["2", "4", "6", "8", "10"]


def shade(color):
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)] if color[0] == "#" else re.findall(r"\d+", color)
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(part) / 255 for part in parts)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_can_be_told_from_the_paper(look, chosen_file, scheme):
    page = look(f"file://{chosen_file}#run=a&stream=k/ten&view=lines", color_scheme=scheme)
    paper = shade(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    seen = []
    for stream, view in [
        ("ten", "lines"),
        ("spectrum", "profile"),
        ("eigenvalues", "fan"),
        ("plane", "plane"),
        ("rows", ""),
    ]:
        page.evaluate(f"location.hash = 'run=a&stream=k/{stream}&view={view}'")
        until(page, f"document.querySelector('figure')?.figure.data?.[0].meta.name === 'k/{stream}'")
        seen += page.evaluate(f"({LINES} ?? {CHART}.spec.ways ?? []).flatMap((line) => line.color ?? line.colors)")
    page.evaluate("import('probes-viewer/colors.js').then(({ lineColors }) => (window.few = lineColors(7)))")
    until(page, "window.few")
    for color in [*seen, *page.evaluate("window.few")]:
        low, high = sorted([shade(color), paper])
        assert (high + 0.05) / (low + 0.05) >= 2.95, color


def test_a_link_keeps_which_lines_are_hidden(look, chosen_file):
    page = large(look, chosen_file, "k/layers", run="a")
    page.click(".legend .item >> nth=1")
    again = look(page.url)
    assert again.evaluate(f"{LINES}.map((line) => Boolean(line.hidden))") == [False, True, False]
    again.click(".legend .item >> nth=1")
    assert "hide" not in again.url


@pytest.mark.parametrize(("stream", "view"), [("spectrum", "profile"), ("film", "frames"), ("plane", "plane")])
def test_a_link_keeps_the_zoom_of_any_picture(look, chosen_file, stream, view):
    page = large(look, chosen_file, f"k/{stream}", run="a", view=view)
    whole = page.evaluate(f"{CHART}.frame.windows.x")
    page.evaluate(f"{CHART}.show(0.5)")
    zoomed = page.evaluate(f"{CHART}.frame.windows.x")
    assert np.diff(zoomed) == pytest.approx(np.diff(whole) / 2)
    assert look(page.url).evaluate(f"{CHART}.frame.windows.x") == pytest.approx(zoomed)
    page.focus("[aria-label='keyboard shortcuts']")
    page.keyboard.press("Escape")
    assert page.evaluate(f"{CHART}.frame.windows.x") == whole and "zoom" not in page.url


def test_dims_may_be_called_as_javascript_calls_its_own(look, chosen_file):
    page = large(look, chosen_file, "k/names", run="a", **{"at.constructor": 1})
    sliders = page.locator(".slider").all_inner_texts()
    assert "constructor 1" in sliders[0] and "__proto__ 0" in sliders[1]
    page.focus("input[aria-label=__proto__]")
    page.keyboard.press("ArrowRight")
    until(page, "location.hash.includes('at.__proto__=1')")
    page = look(page.url)
    assert "__proto__ 1" in page.locator(".slider").all_inner_texts()[1]
    with page.expect_download() as download:
        page.click("text=CSV")
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8").splitlines()))
    assert {(each["constructor"], each["__proto__"]) for each in rows} == {(i, j) for i in "01" for j in "01"}


def test_a_difference_keeps_the_step_of_the_frame(look, chosen_file):
    page = look(f"file://{chosen_file}#run=a&run=b&stream=k/film&at.step=3")
    titles = "[...document.querySelectorAll('.charts h4')].map((each) => each.textContent)"
    until(page, f"{titles}.length === 2")
    assert page.evaluate(titles) == ["a, step 3", "b, step 3"]
    page.keyboard.press("d")
    until(page, f"{titles}.length === 1 && {titles}[0].includes('step 3')")
    page.focus("input[aria-label=step]")
    page.keyboard.press("ArrowRight")
    until(page, f"location.hash.includes('at.step=5') && {titles}[0]?.includes('step 5')")


def test_no_two_lines_of_many_runs_look_the_same(look, chosen_file):
    page = look(f"file://{chosen_file}#{''.join(f'run={name}&' for name in 'abcdef')}stream=k/layers")
    looks = page.evaluate(f"{LINES}.map(({{ color, dash }}) => color + dash)")
    assert len(looks) == 18 == len(set(looks))


@pytest.mark.parametrize(("stream", "said"), [("negative", True), ("layers", False)])
def test_a_logarithm_that_there_is_not_is_said(look, chosen_file, stream, said):
    page = large(look, chosen_file, f"k/{stream}", run="a", values="log")
    assert ("drawn linearly" in page.inner_text("figcaption")) == said
    page = large(look, chosen_file, f"k/{stream}", run="a")
    assert "drawn linearly" not in page.inner_text("figcaption")


def test_a_picture_that_is_too_long_is_a_smaller_png_or_none_and_that_is_said(look, server_over, tmp_path):
    rows = [(step, [each for each in row(step) if each.name == "k/rows"]) for step in range(2)]
    for i in range(11):
        write(tmp_path / f"r{i:02}", rows)
    address = server_over(tmp_path)
    page = look(f"{address}#{''.join(f'run=r{i:02}&' for i in range(11))}stream=k/rows")
    until(page, "document.querySelectorAll('.plot').length > 100")
    with page.expect_download(timeout=60_000) as download:
        page.click("text=PNG")
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"
    refused = page.evaluate("""async () => {
      const beside = document.querySelector("script[type=module]").src;
      const { png } = await import(new URL("export.js", beside));
      return png('<svg height="99999">').catch((error) => error.message);
    }""")
    assert "No PNG can be as large" in refused
