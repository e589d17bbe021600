"""Sweeps: every combination of settings with every seed, gone on with after an interruption."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from examples.__main__ import app
from examples.complexity import dynamics
from examples.frame import runner
from examples.frame import sweep as sweeps
from examples.frame.experiment import Experiment
from examples.frame.sweep import sweep, values_of

SETTINGS = dynamics.PRESETS["smoke"].settings


@pytest.fixture
def trained(monkeypatch):
    """The trainings that were done, as (width, seed), of an experiment that draws nothing."""
    done = []

    def train(settings, task):
        done.append((settings.width, task.seed))
        dynamics.EXPERIMENT.train(settings, task)

    made = dataclasses.replace(dynamics.EXPERIMENT, train=train, draw=lambda settings, seeds, folder: None)
    for module in (runner, sweeps):
        monkeypatch.setattr(module, "experiment", lambda name: made)
    return done


def test_every_combination_is_trained_with_every_seed_and_read_by_its_own_settings(trained, tmp_path):
    folders = sweep("complexity_dynamics", "smoke", ["width=4,8", "rate=0.5,0.25"], [0, 1], out=tmp_path)
    assert [folder.name for folder in folders] == [f"width={w},rate={r}" for w in (4, 8) for r in (0.5, 0.25)]
    assert trained == [(width, seed) for width in (4, 8) for _ in range(2) for seed in (0, 1)]
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [(held["settings"]["width"], held["settings"]["rate"]) for held in results] == [
        (4, 0.5), (4, 0.25), (8, 0.5), (8, 0.25)
    ]  # fmt: skip
    assert all(held["verdict"] == "not judged" and held["seeds"] == [0, 1] for held in results)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["settings"] for row in rows] == [held["varied"] for held in results]
    assert [row["findings"] for row in rows] == [held["findings"] for held in results]


def test_a_cell_is_what_a_run_with_its_settings_is(trained, tmp_path, monkeypatch):
    (folder,) = sweep("complexity_dynamics", "smoke", ["width=8"], [3], out=tmp_path / "sweep")
    presets = {"smoke": dataclasses.replace(dynamics.PRESETS["smoke"], settings=dataclasses.replace(SETTINGS, width=8))}
    monkeypatch.setattr(runner, "experiment", lambda name: dataclasses.replace(dynamics.EXPERIMENT, presets=presets))
    runner.run("complexity_dynamics", "smoke", [3], out=tmp_path / "run")
    one, other = (json.loads((at / "results.json").read_text()) for at in (folder, tmp_path / "run"))
    assert one["findings"] == other["findings"] and one["settings"] == other["settings"]


def test_an_interrupted_sweep_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    def stopped(settings, task):
        if len(trained) == 3:
            raise KeyboardInterrupt
        whole.train(settings, task)

    whole: Experiment = sweeps.experiment("")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "experiment", lambda name: dataclasses.replace(whole, train=stopped))
        sweep("complexity_dynamics", "smoke", ["width=4,8"], [0, 1], out=tmp_path)
    assert not (tmp_path / "sweep.json").exists()
    sweep("complexity_dynamics", "smoke", ["width=4,8"], [0, 1], out=tmp_path)
    assert trained == [(4, 0), (4, 1), (8, 0), (8, 1)]
    sweep("complexity_dynamics", "smoke", ["width=4,8,16"], [0, 1], out=tmp_path)
    assert trained[4:] == [(16, 0), (16, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--processes", "2"], ["--ray"]])
def test_trainings_at_the_same_time_give_the_same_numbers(how, tmp_path):
    command = ["sweep", "complexity_dynamics", "--preset", "smoke", "--set", "width=4,8", "--seeds", "0,1", "--out"]
    for folder, options in (("one", []), ("other", how)):
        result = CliRunner().invoke(app, [*command, str(tmp_path / folder), *options])
        assert result.exit_code == 0, result.output
    one, other = (json.loads((tmp_path / folder / "sweep.json").read_text()) for folder in ("one", "other"))
    assert one == other and len(one) == 2
    assert list((tmp_path / "other" / "width=4").glob("*.png"))


def test_values_are_of_the_settings_type():
    assert values_of(SETTINGS, "width=64,128") == ("width", (64, 128))
    assert values_of(SETTINGS, "amplitude=1,0.5") == ("amplitude", (1.0, 0.5))
    assert values_of(SETTINGS, "rates=(0.1,),(0.1,0.2)") == ("rates", ((0.1,), (0.1, 0.2)))

    @dataclasses.dataclass(frozen=True)
    class Words:
        kind: str = "equal"

    assert values_of(Words(), "kind=equal, increasing") == ("kind", ("equal", "increasing"))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["widht=4"], "`--set` must name a setting, got 'widht'. Settings: width, num_points,"),
        (["width=-4"], "`--set width` must have values that are not negative, got -4."),
        (["width"], "`--set` must be NAME=VALUE,VALUE,..., got 'width'."),
        (["width=4.5"], "`--set width` must have values of type int, got 4.5."),
        (["width=large"], "`--set width` must have values of type int, got 'large'."),
        (["width=4,4"], "`--set width` must have different values, got 4,4."),
        (["width=4", "width=8"], "Each setting may be given to `--set` once, got width=4, width=8."),
    ],
)
def test_what_cannot_be_varied_is_one_line(grid, message, tmp_path):
    options = [word for text in grid for word in ("--set", text)]
    result = CliRunner().invoke(app, ["sweep", "complexity_dynamics", *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and message in str(result.exception or result.output)
    assert not (tmp_path / "out").exists()
