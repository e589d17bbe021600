import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probes import Axis, Measurement, Probe, ProbeManager, every

COMMAND = [str(Path(sys.executable).parent / "probes")]


class Spectrum(Probe):
    def measure(self, run, step):
        yield Measurement("s/amplitude", [1.0, 2.0], ("k",), {"k": Axis([1, 2], "cycles")}, unit="nats")
        yield Measurement("s/[markup]", float("nan"))


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("run"), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Spectrum(every(1))], log_dir=path, overhead=None).attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    return path


def call(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_list_names_the_installed_probes():
    done = call("list")
    assert done.returncode == 0 and "fourier" in done.stdout and "torch-probes" in done.stdout, done.stderr


def test_show_lists_the_streams(log_dir):
    done = call("show", log_dir)
    assert done.returncode == 0, done.stderr
    assert "s/amplitude" in done.stdout and "2 k" in done.stdout and "1 to 2 nats" in done.stdout
    assert "s/[markup]" in done.stdout


def test_plot_draws_the_streams(log_dir):
    done = call("plot", log_dir)
    assert done.returncode == 0 and (log_dir / "plots" / "s.amplitude.png").exists(), done.stderr


def test_a_missing_run_is_one_line_and_an_exit_code(tmp_path):
    done = call("show", tmp_path / "nothing")
    assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_extra_is_named():
    script = "import sys; sys.modules['typer'] = None; from probes.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install 'torch-probes[analysis]'" in done.stderr
