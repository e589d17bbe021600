"""A model and its optimizer for each test that asks for them, and a directory of its own for each."""

import os
from pathlib import Path

import pytest
import torch
import warm
from torch import nn

from probes.guard import process

os.environ.setdefault("PROBES", "quiet")  # what is said when watching begins and ends
torch.set_warn_always(True)  # what torch warns of once, one test would hide from all others of its process


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a manager without a log_dir makes its own


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture
def warm_python(monkeypatch):
    """Code that starts Python gets one that has imported torch already."""
    monkeypatch.setattr("sys.executable", warm.python())


@pytest.fixture(autouse=True)
def warnings_of_measurements_are_errors(monkeypatch):
    monkeypatch.setattr(process, "strict", True)


def pytest_configure(config):
    """`-m device`, with nothing named, looks at tests/device alone: what others import may not be installed."""
    if config.option.markexpr == "device" and config.args_source is not config.ArgsSource.ARGS:
        config.args = [str(Path(__file__).parent / "device")]
