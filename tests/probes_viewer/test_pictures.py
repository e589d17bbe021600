"""Every picture in a real browser, its pixels against the data."""

import csv
import io
import xml.etree.ElementTree as ET

import h5py
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from viewer_runs import FREQUENCIES, STEPS, at, everything, large, pixels, place, spectrum, until, write, written

from probes.measurement import Axis, Measurement
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
    page = large(look, report_file, "k/film", **{"at.step": 10}, values="linear")
    large_one = page.evaluate("document.querySelectorAll('.strip .plot').length")
    top, low = 19 * 11, 0.0  # the largest is at y = 3, x = 4
    assert np.abs(at(page, 4, 3, large_one) - viridis((top - low) / (19 * 11))).max() <= 3
    assert np.abs(at(page, 0, 0, large_one) - viridis(0)).max() <= 3
    assert "step 10" in page.inner_text(".charts h4")


def test_first_layer_on_top(look, report_file):
    page = large(look, report_file, "k/layers", view="heat map")
    first, last = (place(page, 5, k) for k in (0, 2))
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
    page.mouse.move(*place(page, 4, 6))
    assert page.inner_text(".readout") == "step 4, frequency 6: 0.1581"
    page = large(look, report_file, "k/scalar")
    page.mouse.move(*place(page, 4, 4))
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
    (x0, y), (x1, _) = (place(page, step, 1) for step in (2, 6))
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=5)
    page.mouse.up()
    until(page, "location.hash.includes('zoom')")
    windows = page.evaluate(
        "Array.from(document.querySelectorAll('.plot'), (p) => p.chart).filter((c) => c.spec.share === 'step')"
        ".map((c) => c.frame.windows.x)"
    )
    assert len(windows) > 1
    np.testing.assert_allclose(windows, np.broadcast_to([2, 6], (len(windows), 2)), atol=0.05)
    again = look(page.url)
    window = "document.querySelector('.plot').chart.frame.windows.x"
    np.testing.assert_allclose(again.evaluate(window), [2, 6], atol=0.05)
    page.keyboard.press("Escape")
    assert page.evaluate(window) == [0, 10]


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


def exported_rows(page):
    """What the button CSV hands out, by its columns."""
    with page.expect_download() as download:
        page.click("text=CSV")
    return list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"), newline="")))


def test_complex_numbers_are_exported_as_their_parts(look, tmp_path):
    numbers = {"frequency": Axis(FREQUENCIES, "cycles", "frequency")}

    def row(step):
        value = (step - 2j) * FREQUENCIES
        return [Measurement("k/complex", value, ("frequency",), numbers, standard_error=(0.5 + 0.25j) * FREQUENCIES)]

    for name, steps in (("a", (0, 5, 2)), ("b", (0, 5))):
        write(tmp_path / name, [(step, row(step)) for step in steps])
    file = report([tmp_path / "a", tmp_path / "b"], tmp_path / "all.html")
    rows = exported_rows(large(look, file, "k/complex", run="a"))
    names = ["real", "imaginary", "standard_error_real", "standard_error_imaginary"]
    assert list(rows[0]) == ["run", "step", "unix_time", "frequency", *names]
    assert [row["step"] for row in rows[::12]] == ["0", "2", "5"]  # in the order of their steps
    assert [float(rows[12 + 2][name]) for name in names] == [6, -6, 1.5, 0.75]
    rows = exported_rows(large(look, file, "k/complex", run="a&run=b", difference=1))
    assert list(rows[0]) == ["run", "step", "unix_time", "frequency", "value", "standard_error"]
    assert {row["value"] for row in rows} == {"0"}


def test_texts_that_a_spreadsheet_would_run_are_exported_as_texts(look, tmp_path):
    layers = ["=1+1", "+a", "-b", "@c", "\td", "plain", 'q"=', "＝e", "a,=f"]
    rows = [(0, [Measurement("k/layers", -np.arange(1.0, 10.0), ("layer",), {"layer": layers})])]
    write(tmp_path / "=run", rows)
    rows = exported_rows(large(look, report(tmp_path / "=run", tmp_path / "all.html"), "k/layers"))
    found = [row["layer"] for row in rows]
    assert found[0] == "'=1+1" and found[1:4] == ["'+a", "'-b", "'@c"] and found[5:7] == ["plain", 'q"=']
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "＝")) for text in found)
    assert {row["run"] for row in rows} == {"'=run"}
    assert [row["value"] for row in rows[:2]] == ["-1", "-2"]  # numbers stay numbers


def test_dark_mode(look, report_file):
    page = look(f"file://{report_file}", color_scheme="dark")
    assert pixels(page)[500, 280].max() < 60


# --------------------------------------------------------------------------------- numbers that nobody had in mind


@pytest.fixture(scope="session")
def odd_file(tmp_path_factory):
    """A stream for each kind of numbers that axes, colours and cursors have to bear."""
    numbers = {"frequency": Axis(FREQUENCIES, "cycles", "frequency")}

    def odd(i):
        layers = [f"transformer.blocks.{k}.attention.weight" for k in range(1000)]
        yield Measurement("o/rounding", 1.0 + i % 2 * np.finfo(float).eps)
        yield Measurement("o/near", 2.302585 + 1e-6 * i)
        yield Measurement("o/large", 1.25e18 * (1 + i))
        yield Measurement("o/eigenvalues", np.where(np.arange(20) == 3, np.nan, np.arange(20.0)), ("eigenvalue",))
        yield Measurement("o/layers", np.ones(1000) * i, ("layer",), {"layer": layers})
        yield Measurement("o/wide", np.ones(12) * i, ("frequency",), numbers)
        yield Measurement("o/unit", 1.0, unit="m^2 s^-12")

    folder = tmp_path_factory.mktemp("odd")
    write(folder / "odd", [(step, odd(i)) for i, step in enumerate([0, 1, 2, 4, 8, 16, 32, 64, 128, 1000])])
    write(folder / "again", [(3, everything(3)) for _ in range(4)])
    return report([folder / "odd", folder / "again"], folder / "odd.html")


def test_what_differs_by_rounding_alone_is_drawn(look, odd_file):
    page = large(look, odd_file, "o/rounding", run="odd")
    assert "1" in written(page, "y")
    # an axis from one number to the next: as many ticks as there are numbers
    found = page.evaluate("import('probes-viewer/scales.js').then((s) => s.ticks(s.linear, 1e16, 1e16 + 4))")
    assert 0 < len(found) < 20


def test_ticks_of_values_that_are_close_can_be_told_apart(look, odd_file):
    page = large(look, odd_file, "o/near", run="odd")
    found = written(page, "y")
    assert len(found) > 2 and len(set(found)) == len(found)


def test_axes_of_large_numbers_have_labels(look, odd_file):
    page = large(look, odd_file, "o/large", run="odd", steps="linear")
    assert "4·10¹⁸" in written(page, "y")
    assert np.abs(at(page, 564, 11.875e18) - [0, 114, 178]).max() < 60  # half way between the last two
    page.mouse.move(*place(page, 900, 12.5e18))
    assert page.inner_text(".readout") == "step 1,000: 1.25·10¹⁹"


@pytest.mark.parametrize(("stream", "first"), [("k/layers", 0), ("k/cka", 2)])
def test_names_stand_beside_their_whole_cells(look, report_file, stream, first):
    page = large(look, report_file, stream, view="heat map")
    chart = page.evaluate("document.querySelectorAll('.strip .plot').length")
    names = written(page, "y", chart)
    assert names[:2] == (["a", "b"] if first else ["conv", "head"])
    heights = [place(page, 0, y, chart)[1] for y in (-0.5, 0)]
    box = page.locator(".plot").nth(chart).bounding_box()
    top = box["y"] + page.evaluate(f"document.querySelectorAll('.plot')[{chart}].chart.frame.top")
    assert abs(heights[0] - top) < 2 < heights[1] - heights[0]


def test_of_many_long_names_some_are_written_without_what_all_share(look, odd_file):
    found = written(large(look, odd_file, "o/layers", run="odd"), "y")
    assert 5 < len(found) < 50 and found[0] == "…blocks.0…"


def test_a_unit_has_its_powers_raised(look, odd_file):
    page = large(look, odd_file, "o/unit", run="odd")
    assert page.evaluate("document.querySelector('.plot').chart.spec.y.label") == "unit (m² s⁻¹²)"


def test_eigenvalues_that_are_no_numbers_are_not_the_largest(look, odd_file):
    page = large(look, odd_file, "o/eigenvalues", run="odd")
    assert page.evaluate("document.querySelector('.plot').chart.spec.lines[0].y[0]") == 19


def test_the_cursor_names_the_cell_below_it_on_a_logarithmic_axis(look, odd_file):
    page = large(look, odd_file, "o/wide", run="odd", steps="log")
    (x, y), (left, _) = (place(page, step, 6) for step in (1000, 128))
    page.mouse.move(x - 0.45 * (x - left), y)
    assert page.inner_text(".readout") == "step 1,000, frequency 6: 9"


def test_a_step_that_was_measured_again_and_again_is_seen(look, odd_file):
    page = large(look, odd_file, "k/scalar", run="again")
    assert len(np.unique(pixels(page)[100:500, 320:1250].reshape(-1, 3), axis=0)) > 5
    left, top = (round(v) for v in place(page, 3, 3))
    assert np.ptp(pixels(page)[top - 6 : top + 6, left - 6 : left + 6]) > 50
    page = large(look, odd_file, "k/spectrum", run="again")
    borders = page.evaluate("Array.from(document.querySelector('.plot').chart.spec.image.x)")
    assert borders == [2.5, 3.5] and "the last is shown" in page.inner_text("figcaption")


@pytest.mark.parametrize(
    "state", ["view=no", "at.a=99&at.step=-3&at.b=x", "smooth=7", "zoom=a,b", "zoom=5,2", "steps=no"]
)
def test_a_link_with_nonsense_shows_what_it_would_without(look, report_file, state):
    for stream in ("k/three", "loop/loss"):
        page = look(f"file://{report_file}#stream={stream}&{state}")
        assert page.evaluate("document.querySelector('figure').figure.charts.length") > 0
        low, high = page.evaluate("document.querySelector('.plot').chart.frame.windows.x")
        assert high - low > 9
        assert all(np.isfinite(page.evaluate("Array.from(document.querySelector('figure').figure.data[0].value)")))


def test_a_zoom_in_which_nothing_was_measured_says_so(look, report_file):
    for stream in ("loop/loss", "k/spectrum"):
        page = large(look, report_file, stream, zoom="500,600")
        assert "Nothing was measured between these steps" in page.inner_text("figure")
        page.keyboard.press("Escape")
        assert "Nothing was measured" not in page.inner_text("figure")


def test_a_line_that_is_hidden_stays_so_and_is_not_exported(look, report_file, tmp_path):
    page = large(look, report_file, "k/layers")
    page.click(".legend .item >> nth=1")
    page.keyboard.press("s")
    assert page.get_attribute(".legend .item >> nth=1", "aria-pressed") == "false"
    hidden = page.evaluate("document.querySelector('.plot').chart.spec.lines.map((line) => Boolean(line.hidden))")
    assert hidden == [False, True, False]
    with page.expect_download() as download:
        page.click("text=SVG")
    download.value.save_as(tmp_path / "picture.svg")
    words = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert ">conv<" in words and ">head<" not in words


def test_an_export_of_frames_is_the_large_one(look, report_file, tmp_path):
    page = large(look, report_file, "k/film")
    with page.expect_download() as download:
        page.click("text=SVG")
    download.value.save_as(tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8").count("<image") == 1


def test_the_keyboard_keeps_its_place_when_a_choice_draws_the_page_anew(look, report_file):
    page = large(look, report_file, "k/spectrum")
    page.focus("[aria-label=picture]")
    page.select_option("[aria-label=picture]", "profile")
    until(page, "location.hash.includes('profile')")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "picture"


def test_rows_stand_in_the_order_of_their_times_after_a_resume(look, tmp_path):
    """Steps that were measured again a day later."""
    numbers = {"frequency": Axis(FREQUENCIES, "cycles", "frequency")}
    rows = [(step, [Measurement("k/wide", FREQUENCIES + step, ("frequency",), numbers)]) for step in (0, 5, 2)]
    write(tmp_path / "run", rows)
    with h5py.File(tmp_path / "run" / "run.h5", "r+") as file:
        file["k/wide/wall_time"][:] = [0, 60, 86460]
    page = large(look, report(tmp_path / "run", tmp_path / "run.html"), "k/wide", time=1)
    found = page.evaluate("Array.from(document.querySelector('.plot').chart.spec.places)")
    assert found == [0, 1, 1441]
    values = page.evaluate("Array.from(document.querySelector('.plot').chart.spec.image.values)")
    np.testing.assert_array_equal(values, np.concatenate([FREQUENCIES, FREQUENCIES + 5, FREQUENCIES + 2]))


def test_an_image_is_not_stretched_where_there_is_little_room(look, report_file):
    for width in (1400, 700):
        page = large(look, report_file, "k/film")
        page.set_viewport_size({"width": width, "height": 900})
        large_one = "document.querySelector('.charts .plot').chart"
        until(page, f"{large_one}.frame.width === {large_one}.box.clientWidth")
        found = page.evaluate(f"[{large_one}.frame.width, {large_one}.height, {large_one}.spec.aspect]")
        assert found[0] / found[1] == pytest.approx(found[2], rel=0.02) and found[2] == 5 / 4
