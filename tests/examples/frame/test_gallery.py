"""Verdicts that stay: what is kept of a run, and the page of all results."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from examples import EXPERIMENTS
from examples.__main__ import app
from examples.frame import runner
from examples.frame.criteria import Finding
from examples.frame.experiment import Preset
from examples.frame.gallery import TITLE, gallery, keep, kept
from examples.frame.thesis import ERRATA, PARTS, ROWS
from examples.spectral_bias import learning_order, robustness

SHORT = learning_order.Settings(frequencies=(1, 2), num_points=16, width=4, depth=2, steps=4, measure_every=2)


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Makes ``spectral_bias`` an experiment of a moment whose criterion is met, or not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.__main__.EXPERIMENTS", {"spectral_bias": "spectral_bias.learning_order"})

    def make(passed=True, least_seeds=1):
        def draw(settings, seeds, folder):
            (folder / "fig_3_1.png").write_bytes(b"first")
            (folder / "fig_3_2.png").write_bytes(b"second")

        made = dataclasses.replace(
            learning_order.EXPERIMENT,
            presets={"quick": Preset(SHORT, seeds=(0,), duration="1 s", least_seeds=least_seeds)},
            train=lambda settings, task: task.resume(),
            read=lambda settings, folder, seed: None,
            judge=lambda settings, seeds: [Finding("step | of k", "low first", "1\n2", "some", passed)],
            draw=draw,
            departures="Fewer points.",
        )
        monkeypatch.setattr(runner, "experiment", lambda name: made)
        return made

    return make


def verify(tmp_path):
    return CliRunner().invoke(app, ["verify", "--results", str(tmp_path / "kept")])


def rows_of(page, *figures):
    """The row of each figure in the page's first table."""
    return [next(line for line in page.splitlines() if line.startswith(f"| {figure} |")) for figure in figures]


def test_numbers_and_figures_of_a_verified_experiment_are_kept(experiment, tmp_path):
    made = experiment()
    assert verify(tmp_path).exit_code == 0
    folder = tmp_path / "kept/spectral_bias"
    assert (folder / "figure.png").read_bytes() == b"first" and (folder / "fig_3_2.png").read_bytes() == b"second"
    report = json.loads((folder / "results.json").read_text())
    assert report["verdict"] == "PASS" and report["cpu_seconds"] and report["hardware"] and report["seeds"] == [0]
    page = gallery({"spectral_bias": made}, tmp_path / "kept")
    for text in ("step \\| of k", "1<br>2", "Fewer points."):
        assert text in page
    for name, words in (("figure", f"Fig. 3.1: {ROWS['3.1']}"), ("fig_3_2", f"Fig. 3.2: {ROWS['3.2']}")):
        words += " (quick, run of 1 seed)"
        assert f"![{words}](kept/spectral_bias/{name}.png)\n\n*{words}*\n" in page
    assert all("[spectral_bias](#spectral_bias) | quick: PASS |" in row for row in rows_of(page, "3.1", "3.2", "A.1"))


def test_a_criterion_that_is_not_met_is_kept_as_a_failure(experiment, tmp_path):
    made = experiment(passed=False)
    result = verify(tmp_path)
    assert result.exit_code == 1 and "Failed: spectral_bias." in result.output
    page = gallery({"spectral_bias": made}, tmp_path / "kept")
    assert "| **FAIL** |" in page and "### quick: FAIL" in page


def test_of_too_few_seeds_nothing_is_judged(experiment, tmp_path):
    made = experiment(passed=False, least_seeds=2)
    result = verify(tmp_path)
    assert result.exit_code == 0 and "need 2 seeds; of 1 all is only reported" in result.output
    page = gallery({"spectral_bias": made}, tmp_path / "kept")
    assert "### quick: not judged" in page and "FAIL" not in page


def test_an_experiment_without_results_is_on_the_page(experiment, tmp_path):
    page = gallery({"spectral_bias": experiment()}, tmp_path / "kept")
    assert all("[spectral_bias](#spectral_bias) | not run |" in row for row in rows_of(page, "3.1", "3.2", "A.1"))
    assert "\nNot run yet (quick: 1 s).\n" in page


def test_data_that_is_not_downloaded_is_the_reason_why_an_experiment_was_not_run(experiment, tmp_path):
    made = dataclasses.replace(experiment(), departures="Fewer points. The photographs are not downloaded. One seed.")
    page = gallery({"spectral_bias": made}, tmp_path / "kept")
    assert "\nNot run yet (quick: 1 s). The photographs are not downloaded.\n" in page


def test_the_page_says_where_quick_is_not_paper(experiment, tmp_path):
    made = experiment()
    paper = dataclasses.replace(SHORT, frequencies=tuple(range(1, 9)), learning_rate=0.1 + 0.2)
    presets = {**made.presets, "paper": Preset(paper, seeds=(0, 1), duration="1 h")}
    page = gallery({"spectral_bias": dataclasses.replace(made, presets=presets)}, tmp_path / "kept")
    assert (
        "\nSettings of `quick` that differ from `paper` [in brackets]: "
        "`frequencies` (1, 2) [(1, 2, ..., 8: 8 values)]; "
        f"`learning_rate` {SHORT.learning_rate:.3g} [0.3]; `seeds` 1 [2].\n"
    ) in page


def test_settings_within_settings_are_compared_one_by_one(experiment, tmp_path):
    made = experiment()
    inner = [dataclasses.replace(SHORT, width=width) for width in (4, 8)]
    chosen = [robustness.Settings(training=one, deltas=(0.0,), num_directions=1) for one in inner]
    presets = {name: Preset(one, seeds=(0,), duration="") for name, one in zip(("quick", "paper"), chosen, strict=True)}
    page = gallery({"spectral_bias": dataclasses.replace(made, presets=presets)}, tmp_path / "kept")
    assert "`paper` [in brackets]: `training.width` 4 [8].\n" in page


def test_the_main_figure_is_that_of_the_first_entry(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.json").write_text(json.dumps({"figures": ["4.4", "A.2", "A.10"]}))
    for name in ("bounds", "fig_4_4_right", "fig_a_10", "fig_a_2"):
        (tmp_path / f"run/{name}.png").write_bytes(name.encode())
    keep(tmp_path / "run", tmp_path / "kept")
    assert (tmp_path / "kept/figure.png").read_bytes() == b"fig_4_4_right"
    report = json.loads((tmp_path / "kept/results.json").read_text())
    assert report["pictures"] == ["fig_4_4_right.png", "fig_a_2.png", "fig_a_10.png", "bounds.png"]


def test_pictures_whose_names_were_not_kept_are_not_given_a_number(experiment, tmp_path):
    made = experiment()
    verify(tmp_path)
    path = tmp_path / "kept/spectral_bias/results.json"
    report = json.loads(path.read_text())
    del report["pictures"]
    path.write_text(json.dumps(report))
    page = gallery({"spectral_bias": made}, tmp_path / "kept")
    assert "![Figure: Fig. 3.1, Fig. 3.2, Fig. A.1 (quick, run of 1 seed)](kept/spectral_bias/figure.png)" in page
    assert f"![Fig. 3.2: {ROWS['3.2']} (quick, run of 1 seed)](kept/spectral_bias/fig_3_2.png)" in page


def test_what_experiments_share_is_shared_in_parts():
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    pairs = [(figure, item["name"]) for item in listed for figure in item["figures"]]
    shared = {pair for pair in pairs if sum(figure == pair[0] for figure, _ in pairs) > 1}
    assert shared == set(PARTS) and len({(figure, part) for (figure, _), part in PARTS.items()}) == len(PARTS)


def test_errors_of_what_was_published_name_the_experiment_that_shows_them(experiment, tmp_path):
    page = gallery({"spectral_bias": experiment()}, tmp_path / "kept")
    for place, finding in ERRATA.items():
        assert f"- **{place}**: {finding}" in page
        assert re.findall(r"\(`(\w+)`\)\.$", finding)[0] in EXPERIMENTS


def test_what_an_earlier_run_left_goes_and_large_pictures_are_named(tmp_path):
    for name in ("run", "kept"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept/old.png").touch()
    (tmp_path / "run/results.json").write_text("{}")
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "run/a.png")  # cannot be made small
    stripes = np.broadcast_to(np.arange(800, dtype=np.uint8)[:, None] // 16, (800, 800))
    Image.fromarray(np.stack([stripes] * 3, 2)).save(tmp_path / "run/b.png", compress_level=0)
    assert keep(tmp_path / "run", tmp_path / "kept") == [tmp_path / "kept/figure.png"]
    assert not (tmp_path / "kept/old.png").exists()
    with Image.open(tmp_path / "kept/b.png") as small:
        assert (np.asarray(small.convert("L")) == stripes).all()
    assert kept(tmp_path, "delta", "quick").name == "delta" and kept(tmp_path, "delta", "paper").name == "delta-paper"


def test_the_list_for_programs_has_figures_presets_and_seeds():
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    first = next(item for item in listed if item["name"] == "spectral_bias")
    assert first["figures"] == ["3.1", "3.2", "A.1"] and first["summary"]
    assert set(first["presets"]) == {"smoke", "quick", "paper"}
    assert set(first["presets"]["quick"]) == {"cost", "seeds", "least_seeds"}


def test_every_figure_table_and_statement_of_the_thesis_has_an_experiment():
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    assert sorted({figure for item in listed for figure in item["figures"]}) == sorted(ROWS)
    counts = {"3.": 9, "4.": 6, "5.": 6, "A.": 13, "B.": 8, "C.": 1, "T5.": 3, "TC.": 12}
    for chapter, count in counts.items():
        assert {f"{chapter}{number}" for number in range(1, count + 1)} <= set(ROWS)


def test_a_page_of_somebodys_own_is_not_overwritten(tmp_path):
    def said():
        return CliRunner().invoke(app, ["gallery", "--results", str(tmp_path / "kept")]).output

    assert "kept holds no results. `python -m examples verify" in said()
    (tmp_path / "kept" / "x").mkdir(parents=True)
    (tmp_path / "kept" / "x" / "results.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Mine\n")
    assert "README.md is another page than that of the results" in said()
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    (tmp_path / "README.md").write_text(f"{TITLE}\n\nof before")
    assert said().endswith("README.md\n") and "of before" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "99999999999999999999"], "`--seeds` must be from 0 to 2^63 - 1, got 99999999999999999999."),
        (["--seeds", "-1"], "`--seeds` must be from 0 to 2^63 - 1, got -1."),
        (["--out", __file__], "test_gallery.py is a file, and a folder is needed."),
    ],
)
def test_what_is_asked_wrongly_is_one_line(more, message):
    result = CliRunner().invoke(app, ["run", "spectral_bias", "--preset", "smoke", *more])
    assert result.exit_code == 1 and message in result.output
