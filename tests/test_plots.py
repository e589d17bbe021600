import numpy as np
import pytest
import torch
import xarray
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.image import imread
from matplotlib.text import Text

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.plots import pixels, plot, save_plots


class Everything(Probe):
    """One measurement of every kind of dims."""

    def measure(self, run, step):
        numbers = {"frequency": Axis([1, 2, 4, *range(5, 14)], "cycles")}
        rest = [1.0] * 9
        yield Measurement("k/scalar", float(step), standard_error=0.5, unit="nats", description="information")
        yield Measurement("k/vector", [1.0, 2.0, 3.0 * step, *rest], ("frequency",), numbers)
        yield Measurement("k/complex", [1.0 + 1j, 2.0, step, *rest], ("frequency",), numbers)
        yield Measurement("k/names", [1.0, step], ("layer",), {"layer": ["a.0", "b<c>"]})
        yield Measurement(
            "k/plane", np.array([[step, 2.0], [1.0, step]]), ("layer", "plane"),
            {"layer": ["a", "b"], "plane": ["right", "up"]}, unit="nats",
        )  # fmt: skip
        yield Measurement("k/image", np.full((4, 5), float(step)), ("y", "x"))
        yield Measurement("k/two", np.ones((2, 12)) * step, ("output", "frequency"), numbers)
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
    assert axes.get_ylabel() == "scalar (nats)" and axes.get_xlabel() == "step"


def test_a_vector_over_numbers_is_a_heat_map_with_its_coordinates(run):
    figure = plot(run["k/vector"])
    axes = axes_of(figure)
    assert axes.get_xlabel() == "frequency (cycles)" and axes.get_ylabel() == "step"
    np.testing.assert_array_equal(axes.collections[0].get_array().reshape(4, 12)[:, 2], [0, 3, 6, 9])


def test_complex_values_are_drawn_by_magnitude(run):
    drawn = axes_of(plot(run["k/complex"])).collections[0].get_array().reshape(4, 12)
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


def stream(rows, dims=(), unit="1", words="", **coords):
    """One stream, one row for each step."""
    rows = np.asarray(rows)
    return xarray.Dataset(
        {"value": (("step", *dims), rows, {"units": unit, "long_name": words})},
        {"step": np.arange(len(rows)), **{dim: (dim, labels) for dim, labels in coords.items()}},
    )


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def names(count):
    return np.array([f"layer{index}" for index in range(count)], dtype=object)


def test_a_name_that_is_too_long_for_a_file_is_drawn(tmp_path):
    stream = xarray.Dataset({"value": ("step", [1.0, 2.0])}, {"step": [0, 1]})
    run = xarray.DataTree.from_dict({f"{'a' * 200}/{'b' * 200}": stream, f"{'a' * 200}/{'b' * 199}c": stream})
    files = save_plots(run, tmp_path)
    assert len(set(files)) == 2 and all(len(file.name) == 255 and file.exists() for file in files)


def test_no_picture_is_written_over_another(tmp_path):
    stream = xarray.Dataset({"value": ("step", [1.0, 2.0])}, {"step": [0, 1]})
    files = save_plots(xarray.DataTree.from_dict({"a/b.c": stream, "a.b/c": stream, "a/B.c": stream}), tmp_path)
    assert len({file.name.casefold() for file in files}) == 3 and all(file.exists() for file in files)


def test_every_stream_that_can_be_drawn_is_saved(run, tmp_path):
    files = save_plots(run, tmp_path / "plots")
    found = {file.name for file in files}
    assert {"k.scalar.png", "k.image.png", "k.nan.png"} <= found and "k.three.png" not in found
    assert not [name for name in found if name.startswith("probes.")]
    assert all(imread(file).shape[1] > 300 for file in files)


def test_streams_are_chosen_by_pattern_and_the_probes_own_are_drawn_when_asked_for(run, tmp_path):
    files = save_plots(run, tmp_path / "plots", ["probes/share", "k/[sv]*"])
    assert [file.name for file in files] == ["k.scalar.png", "k.vector.png", "probes.share.png"]
    with pytest.raises(ValueError, match=r"No stream fits 'a/\*'\. The run has: .*k/scalar"):
        save_plots(run, tmp_path / "plots", ["a/*"])


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_written_in_each_format(run, tmp_path, format, start):
    (file,) = save_plots(run, tmp_path, ["k/scalar"], format)
    assert file.suffix == f".{format}" and file.read_bytes().startswith(start)


def test_another_format_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="`format` must be one of png, svg, pdf, got 'gif'"):
        save_plots(run, tmp_path, format="gif")


def test_the_title_is_what_it_is_in_words_and_below_it_the_stream_the_model_and_the_run(run):
    figure = plot(run["k/scalar"])
    assert figure.get_suptitle() == "Information"
    assert f"k/scalar  ·  Linear  ·  run {run.name}" in texts(figure)
    assert plot(run["k/names"]).get_suptitle() == "k/names"  # nothing else is known
    assert plot(run["k/names"], title="Mine").get_suptitle() == "Mine"


def test_layers_are_named_by_the_class_and_the_name_of_their_module(tmp_path):
    class Layers(Probe):
        def measure(self, run, step):
            yield Measurement("k/w", [1.0, 2.0, step], ("layer",), {"layer": ["0", "1.weight", "elsewhere"]})

    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.PReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Layers(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    legend = axes_of(plot(open_run(tmp_path)["k/w"])).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["Linear 0", "PReLU 1.weight", "elsewhere"]


def test_classes_are_not_named_as_modules_are():
    root = xarray.DataTree.from_dict(
        {"k/w": stream([[1.0, 2.0], [2.0, 3.0]], ("class",), **{"class": np.array(["0", "1"], object)})}
    )
    root.attrs["modules_json"] = '{"Linear": ["0"]}'
    legend = axes_of(plot(root["k/w"])).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1"]


def test_coordinates_that_fall_are_written_where_they_are():
    axes = axes_of(plot(stream(np.ones((5, 20)) * np.arange(20.0), ("sigma",), sigma=np.linspace(2, 0.1, 20))))
    ticks = {place: label.get_text() for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    assert ticks[0] == "2" and ticks[10] == "1" and len(ticks) == 10


def test_coordinates_that_are_close_are_told_apart():
    decays = np.array([0.99, 0.9999999, 0.99999999])
    legend = axes_of(plot(stream(np.arange(36.0).reshape(12, 3), ("decay",), decay=decays))).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0.99", "0.9999999", "0.99999999"]


@pytest.mark.parametrize("modules", ["no JSON", "[1]", 3, '{"Linear": 3}', '{"Linear": [[]]}'])
def test_a_file_that_somebody_changed_is_drawn_with_plain_names(run, modules):
    changed = run.copy()
    changed.attrs["modules_json"] = changed.attrs["config_json"] = modules
    legend = axes_of(plot(changed["k/names"])).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a.0", "b<c>"]


def test_one_row_over_names_is_a_point_for_each():
    axes = axes_of(plot(stream([[3.0, 1.0, 2.0]], ("layer",), layer=names(3))))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[3, 0], [1, 1], [2, 2]])
    assert axes.lines[0].get_marker() == "o"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["layer0", "layer1", "layer2"]


def test_one_row_over_numbers_is_a_curve_with_markers():
    axes = axes_of(plot(stream([[3.0, 1.0, 2.0]], ("class",), **{"class": [0, 1, 2]})))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 3], [1, 1], [2, 2]])
    assert axes.lines[0].get_marker() == "o" and axes.get_xlabel() == "class"


def test_a_single_number_is_a_marker_with_its_value():
    figure = plot(stream([0.25]))
    assert axes_of(figure).lines[0].get_marker() == "o" and "0.25" in texts(figure)


def test_of_ten_classes_each_has_a_tick_and_a_panel():
    values = np.arange(40.0).reshape(4, 10)
    axes = axes_of(plot(stream(values, ("class",), **{"class": np.arange(10)})))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(index) for index in range(10)]
    assert axes.get_xlim() == (-0.5, 9.5)
    values = np.random.default_rng(0).random((4, 10, 12))
    shown = [a for a in plot(stream(values, ("output", "frequency"))).axes if a.get_visible() and a.get_title()]
    assert [a.get_title() for a in shown] == [f"output {index}" for index in range(10)]


def test_of_many_entries_some_are_shown_from_the_first_to_the_last_and_their_number_is_said():
    figure = plot(stream(np.random.default_rng(0).random((4, 100, 12)), ("output", "frequency")))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 16 and titles[0] == "output 0" and titles[-1] == "output 99"
    assert "16 of 100 output are shown" in " ".join(texts(figure).split())


def test_a_row_that_stays_the_same_is_one_curve_and_says_so():
    figure = plot(stream(np.tile([4.0, 2.0, 1.0, *np.ones(9)], (5, 1)), ("index",), index=np.arange(12)))
    (line,) = axes_of(figure).lines
    np.testing.assert_array_equal(line.get_ydata()[:3], [4, 2, 1])
    assert "the same at all 5 steps" in texts(figure)


def test_a_share_near_one_is_drawn_as_what_is_missing_on_a_logarithmic_axis():
    axes = axes_of(plot(stream([0.99, 0.999, 0.9999, 1.0], words="share of the power")))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1e-2, 1e-3, 1e-4, np.nan])
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "1 - share of the power"


@pytest.mark.parametrize("values", [[0.5, 0.99], [0.99, 1.01], [1.0, 1.0]])
def test_other_shares_are_drawn_as_they_are(values):
    np.testing.assert_array_equal(axes_of(plot(stream(values))).lines[0].get_ydata(), values)
    assert not axes_of(plot(stream([0.99, 0.999], unit="output"))).get_ylabel().startswith("1 -")


def test_positive_values_over_decades_are_on_a_logarithmic_scale():
    assert axes_of(plot(stream([0.01, 1.0, 10.0]))).get_yscale() == "log"
    assert axes_of(plot(stream([0.0, *np.geomspace(0.01, 10, 20)]))).get_yscale() == "log"  # a norm that begins at 0
    for values in ([1.0, 2.0], [-1.0, 1000.0], [0.0, 0.0, 1000.0]):
        assert axes_of(plot(stream(values))).get_yscale() == "linear"
    mesh = axes_of(plot(stream(np.geomspace(1e-3, 1e3, 60).reshape(5, 12), ("i",)))).collections[0]
    assert isinstance(mesh.norm, LogNorm) and mesh.norm.vmin == pytest.approx(1e-3)


def test_zeros_and_rounding_below_zero_are_the_darkest_colour_beside_decades():
    values = np.geomspace(1e-2, 1e3, 60).reshape(5, 12)
    values[2, 3], values[2, 4], values[2, 5] = 0.0, -1e-9, np.nan
    mesh = axes_of(plot(stream(values, ("i",)))).collections[0]
    drawn = mesh.get_array().reshape(5, 12)
    assert isinstance(mesh.norm, LogNorm) and (drawn[2, 3:5] == mesh.norm.vmin).all() and drawn.mask[2, 5]


def test_one_dark_cell_among_similar_ones_makes_no_logarithm():
    values = np.random.default_rng(0).random((5, 12)) + 0.5
    values[0, 0] = 1e-6
    assert not isinstance(axes_of(plot(stream(values, ("i",)))).collections[0].norm, LogNorm)


def test_signed_values_are_white_at_zero_also_over_decades():
    values = np.random.default_rng(0).standard_normal((5, 12))
    norm = axes_of(plot(stream(values, ("i",)))).collections[0].norm
    assert norm.vmin == -norm.vmax and norm(0.0) == 0.5
    values[0, 0] = 1e4
    norm = axes_of(plot(stream(values, ("i",)))).collections[0].norm
    assert isinstance(norm, SymLogNorm) and norm(0.0) == pytest.approx(0.5) and norm(10.0) > 0.55


def test_more_than_twenty_names_are_a_heat_map_with_every_name():
    values = np.random.default_rng(0).random((5, 41)) + 1
    axes = axes_of(plot(stream(values, ("layer",), layer=names(41))))
    assert axes.get_legend() is None and axes.get_xlabel() == "step"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(names(41))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first layer on top
    np.testing.assert_array_equal(axes.collections[0].get_array().reshape(41, 5), values.T)


def test_a_plane_of_many_names_has_no_legend_that_covers_it():
    values = np.random.default_rng(0).random((3, 30, 2))
    figure = plot(stream(values, ("layer", "plane"), layer=names(30), plane=np.array(["x", "y"], dtype=object)))
    assert axes_of(figure).get_legend() is None and len(axes_of(figure).lines) == 30
    assert "30 of layer" in texts(figure) and "layer29" in texts(figure)


def test_a_legend_lies_inside_the_picture_and_beside_the_curves():
    figure = plot(stream(np.random.default_rng(0).random((5, 20)), ("layer",), layer=names(20)))
    pixels(figure)
    axes = axes_of(figure)
    legend, plotted = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.x0 >= plotted.x1 and legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0 and legend.y1 <= figure.bbox.y1


def test_names_against_names_are_a_matrix_at_a_few_steps():
    values = np.random.default_rng(0).random((9, 3, 3))
    figure = plot(stream(values, ("layer", "other"), layer=names(3), other=names(3)))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["step 0", "step 3", "step 5", "step 8"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), values[3])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(names(3))


def test_few_numbers_are_a_curve_for_each():
    axes = axes_of(plot(stream([[1.0, 2.0], [2.0, 3.0], [4.0, 1.0], [1.0, 1.0]], ("quantile",), quantile=[0.05, 0.5])))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0.05", "0.5"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [2, 3, 1, 1])


def test_steps_that_grow_by_a_factor_are_on_a_logarithmic_axis_that_begins_at_the_first():
    steps = np.array([0, 5, 7, 10, 14, 20, 40, 80, 160, 320])
    data = stream(np.geomspace(1, 1e3, 10)).assign_coords(step=steps)
    axes = axes_of(plot(data))
    assert axes.get_xscale() == "symlog" and -1 < axes.get_xlim()[0] < 0 and axes.get_xlim()[1] == pytest.approx(352)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "10", "100"]


@pytest.mark.parametrize(
    "dims",
    [("i",), ("layer",), ("a", "i"), ("one", "other"), ("y", "x")],
    ids=["map", "names", "maps", "matrix", "film"],
)
def test_what_is_no_number_is_gray_and_the_line_below_the_title_says_so(dims):
    shape = {"i": 30, "a": 2, "layer": 25, "one": 6, "other": 6, "y": 6, "x": 6}
    values = np.random.default_rng(0).standard_normal((6, *(shape[dim] for dim in dims)))
    labels = {dim: names(shape[dim]) for dim in dims if dim in ("layer", "one", "other")}
    whole = plot(stream(values, dims, **labels))
    values[:, ..., 3] = np.nan
    figure = plot(stream(values, dims, **labels))
    grays = [(np.abs(pixels(each).astype(int) - 0x96).max(axis=-1) == 0).mean() for each in (whole, figure)]
    assert "gray" not in texts(whole) and "gray: not a number" in texts(figure)
    assert "infinite" not in texts(figure) and grays[1] > grays[0] + 0.005
    values[0, ..., 0] = np.inf
    assert "gray: not a number or infinite" in texts(plot(stream(values, dims, **labels)))


def test_zeros_beside_decades_are_dark_and_not_gray():
    values = np.geomspace(1e-2, 1e3, 3 * 36).reshape(3, 6, 6)
    values[1, 2, 2] = 0.0
    assert "gray" not in texts(plot(stream(values, ("y", "x"))))


@pytest.mark.parametrize("dims", [(), ("i",), ("layer",), ("layer", "plane"), ("y", "x")])
def test_of_values_that_are_all_nan_the_axes_say_so(dims):
    coords = {dim: np.array(["a", "b"], dtype=object) for dim in dims if dim in ("layer", "plane")}
    figure = plot(stream(np.full((4, *(2 for _ in dims)), np.nan), dims, **coords))
    axes = axes_of(figure)
    assert "no number to draw: all NaN" in texts(figure) and "gray" not in texts(figure)
    assert len(figure.axes) == 1 and not len(axes.get_xticks()) and not len(axes.get_yticks())
