"""Line charts: where their pixels are, what many values become, and what the mouse, keys and other screens do."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.image import imread
from viewer_runs import at, large, pixels, place, until, write, written

from probes.measurement import Measurement
from probes_viewer import report

BLUE, ORANGE = [0, 114, 178], [213, 94, 0]  # of the first two runs
CHART = "document.querySelector('.plot').chart"


@pytest.fixture(scope="session")
def lines_file(tmp_path_factory):
    """Two runs of one stream of each kind, over steps that span decades; ``b`` is ten times ``a``."""
    folder = tmp_path_factory.mktemp("lines")
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]

    def rows(factor):
        for i, step in enumerate(steps):
            hole = i in (4, 5, 7)
            yield (
                step,
                [
                    Measurement("l/power", factor * 10.0 ** (-i / 2), standard_error=factor * 10.0 ** (-i / 2) / 4),
                    Measurement("l/gap", float("nan") if hole else 1.0 + i),
                    Measurement("l/layers", [1.0, 3.0, 5.0], ("layer",), {"layer": ["one", "two", "three"]}),
                ],
            )

    write(folder / "a", rows(1.0))
    write(folder / "b", rows(10.0))
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, size=20_000)
    noise[12_345] = 10.0  # one spike
    write(folder / "long", [(step, [Measurement("l/long", noise[step], standard_error=0.1)]) for step in range(20_000)])
    return report([folder / "a", folder / "b", folder / "long"], folder / "lines.html")


def near(page, x, y, color, chart=0):
    return np.abs(at(page, x, y, chart) - color).max() < 60


def blank(page, x, y, chart=0):
    return at(page, x, y, chart).min() > 215  # paper, or a line of the grid


def test_lines_and_bands_on_logarithmic_axes_pass_through_their_values(look, lines_file):
    page = large(look, lines_file, "l/power", run="a", steps="log", values="log")
    for step, i in ((1, 1), (16, 5), (512, 10)):
        value = 10.0 ** (-i / 2)
        assert near(page, step, value, BLUE)
        for height in (0.6 * value, 1.4 * value):  # within two standard errors, which are half of the value
            band = at(page, step, height)
            assert band[0] < 235 and band[2] > band[0] + 20, (step, height, band)
        assert blank(page, step, 0.4 * value) and blank(page, step, 1.7 * value)
    # half way between two points of a straight line in logarithms
    assert near(page, 2.0**0.5 * 2.0**4.5 / 2.0**0.5, 10.0 ** (-5.5 / 2), BLUE)
    heights = [place(page, 1, v)[1] for v in (1, 0.1, 0.01)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert {"1", "0.1", "0.01"} <= set(written(page, "y"))


def test_a_tick_stands_where_its_value_is(look, lines_file):
    page = large(look, lines_file, "l/power", run="a", steps="linear", values="log")
    shot = pixels(page)
    for text, value in (("0.1", 0.1), ("0.01", 0.01)):
        assert text in written(page, "y")
        left, top = place(page, 550, value)
        rows = shot[int(top) - 3 : int(top) + 4, int(left)].mean(axis=-1)
        assert rows.min() < 232 and abs(int(np.argmin(rows)) - 3) <= 1  # the line of the grid
        assert (rows > 250).sum() == 6  # and it is one pixel wide


def test_runs_are_overlaid_in_their_colours_and_a_hidden_one_is_gone(look, lines_file):
    page = large(look, lines_file, "l/power", run="a&run=b", steps="log", values="log")
    assert near(page, 16, 10.0 ** (-5 / 2), BLUE) and near(page, 16, 10.0 ** (-3 / 2), ORANGE)
    page.click(".legend .item >> nth=1")
    assert near(page, 16, 10.0 ** (-5 / 2), BLUE)
    assert page.evaluate(f"{CHART}.frame.windows.y[1]") < 4  # the axis is that of what is left


def test_a_line_has_a_gap_where_there_is_no_number_and_a_value_alone_is_a_dot(look, lines_file):
    page = large(look, lines_file, "l/gap", run="a", steps="log", values="linear")
    assert near(page, 2, 3, BLUE) and near(page, 256, 10, BLUE)
    assert blank(page, 14, 5.8) and blank(page, 20, 6.3)
    assert near(page, 32, 7, BLUE)  # alone between two gaps
    with page.expect_download() as download:
        page.click("text=SVG")
    root = ET.parse(download.value.path()).getroot()
    path = next(e.get("d") for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("stroke") == "#0072b2")
    assert path.count("M") == 3


def test_many_values_are_drawn_as_least_and_greatest_of_each_column(look, lines_file):
    page = large(look, lines_file, "l/long", run="long")
    assert re.search(
        r"of up to \d+ values in a column of pixels the first, least, greatest and last", page.inner_text("figure")
    )
    shot = pixels(page)
    left, top = place(page, 12345, 10)
    # the spike of one step of 20,000, up to its top
    region = shot[int(top) : int(top) + 30, int(left) - 3 : int(left) + 4]
    assert (np.abs(region - BLUE).max(axis=-1) < 60).any(axis=1).mean() > 0.9
    assert shot[int(top) - 6, int(left) - 3 : int(left) + 4].min() > 215
    page.evaluate(f"{CHART}.setZoom([12340.5, 12350.5])")
    assert "in a column of pixels" not in page.inner_text("figure")
    assert near(page, 12345, 10, BLUE)


def test_an_exported_line_has_all_of_its_values(look, lines_file, tmp_path):
    page = large(look, lines_file, "l/long", run="long")
    files = {}
    for kind in ("SVG", "PNG"):
        with page.expect_download() as download:
            page.click(f"text={kind}")
        files[kind] = tmp_path / f"picture.{kind.lower()}"
        download.value.save_as(files[kind])
    root = ET.parse(files["SVG"]).getroot()
    line = next(e.get("d") for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("stroke") == "#0072b2")
    points = np.array([point.split(",") for point in re.findall(r"[-\d.]+,[-\d.]+", line)], float)
    assert len(points) > 19_000  # of 20,000: some share a hundredth of a pixel
    spike = points[np.argmin(points[:, 1])]
    assert spike[0] == pytest.approx(points[0, 0] + (points[-1, 0] - points[0, 0]) * 12_345 / 19_999, abs=0.05)
    image = np.round(imread(files["PNG"])[..., :3] * 255)
    blue = np.argwhere(np.abs(image - BLUE).max(axis=-1) < 60)
    assert abs(blue[:, 0].min() / 2 - blue[:, 0].max() / 2) > 200


@pytest.mark.parametrize("scale", [1, 1.5, 2])
def test_pixels_of_the_screen_are_used_and_lines_of_the_grid_are_crisp(look, lines_file, scale):
    page = look(f"file://{lines_file}#run=a&stream=l/layers&values=linear", device_scale_factor=scale)
    width, shown = page.evaluate(
        "(() => { const c = document.querySelector('.plot canvas'); return [c.width, c.clientWidth]; })()"
    )
    assert width == pytest.approx(shown * scale, abs=1)
    left, top = place(page, 700, 2)
    column = pixels(page)[round((top - 4) * scale) : round((top + 4) * scale), round(left * scale)].mean(axis=-1)
    assert sorted({int(v) for v in column}) == [225, 255], (
        column
    )  # the colour of the grid and the paper, nothing between


def test_another_number_of_pixels_draws_anew(look, lines_file):
    page = large(look, lines_file, "l/layers", run="a")
    size = "document.querySelector('.plot canvas').width"
    before = page.evaluate(size)
    session = page.context.new_cdp_session(page)
    metrics = {"width": 1300, "height": 880, "deviceScaleFactor": 2, "mobile": False}
    session.send("Emulation.setDeviceMetricsOverride", metrics)
    until(page, f"{size} === {2 * before}")


def test_lines_in_dark_mode(look, lines_file):
    page = look(f"file://{lines_file}#run=a&stream=l/power&values=log&steps=log", color_scheme="dark")
    assert near(page, 16, 10.0 ** (-5 / 2), BLUE)
    assert at(page, 16, 1.0).max() < 70
    box = page.locator(".plot").bounding_box()
    margin = pixels(page)[int(box["y"]) : int(box["y"] + box["height"]), int(box["x"]) : int(box["x"]) + 40]
    assert margin.max() > 200  # texts are light


def test_smoothed_lines_leave_the_values_faint(look, lines_file):
    page = large(look, lines_file, "l/long", run="long", smooth=0.9, zoom="12000,12030")
    faint = page.evaluate(f"Array.from({CHART}.spec.lines.find((line) => line.faint).y)")
    smooth = page.evaluate(f"Array.from({CHART}.spec.lines.find((line) => !line.faint).y)")
    assert near(page, 12010, smooth[12010], BLUE)
    far = max(range(12005, 12025), key=lambda row: abs(faint[row] - smooth[row]))
    color = at(page, far, faint[far])
    assert color[0] < 245 and color[2] > color[0] + 10 and color[0] > 100


def test_the_cursor_is_in_all_charts_at_one_step_and_marks_each_line(look, lines_file):
    page = look(f"file://{lines_file}#run=a")
    until(page, "document.querySelectorAll('.plot').length === 3")
    page.mouse.move(*place(page, 64, 8))
    assert page.evaluate("Array.from(document.querySelectorAll('.plot'), (p) => Math.round(p.chart.at[0]))") == [64] * 3
    words = page.locator(".readout").all_inner_texts()
    assert len(words) == 3 and all(each.startswith(("step 64", "one, step 64")) for each in words)
    assert "two, step 64: 3" in " ".join(words)
    page.mouse.move(5, 5)
    assert page.locator(".readout").all_inner_texts() == [""] * 3
    assert page.evaluate(f"{CHART}.over.width") == 0


def test_a_drag_zooms_and_a_double_click_shows_all(look, lines_file):
    page = large(look, lines_file, "l/layers", run="a", steps="linear", values="linear")
    (x0, y), (x1, _) = (place(page, step, 4) for step in (600, 200))
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=3)
    middle = at(page, 440, 4.4)
    assert 180 < middle.max() < 254  # what is dragged over is gray
    page.mouse.up()
    np.testing.assert_allclose(page.evaluate(f"{CHART}.frame.windows.x"), [200, 600], atol=2)
    assert near(page, 400, 3, [213, 94, 0]) and near(page, 201, 5, [0, 158, 115])
    page.mouse.dblclick(x0, y)
    assert page.evaluate(f"{CHART}.frame.windows.x") == [0, 1000]


def test_texts_along_an_axis_do_not_touch(look, lines_file):
    for steps in ("log", "linear"):
        page = look(f"file://{lines_file}#run=long&stream=l/long&steps={steps}&zoom=0,19999")
        for width in (900, 500, 380):
            page.set_viewport_size({"width": width, "height": 800})
            until(page, f"{CHART}.frame.width === {CHART}.box.clientWidth")
            ends = page.evaluate(
                f"""(() => {{
                    const [{{ frame }}, pen] = [{CHART}, document.createElement("canvas").getContext("2d")];
                    pen.font = "12px system-ui, sans-serif";
                    return frame.ticks.x.map(([v, text]) => [frame.x(v), pen.measureText(text).width / 2]);
                }})()"""
            )
            assert len(ends) > 1
            for (a, half), (b, other) in pairwise(ends):
                assert b - a > half + other + 4


def test_a_chart_has_a_name_and_can_be_reached_by_keys(look, lines_file):
    page = large(look, lines_file, "l/power", run="a")
    plot = page.get_by_role("img", name="L/power. bands: ± 2 standard errors")
    assert plot.count() == 1 and plot.get_attribute("tabindex") in ("0", None)
    plot.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("step 2: 0.1 ± 0.025")


def test_runs_with_other_layers_stand_beside_one_another_and_say_why(look, tmp_path):
    layers = {"a": ["one", "two", "three"], "b": ["one", "four"], "c": ["one", "two", "three"]}
    for name, labels in layers.items():
        rows = [
            (step, [Measurement("l/x", np.arange(1.0, len(labels) + 1) * (1 + step), ("layer",), {"layer": labels})])
            for step in range(5)
        ]
        write(tmp_path / name, rows)
    file = report([tmp_path / name for name in layers], tmp_path / "all.html")
    for more in ({}, {"difference": 1}):
        page = large(look, file, "l/x", run="a&run=b", values="linear", **more)
        assert page.locator(".charts h4").all_inner_texts() == ["a", "b"]
        assert near(page, 2, 9, [0, 158, 115]) and near(page, 2, 6, ORANGE, chart=1)
        assert "can be neither overlaid nor subtracted: a has layer (3), b has layer (2)" in page.inner_text(
            "figcaption"
        )
        names = [legend.locator(".item").all_inner_texts() for legend in page.locator(".legend").all()]
        assert names == [["one", "two", "three"], ["one", "four"]]
        tops = page.evaluate("Array.from(document.querySelectorAll('.plot'), (p) => p.chart.frame.windows.y[1])")
        assert tops[0] > 15 > tops[1]  # each on its own axes
    page.click(".legend >> nth=1 >> .item >> nth=1")
    assert not near(page, 2, 6, ORANGE, chart=1)
    texts = {}
    for kind in ("SVG", "CSV"):
        with page.expect_download() as download:
            page.click(f"text={kind}")
        texts[kind] = download.value.path().read_text(encoding="utf-8")
    assert texts["SVG"].count("<clipPath") == 2
    assert texts["CSV"].count("\n") == 1 + 5 * 3 + 5 * 2 and "b,4,1700000004,four,10" in texts["CSV"]
    page = large(look, file, "l/x", run="a&run=b&run=c", view="heat map")
    assert page.locator(".charts h4").all_inner_texts() == ["a", "c", "b"]
    assert page.locator(".bar").count() == 2
    page = look(f"file://{file}#run=a&run=b")
    until(page, "document.querySelectorAll('.plot').length === 2")
