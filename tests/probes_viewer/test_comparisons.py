"""Numbers of two runs beside one another, and how far down a logarithm goes."""

import json
import re

import numpy as np
import pytest
from viewer_runs import until, write

from probes.measurement import Measurement
from probes_viewer import report
from probes_viewer.contents import encoded, thinned

CHART = "document.querySelector('.plot').chart"


@pytest.fixture(scope="session")
def compared_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    axis = {"eigenvalue": np.arange(1, 6)}

    def rows(values, steps, holes):
        for step in steps:
            yield (
                step,
                [
                    Measurement("e/eig", values, ("eigenvalue",), axis),
                    Measurement("e/decay", 10.0**-step),
                    Measurement("e/band", 10.0 * 2**step, standard_error=4.0 * 2**step),
                    Measurement("e/hole", np.nan if step in holes else 1.0),
                    Measurement("e/frame", np.full((4, 4), float(step)), ("y", "x")),
                ],
            )

    write(folder / "a", rows([10, 5, 3, 2, 1], range(21), ()))
    write(folder / "b", rows([1.2, 7, 4, 2.5, 13], range(0, 21, 5), (5, 10)))
    return report([folder / "a", folder / "b"], folder / "compared.html")


def drawn(look, file, view):
    page = look(f"file://{file}#{view}")
    until(page, f"{CHART} && {CHART}.frame")
    return page


def test_the_difference_of_a_fan_is_that_of_the_ranks(look, compared_file):
    page = drawn(look, compared_file, "run=a&run=b&stream=e/eig&difference=1&view=fan")
    found = page.evaluate(f"{CHART}.frame.spec.lines.map(({{name, y}}) => [name, y[0]])")
    assert dict(found) == pytest.approx({f"largest {k}": v for k, v in enumerate((-3, -2, -1, -0.5, -0.2), 1)})


def test_a_logarithm_goes_down_to_the_least_value_and_has_room_for_the_band_below(look, compared_file):
    page = drawn(look, compared_file, "run=a&stream=e/decay")
    heights = page.evaluate(f"Array.from({{length: 21}}, (_, i) => {CHART}.frame.y(10 ** -i))")
    assert np.diff(heights) == pytest.approx(np.full(20, np.diff(heights).mean()), rel=1e-6)
    assert heights[-1] < page.evaluate(f"{CHART}.frame.bottom") - 5
    page = drawn(look, compared_file, "run=a&stream=e/band")
    assert page.evaluate(f"{CHART}.frame.y(2)") < page.evaluate(f"{CHART}.frame.bottom") - 5


def test_frames_of_two_runs_are_of_one_step(look, compared_file):
    page = drawn(look, compared_file, "run=a&run=b&stream=e/frame&at.step=15")
    large = "[...document.querySelectorAll('.plot')].map((plot) => plot.chart.spec).filter((spec) => spec.large)"
    assert page.evaluate(f"{large}.map((spec) => spec.subtitle)") == ["a, step 15", "b, step 15"]
    assert page.locator(".strip h4").all_inner_texts() == [
        "a, step 0", "a, step 7", "a, step 13", "a, step 20", "b, step 0", "b, step 5", "b, step 15", "b, step 20",
    ]  # fmt: skip
    assert "the strip shows 4 of 21 steps of a" in page.inner_text("figcaption")
    page.locator(".strip .plot").nth(5).click()
    until(page, f"{large}[0].subtitle === 'a, step 5' && {large}[1].subtitle === 'b, step 5'")


def test_what_is_not_a_number_is_counted_in_each_run(look, compared_file):
    for runs in ("run=a&run=b", "run=b&run=a"):
        assert "2 values are not a number" in drawn(look, compared_file, f"{runs}&stream=e/hole").inner_text("body")


# --------------------------------------------------------------------------------- runs of which a page has fewer rows


def noise(step, width):
    return Measurement("k/big", np.random.default_rng(step).normal(size=width), ("frequency",))


@pytest.fixture(scope="session")
def thinned_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinned")
    for name, steps in (("a", range(65)), ("b", range(1, 66)), ("short", range(12))):
        write(folder / name, [(step, [noise(step, 2000)]) for step in steps])
    return report([folder / name for name in ("a", "b", "short")], folder / "thinned.html", 0.5)


def test_thinned_runs_keep_the_steps_that_they_share_and_their_last(look, thinned_file):
    page = drawn(look, thinned_file, "run=a&run=b&stream=k/big&difference=1")
    caption = page.inner_text("figcaption")
    assert re.search(r"thinned for this page: a (\d+) of 65 rows, b (\d+) of 65 rows", caption)
    common = page.evaluate(f"{CHART}.spec.places.length")
    assert int(re.search(r"a (\d+) of", caption)[1]) - 2 <= common < 33
    for run, last in (("a", 64), ("b", 65), ("short", 11)):
        page = drawn(look, thinned_file, f"run={run}&stream=k/big")
        assert page.evaluate(f"{CHART}.spec.places.at(-1)") == last
    assert re.search(r"thinned for this page: [1-6] of 12 rows", page.inner_text("figcaption"))
    page = drawn(look, thinned_file, "run=a&run=short&stream=k/big&view=lines")
    assert re.search(r"page: a \d+ of 65 rows, short [1-6] of 12 rows", page.inner_text("figcaption"))


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([range(10)], [[0, 4, 8, 9]]),
        ([range(0, 40, 2), range(1, 40, 2)], [[0, 8, 16, 24, 32, 38], [1, 9, 17, 25, 33, 39]]),  # none is shared
        ([range(0, 100, 10), range(0, 91)], [[0, 40, 80, 90], None]),
        ([[0, 1, 2, 3, 2, 3, 4]], [[0, 3, 4]]),
        ([[5, 6, 7, 8, 5, 6]], [[5, 7, 8, 6]]),  # the last row is the one that was measured last
        ([[3]], [[3]]),
        ([[0, 1, 2]], [[2]]),
    ],
)
def test_rows_are_thinned_at_the_steps_of_all_runs(steps, kept):
    runs = [encoded(len(each), {"step": np.array(each), "value": np.array(each, float)}) for each in steps]
    for data, rows, all_steps in zip(thinned(runs, 4), kept, steps, strict=True):
        header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
        assert header["rows"] == len(all_steps)
        count = header["arrays"][0][2][0]
        found = np.frombuffer(data, "<f8", count, len(data) - 8 * count).astype(int).tolist()
        assert found == rows if rows else {0, 40, 80, 90} <= set(found) and len(found) < 26


def test_a_run_that_cannot_be_read_is_not_said_to_lack_a_stream(look, server_over, tmp_path):
    write(tmp_path / "a", [(0, [noise(0, 3)])])
    write(tmp_path / "b", [(0, [noise(1, 3)])])
    (tmp_path / "a" / "run.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    address = f"{server_over(tmp_path)}#run=a&run=b&stream=k/big&difference=1"
    page = look(address, wait="figure .alarm:not(:empty)")
    assert "a cannot be read: no difference" in page.inner_text("figure")


def test_a_resumed_run_minus_its_copy_is_zero(look, tmp_path):
    steps = [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]
    for name, end in (("a", None), ("copy", None), ("first", 6)):
        rows = [(step, [Measurement("r/v", float(place))]) for place, step in enumerate(steps)]
        write(tmp_path / name, rows[:end])
    file = report([tmp_path / name for name in ("a", "copy", "first")], tmp_path / "all.html")
    differences = f"{CHART}.frame.spec.lines.map(({{x, y}}) => [Array.from(x), Array.from(y)])"
    page = drawn(look, file, "run=a&run=copy&stream=r/v&difference=1")
    ((_, zero),) = page.evaluate(differences)
    assert zero == [0] * 10
    page = drawn(look, file, "run=a&run=first&stream=r/v&difference=1")
    ((x, y),) = page.evaluate(differences)
    assert x == [0, 1, 2, 3, 4, 5] and y == [0] * 6  # the repeats have none beside them


def test_quantiles_are_of_the_eigenvalues_that_there_are(look, tmp_path):
    values = np.arange(40.0)
    values[[1, 5, 9, 30, 31, 32]] = np.nan
    measured = Measurement("d/eig", values, ("eigenvalue",), {"eigenvalue": np.arange(1, 41)})
    write(tmp_path / "run", [(step, [measured]) for step in range(3)])
    file = report(tmp_path / "run", tmp_path / "run.html")
    page = drawn(look, file, "run=run&stream=d/eig&view=fan")
    found = dict(page.evaluate(f"{CHART}.frame.spec.lines.map(({{name, y}}) => [name, y[0]])"))
    assert found["smallest"] == 0 and found["largest 1"] == 39
    there = np.sort(values[~np.isnan(values)])
    assert found["quantile 0.5"] in (there[16], there[17])


def test_a_report_is_never_written_over_a_run(tmp_path):
    write(tmp_path / "run", [(0, [Measurement("a/b", 1.0)])])
    before = (tmp_path / "run" / "run.h5").read_bytes()
    with pytest.raises(ValueError, match="must be the name of an HTML file"):
        report(tmp_path / "run", tmp_path / "run" / "run.h5")
    assert (tmp_path / "run" / "run.h5").read_bytes() == before
