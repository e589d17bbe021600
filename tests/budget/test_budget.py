"""The promise of the budget, on simulated training runs: the real session and governor, on a clock of their own."""

import itertools
import logging
import math

import pytest
from budget.simulated import Costly, CostlySink, Simulation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import Memory, Norm, run_steps

from probes import Axis, Measurement, Probe, ProbeManager, at, every, log_spaced, open_run
from probes.budget.governor import GRACE, HEAD_START
from probes.budget.spending import CORE
from probes.plots import save_plots
from probes.schedule import Schedule

MINUTE = 60.0
many = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def worst_excess(simulation, after=0.0):
    """What was spent at most beyond what may be spent by then."""
    return max((excess for training, excess in simulation.excess if training >= after), default=0.0)


# Of a probe: its cost, its growth with each turn, and its schedule.
kinds = st.tuples(
    st.floats(0.01, 0.3), st.sampled_from([1.0, 1.0, 1.02, 0.97]), st.sampled_from([every(1), every(7), log_spaced()])
)


@many
@given(
    st.sampled_from([0.02, 0.05, 0.1]),
    st.lists(kinds, min_size=1, max_size=5),
    st.floats(0.02, 0.5),
    st.sampled_from([0.2, 1.0, 10.0]),
    st.sampled_from([0.0, 0.001]),
    st.sampled_from([0.0, 5.0, HEAD_START]),
)
def test_at_no_time_is_more_spent_than_the_budget_or_the_head_start_and_one_turn(
    overhead, kinds, step_time, change, write, head_start
):
    probes = [
        Costly(f"p{index}", schedule, lambda turn, cost=cost, growth=growth: min(cost * growth**turn, 2.0))
        for index, (cost, growth, schedule) in enumerate(kinds)
    ]
    simulation = Simulation(overhead, probes, CostlySink(write, 10 * write), head_start=head_start)
    simulation.attach().train(240, lambda training: step_time if training < 120 else step_time * change)
    dearest = max(cost for probe in probes for _, _, cost in probe.turns)
    flushes = 12 * write
    first = sum(probe.turns[0][2] for probe in probes)  # those go at once
    paid = first / overhead
    assert (
        worst_excess(simulation, 0.0 if head_start > first + 5 * write else paid) <= 0.1 * dearest + flushes + 5 * write
    )
    assert simulation.spent <= max(simulation.promised, first) + 0.1 * dearest + flushes + 5 * write


@many
@given(st.lists(st.floats(0.01, 2.0), min_size=2, max_size=5), st.floats(0.01, 0.2), st.sampled_from([0.02, 0.05, 0.1]))
def test_probes_that_are_always_due_get_equal_parts_and_all_of_the_budget(costs, step_time, overhead):
    probes = [Costly(f"p{index}", every(1), cost) for index, cost in enumerate(costs)]
    simulation = Simulation(overhead, probes).attach()
    start = max(MINUTE, 1.2 * sum(costs) / overhead)  # the first turns are paid
    length = 10 * sum(costs) / overhead
    simulation.train(start + length, step_time)
    part = length * overhead / len(costs)
    for probe, cost in zip(probes, costs, strict=True):
        turns = probe.between(start)
        # A cheap probe cannot have more than a turn a step; the rest of its part goes to the others.
        most = length / step_time * cost
        assert len(turns) * cost >= min(0.8 * part, 0.9 * most) - cost
    assert simulation.spent >= 0.9 * min(overhead * simulation.training, sum(costs) * simulation.step) - max(costs)


@many
@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=4), st.floats(0.01, 0.2), st.sampled_from([0.02, 0.05, 0.1]))
def test_the_turns_that_are_left_are_spread_evenly(costs, step_time, overhead):
    probes = [Costly(f"p{index}", every(1), cost) for index, cost in enumerate(costs)]
    start = max(MINUTE, 1.5 * sum(costs) / overhead)
    Simulation(overhead, probes).attach().train(start + 15 * sum(costs) / overhead, step_time)
    for probe in probes:
        gaps = [late - early for (_, early, _), (_, late, _) in itertools.pairwise(probe.between(start))]
        assert max(gaps) <= 2 * sum(gaps) / len(gaps) + 2 * step_time + 2 * max(costs) / overhead / len(costs)


@pytest.mark.parametrize("overhead", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("cost", [0.1, 0.5])
def test_early_training_comes_first_and_is_spread_over_the_logarithm_of_the_steps(overhead, cost):
    probe = Costly("kernel", every(1), cost)
    simulation = Simulation(overhead, [probe], head_start=HEAD_START).attach().train(MINUTE, 1 / 130)
    assert len(probe.steps) >= 20 and simulation.spent <= HEAD_START
    late = [step for step in probe.steps if step >= 130 * GRACE * 4]
    gaps = [after / before for before, after in itertools.pairwise(late)]
    turns = HEAD_START / cost / math.log(130 * HEAD_START / overhead)  # in a factor of e
    assert max(gaps) < math.exp(1.5 / turns) + 0.01


@pytest.mark.parametrize("seconds", [10.0, 60.0])
@pytest.mark.parametrize("cost", [0.02, 0.5, 2.0])
def test_a_short_script_takes_at_most_twice_as_long_and_a_minute_more_than_half_a_minute_more(seconds, cost):
    probes = [Costly(f"p{index}", every(1), cost) for index in range(3)]
    simulation = Simulation(0.05, probes, head_start=HEAD_START).attach().train(seconds, 0.01)
    assert simulation.spent <= min(seconds, HEAD_START)
    assert simulation.spent >= 0.5 * min(seconds / 2, HEAD_START)


def test_the_first_turn_may_take_seconds_or_a_share_of_the_training_so_far():
    simulation = Simulation(0.05, [Costly("a", every(1), 0.1)], head_start=HEAD_START).attach()
    assert simulation.session.run.first_turn_limit == 2.5
    simulation.train(200, 0.1)
    assert simulation.session.run.first_turn_limit == pytest.approx(10, rel=1e-2)
    assert Simulation(None, []).attach().session.run.first_turn_limit == math.inf


def test_a_dear_probe_is_not_starved_by_cheap_ones_that_are_always_due():
    dear = Costly("dear", every(1), 3.0)
    cheap = [Costly(f"cheap-{index}", every(1), 0.01) for index in range(3)]
    Simulation(0.05, [*cheap, dear], CostlySink(0.001, 0.01)).attach().train(1800, 0.1)
    assert len(dear.turns) >= 0.8 * 0.05 * 1800 / 4 / 3.0
    gaps = [late - early for (_, early, _), (_, late, _) in itertools.pairwise(dear.between(200))]
    assert max(gaps) <= 1.3 * sum(gaps) / len(gaps)


def test_a_turn_that_was_an_exception_does_not_postpone_the_next_for_long():
    costs = [0.01] * 5 + [1.0] + [0.01] * 10**6
    odd, other = Costly("odd", every(1), lambda turn: costs[turn]), Costly("other", every(1), 0.01)
    Simulation(0.05, [odd, other]).attach().train(300, 0.05)
    assert len(odd.between(100)) >= 0.9 * len(other.between(100))


def test_a_probe_that_is_due_late_has_its_first_turn_at_once():
    late, other = Costly("late", at([5000]), 2.0), Costly("other", every(1), 0.05)
    simulation = Simulation(0.05, [other, late]).attach().train(600, 0.05)
    assert late.steps == [5000] and worst_excess(simulation, MINUTE) <= 2.1
    assert simulation.spent <= 0.051 * simulation.training


@pytest.mark.parametrize("cut", [20.0, 200.0])
def test_a_resume_hardly_changes_when_a_probe_measures(cut):
    def probes():
        return [Costly("a", every(1), 0.25), Costly("b", log_spaced(), 0.0625)]

    whole = probes()
    Simulation(0.05, whole, head_start=16.0).attach().train(400, 0.0625)  # sums of it are exact
    first = probes()
    before = Simulation(0.05, first, head_start=16.0).attach().train(cut, 0.0625)
    second = probes()
    for one, other in zip(first, second, strict=True):
        other.turns = list(one.turns)
    Simulation(0.05, second, head_start=16.0).attach(before.state()).train(400, 0.0625)
    for one, other in zip(second, whole, strict=True):
        # What is earned is given out at every look, and files are flushed at other moments, which are looks too.
        assert abs(len(one.steps) - len(other.steps)) <= 1
        assert all(min(abs(step - near) for near in other.steps) <= 0.1 * step for step in one.steps)


class Slowly(Schedule):
    """Due at every hundredth step, and slow to say so."""

    clock = None

    def next(self, after):
        self.clock.now += 0.01
        return after // 100 * 100 + 100


def test_whatever_passes_inside_our_calls_is_booked():
    schedule = Slowly()
    simulation = Simulation(0.05, [Costly("a", schedule, 0.1)], CostlySink(0.01, 0.02))
    schedule.clock = simulation.clock
    simulation.attach().train(120, 0.05)
    simulation.session.detach()
    assert simulation.spent == pytest.approx(simulation.clock.now - 100.0 - simulation.training)
    assert simulation.governor.spent[CORE] > 0.1 and simulation.governor.spent["sink"] > 0.1


def test_what_probes_share_is_split_by_the_clock_of_the_budget():
    """By another, which counts waiting for a core, the first would be booked less than nothing on a busy machine."""

    class User(Costly):
        def measure(self, run, step):
            run.shared("kernel", lambda: setattr(self.clock, "now", self.clock.now + 1.0))
            yield Measurement(f"{self.name}/value", 1.0)

    simulation = Simulation(None, [User("a", at([0]), 0.0), User("b", at([0]), 0.0)])
    simulation.attach().train(1.0, 1.0)
    assert simulation.governor.spent["a"] == simulation.governor.spent["b"] == 0.5


def test_what_writing_costs_is_part_of_a_turn():
    """Otherwise a cheap probe that yields much would take its part, and what its rows cost from all."""
    cheap, dear = Costly("cheap", every(1), 0.01), Costly("dear", every(1), 1.0)
    Simulation(0.05, [cheap, dear], CostlySink(0.01, 0.0)).attach().train(1200, 0.05)
    # Every turn writes three rows: what it measured, its cost and its delay.
    assert len(cheap.between(100)) * 0.04 <= 1.3 * len(dear.between(100)) * 1.03


def test_what_is_waited_for_is_not_looked_at_every_step(monkeypatch):
    probe = Costly("dear", every(1), 1.0)
    simulation = Simulation(0.05, [probe])
    looked = []
    work = simulation.session._work
    monkeypatch.setattr(simulation.session, "_work", lambda step: (looked.append(step), work(step)))
    simulation.attach().train(600, 0.01)
    assert len(looked) < 20 * len(probe.turns) and len(looked) < simulation.step / 200


class Watching(Costly):
    watched_updates = 2

    def on_step(self, run, step):
        """See the update."""


def test_turns_whose_updates_are_looked_at_first_are_taken_as_soon_as_they_can_be():
    schedule, steps = log_spaced(), 300
    probe = Watching("watching", schedule, 0.001)
    Simulation(0.05, [probe], head_start=HEAD_START).attach().train(steps, 1.0)
    due = [step for step in range(steps + 1) if step in schedule]
    assert len(probe.steps) >= len(due) - 2 and set(due[5:]) <= set(probe.steps)


def test_a_late_turn_whose_updates_are_looked_at_wakes_the_session():
    probe = Watching("watching", at([0, 4, 5, 100]), 0.001)
    Simulation(0.05, [probe], head_start=HEAD_START).attach().train(50, 1.0)
    assert probe.steps == [0, 4, 5]


# -------------------------------------------------------------------------------------------- what is recorded of it


def test_the_schedule_that_was_followed_is_recorded(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(3))], log_dir=tmp_path / "run", overhead=None).attach(optimizer):
        run_steps(model, optimizer, 7)
    run = open_run(tmp_path / "run")
    seconds, delay = run["probes/turn_seconds/norm"], run["probes/turn_delay/norm"]
    assert seconds["step"].values.tolist() == delay["step"].values.tolist() == [0, 3, 6]
    # One turn may cost nothing: the clock makes up in it for a core that was lost while it was read before.
    assert (seconds["value"].values >= 0).all() and seconds["value"].values.sum() > 0
    assert delay["value"].values.tolist() == [0, 0, 0]
    assert seconds["value"].attrs["units"] == "s" and delay["value"].attrs["units"] == "steps"
    assert "probes.turn_delay.norm.png" in {path.name for path in save_plots(run, tmp_path / "plots", ["probes/*"])}


def test_a_turn_that_was_postponed_says_by_how_many_steps():
    probe = Costly("dear", every(10), 1.0)
    simulation = Simulation(0.05, [probe])
    sink = Memory()
    simulation.session.plugins.add(sink)
    simulation.attach().train(120, 0.05)
    delays = {row.step: int(row.value) for row in sink.rows if row.name == "probes/turn_delay/dear"}
    assert list(delays) == probe.steps and delays[0] == 0
    due = 0
    for step in probe.steps:
        assert step - delays[step] == due
        due = step // 10 * 10 + 10
    (plugin,) = simulation.session.turns.probes
    assert plugin.skipped + plugin.measured == due // 10


class Odd(Norm):
    name = "of two / words"


def test_any_name_of_a_probe_can_be_recorded(model, optimizer):
    sink = Memory()
    with ProbeManager(model, [Odd(every(1))], sinks=[sink], on_error="raise").attach(optimizer):
        run_steps(model, optimizer, 1)
    assert sink.steps("probes/turn_seconds/of_two___words") == [0, 1]


class Spectrum(Probe):
    def measure(self, run, step):
        yield Measurement("s/amplitude", [1.0, 2.0, 3.0], ("frequency",), {"frequency": Axis([1, 2, 3], "cycles")})


def test_pictures_that_do_not_fit_are_told_of_in_the_log_the_file_and_the_report(
    model, optimizer, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("probes.sinks.tensorboard.FIRST_PICTURE", 1e9)
    monkeypatch.setattr("probes.sinks.tensorboard.PICTURE", 1e9)
    caplog.set_level(logging.INFO, "probes")
    with ProbeManager(model, [Spectrum(every(1))], log_dir=tmp_path / "run").attach(optimizer) as manager:
        run_steps(model, optimizer, 3)
    words = f"1 of TensorBoard's pictures over training were not drawn, or lack the last steps, to stay within the budget. `probes plot {tmp_path / 'run'}` draws all."  # noqa: E501
    events = open_run(tmp_path / "run")["events"]
    assert events["message"].values[events["kind"].values == "skipped"].tolist() == [words]
    assert f"tensorboard: {words}" in manager.report()
    assert [record.levelname for record in caplog.records if "pictures over training" in record.message] == ["INFO"]
