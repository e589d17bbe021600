"""Texts that are longer than a picture, and names that no file of text can hold."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import h5py
import numpy as np
import pytest
from matplotlib.image import imread
from viewer_runs import everything, until, write

from probes.measurement import Measurement
from probes_viewer import report

CHART = "document.querySelector('.plot').chart"
LONG = "transformer.encoder.blocks.{}.attention.self.query_key_value.projection.weight"
WORDS = "a very long description of what was measured here, with all that it was measured from, and how, and why; " * 3
NAMES = [f"{which}_run_with_a_long_name_of_its_own_" * 3 for which in ("first", "second")]
ODD = "od\x01d\x1b[31m \x08name"


@pytest.fixture(scope="session")
def long_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    layers = [LONG.format(k) for k in range(5)]
    plane = {"layer": layers, "plane": ["I(X;T)", "I(T;Y)"]}
    unit = "nats per parameter of the whole model, averaged over all that has been seen so far by the probe"

    def row(step):
        yield Measurement(
            "e/layers", np.arange(1.0, 6.0) + step, ("layer",), {"layer": layers}, description=WORDS, unit=unit
        )
        ways = np.stack([np.arange(5.0) + 0.1 * step, np.arange(5.0) ** 2 + step], axis=1)
        yield Measurement("e/plane", ways, ("layer", "plane"), plane, description=WORDS, unit=unit)

    for name in NAMES:
        write(folder / name, [(step, row(step)) for step in range(5)])
    return report(sorted(folder.iterdir()), folder / "long.html")


def exported(page, kind="SVG"):
    with page.expect_download() as download:
        page.click(f"text={kind}")
    return download.value.path()


BOXES = """(source) => {
  const frame = document.createElement("div");
  frame.innerHTML = source;
  document.body.append(frame);
  const svg = frame.querySelector("svg");
  const page = svg.getBoundingClientRect();
  const found = Array.from(svg.querySelectorAll("text"), (text) => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left - page.left, box.right - page.left, box.top - page.top, box.bottom - page.top];
  });
  frame.remove();
  return [found, page.width, page.height];
}"""


@pytest.mark.parametrize("view", ["lines", "heat map", "profile", "plane"])
def test_no_text_of_an_export_runs_off_it_or_into_another(look, long_file, view):
    stream = "e/plane" if view == "plane" else "e/layers"
    page = look(f"file://{long_file}#run={'&run='.join(NAMES)}&stream={stream}&view={view}")
    found, width, height = page.evaluate(BOXES, exported(page).read_text(encoding="utf-8"))
    assert len(found) > 10
    for text, left, right, top, bottom in found:
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, (text, left, right, top, bottom)
    words = " ".join(each[0] for each in found)
    assert "and how, and why;" in words and stream in words  # a description is wrapped, and nothing of it lost
    for i, (text, left, right, top, bottom) in enumerate(found if view != "plane" else ()):
        for other, a, b, c, d in found[:i]:  # half a line may be shared by the boxes of two lines
            assert min(right, b) - max(left, a) < 1 or min(bottom, d) - max(top, c) < 4, (text, other)


def test_names_in_a_plane_stay_in_the_picture(look, long_file):
    page = look(f"file://{long_file}#run={NAMES[0]}&stream=e/plane")
    assert page.evaluate(f"{CHART}.spec.ways.length") == 5
    found, _, _ = page.evaluate(BOXES, exported(page).read_text(encoding="utf-8"))
    names = [each for each in found if each[0].startswith("…")]  # what they differ in
    assert len({name for name, *_ in names}) == len(names) == 5
    assert all(left > 16 and right < 860 - 16 for _, left, right, *_ in names)


@pytest.mark.parametrize("width", [200, 320, 700])
def test_no_page_scrolls_sideways(look, long_file, report_file, width):
    for file, streams in (
        (report_file, ["", "k/spectrum", "k/layers", "k/film", "k/cka", "k/two", "k/plane", "k/three"]),
        (long_file, ["", "e/layers", "e/plane"]),
    ):
        page = look(f"file://{file}")
        page.set_viewport_size({"width": width, "height": 700})
        for stream in streams:
            page.evaluate(f"location.hash = 'stream={stream}'" if stream else "location.hash = 'steps=auto'")
            shown = "document.querySelector('main h1') ? '' : document.querySelector('figure')?.figure.name"
            until(page, f"({shown}) === '{stream}'")
            page.locator("figure").first.scroll_into_view_if_needed()
            page.wait_for_selector("figure .plot canvas")
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, stream


def test_a_name_with_control_characters_can_be_exported(look, server_over, tmp_path):
    write(tmp_path / ODD, [(step, everything(step)) for step in range(3)])
    write(tmp_path / "other", [(step, everything(step)) for step in range(3)])
    for run in (ODD, "other"):
        with h5py.File(tmp_path / run / "run.h5", "r+") as file:  # and what a file says itself
            file["k/scalar/value"].attrs["units"] = "a\x02b"
    by_file = f"file://{report([tmp_path / ODD, tmp_path / 'other'], tmp_path / 'odd.html')}#"
    by_server = f"{server_over(tmp_path)}#"
    for place in (by_file, by_server):
        page = look(place)
        name = next(
            each
            for each in page.evaluate("Array.from(document.querySelectorAll('.run span'), (e) => e.textContent)")
            if each != "other"
        )
        assert name.isprintable() and name.startswith("od") and name.endswith("name")
        page = look(place.replace("#", f"#run={name.replace('%', '%25')}&run=other&stream=k/scalar"))
        assert page.locator(".legend .item").all_inner_texts() == [name, "other"]
        root = ET.parse(exported(page)).getroot()
        assert any(name in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
        assert imread(exported(page, "PNG")).shape[1] == 2 * 860


@pytest.fixture
def not_utf8(tmp_path):
    """The log directory of a run whose name is Latin-1, as another machine may have written it."""
    try:
        folder = tmp_path / "runs" / os.fsdecode(b"caf\xe9")
        folder.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    write(tmp_path / "cafe", [(step, everything(step)) for step in range(3)])
    return (tmp_path / "cafe").rename(folder)


def test_a_name_that_is_not_utf8_is_reported(look, not_utf8, tmp_path):
    command = [sys.executable, "-c", "from probes.commands.cli import main; main()", "report", not_utf8]
    command += ["--out", not_utf8 / "page.html"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr
    assert "page.html" in done.stdout
    page = look(f"file://{report(not_utf8, tmp_path / 'page.html')}#stream=k/scalar")
    assert "caf\\udce9" in page.title()


def test_a_name_that_is_not_utf8_is_served(look, server_over, not_utf8):
    (not_utf8.parent / os.fsdecode(b"broken\xe9")).mkdir()
    (not_utf8.parent / os.fsdecode(b"broken\xe9") / "run.h5").write_bytes(b"no run")
    base = server_over(not_utf8.parent)
    page = look(f"{base}#run=caf%5Cudce9&stream=k/scalar")
    assert page.evaluate("document.querySelector('figure').figure.data[0].step.length") == 3
    page = look(f"{base}#run=broken%5Cudce9", wait=".alarm:not(:empty)")
    assert "cannot be read" in page.inner_text("main")
