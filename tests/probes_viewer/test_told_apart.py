"""Names, frames, runs and coordinates that can be told apart, and choices that do something."""

import h5py
import numpy as np
import pytest
from viewer_runs import place, until, write, written

from probes.drawing.scales import scale_of
from probes.measurement import Axis, Measurement
from probes_viewer import report
from probes_viewer.words import short, told_apart

CHART = "document.querySelector('.plot').chart"
LARGE = "[...document.querySelectorAll('main .plot')].map((each) => each.chart).find(({ spec }) => spec.large)"
FRAME = f"(({LARGE})?.spec.image.values[0])"
NAMES = {
    "bert": [f"model.encoder.layer.{i}.attention.self.query.weight" for i in range(12)],
    "mixed": [
        f"{side}coder.block.{i}.layer.{j}.SelfAttention.query_projection_matrix.weight"
        for side in ("en", "de")
        for i in range(6)
        for j in range(2)
    ],
}
TYPED = [layer.format(i) for i in range(6) for layer in ("MultiheadAttention blocks.{}.attn", "GELU blocks.{}.act")]
RESUMED = [0, 10, 20, 30, 20, 30, 40]


def rows(step, shift=0.0):
    yield Measurement("loop/loss", 2.0 / (1 + step) + shift)
    for key, names in NAMES.items():
        values = np.arange(float(len(names))) + step
        yield Measurement(f"k/{key}", values, ("layer",), {"layer": names})
        pair = {"layer": names, "other": names}
        yield Measurement(f"k/{key}_cka", np.eye(len(names)), ("layer", "other"), pair)
    yield Measurement("k/typed", np.arange(12.0) + step, ("layer",), {"layer": TYPED})
    for count in (12, 14, 17, 25):
        names = [f"layer{i}" for i in range(count)]
        yield Measurement(f"k/l{count}", np.arange(float(count)) + step, ("layer",), {"layer": names})
    decades = Axis(10.0 ** np.linspace(-3, 3, 31), "1/px")
    yield Measurement("k/decades", np.arange(31.0) + step, ("frequency",), {"frequency": decades})
    way = np.array([[step + shift, np.sin(step) + k] for k in range(2)])
    yield Measurement("k/plane", way, ("layer", "plane"), {"layer": ["a", "b"], "plane": ["I(X;T)", "I(T;Y)"]})
    most = 1 - np.exp(-step)
    ends = np.stack([5 * most + np.arange(40) * 0.001, 3 - 3 * most + np.arange(40) * 0.0005], 1)
    for key, start in (("corner", "encoder.layer"), ("long", "transformer.with_a_long_name" * 3)):
        names = [f"{start}.{i}.{'weight' if key == 'corner' else 'a_part_of_it' * 6}" for i in range(40)]
        yield Measurement(f"k/{key}", ends, ("layer", "plane"), {"layer": names, "plane": ["a", "b"]})
    widths = {"layer": ["a_really_long_name.weight", "b", "conv", "x.y"], "plane": ["a", "b"]}
    near = np.array([[1.0, 1.0], [1.05, 1.0], [1.1, 1.0], [1.9, 1.99]]) + np.array([[most, most]] * 3 + [[0, 0]])
    yield Measurement("k/widths", near, ("layer", "plane"), widths)
    yield Measurement("k/single", [3.0 + step], ("layer",), {"layer": ["only"]})
    yield Measurement("k/same", [1.0, 2.0, 3.0 + step], ("layer",), {"layer": ["", "a", "a"]})
    decays = {
        "decay": [0.99, 0.9999, 0.999999],
        "id": [20261130002, 20261130001, 20261130001],
        "class": ["0", "1", "2"],
    }
    for name, values in decays.items():
        yield Measurement(f"k/{name}", [1.0, 2.0, 3.0], (name,), {name: values})
    cells = np.arange(12.0).reshape(2, 2, 3) + step
    yield Measurement("k/digits", cells, ("digit", "y", "x"), {"digit": ["one", "two"]})
    yield Measurement("k/few", [1.0 + shift, 2.0 + step], ("layer",), {"layer": ["a", "b"]})


@pytest.fixture(scope="session")
def apart_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    write(folder / "a", [(step, rows(step)) for step in range(5)])
    write(folder / "b", [(step, rows(step, 0.5)) for step in range(5)])
    films = [(step, [Measurement("k/film", 1.0 + i + np.zeros((4, 5)), ("y", "x"))]) for i, step in enumerate(RESUMED)]
    write(folder / "resumed", films)
    with h5py.File(folder / "resumed" / "run.h5", "r+") as file:
        file["k/film/wall_time"][:] = 60.0 * np.arange(7)
    return report([folder / name for name in ("a", "b", "resumed")], folder / "apart.html")


def drawn(look, file, state):
    page = look(f"file://{file}#{state}")
    until(page, f"{CHART} && {CHART}.frame")
    return page


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("names", NAMES)
def test_names_along_an_axis_are_told_apart(look, apart_file, names, width):
    for view, side, chart in (("heat map", "y", 0), ("profile", "x", 0), ("cka", "y", -1), ("cka", "x", -1)):
        stream = f"k/{names}{'_cka' if view == 'cka' else f'&view={view}'}"
        page = drawn(look, apart_file, f"run=a&stream={stream}")
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        place = page.evaluate("document.querySelectorAll('main .plot').length") - 1 if chart else 0
        found = written(page, side, place)
        assert len(set(found)) == len(found) > 2, (view, found)
        if names == "bert" and view == "heat map":
            assert found == [f"…layer.{i}.…".replace(".…", "…") for i in range(12)]


def test_where_room_is_short_the_type_of_a_layer_goes_before_its_name(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/typed&view=heat map")
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_timeout(200)
    assert set(written(page, "y", 0)) <= {name.partition(" ")[2] for name in TYPED}


def test_names_are_told_apart_in_an_export_and_whole_at_the_cursor(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/bert&view=heat map")
    with page.expect_download() as download:
        page.click("text=SVG")
    assert download.value.path().read_text(encoding="utf-8").count(">…layer.") == 12
    page.mouse.move(*place(page, 2, 3))
    assert "model.encoder.layer.3.attention.self.query.weight" in page.inner_text(".readout")


def test_names_are_numbered_apart():
    assert told_apart(["", "a", "b", "a", "a (1)", ""]) == [
        "(empty) (1)",
        "a (2)",
        "b",
        "a (3)",
        "a (1)",
        "(empty) (2)",
    ]


def test_of_names_what_all_share_is_left_out():
    assert short(["a", "b"]) == ["a", "b"] and short(["model.a.weight"]) == ["…a.weight"] and short([]) == []
    assert short(["x.y.0.w", "x.y.1.w"]) == ["…y.0…", "…y.1…"]
    assert short(["Linear a.0", "ReLU a.1"]) == ["Linear a.0", "ReLU a.1"]
    assert short(["a.a", "a.a.a"]) == ["a.a", "a.a.a"]


@pytest.mark.parametrize("count", [12, 14, 17, 25])
def test_every_layer_of_a_heat_map_is_named(look, apart_file, count):
    page = drawn(look, apart_file, f"run=a&stream=k/l{count}&view=heat map")
    assert written(page, "y") == [f"layer{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("values", "so"),
    [
        (np.geomspace(1e-3, 1e3, 30), "log"),
        ([1, 2, 4, 8], "log"),
        ([1, 2, 3, 5, 50, 1000], "log"),
        (np.arange(1.0, 2000.0), "linear"),
        ([1, 2, 3, 5, 50], "linear"),
        ([0, 1, 10, 100, 1000], ""),  # four of five would share a place
        ([0, 1, 2, 3, 50], "linear"),
        (["a", "b"], ""),
        ([1000, 100, 10], ""),
        ([1, 10, np.inf], ""),
        ([1, 1000], "linear"),
    ],
)
def test_coordinates_over_decades_have_a_logarithmic_axis(values, so):
    assert scale_of(np.asarray(values)) == so


@pytest.mark.parametrize(("view", "side"), [("heat map", "y"), ("profile", "x")])
def test_decades_of_coordinates_are_equally_far_apart(look, apart_file, view, side):
    page = drawn(look, apart_file, f"run=a&stream=k/decades&view={view}")
    places = page.evaluate(f"[-3, -2, -1, 0, 1, 2, 3].map((power) => {CHART}.frame.{side}(10 ** power))")
    assert np.diff(places) == pytest.approx(np.full(6, np.diff(places).mean()))
    assert {"0.01", "1", "100"} <= set(written(page, side))
    if view == "heat map":
        page.mouse.move(*place(page, 2, 0.1))
        assert page.inner_text(".readout") == "step 2, frequency 0.1: 12"


@pytest.mark.parametrize("time", ["", "&time=1"])
def test_every_frame_of_a_resumed_run_can_be_chosen(look, apart_file, time):
    order = [1, 2, 3, 4, 5, 6, 7] if time else [1, 2, 3, 5, 4, 6, 7]
    page = drawn(look, apart_file, f"run=resumed&stream=k/film{time}")
    until(page, f"{FRAME} === 7")
    for frame, value in enumerate(order):
        page.locator(".strip .plot").nth(frame).click()
        until(page, f"{FRAME} === {value}")
        assert page.input_value("input[aria-label=step]") == str(frame)
    page.focus("input[aria-label=step]")
    for value in order[-2::-1]:
        page.keyboard.press("ArrowLeft")
        until(page, f"{FRAME} === {value}")
    page.locator(".strip .plot").nth(4).click()
    until(page, f"{FRAME} === {order[4]}")
    again = look(page.url)
    until(again, f"{FRAME} === {order[4]}")


def test_only_choices_that_do_something_are_offered(look, apart_file):
    labels = "Array.from(document.querySelectorAll('.controls select'), (each) => each.ariaLabel)"
    for state, offered in (
        ("k/plane", []),
        ("k/bert&view=profile", ["picture", "values"]),
        ("k/bert_cka", ["values"]),
        ("k/bert&view=heat map", ["picture", "steps", "values"]),
        ("loop/loss", ["steps", "values"]),
        ("loop/loss&time=1", ["values"]),
    ):
        assert drawn(look, apart_file, f"run=a&stream={state}").evaluate(labels) == offered, state
    page = drawn(look, apart_file, "run=a&stream=k/plane&values=log")
    assert "drawn linearly" not in page.inner_text("figcaption")


def test_runs_in_a_plane_have_their_dashes_and_a_legend(look, apart_file):
    page = drawn(look, apart_file, "run=a&run=b&stream=k/plane")
    items = page.locator(".legend .item")
    assert items.all_inner_texts() == ["a, a", "b, a", "a, b", "b, b"]
    assert page.evaluate(f"{CHART}.spec.ways.map((way) => way.dash.length)") == [0, 0, 2, 2]
    items.nth(2).click()
    assert page.evaluate(f"{CHART}.spec.ways.map((way) => way.hidden)") == [False, False, True, False]
    page.focus(".plot")
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    assert page.inner_text(".readout").startswith("b, b")
    with page.expect_download() as download:
        page.click("text=SVG")
    words = download.value.path().read_text(encoding="utf-8")
    assert words.count('stroke-dasharray="8,4"') > 3 and ">b, b<" in words and ">a, b<" not in words
    assert not drawn(look, apart_file, "run=a&stream=k/plane").locator(".legend .item").count()


@pytest.mark.parametrize("width", [1300, 500])
@pytest.mark.parametrize("stream", ["corner", "long", "widths"])
def test_names_at_the_ends_of_ways_lie_in_the_frame_and_off_each_other(look, apart_file, stream, width):
    page = drawn(look, apart_file, f"run=a&stream=k/{stream}")
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(300)
    boxes, frame = page.evaluate(f"""() => {{
        const [found, chart, write] = [[], {CHART}, CanvasRenderingContext2D.prototype.fillText];
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {{
            if (this.textAlign === "left") found.push([text, x, x + this.measureText(text).width, y]);
        }};
        chart.draw();
        CanvasRenderingContext2D.prototype.fillText = write;
        const {{ left, right, top, bottom }} = chart.frame;
        return [found, [left, right, top, bottom]];
    }}""")
    assert len(boxes) == 4 if stream == "widths" else 10 < len(boxes) < 40
    assert len({name for name, *_ in boxes}) == len(boxes)
    for i, (name, start, end, height) in enumerate(boxes):
        assert frame[0] <= start and end <= frame[1] and frame[2] <= height - 9 and height + 3 <= frame[3], name
        for _, other_start, other_end, other in boxes[:i]:
            assert abs(other - height) >= 12 or other_end < start or end < other_start, name
    assert page.locator(".legend .item").count() == (0 if stream == "widths" else 40)


def test_entries_without_a_name_or_of_one_name_are_told_apart(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/same&view=lines")
    items = page.locator(".legend .item")
    assert items.all_inner_texts() == ["Linear", "a (1)", "a (2)"]  # the model itself has no name
    items.nth(1).click()
    page = drawn(look, apart_file, page.url.split("#")[1])
    assert page.evaluate(f"{CHART}.spec.lines.map((line) => line.hidden)") == [False, True, False]


@pytest.mark.parametrize(
    ("stream", "names"),
    [
        ("decay", ["decay 0.99", "decay 0.9999", "decay 0.999999"]),
        ("id", ["id 20,261,130,002", "id 20,261,130,001", "id 20,261,130,001 (2)"]),
        ("class", ["0", "1", "2"]),  # though a module may be called so
    ],
)
def test_coordinates_that_are_close_or_the_same_are_told_apart(look, apart_file, stream, names):
    page = drawn(look, apart_file, f"run=a&stream=k/{stream}&view=lines")
    items = page.locator(".legend .item")
    assert items.all_inner_texts() == names
    items.nth(2).click()
    assert page.evaluate(f"{CHART}.spec.lines.map((line) => line.hidden)") == [False, False, True]


def test_an_export_says_which_entry_it_shows(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/digits&view=frames&at.digit=1")
    with page.expect_download() as download:
        page.click("text=SVG")
    assert "digit two" in download.value.path().read_text()
    assert "digit two" in page.inner_text("figcaption")


def test_the_cursor_names_an_entry_that_is_the_only_one(look, apart_file):
    page = drawn(look, apart_file, "run=a&run=b&stream=k/single&view=lines")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout") == "only, a, step 0: 3 only, b, step 0: 3"
    assert page.locator(".legend .item").all_inner_texts() == ["a", "b"]


def test_the_key_of_the_difference_undoes_the_zoom_as_its_box_does(look, apart_file):
    page = drawn(look, apart_file, "run=a&run=b&stream=k/plane&zoom.x=1,2")
    for act in (lambda: page.keyboard.press("d"), lambda: page.click("input[aria-label='a − b']")):
        page.evaluate(f"{CHART}.setZoom([0.5, 0.6])")
        assert "zoom" in page.url
        before = page.url.count("difference")
        act()
        until(page, f"(location.hash.includes('difference')) !== {'true' if before else 'false'}")
        until(page, f"{CHART} && !{CHART}.zoomed()")
        assert "zoom" not in page.url


def test_a_line_stays_hidden_when_another_run_is_chosen(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/few&view=lines")
    page.click(".legend .item >> nth=0")
    page = drawn(look, apart_file, page.url.split("#")[1].replace("run=a", "run=a&run=b"))
    hidden = page.evaluate(f"{CHART}.spec.lines.map((line) => [line.name, line.hidden])")
    assert hidden == [["a, a", True], ["b, a", False], ["a, b", False], ["b, b", False]]
    page = drawn(look, apart_file, "run=b&stream=loop/loss&hide=loop/loss b")  # no legend, so no way back
    assert not page.evaluate(f"{CHART}.spec.lines[0].hidden")


def test_keys_work_when_a_choice_has_the_focus(look, apart_file):
    page = drawn(look, apart_file, "run=a&stream=k/bert&view=lines")
    for chosen in ("input[aria-label=time]", "input[aria-label=smoothing]"):
        page.focus(chosen)
        page.keyboard.press("l")
        until(page, "location.hash.includes('values=linear')")
        page.keyboard.press("l")
        page.keyboard.press("l")
        until(page, "!location.hash.includes('values=')")
    page.focus("select[aria-label=picture]")  # where letters look for an entry
    before = page.url
    page.keyboard.press("l")
    assert "values=" not in page.url and "stream=k%2Fbert" in before
    page.click("input[aria-label=time]")
    page.keyboard.press("j")
    until(page, "!location.hash.includes('stream=k%2Fbert&')")
    page.keyboard.press("/")
    page.keyboard.type("jo")
    assert page.input_value("[type=search]") == "jo" and "stream=" in page.url
