"""Every fault of the list, each in a process of its own: training ends as it would have, and the file says the rest."""

import json
from pathlib import Path

import pytest
import warm
from faults import all_faults  # noqa: F401
from faults.scene import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(request):
    chosen = [item for item in request.session.items if item.name.startswith("test_training_ends_as_it_would_have[")]
    names = [item.callspec.params["name"] for item in chosen]
    done = warm.run(ROOT / "benchmarks" / "faults.py", "--json", *names)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if item.slow else ()) for name, item in FAULTS.items()]
)
def test_training_ends_as_it_would_have(name, outcomes):
    assert name in outcomes, "the process that lets the faults happen has died before it"
    assert not outcomes[name]["problems"]


def test_there_are_many_faults():
    assert len(FAULTS) >= 100
