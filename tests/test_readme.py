"""The README's code runs, block after block, as a reader would run it."""

import re
from pathlib import Path

import pytest
import torch

from probes.session.discovery import SINKS, installed

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def block(words):
    """The block that holds these words."""
    (found,) = [block for block in BLOCKS if words in block]
    return found


def train(model, inputs, targets, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def test_the_readme_has_the_blocks_that_are_tested_here():
    assert len(BLOCKS) == 9


def test_the_one_line_measures_in_a_loop_that_does_not_know_it(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    names = {"model": model}
    exec(BLOCKS[0], names)
    train(model, torch.randn(32, 5), torch.randint(3, (32,)))
    names["probes"].detach()
    assert "fourier" in names["probes"].report() and "Not running" not in names["probes"].report()
    (run,) = (tmp_path / "runs").iterdir()
    assert list(run.glob("events.out.tfevents*")) and (run / "run.h5").exists()


def test_saying_more_and_reading_it(tmp_path, capsys):
    torch.manual_seed(0)
    names = {}
    exec(block("frequencies=[2, 10]"), names)
    exec(block("amplitude.sel"), names)
    low, high = map(float, capsys.readouterr().out.split())
    assert low > 2 * high and (tmp_path / "runs/two_sines/amplitude.png").exists()


def test_the_tangent_kernel_of_a_model_at_hand():
    torch.manual_seed(0)
    names = {}
    exec(block("tangent_kernel(model"), names)
    assert names["kernel"].shape == (10, 20, 10, 20)
    assert 1 < names["rank"] <= 190  # of 200 rows, ten of which centring takes away
    assert list(names["aligned"]) == ["0", "3"] and all(0 <= value <= 1 for value in names["aligned"].values())


def test_the_complexity_of_the_path(capsys):
    torch.manual_seed(0)
    exec(block("PathComplexity(every"), {})
    line, spectral = capsys.readouterr().out.splitlines()
    value, error = map(float, line.split(" +- "))
    assert 0 < error < value / 100
    assert len(spectral.strip("[]").split()) == 3  # at steps 0, 100, 200


def test_mutual_information(capsys):
    names = {}
    exec(block("mutual_information(x, y"), names)
    assert abs(names["result"].value - 1.609) < 0.06 and names["result"].flags == ()
    assert "nats" in capsys.readouterr().out


def test_information_as_a_term_and_of_layers(capsys):
    torch.manual_seed(0)
    names = {}
    exec(block("MutualInformationRegularizer(Dense"), names)
    assert names["plane"].shape == (3, 3, 2) and names["plane"].notnull().all()
    assert "I(X; T + noise)" in capsys.readouterr().out
    assert "mine" in names["open_run"]("runs/information")


def test_results_go_where_a_team_looks():
    class ProbeManager:
        def __init__(self, model, sinks):
            self.sinks = sinks

    names = {"ProbeManager": ProbeManager, "model": None}
    exec(block('"wandb"'), names)
    assert set(names["manager"].sinks) == set(installed(SINKS))


def test_a_probe_of_ones_own_measures():
    from probes import Measurement, ProbeManager, every, hookimpl

    class Memory:
        rows: list[Measurement] = []  # noqa: RUF012

        @hookimpl
        def write(self, measurements):
            self.rows += measurements

    names = {}
    exec(block("class Margin"), names)
    model, sink = torch.nn.Linear(5, 3), Memory()
    with ProbeManager(model, [names["Margin"](every(1))], sinks=[sink], overhead=None, on_error="raise").attach():
        train(model, torch.randn(32, 5), torch.randint(3, (32,)))
    first = next(row for row in sink.rows if row.name == "margin/quantiles")
    assert first.coords["quantile"].values.tolist() == pytest.approx([0.05, 0.5, 0.95])


def test_every_file_of_the_map_is_there():
    tree = README.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    root = README.parent
    core = tree.partition("probes/ ")[2].partition("\nplugins/")[0]
    named = set(re.findall(r"^  ([\w.]+\.py|[a-z]+/) ", core, flags=re.M))
    files = {path.name for path in (root / "probes").glob("[a-z]*.py")}
    rooms = {f"{path.parent.name}/" for path in (root / "probes").glob("*/__init__.py")}
    assert named == files | rooms
