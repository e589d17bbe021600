"""Scripts as users have them, verified from outside."""

import json
import re
import sys

import pytest
import warm

from probes.checking.verify import verify
from probes.commands.terminal import explained

SCRIPT = """
import argparse, random, sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from probes import Measurement, Probe, ProbeManager, every

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--clock", action="store_true")

class Norm(Probe):
    name = "norm"
    def measure(self, run, step):
        yield Measurement("norm/weight", run.model[0].weight.norm())

class Draws(Norm):
    name = "draws"
    def measure(self, run, step):
        yield Measurement("draws/one", 1.0)
    def on_step(self, run, step):  # where nothing is undone
        if step == 2:
            random.random()

class Fails(Norm):
    name = "fails"
    def measure(self, run, step):
        raise RuntimeError("at each turn")

def main():
    arguments = parser.parse_args()
    if arguments.clock:
        torch.seed()
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(3, (64,))), 16, shuffle=True)
    ATTACH
    for epoch in range(arguments.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            STEP
    print("trained", sys.argv[1:])
    END

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(attach="pass", step="optimizer.step()", end="sys.exit(0)"):
        path = tmp_path / "train.py"
        path.write_text(SCRIPT.replace("ATTACH", attach).replace("STEP", step).replace("END", end))
        return path

    return write


def attach(*probes):
    return f"ProbeManager(model, [{', '.join(f'{probe}(every(1))' for probe in probes)}], log_dir='results').attach()"


def call(*arguments, python=None):
    code = f"import sys; sys.executable = {python or warm.python()!r}; from probes.commands.cli import main; main()"
    return warm.run(code, "verify", *arguments)


@pytest.mark.parametrize("python", ["warm", pytest.param(sys.executable, marks=pytest.mark.slow, id="cold")])
def test_an_equal_script_is_equal_with_its_arguments_and_leaves_no_results(python, script, tmp_path):
    python = warm.python() if python == "warm" else python
    done = call("--json", script(attach("Norm", "Fails")), "--epochs", "3", python=python)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["equal"] and verdict["updates"] == 12 and verdict["difference"] is None
    norm, fails = verdict["probes"]
    assert (norm["name"], norm["measured"], norm["failed"], norm["problem"]) == ("norm", 13, 0, "")
    assert fails["failed"] == 3 and "at each turn" in fails["problem"]
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_probe_that_draws_is_caught_and_named(script, warm_python):
    verdict = verify(script(attach("Draws")), steps=4)
    assert not verdict.equal and verdict.reproducible and verdict.culprits == ["draws"]
    assert verdict.difference.place == "before update 3 of Adam" and verdict.difference.updates == 2
    assert verdict.difference.names == ["random state of Python"]
    words = explained(verdict, "train.py")
    assert words[1] == (
        "DIFFERENT with probes. First difference: before update 3 of Adam, in random state of Python."
    ) and words[2] == "Alone, too, it is changed by: draws."  # fmt: skip


def test_a_script_that_does_not_repeat_itself_is_said_to(script, warm_python):
    verdict = verify(script(attach("Norm")), ["--clock"], steps=1)
    assert not verdict.equal and not verdict.reproducible and verdict.difference.place == "before update 1 of Adam"
    (words,) = explained(verdict, "train.py")
    assert words.startswith("train.py is not reproducible without probes either, so nothing can be said about them.")
    assert "First difference: before update 1 of Adam, in parameter 0.weight, " in words
    assert words.endswith("torch.use_deterministic_algorithms(True).")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "never attaches a ProbeManager, so there is nothing to verify. Add ProbeManager"),
        pytest.param(
            {"attach": attach("Norm"), "step": "pass"}, "never takes an optimizer step", marks=pytest.mark.slow
        ),
        ({"attach": attach("Norm"), "end": "raise ValueError('of the script')"}, "exit code 1. .*ValueError: of the"),
        pytest.param(
            {"attach": attach("Norm"), "end": "sys.exit(3)"}, "failed with exit code 3", marks=pytest.mark.slow
        ),
    ],
    ids=["no attach", "no step", "fails", "exit code"],
)
def test_a_script_that_cannot_be_verified_is_told_why(script, change, message, warm_python):
    verdict = verify(script(**change))
    assert not verdict.equal
    assert re.search(message, verdict.error, flags=re.DOTALL), verdict.error


def test_what_is_no_script_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`script` must be a Python file, there is none at 'nothing.py'"):
        verify("nothing.py")
    (tmp_path / "empty.py").touch()
    with pytest.raises(ValueError, match="`steps` must be a positive number"):
        verify(tmp_path / "empty.py", steps=0)
