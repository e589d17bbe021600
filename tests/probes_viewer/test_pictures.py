"""Every picture in a real browser, its pixels against the data."""

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from viewer_runs import FREQUENCIES, STEPS, spectrum, until, write

from probes.measurement import Measurement
from probes_viewer import report

PICTURES = {
    "loop/loss": ["lines"],
    "k/scalar": ["lines"],
    "k/spectrum": ["heat map", "profile", "lines"],
    "k/signed": ["heat map", "profile", "lines"],
    "k/layers": ["lines", "heat map", "profile"],
    "k/eigenvalues": ["fan", "heat map", "profile"],
    "k/plane": ["plane"],
    "k/film": ["frames"],
    "k/cka": ["frames"],
    "k/two": ["heat maps", "frames"],
    "k/three": ["heat maps", "frames"],
    "k/complex": ["heat map", "profile", "lines"],
    "k/odd": ["heat map", "profile", "lines"],
    "k/a,b=(c)[d]": ["lines"],
}


def large(look, file, stream, **state):
    """The page of one stream."""
    query = "&".join(f"{key}={value}" for key, value in {"stream": stream, **state}.items())
    return look(f"file://{file}#{query}")


def pixels(page):
    return np.round(imread(io.BytesIO(page.screenshot()))[..., :3] * 255).astype(int)


def at(page, x, y, chart=0):
    """The colour of the page where a chart shows a place, at the middle of a cell or on a line."""
    left, top = page.evaluate(f"document.querySelectorAll('.plot')[{chart}].chart.pixel({x}, {y})")
    return pixels(page)[round(top), round(left)]


def viridis(share):
    return np.round(np.array(colormaps["viridis"](share)[:3]) * 255)


@pytest.mark.parametrize(("stream", "view"), [(stream, view) for stream, kinds in PICTURES.items() for view in kinds])
def test_every_stream_is_drawn_in_each_of_its_pictures(look, report_file, stream, view):
    page = large(look, report_file, stream, view=view)
    shown = page.evaluate("document.querySelector('figure').figure.shown")
    assert shown["view"] == view
    options = page.evaluate("Array.from(document.querySelectorAll('[aria-label=picture] option'), (o) => o.value)")
    assert options in ([], PICTURES[stream])
    box = page.locator("figure .body").bounding_box()
    region = pixels(page)[int(box["y"]) : int(box["y"] + box["height"]), int(box["x"]) : int(box["x"] + box["width"])]
    assert len(np.unique(region.reshape(-1, 3), axis=0)) > 12  # more than axes and a background


@pytest.mark.parametrize(("row", "k"), [(0, 0), (0, 11), (4, 5), (9, 0), (9, 11)])
def test_cells_over_decades_have_the_colour_of_their_logarithm(look, report_file, row, k):
    page = large(look, report_file, "k/spectrum", steps="linear")
    values = np.array([spectrum(step) for step in STEPS])
    low, high = np.log(values.min()), np.log(values.max())
    expected = viridis((np.log(values[row, k]) - low) / (high - low))
    assert np.abs(at(page, STEPS[row], FREQUENCIES[k]) - expected).max() <= 3


@pytest.mark.parametrize(("row", "k"), [(1, 0), (4, 5), (9, 11)])
def test_linear_colours_when_chosen(look, report_file, row, k):
    page = large(look, report_file, "k/spectrum", steps="linear", values="linear")
    values = np.array([spectrum(step) for step in STEPS])
    expected = viridis((values[row, k] - values.min()) / (values.max() - values.min()))
    assert np.abs(at(page, STEPS[row], FREQUENCIES[k]) - expected).max() <= 3


def test_white_is_zero_where_signs_differ(look, report_file):
    page = large(look, report_file, "k/signed", steps="linear", values="linear")
    assert at(page, 0, 5).min() > 240
    red, blue = at(page, 10, 6), at(page, 10, 3)  # cos(6) = 0.96, cos(3) = -0.99
    assert red[0] > red[2] + 60 and blue[2] > blue[0] + 60


def test_what_is_no_number_and_what_is_infinite_is_told_from_all_others(look, report_file):
    page = large(look, report_file, "k/odd", steps="linear")
    assert at(page, 5, 3).tolist() == [150, 150, 150]
    assert at(page, 5, 4).tolist() == [214, 0, 147]
    assert "10 values are not a number (gray); 10 are infinite (magenta)" in page.inner_text("figcaption")


def test_a_line_passes_through_its_values(look, report_file):
    page = large(look, report_file, "k/scalar", steps="linear", values="linear")
    for step in (2, 5, 8):
        assert np.abs(at(page, step, step) - [0, 114, 178]).max() < 60
    band = at(page, 4.5, 5.3)  # within two standard errors of 0.5
    assert band[0] < 235 and band[2] > band[0] and at(page, 4.5, 5.8).min() > 240


def test_frames_stand_as_images_do(look, report_file):
    page = large(look, report_file, "k/film", **{"at.step": 9}, values="linear")
    large_one = page.evaluate("document.querySelectorAll('.strip .plot').length")
    top, low = 19 * 11, 0.0  # the largest is at y = 3, x = 4
    assert np.abs(at(page, 4, 3, large_one) - viridis((top - low) / (19 * 11))).max() <= 3
    assert np.abs(at(page, 0, 0, large_one) - viridis(0)).max() <= 3
    assert "step 10" in page.inner_text(".charts h4")


def test_first_layer_on_top(look, report_file):
    page = large(look, report_file, "k/layers", view="heat map")
    first, last = (page.evaluate(f"document.querySelector('.plot').chart.pixel(5, {k})") for k in (0, 2))
    assert first[1] < last[1]


def test_all_values_of_a_large_stream_are_drawn(look, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(5000, 512)).astype(np.float32)
    write(tmp_path / "big", [(step, [Measurement("k/big", values[step], ("unit",))]) for step in range(5000)])
    page = large(look, report(tmp_path / "big", tmp_path / "big.html"), "k/big")
    image = "document.querySelector('.plot').chart.spec.image"
    assert page.evaluate(f"{image}.values.length") == values.size
    assert page.evaluate(f"{image}.values[4321 * 512 + 123]") == values[4321, 123]
    assert "Drawn whole: a pixel is the mean of up to" in page.inner_text("figure")
    # a pixel is the mean of its cells, which are near 1/2 where there are many
    assert np.abs(at(page, 2500, 256) - viridis(0.5)).max() < 90
    page.evaluate("document.querySelector('.plot').chart.setZoom([4320.5, 4330.5])")
    assert np.abs(at(page, 4321, 123) - viridis((values[4321, 123] - values.min()) / np.ptp(values))).max() < 90


def test_the_cursor_says_step_coordinate_value_and_error(look, report_file):
    page = large(look, report_file, "k/spectrum", steps="linear")
    page.mouse.move(*page.evaluate("document.querySelector('.plot').chart.pixel(4, 6)"))
    assert page.inner_text(".readout") == "step 4, frequency 6: 0.1581"
    page = large(look, report_file, "k/scalar")
    page.mouse.move(*page.evaluate("document.querySelector('.plot').chart.pixel(4, 4)"))
    assert page.inner_text(".readout") == "step 4: 4 ± 0.5"


def test_arrow_keys_move_the_cursor_from_value_to_value(look, report_file):
    page = large(look, report_file, "k/spectrum")
    page.focus(".plot")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert page.inner_text(".readout") == "step 1, frequency 2: 0.6325"


def test_zoom_is_shared_and_kept_in_the_address(look, report_file):
    page = look(f"file://{report_file}")
    until(page, "document.querySelectorAll('.plot').length > 2")
    (x0, y), (x1, _) = (page.evaluate(f"document.querySelector('.plot').chart.pixel({step}, 1)") for step in (2, 6))
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=5)
    page.mouse.up()
    until(page, "location.hash.includes('zoom')")
    windows = page.evaluate(
        "Array.from(document.querySelectorAll('.plot'), (p) => p.chart).filter((c) => c.spec.share === 'step')"
        ".map((c) => [c.u.scales.x.min, c.u.scales.x.max])"
    )
    assert len(windows) > 1
    np.testing.assert_allclose(windows, np.broadcast_to([2, 6], (len(windows), 2)), atol=0.05)
    again = look(page.url)
    low, high = again.evaluate("Object.values(document.querySelector('.plot').chart.u.scales.x).length") and (
        again.evaluate("document.querySelector('.plot').chart.u.scales.x.min"),
        again.evaluate("document.querySelector('.plot').chart.u.scales.x.max"),
    )
    np.testing.assert_allclose([low, high], [2, 6], atol=0.05)
    page.keyboard.press("Escape")
    assert page.evaluate("document.querySelector('.plot').chart.u.scales.x.max") == 10


def test_search_and_keys(look, report_file):
    page = look(f"file://{report_file}")
    page.keyboard.press("/")
    page.keyboard.type("amplitude of")
    assert page.locator("nav a").all_inner_texts() == ["spectrum"]
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('stream=k%2Fspectrum')")
    page.locator("main").click(position={"x": 5, "y": 5})
    for key, state in (("v", "view=profile"), ("l", "values=linear"), ("s", "steps=linear"), ("j", "stream=k%2Fthree")):
        page.keyboard.press(key)
        assert state in page.evaluate("location.hash"), key
    page.keyboard.press("?")
    assert page.is_visible("dialog")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    page.wait_for_selector("main h1")


def test_a_link_restores_what_was_seen(look, report_file):
    page = large(look, report_file, "k/three", view="frames", values="log", **{"at.a": 1, "at.step": 3})
    again = look(page.url)
    assert again.inner_text(".charts h4") == "step 3"
    assert (
        again.evaluate("document.querySelector('figure').figure.charts.find((c) => c.spec.large).spec.image.values[0]")
        == 12 + 3
    )
    assert again.input_value("[aria-label=values]") == "log"


def test_smoothing_keeps_the_values_themselves(look, report_file):
    page = large(look, report_file, "loop/loss", smooth=0.5)
    lines = page.evaluate(
        "document.querySelector('.plot').chart.spec.lines.map(({ y, faint }) => [Array.from(y), Boolean(faint)])"
    )
    raw, smooth = sorted(lines, key=lambda line: not line[1])
    values = [2.0 / (1 + step) for step in STEPS]
    np.testing.assert_allclose(raw[0], values)
    weights = [np.array([0.5 ** (i - j) for j in range(i + 1)]) for i in range(len(values))]
    np.testing.assert_allclose(smooth[0], [w @ values[: i + 1] / w.sum() for i, w in enumerate(weights)])


@pytest.mark.parametrize("stream", ["k/spectrum", "k/scalar", "k/two"])
def test_exports_hold_what_is_seen(look, report_file, stream, tmp_path):
    page = large(look, report_file, stream)
    files = {}
    for kind in ("CSV", "SVG", "PNG"):
        with page.expect_download() as download:
            page.click(f"text={kind}")
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    rows = list(csv.DictReader(files["CSV"].read_text(encoding="utf-8").splitlines()))
    if stream == "k/spectrum":
        assert len(rows) == 120 and list(rows[0]) == ["run", "step", "unix_time", "frequency", "value"]
        found = [float(row["value"]) for row in rows if row["step"] == "4"]
        np.testing.assert_array_equal(found, spectrum(4).astype(float))
    if stream == "k/scalar":
        assert rows[3]["value"] == "3" and rows[3]["standard_error"] == "0.5"
    if stream == "k/two":
        assert rows[12 * 3 + 12 + 4]["output"] == "1" and float(rows[12 * 3 + 12 + 4]["value"]) == 5
    root = ET.fromstring(files["SVG"].read_text(encoding="utf-8"))
    drawn = {element.tag.split("}")[1] for element in root.iter()}
    assert ("path" if stream == "k/scalar" else "image") in drawn
    assert imread(files["PNG"]).shape[1] == 2 * 860


def test_dark_mode(look, report_file):
    page = look(f"file://{report_file}", color_scheme="dark")
    assert pixels(page)[500, 280].max() < 60
