import math

import pytest
from budget.simulated import Clock

from probes.budget.governor import GRACE, HEAD_START, PACE, Governor
from probes.budget.spending import CORE


def late(overhead=0.1):
    """A governor after two minutes, with nothing spent and no head start."""
    clock = Clock()
    governor = Governor(overhead, clock, head_start=0)
    clock.now += 120
    return governor, clock


def turn(governor, clock, probe, seconds):
    clock.now += seconds
    governor.charge(probe, seconds)
    governor.turn(probe, seconds)


def waits(governor, clock, probe, step=10**6):
    """How long until a probe that waits alone can afford its turn."""
    begin = clock.now
    while True:
        governor.allot(step, [probe])
        if governor.affords(probe):
            return clock.now - begin
        clock.now += 0.01


def test_the_first_turn_of_a_probe_goes_at_once():
    governor = Governor(0.01, Clock())
    governor.allot(0, ["a"])
    assert governor.affords("a")


def test_a_turn_waits_until_its_cost_is_earned():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 20.0)  # 12 s were earned before
    assert waits(governor, clock, "a") == pytest.approx(280, abs=0.02)
    turn(governor, clock, "a", 20.0)
    assert governor.total / (governor.elapsed - governor.total) == pytest.approx(0.1, abs=1e-4)


def test_the_time_to_look_again_is_when_the_turn_can_be_afforded():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 20.0)
    governor.allot(10**6, ["a"])
    assert governor.next_turn(["a"]) - clock.now == pytest.approx(280)


@pytest.mark.parametrize("pace", [pytest.param(0.001, marks=pytest.mark.slow), 0.01, 1.0])
@pytest.mark.parametrize("spent", [0.5, 8.0, 29.5])
def test_looking_when_told_to_misses_no_step_and_is_rare(pace, spent):
    def second_turn(everywhere):
        clock, looked, wake = Clock(), 0, 0.0
        governor = Governor(0.05, clock)
        turn(governor, clock, "a", 0.9)
        governor.charge("sink", spent)
        clock.now += spent
        for step in range(1, 10**6):
            clock.now += pace
            if everywhere or clock.now >= wake:
                looked += 1
                governor.allot(step, ["a"])
                if governor.affords("a"):
                    return step, looked
                wake = governor.next_turn(["a"])

    step, looked = second_turn(everywhere=False)
    assert step == pytest.approx(second_turn(everywhere=True)[0], abs=1) and looked < 12


def test_the_head_start_is_given_out_over_the_logarithm_of_the_steps():
    clock = Clock()
    governor = Governor(0.05, clock)
    for seconds in (40, 100, 300, 600):  # 10 steps a second: 6,000 until a twentieth of the time is as much
        clock.now = 100.0 + seconds
        governor.step = 10 * seconds
        right = HEAD_START * math.log(1 + 10 * seconds) / math.log(6001)
        assert governor.allowance() == pytest.approx(min(right, GRACE + PACE * seconds))
    clock.now += 600
    assert governor.allowance() == pytest.approx(60.0)


def test_the_head_start_comes_no_faster_than_training_goes_on():
    clock = Clock()
    governor = Governor(0.05, clock)
    clock.now += 10.0
    governor.step = 100_000
    assert governor.allowance() == GRACE + PACE * 10.0


@pytest.mark.parametrize("head_start", [-1, "30", math.inf, math.nan, True])
def test_the_head_start_must_be_seconds(head_start):
    with pytest.raises(ValueError, match="`head_start` must be a number of seconds, 0 or greater, got"):
        Governor(0.05, head_start=head_start)


def test_a_cheap_probe_that_is_always_due_leaves_a_dear_one_its_part():
    governor, clock = late(0.1)
    turn(governor, clock, "cheap", 1.0)
    turn(governor, clock, "dear", 30.0)
    turns = {"cheap": 0, "dear": 0}
    for step in range(10_000):
        clock.now += 1.0
        governor.allot(step, turns)
        for probe, seconds in (("cheap", 1.0), ("dear", 30.0)):
            if governor.affords(probe):
                turns[probe] += 1
                turn(governor, clock, probe, seconds)
    assert 30 * turns["dear"] == pytest.approx(turns["cheap"], rel=0.1) and turns["dear"] >= 15


def test_what_one_probe_does_not_need_goes_to_the_others():
    governor, clock = late(0.1)
    for probe in ("a", "b"):
        turn(governor, clock, probe, 6.0)  # all that was earned
    clock.now += 60.0
    governor.allot(1, ["a"])
    assert governor.credits["a"] == pytest.approx(6.0) and not governor.affords("b")


def test_a_turn_that_costs_more_than_it_had_is_paid_from_the_next():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 2.0)
    governor.allot(1, ["a"])
    turn(governor, clock, "a", 12.0)
    assert governor.credits["a"] == pytest.approx(-10.0)
    assert governor.cost("a") == 4.0  # one exception is not believed at once
    turn(governor, clock, "a", 12.0)
    assert governor.cost("a") == 12.0


def test_sinks_and_the_core_are_paid_first():
    governor, clock = late(0.5)
    governor.charge("sink", 100.0)
    clock.now += 100.0
    turn(governor, clock, "a", 1.0)
    assert waits(governor, clock, "a") == pytest.approx((101 + 1) / 0.5 - 120, abs=0.02)


def test_what_was_saved_is_not_spent_while_others_are_in_debt():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 2.0)
    governor.allot(1, ["a"])
    assert governor.affords("a")
    clock.now += 100.0
    governor.charge("sink", 100.0)
    assert not governor.affords("a") and governor.next_turn(["a"]) - clock.now == pytest.approx((102 + 2) / 0.1 - 120)


def test_work_of_a_sink_that_may_be_left_out_gets_its_part():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 12.0)
    assert not governor.affords_extra("sink", 2.0)
    clock.now += 30.0
    governor.allot(1, ["a"])  # 3 s: half of it for each
    assert not governor.affords_extra("sink", 2.0) and not governor.affords("a")
    clock.now += 10.0
    governor.allot(1, ["a"])
    assert governor.affords_extra("sink", 2.0)
    governor.charge("sink", 2.0)
    clock.now += 2.0
    governor.allot(1, ["a"])
    assert governor.credits["a"] == pytest.approx(2.0) and "sink" not in governor.credits


def test_what_is_spent_but_not_booked_yet_is_spent():
    governor, clock = late(0.1)  # 12 s were earned
    with governor.charged_to_core():
        assert governor.affords_extra("sink", 10.0)
        clock.now += 10.0
        assert governor.total == 10.0 and governor.elapsed - governor.total == 120.0
        assert not governor.affords_extra("sink", 3.0) and governor.affords_extra("sink", 1.9)
        governor.charge("sink", 10.0)
        assert governor.total == 10.0
    assert governor.total == 10.0


def test_at_the_end_what_was_saved_for_turns_is_free_for_the_sinks():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 12.0)
    clock.now += 30.0
    governor.allot(1, ["a"])
    assert not governor.affords_extra("sink", 2.0)
    governor.close()
    assert governor.affords_extra("sink", 2.0) and not governor.affords_extra("sink", 4.0)


def test_what_passes_in_our_calls_and_is_no_plugins_is_the_cores():
    clock = Clock()
    governor = Governor(0.1, clock)
    with governor.charged_to_core():
        clock.now += 1.0
        governor.charge("a", 0.75)
    assert governor.spent == {"a": 0.75, CORE: 0.25}


def test_time_that_is_not_watched_does_not_count():
    clock = Clock()
    governor = Governor(0.1, clock)
    clock.now += 5.0
    governor.pause()
    clock.now += 100.0
    assert governor.elapsed == 5.0
    governor.resume()
    clock.now += 5.0
    assert governor.elapsed == 10.0


def test_without_a_budget_everything_goes():
    governor = Governor(None, Clock())
    turn(governor, governor.clock, "a", 1e9)
    governor.allot(1, ["a"])
    assert governor.affords("a") and governor.affords_extra("sink", 1e9)
    assert governor.next_turn(["a"]) == governor.clock.now


def test_accounts_survive_a_resume_and_what_resuming_costs_is_added():
    governor, clock = late(0.1)
    turn(governor, clock, "a", 14.0)
    clock.now += 7
    governor.allot(1, ["a"])
    other = Governor(0.1, Clock())
    other.clock.now += 1.0
    other.charge(CORE, 1.0)
    other.load_state_dict(governor.state_dict())
    assert other.spent == {"a": 14.0, CORE: 1.0} and other.elapsed == 142
    assert other.cost("a") == 14.0 and other.credits == governor.credits


@pytest.mark.parametrize("overhead", [0, 1, -0.1, 5, "5%", True, math.nan])
def test_the_budget_must_be_a_share(overhead):
    with pytest.raises(ValueError, match="`overhead` must be a share of training time between 0 and 1"):
        Governor(overhead)


def test_importing_is_booked_once_and_is_no_training(monkeypatch):
    clock = Clock()
    governor = Governor(0.05, clock)
    monkeypatch.setattr("probes.budget.spending.imported", 0.4)
    clock.now += 0.1  # what the manager's constructor took
    governor.begin()
    assert governor.spent[CORE] == governor.elapsed == pytest.approx(0.5)
    other = Governor(0.05, clock)
    other.begin()
    assert other.total == 0
