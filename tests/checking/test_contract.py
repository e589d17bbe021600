"""The contract of every probe: each bad probe is reported by the point that it does not meet, and by no other."""

import functools
import time
from unittest import mock

import pytest
import torch
from checking.bad_probes import (
    BAD,
    AcceptsAnything,
    ChangesWeights,
    CrashesOnNaN,
    DrawsAtSteps,
    DrawsWhenMade,
    DrawsWhenMeasuring,
    Forgets,
    Good,
    HangsOnNaN,
    HoldsALambda,
    LambdaOnTheModel,
    LeavesAHook,
    Loops,
    NoDefault,
    NoUnit,
    OnlyNumbered,
    SavesAnObject,
    WantsBatch,
    WantsInputs,
    WantsTargets,
    YieldsNothing,
)
from torch import nn

from probes import Measurement, Probe
from probes.checking.contract import Contract
from probes.checking.points import POINTS
from probes.session.discovery import installed, load
from probes.testing import SUBJECTS, NotChecked, ProbeContract, Subject, check, find
from probes_mine.estimator import mutual_information
from probes_mine.labels import label_information

SHIPPED = sorted(name for name, entry in installed().items() if entry.module.startswith("probes_"))
IN_PROCESS = [point for point in POINTS if point != "independent"]
"""The points that start no process."""


class TestGood(ProbeContract):
    probe = Good


class TestGoodInstance(ProbeContract):
    probe = Good(size=3)
    subjects = SUBJECTS[:2]


@functools.cache
def results_of(bad):
    few = SUBJECTS if bad in BAD["measures"] else SUBJECTS[:2]
    # One of them hangs at once, however long it is given; the other only where it measures NaN.
    contract = Contract(bad, few, deadline={Loops: 2.0, HangsOnNaN: 10.0}.get(bad, 60.0))
    with mock.patch("probes.checking.evidence.COST_SAMPLES", (128,)):
        return {point: contract.result(point) for point in IN_PROCESS}


FIRST = [probes[0] for probes in BAD.values()]
"""One for each point; the others are tried in the slow tests."""


@pytest.mark.parametrize(
    ("point", "bad"),
    [
        pytest.param(point, bad, marks=[] if bad in FIRST else pytest.mark.slow)
        for point, probes in BAD.items()
        for bad in probes
    ],
)
def test_a_bad_probe_is_reported_by_exactly_its_point(point, bad):
    results = results_of(bad)
    assert {name: result.found for name, result in results.items() if result.status == "failed"}.keys() == {point}
    assert results[point].found.strip() and results[point].advice.endswith(".")
    # What is not looked at says why: it is the failed point, or what follows from it.
    assert all(result.found for result in results.values() if result.status == "not checked")


def test_refusing_a_model_whether_there_are_targets_or_not_is_no_lack_of_targets():
    class Images(Good):
        """Measures images alone."""

        needs = frozenset({"inputs"})

        def value(self, run, step):
            if run.batch("train").inputs.ndim != 4:
                raise ValueError("there must be images")
            return 0.0

    result = Contract(Images).result("measures")
    assert result.status == "ok" and result.found.startswith("measures convolutions with batch norm; refuses an MLP")
    assert "a batch without targets (there must be images)" in result.found


def test_every_point_has_a_probe_that_does_not_meet_it():
    assert {*BAD, "independent"} == set(POINTS)


FOUND = [
    (AcceptsAnything, "size='nonsense' is accepted; size=nan is accepted", "raise TypeError or ValueError"),
    (WantsTargets, "a batch without targets: AttributeError", "Say in `needs`"),
    (WantsInputs, "(integer inputs): AttributeError(\"'NoneType'", "Say in `needs`"),
    (WantsBatch, "no batch: KeyError", "Say in `needs`"),
    (ChangesWeights, "It changes an MLP: parameter '0.weight' was changed in place", "Work on copies"),
    (DrawsAtSteps, "after update 1: random state of torch", "not guarded"),
    (DrawsWhenMade, "Making it changes random state of torch", "not in __init__"),
    (LeavesAHook, "after detach: hooks", "remove what you register"),
    (DrawsWhenMeasuring, "beside another probe and with other global random states, good/mean is another at step 0",
     "run.generator"),
    (Forgets, "Resumed from a checkpoint of step 3, good/mean is another at step 4", "state_dict()"),
    (SavesAnObject, "must be tensors, numbers, strings and containers of them, got object", "state_dict()"),
    (HoldsALambda, "as it was made, cannot be pickled", "Keep no lambda"),
    (LambdaOnTheModel, "The model, with the probe attached, cannot be pickled", "Keep no lambda"),
    (CrashesOnNaN, "When parameters of an MLP become NaN, it ends in", "isfinite()"),
    (NoUnit, "good/mean: its unit is ''; of what has none, it is '1'", 'unit="nats"'),
    (OnlyNumbered, "good/mean: 'layer' has no coordinates", "coords="),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "found", "advice"),
    [pytest.param(*case, marks=[] if case[0] in FIRST else pytest.mark.slow) for case in FOUND],
)
def test_what_was_found_names_it_and_says_what_to_do(bad, found, advice):
    failed = [result for result in results_of(bad).values() if result.status == "failed"]
    assert found in failed[0].found and advice in failed[0].advice


def test_a_hang_is_told_with_its_line():
    result = Contract(Loops, deadline=0.5).result("finishes")
    assert "not over after 0.5 s" in result.found and "bad_probes.py" in result.found


def test_importing_a_training_framework_is_found(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("")
    source = "from probes import Probe\nclass Own(Probe):\n    'One.'\n"
    (tmp_path / "probe_with_framework.py").write_text(f"import wandb\n{source}")
    (tmp_path / "probe_without_framework.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with_it = Contract(find("probe_with_framework:Own")).result("independent")
    assert with_it.status == "failed" and "imports wandb" in with_it.found
    assert Contract(find("probe_without_framework:Own")).result("independent").status == "ok"
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    by_path = [Contract(find(f"{tmp_path}/probe_{with_}_framework.py:Own")) for with_ in ("with", "without")]
    assert [each.result("independent").status for each in by_path] == ["failed", "ok"]


def test_a_module_that_cannot_be_imported_is_not_checked(monkeypatch):
    monkeypatch.setattr(Good, "__module__", "nowhere_to_be_found")
    result = Contract(Good).result("independent")
    assert result.status == "not checked" and "nowhere_to_be_found" in result.found


# ------------------------------------------------------------------------------------------------------------ shipped


def brief(function):
    """Trained for a few updates, which would else take most of the time."""
    return lambda *arguments, **settings: function(*arguments, **{**settings, "max_steps": 20})


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_probe_meets_the_contract(name, monkeypatch):
    monkeypatch.setattr("probes_mine.layer_information.label_information", brief(label_information))
    monkeypatch.setattr("probes_mine.layer_information.mutual_information", brief(mutual_information))
    monkeypatch.setattr("probes.checking.evidence.COST_SAMPLES", (32, 64))
    # The other points of this one take half a minute: the slow test has them.
    brief_points = ["settings", "finishes", "measures", "unnoticed", "units"]
    results = check(load(name), brief_points if name == "mutual_information" else IN_PROCESS)
    assert len(results) >= 5 and {result.point: result for result in results if result.status != "ok"} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_probe_meets_the_whole_contract(name):
    assert {result.point: result for result in check(load(name)) if result.status != "ok"} == {}


# ------------------------------------------------------------------------------------------------------- the contract


def test_an_instance_is_not_changed_and_keeps_its_settings():
    probe = Good(size=5)
    assert all(result.status == "ok" for result in check(probe, ["finishes", "measures", "resumable", "copyable"]))
    assert probe.calls == 0 and 2 not in list(filter(probe.schedule.__contains__, range(5)))
    assert Contract(probe).make().size == 5


def test_an_instance_of_a_class_that_needs_settings_can_be_checked():
    statuses = {result.point: result.status for result in check(NoDefault(batch="train"), IN_PROCESS)}
    assert statuses.pop("settings") == "not checked" and set(statuses.values()) == {"ok"}


def test_what_a_class_that_cannot_be_made_is_told():
    statuses = {result.point: result.status for result in check(NoDefault, IN_PROCESS)}
    assert statuses.pop("settings") == "failed" and set(statuses.values()) == {"not checked"}


@pytest.mark.parametrize("probe", [int, 3, object()])
def test_what_is_no_probe_is_refused(probe):
    with pytest.raises(TypeError, match=r"subclass of probes\.Probe"):
        Contract(probe)


def test_an_unknown_point_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"No point of the contract is named 'speed'\. There are: settings, finishes"):
        check(Good, ["speed"])


def test_the_cost_of_a_probe_that_returns_its_one_measurement_is_known():
    class Returns(Probe):
        name = "returns"

        def measure(self, run, step):
            return Measurement("returns/x", run.evaluate("train").square().mean())

    assert [cost.samples for cost in Contract(Returns).costs] == [32, 128, 512]


def test_the_cost_of_a_probe_that_holds_a_megabyte_is_a_megabyte():
    class Megabyte(Good):
        """Holds so much for each of 32 samples."""

        def value(self, run, step):
            held = torch.zeros(run.batch("train").n, 2**15, dtype=torch.uint8)
            time.sleep(0.02)
            return held.double().mean()  # and eight times as much in float64

    costs = Contract(Megabyte).costs
    assert [cost.samples for cost in costs] == [32, 128, 512]
    for cost in costs:
        assert cost.memory == pytest.approx(9 * cost.samples * 2**15, rel=0.01)
        assert cost.later >= 0.02 and cost.first >= 0.02


def test_a_probe_of_a_special_kind_of_model_is_tried_on_ones_own():
    class Complex(Good):
        """Of models that return pairs of numbers."""

        def value(self, run, step):
            if run.evaluate("train").shape[1:] != (2,):
                raise ValueError("the model must return pairs")
            return 0.0

    assert Contract(Complex).result("measures").status == "failed"
    pairs = Subject("pairs", lambda: nn.Linear(4, 2), lambda n: (torch.randn(n, 4), torch.randint(2, (n,))))
    contract = Contract(Complex, [pairs])
    assert {contract.result(point).status for point in IN_PROCESS if point != "copyable"} == {"ok"}


def test_a_skip_names_the_point_that_failed():
    class TestLoops(ProbeContract):
        probe = YieldsNothing

    with pytest.raises(AssertionError, match="It measures none of the models"):
        TestLoops().test_meets("measures")
    with pytest.raises(BaseException, match="it measured on none of the models"):
        TestLoops().test_meets("cost")


def test_not_checked_is_an_exception_of_its_own():
    with pytest.raises(NotChecked, match="it measured on none"):
        Contract(YieldsNothing).measured  # noqa: B018 - a property that looks
