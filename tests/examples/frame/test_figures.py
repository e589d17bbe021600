"""The beginning and end of every figure."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from examples.frame.figures import WIDEST, figure, log_steps, shades


def test_a_figure_is_saved_in_its_size_and_closed(tmp_path):
    with figure(tmp_path / "figure.png", 1, 2, title="words", size=(4, 3), sharey=True) as (_, axes):
        assert axes.shape == (2,)
        axes[0].plot([0, 1])
    assert plt.imread(tmp_path / "figure.png").shape[:2] == (600, 800)
    assert not plt.get_fignums()


def test_the_style_of_a_figure_does_not_outlive_it(tmp_path):
    before = dict(matplotlib.rcParams)
    with figure(tmp_path / "figure.png", title="words", size=(4, 3), font=17, boxed=False) as (_, axis):
        assert axis.xaxis.label.get_size() == 17
        assert [axis.spines[side].get_visible() for side in ("left", "top", "right")] == [True, False, False]
    assert dict(matplotlib.rcParams) == before


def test_a_figure_that_fails_is_closed_and_not_saved(tmp_path):
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "figure.png", title="words", size=(4, 3)):
        raise ZeroDivisionError
    assert not plt.get_fignums() and not list(tmp_path.iterdir())


def test_a_figure_wider_than_a_page_is_refused(tmp_path):
    with figure(tmp_path / "fig_3_1.png", title="words", size=(WIDEST, 1)):
        pass
    with (
        pytest.raises(ValueError, match=r"fig_3_2\.png must be at most 10 inches wide, got 10\.1: put its panels"),
        figure(tmp_path / "fig_3_2.png", title="words", size=(10.1, 4)),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["fig_3_1.png"] and not plt.get_fignums()


def test_a_title_says_what_of_the_thesis_is_shown_and_fits_the_width(tmp_path):
    words = "amplitude of each frequency of the network over training, mean of 5 seeds"
    with figure(tmp_path / "fig_3_1.png", title=words, size=(4, 3)) as (picture, _):
        (title,) = picture.texts
        assert title.get_window_extent().width <= picture.bbox.width
    lines = title.get_text().split("\n")
    assert len(lines) > 1 and " ".join(lines) == f"Fig. 3.1: {words}"


def test_shades_get_brighter():
    colors = shades(5, 0.9)
    assert colors.shape == (5, 4) and (np.diff(colors[:, :3].mean(1)) > 0).all()


def test_an_axis_of_log_steps_ends_where_the_lines_do(tmp_path):
    with figure(tmp_path / "figure.png", title="words", size=(4, 3)) as (_, axis):
        axis.plot([0, 10, 320], [1, 2, 3])
        log_steps(axis)
        assert axis.get_xlim() == (0, 320)
