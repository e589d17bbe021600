"""What every test on a device needs: exact convolutions, the same each time; and one line on which device it was."""

import pytest
import torch

from .training import DEVICE, Loop, device_in_words, differences, train


@pytest.fixture(autouse=True)
def exact():
    """By default cuDNN rounds the factors of a convolution to 11 bits (TF32), and may add them up in any order."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def bare():
    """A training without probes, if the device repeats itself: otherwise nothing can be told from two trainings."""

    def twice(make=Loop, **settings):
        first, second = train(make=make, **settings), train(make=make, **settings)
        if differing := differences(first.state, second.state):
            pytest.skip(f"{DEVICE} does not repeat a training without probes to the last bit: {differing[0]}")
        return first

    return twice


def pytest_terminal_summary(terminalreporter):
    if any("tests/device" in report.nodeid for report in terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(f"The device tests ran on {device_in_words()}.")
