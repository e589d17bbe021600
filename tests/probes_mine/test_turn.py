"""What a turn affords: it fits, it takes as much as fits, and what was asked for stays."""

import math
from itertools import pairwise

import pytest

from probes_mine.turn import LEAST_STEPS, Costs, affordable, spread_out, work

COSTS = [Costs(1e-9, 0.02, 3e-3), Costs(1e-10, 0.0, 1e-3), Costs(5e-9, 0.1, 0.0)]


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seconds", [0.3, 1, 3, 30])
def test_a_turn_fits_unless_even_the_least_does_not(costs, seconds):
    widths = [100, 4000, 4000, 1000, 10]
    turn = affordable(widths, 1000, costs, seconds)
    least = affordable(widths, 1000, costs, 0.0)
    assert turn.seconds <= seconds or turn == least
    before = sum(costs.algebra * work(turn.samples, widths[i]) + costs.start * turn.samples / 1000 for i in turn.layers)
    assert turn.seconds == pytest.approx(before + len(turn.layers) * turn.steps * costs.step)
    assert turn.steps >= LEAST_STEPS


def test_more_time_never_takes_fewer_layers_or_samples():
    widths = [500] * 20
    turns = [affordable(widths, 1000, COSTS[0], seconds / 4) for seconds in range(60)]
    sizes = [(turn.samples, len(turn.layers)) for turn in turns]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_layers_are_spread_over_the_depth():
    for count in range(1, 30):
        for number in range(2, count + 1):
            layers = spread_out(number, count)
            gaps = [b - a for a, b in pairwise(layers)]
            assert layers[0] == 0 and layers[-1] == count - 1 and len(layers) == number
            assert max(gaps) - min(gaps) <= 1


def test_what_was_asked_for_stays():
    turn = affordable([4000] * 13, 1000, COSTS[0], 0.5, all_layers=True, all_samples=True)
    assert turn.layers == list(range(13)) and turn.samples == 1000 and turn.seconds > 0.5
    assert affordable([4000] * 13, 1000, COSTS[0], 0.5, all_samples=True).samples == 1000
    fewer = affordable([4000] * 13, 1000, COSTS[0], 0.5, all_layers=True)
    assert fewer.layers == list(range(13)) and fewer.samples < 1000


def test_without_a_limit_all_is_done():
    turn = affordable([10] * 13, 1000, COSTS[0], math.inf)
    assert turn.layers == list(range(13)) and turn.samples == 1000 and turn.steps == 1500 // 13
