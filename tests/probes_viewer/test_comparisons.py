"""Numbers of two runs beside one another, and how far down a logarithm goes."""

import numpy as np
import pytest
from viewer_runs import until, write

from probes.measurement import Measurement
from probes_viewer import report

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


def test_what_is_not_a_number_is_counted_in_each_run(look, compared_file):
    for runs in ("run=a&run=b", "run=b&run=a"):
        assert "2 values are not a number" in drawn(look, compared_file, f"{runs}&stream=e/hole").inner_text("body")
