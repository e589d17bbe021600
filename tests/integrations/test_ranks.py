"""Each framework's own DDP on two ranks: what scripts/ranks.py saw under torchrun."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import warm
from integration_runs import assert_same_records, batches, events, network, probes, steps
from torch import nn

from probes import ProbeManager
from probes.sinks.hdf5 import HDF5Sink

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The records of the same training in one process."""
    log_dir = tmp_path_factory.mktemp("single")
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with ProbeManager(model, probes(), sinks=[HDF5Sink()], log_dir=log_dir, overhead=None).attach(optimizer):
        for _ in range(2):
            for x, y in batches():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    return log_dir


@pytest.mark.parametrize(
    "framework",
    ["accelerate", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "lightning", "transformers"))],
)
def test_training_on_two_ranks_is_what_it_is_without_and_is_measured_once(framework, single, tmp_path):
    python = warm.python()
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", python]
    done = subprocess.run(
        [*command, ROOT / "tests" / "integrations" / "scripts" / "ranks.py", tmp_path, framework],
        capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{framework}.{rank}.json").read_text())
        assert seen["probed"] == seen["bare"]
    (file,) = tmp_path.rglob("*.h5")
    assert steps(file.parent) == list(range(13))
    told = set(events(file.parent))
    if framework == "transformers":
        # Of labels of each position there is no alignment: it is NaN, which is told, and why.
        assert told == {"attach", "detach", "skipped", "warning"}
        assert len(list(tmp_path.rglob("probes.pt"))) == 2
    else:  # the ranks have the same batches, so that the mean of their gradients is that of each
        assert told == {"attach", "detach"}
        assert_same_records(file.parent, single)
