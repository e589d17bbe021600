"""Values that a logarithm has no place for, that are as large as numbers go, or that differ in their last digits."""

import numpy as np
import pytest
from viewer_runs import large, until, write, written

from probes.measurement import Measurement
from probes_viewer import report

CHART = "document.querySelector('.plot').chart"
LARGEST = np.finfo(float).max


@pytest.fixture(scope="session")
def extreme_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extremes")
    numbers = {"frequency": np.arange(1.0, 13.0)}
    deep = 10.0 ** -np.arange(12.0)
    plane = {"layer": ["a"], "plane": ["I(X;T)", "I(T;Y)"]}

    def row(i):
        sign = (-1.0) ** i
        yield Measurement("x/constant", 1e300)
        yield Measurement("x/tiny", 5e-324 * (1 + i))
        yield Measurement("x/both", 1.7e308 * sign)
        yield Measurement("x/ends", LARGEST * sign)
        yield Measurement("x/wide", 10.0 ** (60 * i) * sign)
        yield Measurement("x/negative", -1e300 if i else 1e-10)
        yield Measurement("x/cells", 1.7e308 * np.linspace(-1, 1, 12), ("frequency",), numbers)
        largest = {"rate": [1e300, 1e301, 1e307, 1.7e308]}
        yield Measurement("x/places", np.arange(1.0, 5.0) * (i + 1), ("rate",), largest)
        yield Measurement("x/flat", np.full(12, 1e300), ("frequency",), numbers)
        yield Measurement("x/plane", np.array([[1.7e308 * sign, LARGEST * sign]]), ("layer", "plane"), plane)
        yield Measurement("x/deep", deep, ("frequency",), numbers)
        yield Measurement("x/zeros", 0.0 if i == 3 else 1e3 ** (i - 2))
        yield Measurement("x/large", 1e8 * 10.0**i)
        yield Measurement("x/near", 2.302585 + 1e-6 * i)
        yield Measurement("x/cells_near", 2.302585 + 1e-6 * (i + np.arange(12.0)), ("frequency",), numbers)

    write(folder / "run", [(step, row(step)) for step in range(5)])
    write(folder / "two", [(step, row(step)) for step in range(2)])
    many = [Measurement("x/zeros", 0.0 if step == 20 else 10.0 ** (step % 5)) for step in range(40)]
    write(folder / "many", [(step, [item]) for step, item in enumerate(many)])
    return report([folder / "run", folder / "two", folder / "many"], folder / "extremes.html")


EXTREMES = ["constant", "tiny", "both", "ends", "wide", "negative", "cells", "places", "flat", "plane"]


@pytest.mark.parametrize("stream", EXTREMES)
@pytest.mark.parametrize("values", ["auto", "linear", "log"])
def test_values_as_large_as_numbers_go_are_drawn(look, extreme_file, stream, values):
    page = large(look, extreme_file, f"x/{stream}", run="run", values=values)
    assert "Not drawn" not in page.inner_text("main")
    for view in page.evaluate(
        "Array.from(document.querySelectorAll('[aria-label=picture] option'), (o) => o.value)"
    ) or [""]:
        if view:
            page.select_option("[aria-label=picture]", view)
            until(page, f"document.querySelector('figure').figure.shown?.view === '{view}'")
        ends = page.evaluate(f"[...{CHART}.frame.windows.x, ...{CHART}.frame.windows.y]")
        assert None not in ends and np.isfinite(ends).all() and ends[2] != ends[3], ends
        assert written(page, "y") and not {"not a number", "∞", "−∞"} & set(written(page, "y"))
        with page.expect_download() as download:
            page.click("text=SVG")
        words = download.value.path().read_text(encoding="utf-8")
        assert "NaN" not in words and "Infinity" not in words and "not a number<" not in words, view


def test_the_largest_values_stand_at_their_places(look, extreme_file):
    page = large(look, extreme_file, "x/both", run="run", values="linear")
    top, bottom, middle = (page.evaluate(f"{CHART}.frame.y({v})") for v in (1.7e308, -1.7e308, 0))
    assert middle == pytest.approx((top + bottom) / 2) and bottom - top > 200
    assert page.evaluate(f"{CHART}.frame.yAt({CHART}.frame.y(1.6e308))") == pytest.approx(1.6e308)
    page = large(look, extreme_file, "x/cells", run="run", values="linear")
    places = page.evaluate(f"[-1.7e308, 0, 1.7e308].map({CHART}.spec.image.norm.place)")
    assert places == pytest.approx([0, 0.5, 1])


def test_where_the_colours_of_a_logarithm_stop_is_said(look, extreme_file):
    page = large(look, extreme_file, "x/deep", run="run", values="log")
    low = page.evaluate(f"{CHART}.spec.image.norm.low")
    below = 5 * sum(10.0**-k < low * (1 - 1e-9) for k in range(12))
    caption = page.inner_text("figcaption")
    assert below and f"{below} values below 10⁻⁶ have its colour" in caption
    page = large(look, extreme_file, "x/deep", run="run", values="linear")
    assert "have its colour" not in page.inner_text("figcaption")
    page = large(look, extreme_file, "x/flat", run="run", values="log")
    assert "have its colour" not in page.inner_text("figcaption")


@pytest.mark.parametrize("values", ["auto", "log"])
def test_zeros_that_a_logarithm_has_no_place_for_are_counted(look, extreme_file, values):
    words = "1 value of zero or less is not on a logarithmic axis"
    page = large(look, extreme_file, "x/zeros", run="many", values=values)
    assert page.evaluate(f"{CHART}.spec.y.scale.name") == "log"
    assert words in page.inner_text("figcaption") and words in page.get_attribute(".plot", "aria-label")
    page = large(look, extreme_file, "x/zeros", run="many", values="linear")
    assert words not in page.inner_text("figcaption")


def test_a_zoom_with_nothing_in_it_has_an_axis_of_numbers(look, extreme_file):
    page = large(look, extreme_file, "x/large", run="run", values="log", zoom="500,600")
    assert "Nothing was measured between these steps" in page.inner_text("figure")
    assert written(page, "y") and "not a number" not in written(page, "y")
    assert all(map(np.isfinite, page.evaluate(f"{CHART}.frame.ticks.y.map(([v]) => {CHART}.frame.y(v))")))


@pytest.mark.parametrize("steps", ["auto", "linear", "log"])
@pytest.mark.parametrize("stream", ["x/near", "x/deep"])
@pytest.mark.parametrize("zoom", ["", "0,1", "0,3"])
def test_ticks_of_steps_are_whole(look, extreme_file, steps, stream, zoom):
    page = large(look, extreme_file, stream, run="two", steps=steps, **({"zoom": zoom} if zoom else {}))
    assert len(written(page, "x")) > 1
    assert page.evaluate(f"{CHART}.frame.ticks.x.every(([v]) => Number.isInteger(v))"), written(page, "x")


@pytest.mark.parametrize("stream", ["x/near", "x/cells_near"])
def test_the_cursor_has_as_many_digits_as_the_axis(look, extreme_file, stream):
    page = large(look, extreme_file, stream, run="run")
    page.focus(".plot")
    heard = set()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        heard.add(page.inner_text(".readout").split(": ")[1])
    assert heard == {f"{2.302585 + 1e-6 * i:.6f}".rstrip("0") for i in range(5)}
