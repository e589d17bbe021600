"""The contract of every probe: each bad probe is reported by the point that it does not meet, and by no other."""

import functools
import itertools
import json
import re
import signal
import sys
import time
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import Axis, Measurement, Probe
from probes.batches import Batch
from probes.checking.contract import Contract
from probes.checking.deadline import Overdue
from probes.checking.points import POINTS
from probes.checking.trials import refuses
from probes.commands import cli
from probes.session.discovery import installed, load
from probes.testing import SUBJECTS, NotChecked, ProbeContract, Subject, Trial, check, find
from probes_mine.estimator import mutual_information
from probes_mine.labels import label_information

SHIPPED = sorted(name for name, entry in installed().items() if entry.module.startswith("probes_"))
IN_PROCESS = [point for point in POINTS if point != "independent"]
"""The points that start no process."""


class Good(Probe):
    """Mean and spectrum of the outputs, and how often it was called."""

    name = "good"
    needs = frozenset({"batch"})

    def __init__(self, schedule=None, *, size: int = 2, scale: float = 1.0):
        super().__init__(schedule)
        if not size >= 1 or not scale > 0:
            raise ValueError(f"`size` and `scale` must be positive, got {size} and {scale}.")
        self.size, self.scale, self.calls = size, scale, 0

    def measure(self, run, step):
        self.calls += 1
        yield self.one(self.value(run, step))
        draw = torch.randn(3, generator=run.generator)
        yield Measurement("good/draws", draw, ("i",), {"i": Axis([2, 4, 6], "Hz")}, unit="1", description="noise")

    def one(self, value, unit="output", **more):
        return Measurement("good/mean", value, unit=unit, **{"description": "of the outputs", **more})

    def value(self, run, step):
        return run.evaluate("train").double().mean() * self.scale + self.calls

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class TestGood(ProbeContract):
    probe = Good


class TestGoodInstance(ProbeContract):
    probe = Good(size=3)
    subjects = SUBJECTS[:2]


# ------------------------------------------------------------------------------------------------ one for each point


class NoDefault(Good):
    """Cannot be made without arguments."""

    def __init__(self, schedule=None, *, batch):
        super().__init__(schedule)


class ForgetsSchedule(Good):
    """Does not hand its schedule on."""

    def __init__(self, schedule=None):
        super().__init__()


class AcceptsAnything(Good):
    """Looks at no setting."""

    def __init__(self, schedule=None, *, size: int = 2):
        super().__init__(schedule)
        self.size = size


class Loops(Good):
    """Never comes back."""

    def value(self, run, step):
        while True:
            try:
                torch.ones(1).sum()
            except Exception:
                continue


class Crashes(Good):
    """Has no bfloat16."""

    def value(self, run, step):
        return torch.fft.rfft(run.evaluate("train").flatten()).abs()[0]


class WantsTargets(Good):
    """Does not say so."""

    def value(self, run, step):
        return run.batch("train").targets.double().mean()


class WantsInputs(Good):
    """Does not say so."""

    def value(self, run, step):
        return run.batch("train").inputs.double().mean()


class WantsBatch(Good):
    """Does not say so."""

    needs = frozenset()


class RefusesTargets(Good):
    """Says it too late."""

    def value(self, run, step):
        if run.batch("train").targets is None:
            raise ValueError("there must be targets")
        return 0.0


class YieldsNothing(Good):
    """Measures nothing."""

    def measure(self, run, step):
        return ()


class ChangesWeights(Good):
    """In place."""

    def value(self, run, step):
        with torch.no_grad():
            next(run.model.parameters()).mul_(1.0)
        return 0.0


class ChangesWeightsAtSteps(Good):
    """Where no guard is."""

    def on_step(self, run, step):
        with torch.no_grad():
            next(run.model.parameters()).mul_(1.001)


class DrawsAtSteps(Good):
    """Where no guard is."""

    def on_step(self, run, step):
        torch.rand(1)


class DrawsWhenMade(Good):
    """As a network does."""

    def __init__(self, schedule=None):
        super().__init__(schedule)
        nn.Linear(2, 2)


class LeavesAHook(Good):
    """Behind."""

    def on_attach(self, run):
        run.model.register_forward_hook(no_hook)


def no_hook(*_):
    return None


class DrawsWhenMeasuring(Good):
    """From the global random state."""

    def value(self, run, step):
        return torch.rand(())


class ReadsTheClock(Good):
    """Is another every time."""

    def value(self, run, step):
        return time.perf_counter()


class OutlivesTheProbe(Good):
    """Counts in the class."""

    counter = itertools.count()

    def value(self, run, step):
        return next(self.counter)

    def state_dict(self):
        return {"calls": 0}


class TakesAKey(Good):
    """Under which others share something else."""

    def value(self, run, step):
        return run.shared(("evaluate", "train"), lambda: torch.zeros(())).double().mean()


class Forgets(Good):
    """Has no state to save."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class SavesAnObject(Good):
    """Which no checkpoint can hold."""

    def state_dict(self):
        return {"calls": self.calls, "self": object()}


class FailsToLoad(Good):
    """What it saved."""

    def load_state_dict(self, state):
        self.calls = state["count"]


class HoldsALambda(Good):
    """Cannot be pickled."""

    def __init__(self, schedule=None):
        super().__init__(schedule)
        self.function = lambda: 1


class HoldsAGraph(Good):
    """Cannot be copied once it has measured."""

    def value(self, run, step):
        self.kept = run.forward(run.batch("train"))
        return 0.0


class LambdaOnTheModel(Good):
    """Which cannot be saved."""

    def on_attach(self, run):
        run.model.register_forward_hook(lambda *_: None)
        self.handle = run.model[0] if isinstance(run.model, nn.Sequential) else run.model

    def on_detach(self, run):
        run.model._forward_hooks.clear()


class CrashesOnNaN(Good):
    """An eigenvalue solver does."""

    def value(self, run, step):
        outputs = run.evaluate("train").double().reshape(-1, 1)
        return torch.linalg.eigh(outputs.T @ outputs).eigenvectors[0, 0] + (0 if outputs.isfinite().all() else [][0])


class HangsOnNaN(Good):
    """Until it converges."""

    def value(self, run, step):
        x = run.evaluate("train").double().abs().sum()
        while not x < 1:
            x = x / 2
        return 0.0


class NoUnit(Good):
    """Says nothing of it."""

    def one(self, value):
        return super().one(value, unit="")


class BracketedUnit(Good):
    """Says it in another form."""

    def one(self, value):
        return super().one(value, unit="[s]")


class UnitIsNoString(Good):
    """Says it in no words."""

    def one(self, value):
        return super().one(value, unit=None)


class NoDescription(Good):
    """Does not say what it is."""

    def one(self, value):
        return super().one(value, description="")


class OnlyNumbered(Good):
    """Does not say of what."""

    def one(self, value):
        return super().one([1.0, 2.0], dims=("layer",))


class NoUnitOfAnAxis(Good):
    """Nor in what."""

    def one(self, value):
        return super().one([1.0, 2.0], dims=("k",), coords={"k": Axis([1.5, 2.5], "none")})


class NoDocstring(Good):
    pass


NoDocstring.__doc__ = None


class FailsOnManySamples(Good):
    """Only a few will do."""

    def value(self, run, step):
        return np.zeros(100)[run.batch("train").n]


BAD = {
    "settings": [NoDefault, ForgetsSchedule, AcceptsAnything],
    "finishes": [Loops],
    "measures": [Crashes, WantsTargets, WantsInputs, WantsBatch, RefusesTargets, YieldsNothing],
    "unnoticed": [ChangesWeights, ChangesWeightsAtSteps, DrawsAtSteps, DrawsWhenMade, LeavesAHook],
    "deterministic": [DrawsWhenMeasuring, ReadsTheClock, OutlivesTheProbe, TakesAKey],
    "resumable": [Forgets, SavesAnObject, FailsToLoad],
    "copyable": [HoldsALambda, HoldsAGraph, LambdaOnTheModel],
    "NaN-safe": [CrashesOnNaN, HangsOnNaN],
    "units": [NoUnit, BracketedUnit, UnitIsNoString, NoDescription, OnlyNumbered, NoUnitOfAnAxis, NoDocstring],
    "cost": [FailsOnManySamples],
}


@functools.cache
def results_of(bad):
    few = SUBJECTS if bad in BAD["measures"] else SUBJECTS[:2]
    contract = Contract(bad, few, deadline=10.0 if bad in (Loops, HangsOnNaN) else 60.0)
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
    assert "not over after 0.5 s" in result.found and "test_testing.py" in result.found


def test_importing_a_training_framework_is_found(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("")
    source = "from probes import Probe\nclass Own(Probe):\n    'One.'\n"
    (tmp_path / "probe_with_framework.py").write_text(f"import wandb\n{source}")
    (tmp_path / "probe_without_framework.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with_it = Contract(find("probe_with_framework:Own")).result("independent")
    assert with_it.status == "failed" and "imports wandb" in with_it.found
    assert Contract(find("probe_without_framework:Own")).result("independent").status == "ok"


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


def test_a_refusal_is_a_raise_of_ones_own_with_words():
    def caught(function):
        try:
            function()
        except Exception as error:
            return error

    def own():
        raise RuntimeError("this model has no layers")

    def wordless():
        raise ValueError

    def of_python():
        return [][0]

    def of_torch():
        torch.ones(2) @ torch.ones(3)

    def of_torch_in_python():
        F.cross_entropy(torch.ones(2, 3), torch.ones(3).long())

    def of_the_core():
        Batch((torch.ones(2, dtype=torch.long),)).with_inputs(torch.ones(2))

    assert refuses(caught(own))
    for function in (wordless, of_python, of_torch, of_torch_in_python, of_the_core):
        assert not refuses(caught(function)), function
    assert not refuses(Overdue("late")) and not refuses(None)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_trial_repeats_itself_and_a_trace_of_it_is_seen(subject):
    one, other = Trial(subject).run(), Trial(subject).run()
    assert one.error is None and one.places == other.places and len(one.places) == 11
    assert one.places[0][1] != one.places[1][1]
    drawn = Trial(subject, drawn=1).run()
    first = [name for name, value in one.places[1][1].items() if drawn.places[1][1][name] != value]
    assert first and all(name.startswith("random state") for name in first)


def test_trials_leave_the_random_states_and_alarms_of_the_caller_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    handler = signal.getsignal(signal.SIGALRM)
    check(Good, ["deterministic", "unnoticed"])
    check(DrawsWhenMade, ["unnoticed"])
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


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


# ---------------------------------------------------------------------------------------------------- the command line


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["probes", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


def test_check_prints_a_table_and_ends_with_0(monkeypatch, capsys):
    code, out = call(monkeypatch, capsys, "check", "spectral_norm")
    assert code == 0 and re.findall(r"^ (\S+) +(\w+) ", out, flags=re.M)[1:] == [(point, "ok") for point in POINTS]


def test_check_of_a_module_in_this_directory_fails_with_1_and_tells_machines(tmp_path, monkeypatch, capsys):
    source = (
        "from probes import Measurement, Probe\n"
        "class Bad(Probe):\n"
        "    '''Has no unit.'''\n"
        "    def measure(self, run, step):\n"
        "        yield Measurement('bad/one', 1.0, unit='', description='one')\n"
    )
    (tmp_path / "probe_of_mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    code, out = call(monkeypatch, capsys, "check", "probe_of_mine:Bad", "--json")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["probe"] == "probe_of_mine:Bad"
    assert [point["point"] for point in found["points"] if point["status"] == "failed"] == ["units"]
    assert [cost["samples"] for cost in found["costs"]] == [32, 128, 512]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "No probe is named 'nothing'. Installed probes: "),
        ("nowhere_at_all:Probe", "No module named 'nowhere_at_all'"),
        ("probes.probe:Schedule", "must be a subclass of probes.Probe"),
        ("probes.probe:nothing", "probes.probe has no 'nothing'"),
    ],
)
def test_check_of_what_is_not_there_is_one_line(name, message, monkeypatch, capsys):
    code, _ = call(monkeypatch, capsys, "check", name)
    assert message in code


def test_not_checked_is_an_exception_of_its_own():
    with pytest.raises(NotChecked, match="it measured on none"):
        Contract(YieldsNothing).measured  # noqa: B018 - a property that looks
