"""The frame: list, run, judge, interrupt and go on."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from typer.testing import CliRunner

from examples import EXPERIMENTS
from examples.__main__ import app
from examples.frame import runner
from examples.frame.criteria import Finding
from examples.frame.experiment import Preset
from examples.spectral_bias import learning_order
from probes import open_run

ROOT = Path(runner.__file__).parents[2]
SHORT = learning_order.Settings(frequencies=(1, 2, 4), num_points=32, width=8, depth=3, steps=60, measure_every=5)


@pytest.fixture
def plain_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's pictures, which would take most of the time of a short run, are of one black pixel."""
    monkeypatch.setattr("probes.plots.pixels", lambda figure: np.zeros((1, 1, 3), dtype=np.uint8))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, plain_board: None) -> Callable[..., None]:
    """Makes ``spectral_bias`` an experiment of a moment, with other fields on demand.

    It draws no figures: the smoke run of each experiment does.
    """
    presets = {"quick": Preset(SHORT, seeds=(0, 1), duration="1 s", judged=True)}

    def replace(**fields: Any) -> None:
        cheap = {"presets": presets, "draw": lambda settings, seeds, folder: None}
        experiment = dataclasses.replace(learning_order.EXPERIMENT, **{**cheap, **fields})
        monkeypatch.setattr(runner, "experiment", lambda name: experiment)

    replace()
    return replace


def measured(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """All that was measured, by stream and part, without times."""
    run = open_run(folder)
    streams = ("fourier/amplitude/path", "spectral_norm/weight", "learnt_function")
    return {(name, part): run[name][part].to_numpy() for name in streams for part in ("value", "step")}


@pytest.mark.parametrize("columns", [80, 200])
def test_list_names_every_experiment_with_figure_and_presets(columns):
    output = CliRunner().invoke(app, ["list"], env={"COLUMNS": str(columns)}).output
    assert max(map(len, output.split("\n"))) <= columns and "…" not in output
    printed = " ".join(output.split())
    for name in EXPERIMENTS:
        experiment = runner.experiment(name)
        assert name in printed and all(figure in printed for figure in experiment.figures)
        assert all(f"{preset}: {held.duration}" in printed for preset, held in experiment.presets.items())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_three_presets_and_a_smoke_run_that_judges_nothing(name, plain_board, tmp_path):
    presets = list(runner.experiment(name).presets)
    assert presets[:3] == ["smoke", "quick", "paper"] and presets[3:] in ([], ["large"], ["kmnist"])
    result = CliRunner().invoke(app, ["run", name, "--preset", "smoke", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "not judged" in result.output and "too short to judge" in result.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["verdict"] == "not judged" and results["findings"] and results["versions"]["torch"]
    pictures = list(tmp_path.glob("*.png"))
    assert pictures and all(picture.stat().st_size > 5000 for picture in pictures)


def test_the_paper_preset_is_the_setting_of_the_thesis():
    settings = learning_order.PRESETS["paper"].settings
    assert settings == learning_order.Settings(
        frequencies=tuple(range(5, 51, 5)),
        num_points=200,
        width=256,
        depth=6,
        learning_rate=3e-4,
        steps=80_000,
        measure_every=100,
    )
    assert len(learning_order.PRESETS["paper"].seeds) == 10


def test_the_target_is_a_sum_of_sines_of_the_given_amplitudes():
    z = np.arange(200) / 200
    settings = learning_order.PRESETS["paper"].settings
    for kind, amplitudes in {"equal": np.ones(10), "increasing": np.arange(1, 11) / 10}.items():
        target = learning_order.target(settings, kind, seed=3)[:, 0].numpy()
        # Projected on sine and cosine, one frequency at a time.
        found = [
            np.hypot(target @ np.sin(2 * np.pi * k * z), target @ np.cos(2 * np.pi * k * z)) / 100
            for k in settings.frequencies
        ]
        np.testing.assert_allclose(found, amplitudes, atol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_numbers(short, tmp_path, monkeypatch):
    runner.run("spectral_bias", "quick", out=tmp_path / "whole")

    measure = learning_order.LearntFunction.measure
    pressed = []

    def press_ctrl_c(self: Any, run: Any, step: int) -> Any:
        if step == 30 and run.seed == 1:
            pressed.append(run.log_dir.parent.name)
            signal.raise_signal(signal.SIGINT)
        return measure(self, run, step)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(learning_order.LearntFunction, "measure", press_ctrl_c)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                runner.run("spectral_bias", "quick", out=tmp_path / "broken")
            assert signal.getsignal(signal.SIGINT) is before
    assert pressed == ["equal", "increasing"]
    runner.run("spectral_bias", "quick", out=tmp_path / "broken")

    for part in ("seed-0/equal", "seed-1/equal", "seed-1/increasing"):
        whole, broken = (measured(tmp_path / out / part / "log") for out in ("whole", "broken"))
        for stream in whole:
            np.testing.assert_array_equal(whole[stream], broken[stream], err_msg=f"{part} {stream}")
        states = [
            torch.load(tmp_path / out / part / "checkpoint.pt")["objects"]["model"] for out in ("whole", "broken")
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    findings = [json.loads((tmp_path / out / "results.json").read_text())["findings"] for out in ("whole", "broken")]
    assert findings[0] == findings[1]


def test_a_run_killed_before_its_first_checkpoint_starts_afresh(short, tmp_path, monkeypatch):
    def killed(self: Any, run: Any, step: int) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(learning_order.LearntFunction, "measure", killed)
        runner.run("spectral_bias", "quick", seeds=[0], out=tmp_path)
    runner.run("spectral_bias", "quick", seeds=[0], out=tmp_path)
    assert measured(tmp_path / "seed-0/equal/log")["learnt_function", "step"].tolist() == list(range(0, 61, 5))


def test_finished_seeds_are_not_trained_again_and_others_can_be_added(short, tmp_path):
    trained = []

    def train(settings: learning_order.Settings, task: Any) -> None:
        trained.append(task.seed)
        learning_order.train(settings, task)

    short(train=train)
    runner.run("spectral_bias", "quick", seeds=[0], out=tmp_path)
    runner.run("spectral_bias", "quick", seeds=[0, 2], out=tmp_path)
    assert trained == [0, 2]
    assert json.loads((tmp_path / "results.json").read_text())["seeds"] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{"processes": 2}, {"elsewhere": "ray"}])
def test_seeds_trained_at_the_same_time_give_the_same_numbers(tmp_path, parallel):
    for folder, how in (("one", {}), ("other", parallel)):
        runner.run("spectral_bias", "smoke", seeds=[3, 4], out=tmp_path / folder, **how)
    for seed in (3, 4):
        one, other = (measured(tmp_path / folder / f"seed-{seed}/equal/log") for folder in ("one", "other"))
        assert all(np.array_equal(one[key], other[key]) for key in one)
    one, other = (json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("one", "other"))
    assert one["findings"] == other["findings"]


@pytest.mark.parametrize(("passed", "code", "verdict"), [(True, 0, "PASS"), (False, 1, "FAIL")])
def test_the_exit_code_says_whether_a_criterion_fails(short, tmp_path, passed, code, verdict):
    findings = [Finding("a", "1", "1", passed=True), Finding("b", "1", "2", values=np.inf, passed=passed)]
    short(judge=lambda settings, seeds: [*findings, Finding("c", "1", "1")])
    result = CliRunner().invoke(app, ["run", "spectral_bias", "--seeds", "0", "--out", str(tmp_path)])
    assert result.exit_code == code and verdict in result.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["verdict"] == verdict and results["findings"][1]["values"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectrl_bias"], "No experiment is named 'spectrl_bias'. Experiments: spectral_bias,"),
        (["spectral_bias", "--preset", "slow"], "There is no preset 'slow'. Presets: smoke, quick, paper."),
        (["spectral_bias", "--seeds", "0,x"], "`--seeds` must be integers with commas between them, such as 0,1,2"),
        (["spectral_bias", "--seeds", "1,1"], "`--seeds` must be different integers, at least one, got [1, 1]."),
        (["spectral_bias", "--device", "abacus"], "`--device` must be one that torch can use here"),
    ],
)
def test_run_rejects_what_it_does_not_know(arguments, message, tmp_path):
    script = "import runpy; runpy.run_module('examples', run_name='__main__', alter_sys=True)"  # python -m examples
    result = warm.run(script, "run", *arguments, "--out", tmp_path / "out", cwd=ROOT)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_run_rejects_the_folder_of_another_run(short, tmp_path):
    runner.run("spectral_bias", "quick", seeds=[0], out=tmp_path)
    longer = Preset(dataclasses.replace(SHORT, steps=70), seeds=(0,), duration="")
    short(presets={"quick": longer})
    with pytest.raises(ValueError, match="holds another run: spectral_bias, preset quick"):
        runner.run("spectral_bias", "quick", out=tmp_path)


@pytest.mark.parametrize("missing", ["typer", "scipy"])
def test_a_missing_package_is_named_with_how_to_install_it(missing):
    script = (
        "import importlib.util as u; find = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {missing!r} else find(name, *rest)\n"
        "import examples.__main__"
    )
    result = warm.run(script, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.strip() == f"The examples need {missing}: pip install 'torch-probes[examples]'"
