import numpy as np
import pytest
import torch
from matplotlib.image import imread

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.plots import plot, save_plots


class Everything(Probe):
    """One measurement of every kind of dims."""

    def measure(self, run, step):
        numbers = {"frequency": Axis([1, 2, 4], "cycles")}
        yield Measurement("k/scalar", float(step), standard_error=0.5, unit="nats", description="information")
        yield Measurement("k/vector", [1.0, 2.0, 3.0 * step], ("frequency",), numbers)
        yield Measurement("k/complex", [1.0 + 1j, 2.0, step], ("frequency",), numbers)
        yield Measurement("k/names", [1.0, step], ("layer",), {"layer": ["a.0", "b<c>"]})
        yield Measurement(
            "k/plane", np.array([[step, 2.0], [1.0, step]]), ("layer", "plane"),
            {"layer": ["a", "b"], "plane": ["right", "up"]}, unit="nats",
        )  # fmt: skip
        yield Measurement("k/image", np.full((4, 5), float(step)), ("y", "x"))
        yield Measurement("k/two", np.ones((2, 3)) * step, ("output", "frequency"), numbers)
        yield Measurement("k/three", np.ones((2, 2, 2)), ("a", "b", "c"))
        yield Measurement("k/nan", [np.nan, np.nan], ("i",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("run")
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Everything(every(1))], log_dir=log_dir, overhead=None).attach(optimizer):
        for _ in range(3):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
    return open_run(log_dir)


def axes_of(figure):
    return figure.axes[0]


def test_a_scalar_is_a_curve_with_a_band_of_two_standard_errors(run):
    axes = axes_of(plot(run["k/scalar"]))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 0], [1, 1], [2, 2], [3, 3]])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == -1.0 and band[:, 1].max() == 4.0
    assert axes.get_ylabel() == "information (nats)" and axes.get_xlabel() == "step"


def test_a_vector_over_numbers_is_a_heat_map_with_its_coordinates(run):
    figure = plot(run["k/vector"])
    axes = axes_of(figure)
    assert axes.get_xlabel() == "frequency (cycles)" and axes.get_ylabel() == "step"
    np.testing.assert_array_equal(axes.collections[0].get_array().reshape(4, 3)[:, 2], [0, 3, 6, 9])


def test_complex_values_are_drawn_by_magnitude(run):
    drawn = axes_of(plot(run["k/complex"])).collections[0].get_array().reshape(4, 3)
    assert drawn[0, 0] == pytest.approx(np.sqrt(2))


def test_a_vector_over_names_is_a_curve_for_each(run):
    axes = axes_of(plot(run["k/names"]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a.0", "b<c>"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [0, 1, 2, 3])


def test_an_image_is_a_film_strip(run):
    titles = [axes.get_title() for axes in plot(run["k/image"]).axes]
    assert titles[:4] == ["step 0", "step 1", "step 2", "step 3"]


def test_a_plane_is_the_way_of_each_name(run):
    axes = axes_of(plot(run["k/plane"]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("right (nats)", "up (nats)")
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 2], [1, 2], [2, 2], [3, 2]])
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), [[1, 0], [1, 1], [1, 2], [1, 3]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_a_matrix_is_a_heat_map_for_each_entry_of_the_first_dimension(run):
    titles = [axes.get_title() for axes in plot(run["k/two"]).axes]
    assert titles[:2] == ["output 0", "output 1"]


def test_what_cannot_be_drawn_is_refused_with_the_reason(run):
    with pytest.raises(ValueError, match="at most two besides the steps can be drawn"):
        plot(run["k/three"])
    with pytest.raises(ValueError, match="must be one group of a run"):
        plot(run["k"])


def test_every_stream_that_can_be_drawn_is_saved(run, tmp_path):
    files = save_plots(run, tmp_path / "plots")
    names = {file.name for file in files}
    assert {"k.scalar.png", "k.image.png", "k.nan.png", "probes.share.png"} <= names and "k.three.png" not in names
    assert all(imread(file).shape[1] > 300 for file in files)
