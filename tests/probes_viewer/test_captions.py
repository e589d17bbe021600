"""What a picture says of itself: titles, captions, bars and bands that hold for what is drawn."""

import csv
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from viewer_runs import large, pixels, place, write

from probes.measurement import Measurement
from probes_viewer import report
from probes_viewer.words import about_run, made

CHART = "document.querySelector('.charts .plot').chart"
NAMES = ["a\nb", "tab\tx", "esc\x1b[31m", "esc\x07[31m", "plain"]


@pytest.fixture(scope="module")
def said_file(tmp_path_factory):
    """Two runs that are the same."""
    folder = tmp_path_factory.mktemp("said")
    digits = {"true": ["0", "1"], "predicted": ["0", "1"]}

    def row(step):
        yield Measurement("s/confusion", np.array([[3.0, step], [1.0, 4.0]]), ("true", "predicted"), digits)
        yield Measurement("s/film", np.arange(20.0).reshape(4, 5) * (1 + step), ("y", "x"))
        yield Measurement("s/mixed", (-10.0) ** (step % 4))
        yield Measurement("s/half", 2.0, standard_error=np.nan if step % 2 else 0.5)
        yield Measurement("s/none", 2.0 + step, standard_error=np.nan)
        yield Measurement("s/fan", 10.0 ** -np.arange(20.0), ("eigenvalue",))
        yield Measurement("s/names", np.arange(5.0), ("layer",), {"layer": NAMES})

    for name in "ab":
        write(folder / name, [(step, row(step)) for step in range(12)])
    return report([folder / "a", folder / "b"], folder / "said.html")


def test_a_matrix_of_names_says_what_its_sides_are(look, said_file):
    page = large(look, said_file, "s/confusion", run="a")
    assert page.evaluate(f"[{CHART}.spec.y.label, {CHART}.spec.x.label]") == ["true", "predicted"]


def test_the_strip_says_whose_it_is(look, said_file):
    page = look(f"file://{said_file}#run=a&run=b&stream=s/film")
    assert page.inner_text("figcaption").endswith("the strip shows 4 of 12 steps of a")
    assert large(look, said_file, "s/film", run="a").inner_text("figcaption").endswith("shows 8 of 12 steps")


def test_a_difference_of_nothing_is_white_at_zero(look, said_file):
    page = look(f"file://{said_file}#run=a&run=b&stream=s/film&difference=1")
    bar = "document.querySelector('figure').figure.shown.bar"
    assert page.evaluate(f"[{bar}.low, {bar}.high, {bar}.scale.name]") == [-1, 1, "linear"]
    box = page.locator(".strip .plot").first.bounding_box()
    assert pixels(page)[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)].min() > 240


def test_a_logarithm_on_both_sides_of_zero_is_said(look, said_file):
    words = "logarithmic on both sides of 0, linear up to 1"
    assert words in large(look, said_file, "s/mixed", run="a", values="log").inner_text("figcaption")
    assert words not in large(look, said_file, "s/mixed", run="a", values="linear").inner_text("figcaption")


def test_a_band_is_seen_beside_rows_without_one_and_said_only_where_it_is(look, said_file):
    page = large(look, said_file, "s/half", run="a")
    assert "bands" in page.inner_text("figcaption")
    x, y = place(page, 4, 1.5, within=".charts")  # within two standard errors, off the line
    assert 20 < np.ptp(pixels(page)[int(y), int(x)]) < 120  # the colour of the line, faint
    assert "bands" not in large(look, said_file, "s/none", run="a").inner_text("figcaption")


def test_the_labels_of_a_fan_lie_on_paper(look, said_file):
    page = large(look, said_file, "s/fan", run="a")
    with page.expect_download() as download:
        page.click("text=SVG")
    drawn = list(ET.parse(download.value.path()).iter())
    paper = drawn[1].get("fill")
    at = next(i for i, each in enumerate(drawn) if each.text == "50 %")
    box = [float(v) for v in re.findall(r"[\d.]+", drawn[at - 1].get("d"))]
    x, y = (float(drawn[at].get(key)) for key in "xy")
    assert (
        drawn[at - 1].get("fill") == paper and box[0] < x - 20 and box[0] + box[2] >= x and box[1] < y < box[1] + box[3]
    )


def test_a_table_has_the_names_as_they_are(look, said_file):
    page = large(look, said_file, "s/names", run="a")
    with page.expect_download() as download:
        page.click("text=CSV")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows[:5]] == NAMES
    shown = page.evaluate("document.querySelector('figure').figure.data[0].meta.dims[0].labels")
    assert all(name.isprintable() for name in shown) and len(set(shown)) == 5


def test_one_of_a_thing_is_one_thing():
    assert about_run("", steps=1, rows=1) == ["1 step", "1 row"]
    assert about_run("", steps=0, rows=2000) == ["0 steps", "2,000 rows"]
    assert made("", 1) == "1 sample."
