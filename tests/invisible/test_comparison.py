"""The comparison notices whatever a probe changes, and names it and where; what the guard undoes, it does not see."""

import contextlib
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from invisible.matrix import Combination, Session, Unequal, compare, train_bare
from invisible.models import MODELS, Checkpointed, Memory
from probes import Measurement, Probe, at, every

COMBINATION = Combination("Adam", "batch norm", "plain", "eager")


def weight(run):
    return run.model[0].weight


def scale(tensor):
    with torch.no_grad():
        tensor.mul_(1 + 1e-6)


DAMAGES = {
    "parameter 0.weight": lambda run: scale(weight(run)),
    "gradient 0.weight": lambda run: scale(weight(run).grad),
    "requires_grad 0.weight": lambda run: weight(run).requires_grad_(False),
    "buffer 1.running_mean": lambda run: scale(run.model[1].running_mean),
    "training 1": lambda run: run.model[1].eval(),
    "optimizer 0 exp_avg of 0.weight": lambda run: scale(run.optimizers[0].state[weight(run)]["exp_avg"]),
    "optimizer 0 settings of group 0": lambda run: run.optimizers[0].param_groups[0].update(lr=0.011),
    "random state of torch": lambda run: torch.rand(1),
    "random state of numpy": lambda run: np.random.rand(),  # noqa: NPY002
    "random state of Python": lambda run: random.random(),
    "hooks": lambda run: run.model[0].register_forward_hook(lambda *_: None),
    "setting default dtype": lambda run: torch.set_default_dtype(torch.float64),
    "setting warning filters": lambda run: warnings.simplefilter("always"),
    "setting recursion limit": lambda run: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "setting deterministic algorithms": lambda run: torch.use_deterministic_algorithms(True),
    "attributes": lambda run: setattr(run.model[0], "left_behind", 1),
}


class Damaging(Probe):
    """Does something where nothing is undone, after the third step."""

    def __init__(self, damage):
        super().__init__(at([0]))
        self.damage = damage

    def measure(self, run, step):
        yield Measurement("damage/one", 1.0)

    def on_step(self, run, step):
        if step == 3:
            self.damage(run)


@pytest.fixture
def settings_kept():
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings():
        yield
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    sys.setrecursionlimit(limit)


def trained(probe, combination=COMBINATION):
    session = Session(combination, [probe])
    with contextlib.suppress(RuntimeError):  # a training that is disturbed may fail
        session.train()
    session.detach()
    session.watch("detached")
    return session.watch.trace


@pytest.fixture
def bare():
    return train_bare(COMBINATION)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.usefixtures("settings_kept")
def test_a_change_is_noticed_where_it_happens(name, bare):
    where = "detached" if name == "attributes" else "step, iteration 2, after 3 steps"
    with pytest.raises(Unequal, match=f"^{where}.*: (.*, )?{name}(,|$)"):
        compare(bare, trained(Damaging(DAMAGES[name])))


class Careless(Probe):
    """Draws wherever a plugin may, but at every step, and trains the model when it measures."""

    needs = frozenset({"targets"})

    def on_attach(self, run):
        nn.Linear(3, 3), draw()

    def measure(self, run, step):
        run.model.train()
        batch = run.batch("train")
        loss = nn.functional.cross_entropy(run.forward(batch), batch.targets)
        loss.backward()
        draw()
        yield Measurement("careless/loss", loss)

    def state_dict(self):
        return {"drawn": draw()}

    def load_state_dict(self, state):
        draw()

    def on_detach(self, run):
        draw()


def draw():
    torch.rand(1), np.random.rand()  # noqa: NPY002
    return random.random()


@pytest.mark.parametrize("model", [Memory, lambda: Checkpointed(True, statistics=True), None])
def test_what_is_undone_is_not_noticed(model, monkeypatch):
    if model is not None:
        monkeypatch.setitem(MODELS, "batch norm", model)
    bare = train_bare(COMBINATION)
    assert not bare.refused
    session = Session(COMBINATION, [Careless(every(1))])
    session.train()
    assert session.manager.state_dict()["plugins"]["Careless"] is not None
    session.detach()
    session.watch("detached")
    compare(bare, session.watch.trace)
    assert {row.step for row in session.recorder.rows if row.name == "careless/loss"} == set(range(7))
