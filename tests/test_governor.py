import pytest

from probes.governor import Governor


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_turn_of_a_probe_goes_at_once():
    assert Governor(0.01, Clock()).affords("a")


def test_a_turn_waits_until_its_cost_fits_the_budget():
    clock = Clock()
    governor = Governor(0.1, clock)
    governor.charge("a", 1.0, turn=True)
    clock.now += 1.0
    assert not governor.affords("a")
    clock.now = governor.affordable_at("a") - 1e-6
    assert not governor.affords("a")
    clock.now += 2e-6
    assert governor.affords("a")
    # After that turn of one second, exactly a tenth of the wall time is spent.
    clock.now += 1.0
    governor.charge("a", 1.0, turn=True)
    assert governor.share == pytest.approx(0.1, rel=1e-5)


def test_half_a_second_may_be_borrowed_at_five_percent():
    clock = Clock()
    governor = Governor(0.05, clock)
    governor.charge("a", 3.0, turn=True)  # the first turn, with all that happens once
    governor.charge("a", 0.1, turn=True)
    assert not governor.affords("a") and governor.affords("a", borrow=True)
    governor.charge("a", 0.21, turn=True)  # with one more turn of 0.21 s it would be more than half a second
    assert not governor.affords("a", borrow=True)
    clock.now += 3.31 / 0.05 + 5  # all is paid back
    assert governor.affords("a")


def test_all_plugins_share_one_budget():
    clock = Clock()
    governor = Governor(0.5, clock)
    governor.charge("sink", 10.0)
    governor.charge("a", 1.0, turn=True)
    clock.now += 12.0
    assert not governor.affords("a")


def test_without_a_budget_everything_goes():
    governor = Governor(None, Clock())
    governor.charge("a", 1e9, turn=True)
    assert governor.affords("a")


def test_accounts_survive_a_resume():
    clock = Clock()
    governor = Governor(0.1, clock)
    governor.charge("a", 2.0, turn=True)
    clock.now += 7
    other = Governor(0.1, Clock())
    other.load_state_dict(governor.state_dict())
    assert other.share == pytest.approx(2 / 7) and other.affordable_at("a") - other.clock() == pytest.approx(
        governor.affordable_at("a") - clock.now
    )


@pytest.mark.parametrize("overhead", [0, 1, -0.1, 5])
def test_the_budget_must_be_a_share(overhead):
    with pytest.raises(ValueError, match="`overhead` must be a share of wall time between 0 and 1"):
        Governor(overhead)
