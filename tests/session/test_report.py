"""What a user reads without asking."""

import logging
import shutil
import time

import pytest
import torch
import warm
from loops import Norm, run_steps
from torch import nn

from probes import ProbeManager, every
from probes_layers import LayerStatistics

SCRIPT = """
import torch
from probes import Measurement, Probe, ProbeManager, every
class Norm(Probe):
    name = "norm"
    def measure(self, run, step):
        yield Measurement("norm/weight", run.model.weight.norm())
model = torch.nn.Linear(2, 1)
ProbeManager(model, [Norm(every(1))], log_dir="run").attach()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
"""


def said(tmp_path, code=SCRIPT, **environment):
    done = warm.run(code, cwd=tmp_path, env={"PROBES": "on", **environment})
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_two_lines_when_watching_begins_and_one_at_the_end_of_a_run_without_trouble(tmp_path):
    first, second, last = said(tmp_path)
    assert first == "probes: watching Linear (3 parameters) with norm"
    look = "tensorboard --logdir run, or probes show run (in the browser: probes serve)"
    assert second == f"probes: results go to run: {look}"
    assert last.startswith("probes: 4 rows of 1 stream up to step 3, in ") and last.endswith(": probes show run")


def test_the_browser_is_named_only_where_the_viewer_is_installed(tmp_path):
    without = "from probes.session import report\nreport.installed = lambda group: {}\n"
    _, second, *_ = said(tmp_path, without + SCRIPT)
    assert second == "probes: results go to run: tensorboard --logdir run, or probes show run"


def test_results_are_only_where_the_sinks_write_them(tmp_path):
    own = "class Mine:\n    def write(self, measurements):\n        pass\n"
    for sinks, place in (
        ("[Mine()]", "Mine"),
        ("['csv', Mine()]", "csv, Mine"),
        ("['tensorboard']", "run: tensorboard --logdir run"),
    ):
        code = own + SCRIPT.replace('log_dir="run"', f'log_dir="run", sinks={sinks}')
        _, second, last = said(tmp_path, code)
        assert second == f"probes: results go to {place}" and "probes show" not in last
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_what_does_not_run_is_named_with_its_reason(tmp_path):
    code = SCRIPT.replace("def measure", "needs = {'targets'}\n    def measure")
    *_, reason = said(tmp_path, code)
    assert reason.startswith("probes: not measured: norm (the targets of batch 'train' were not seen. Pass batches=")


def test_nothing_is_said_where_that_is_asked_for(tmp_path):
    assert said(tmp_path, PROBES="quiet") == []
    assert said(tmp_path, SCRIPT.replace('log_dir="run"', 'log_dir="other", quiet=True')) == []
    assert said(tmp_path, PROBES="off") == []


@pytest.mark.parametrize(("level", "lines"), [(logging.INFO, 3), (logging.WARNING, 0)])
def test_logging_that_is_configured_is_used(level, lines, model, optimizer, caplog, monkeypatch, tmp_path):
    monkeypatch.delenv("PROBES")
    caplog.set_level(level)
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / "run").attach(optimizer):
        run_steps(model, optimizer, 2)
    told = [record for record in caplog.records if record.name == "probes"]
    assert len(told) == lines and all(record.levelno == logging.INFO for record in told)


def test_a_closed_standard_error_stops_nothing(tmp_path):
    code = "import sys; sys.stderr.close()\n" + SCRIPT
    assert said(tmp_path, code) == []


def test_workers_of_a_loader_say_nothing(tmp_path):
    code = SCRIPT + ("from torch.utils.data import DataLoader\nlist(DataLoader(range(4), num_workers=2))\n")
    assert len(said(tmp_path, code)) == 3


@pytest.mark.parametrize("when", ["in the loop", "after the end"])
def test_the_report_ends_with_what_was_found(tmp_path, when):
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100)  # all units of the first layer are dead
    manager = ProbeManager(model, [LayerStatistics(every(1))], log_dir=tmp_path, overhead=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with manager.attach(optimizer):
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(16, 2)).square().mean().backward()
            optimizer.step()
        text = manager.report()
    text = text if when == "in the loop" else manager.report()
    table, _, told = text.partition("\nFound\n")
    assert "layers" in table
    assert told.strip().splitlines() == [line for line in told.strip().splitlines() if len(line) <= 118]
    assert [line[:4] for line in told.splitlines()[:1]] == ["  ! "] and "dead" in told


def test_without_a_file_nothing_is_found(tmp_path):
    manager = ProbeManager(nn.Linear(2, 1), [Norm()], log_dir=tmp_path, sinks=[])
    with manager.attach():
        assert "Found" not in manager.report()


@pytest.mark.parametrize("longer", ["training", "probes"])
def test_what_each_costs_adds_up_to_the_overhead(tmp_path, longer):
    class Slow(Norm):
        def measure(self, run):
            time.sleep(0.2 if longer == "probes" else 0.01)
            return super().measure(run)

    manager = ProbeManager(nn.Linear(2, 1), [Slow()], log_dir=tmp_path, overhead=None)
    with manager.attach():
        manager.step()
        time.sleep(0.5 if longer == "training" else 0)
    text = manager.report()
    rows = text.partition("  overhead\n")[2].partition("\n\n")[0].splitlines()
    (line,) = [line for line in text.splitlines() if line.startswith("Overhead")]
    unit, told = ("%", line.partition(", ")[2].partition("%")[0]) if "% of" in line else (" s", line.split()[1])
    costs = [float(row.split("  ")[-1].removesuffix(unit)) for row in rows]
    assert len(costs) == 4 and all(row.endswith(unit) for row in rows)
    assert sum(costs) == pytest.approx(float(told), abs=0.25 + 0.01 * float(told)) and float(told) > 0


def test_the_last_line_says_that_not_all_was_written(tmp_path):
    code = SCRIPT.replace(
        "model = ",
        """
class Full:
    name = "full"

    def write(self, measurements):
        raise OSError("the disk is full")


model = """,
        1,
    ).replace('log_dir="run"', 'log_dir="run", sinks=["hdf5", Full()]')
    measured, missing = [line for line in said(tmp_path, code) if line.startswith("probes: ")][2:]
    assert measured.endswith(": probes show run")
    assert missing == "probes: not all of it was written by full: see the messages before"
    broken = "import probes.sinks.hdf5.sink as sink\nsink.HDF5Sink.flush = lambda self, run: 1 / 0\n"
    shutil.rmtree(tmp_path / "run")
    *_, measured, missing = said(tmp_path, broken + SCRIPT)
    assert "probes show" not in measured and "not all of it was written by hdf5" in missing


def test_a_loop_without_steps_measures_nothing_for_that_reason(tmp_path):
    *_, last = said(tmp_path, SCRIPT.replace("    optimizer.step()\n", ""))
    assert last == "probes: not measured: norm (no step was seen)"
