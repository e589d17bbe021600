"""A trial of a probe repeats itself, and leaves the caller's process as it was."""

import signal

import numpy as np
import pytest
import torch
from checking.bad_probes import DrawsWhenMade, Good
from torch.nn import functional as F

from probes.batches import Batch
from probes.checking.deadline import Overdue
from probes.checking.trials import refuses
from probes.testing import SUBJECTS, Trial, check


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
