"""The criteria of the experiments on curvature pass on results as published and fail on others."""

import numpy as np
import pytest

from examples.curvature import edge_of_stability, generalization


def verdicts(findings):
    return [finding.passed for finding in findings]


def sharpening(descent=1.03, adam=1.0, flow=3.0, late=0.0):
    """Sharpness that rises to so many times the threshold; ``late`` is added to the last value alone."""
    settings, found = edge_of_stability.PRESETS["quick"].settings, {}
    for name, kind, rate, steps in edge_of_stability.trainings(settings):
        step = np.linspace(0, steps, 9)
        threshold = (38 if kind == edge_of_stability.ADAM else 2) / rate
        end = {edge_of_stability.DESCENT: descent, edge_of_stability.ADAM: adam}.get(kind)
        # The control's last sharpness is so many times the threshold of the smallest of the other rates.
        last = flow * 2 / min(settings.rates) if end is None else end * threshold
        values = last * np.minimum(1, np.linspace(0.2, 2.4, 9))
        values[-1] += late * threshold
        found[name] = np.column_stack([step, values, np.full(9, threshold)])
    return found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True]),
        ({"descent": 0.5}, [False, True, True]),  # training that stays below its threshold
        ({"descent": 1.3}, [False, True, True]),  # and far above it
        ({"adam": 0.8}, [True, False, True]),
        (
            {"descent": 2.0, "adam": 2.0},
            [False, False, True],
        ),  # a threshold of 4 / lr, or a sharpness of twice the loss
        ({"late": 0.3}, [False, False, True]),  # one value that leaves the edge
        ({"flow": 1.0}, [True, True, False]),  # sharpness that stops there by itself
    ],
)
def test_edge_of_stability(changed, expected):
    settings = edge_of_stability.PRESETS["quick"].settings
    for seeds in ([{}, changed, {}], [changed] * 3):  # every seed counts
        found = edge_of_stability.judge(settings, [sharpening(**one) for one in seeds])
        assert verdicts(found) == expected


SETTINGS = generalization.PRESETS["quick"].settings


def trained(seed=0, flatter=True, worse=True, shuffled=False, reached=1.0):
    """Of each training rate, size, whether it got there, test error and sharpness, ordinary and adaptive."""
    rows = []
    for rate in SETTINGS.rates:
        for size in SETTINGS.batch_sizes:
            noise = rate / size
            sharpness = noise**-0.5 if flatter else noise**0.5
            error = 0.1 + (1e-3 if worse else -1e-3) * np.log(sharpness)
            there = len(rows) < reached * len(SETTINGS.rates) * len(SETTINGS.batch_sizes)
            rows.append([rate, size, there, error, sharpness, 2 * sharpness])
    rows = np.array(rows)
    if shuffled:
        rows[:, 3] = np.random.default_rng(seed).permutation(rows[:, 3])
    return {"rows": rows}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 5),
        ({"flatter": False}, [True, False, True, False, True]),
        ({"worse": False}, [True, True, False, True, False]),
        ({"shuffled": True}, [True, True, False, True, False]),  # errors of other trainings
        ({"reached": 0.5}, [False, True, True, True, True]),
    ],
)
def test_sharpness_and_generalization(changed, expected):
    seeds = [trained(seed, **changed) for seed in range(5)]
    assert verdicts(generalization.judge(SETTINGS, seeds)) == expected
