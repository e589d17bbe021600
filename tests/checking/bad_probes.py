"""A good probe, and bad ones: each breaks one point of the contract."""

import itertools
import time

import numpy as np
import torch
from torch import nn

from probes import Axis, Measurement, Probe


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
    "measures": [UnitIsNoString, Crashes, WantsTargets, WantsInputs, WantsBatch, RefusesTargets, YieldsNothing],
    "unnoticed": [ChangesWeights, ChangesWeightsAtSteps, DrawsAtSteps, DrawsWhenMade, LeavesAHook],
    "deterministic": [DrawsWhenMeasuring, ReadsTheClock, OutlivesTheProbe, TakesAKey],
    "resumable": [Forgets, SavesAnObject, FailsToLoad],
    "copyable": [HoldsALambda, HoldsAGraph, LambdaOnTheModel],
    "NaN-safe": [CrashesOnNaN, HangsOnNaN],
    "units": [NoUnit, BracketedUnit, NoDescription, OnlyNumbered, NoUnitOfAnAxis, NoDocstring],
    "cost": [FailsOnManySamples],
}
