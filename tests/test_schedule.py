import numpy as np
import pytest
import torch

from probes import at, every, log_spaced
from probes.schedule import Schedule


def steps(schedule: Schedule, until: int) -> list[int]:
    found, step = [], schedule.next(-1)
    while step is not None and step <= until:
        found.append(step)
        step = schedule.next(step)
    return found


def test_every_is_the_multiples():
    assert steps(every(3), 10) == [0, 3, 6, 9]


def test_every_begins_at_start():
    assert steps(every(4, start=3), 12) == [3, 7, 11]
    assert every(4, start=3).next(0) == 3


def test_log_spaced_is_the_thesis_schedule():
    thesis = sorted({0} | {int(5 * 1.15**k) for k in range(60)})
    assert steps(log_spaced(), thesis[-1]) == thesis


def test_log_spaced_can_be_asked_in_any_order():
    schedule = log_spaced()
    late = schedule.next(1000)
    assert schedule.next(4) == 5 and schedule.next(1000) == late == log_spaced().next(1000)


def test_log_spaced_of_a_factor_of_almost_one_is_every_step():
    assert steps(log_spaced(5, 1 + 1e-9), 12) == [0, *range(5, 13)]


@pytest.mark.parametrize("factor", [1.0003, 1.01, 1.15, 1.9])
def test_log_spaced_skips_no_step_of_its_powers(factor):
    powers = {int(3.7 * factor**k) for k in range(20_000 if factor < 1.001 else 2000 if factor < 1.1 else 60)}
    assert steps(log_spaced(3.7, factor), 300) == sorted({0} | {step for step in powers if step <= 300})


def test_integers_of_numpy_and_torch_are_steps():
    assert repr(every(np.int64(5), start=torch.tensor(1))) == "every(5, start=1)"
    assert steps(at(np.array([7, 2])), 10) == [2, 7] and repr(at(torch.arange(2))) == "at([0, 1])"
    assert repr(at(np.int64(3))) == "at([3])"


def test_at_ends():
    assert steps(at([7, 2, 7]), 100) == [2, 7] and at([7]).next(7) is None


def test_union_is_due_when_either_is():
    assert steps(every(5) | at([7]) | at([10]), 12) == [0, 5, 7, 10]


def test_membership_is_being_due():
    assert 10 in every(5) and 11 not in every(5)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_every_rejects_what_is_no_positive_integer(n):
    with pytest.raises(ValueError, match="must be a positive integer"):
        every(n)


@pytest.mark.parametrize("given", [[], [-1], [1.5], [True]])
def test_at_rejects_what_is_no_step(given):
    with pytest.raises(ValueError, match="must be integers, 0 or greater"):
        at(given)


def test_log_spaced_rejects_a_factor_that_does_not_grow():
    with pytest.raises(ValueError, match="`factor`"):
        log_spaced(5, 1.0)
    with pytest.raises(ValueError, match="`base`"):
        log_spaced(0.5)
