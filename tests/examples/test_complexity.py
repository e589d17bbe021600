"""The criteria of the experiments on complexity pass on results as published and fail on others."""

import numpy as np
import pytest

from examples import capacity_norms, supernat


def verdicts(findings):
    return [finding.passed for finding in findings if finding.passed is not None]


def regression(descent=(1.0, 0.03, 0.5), stretched=(1.0, 0.03, 0.08)):
    return {
        method: np.array(descent if method in ("gradient descent", "trace") else stretched)
        for method in supernat.METHODS
    }


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 3),
        ({"descent": (1.0, 0.3, 0.5)}, [False, True, True]),
        ({"stretched": (1.0, 0.03, 0.4)}, [True, False, False]),
    ],
)
def test_supernat(changed, expected):
    assert verdicts(supernat.judge(supernat.Settings(), [regression(**changed)] * 3)) == expected


def scatter(bound=1e3, optimal=0.5, growing=True):
    count = len(capacity_norms.Settings().scalings)
    spread = np.linspace(1, 9, count) ** 2 if growing else np.linspace(9, 1, count)
    points = np.array([[-1.0, -1.0], [1.0, 1.0]])
    return capacity_norms.Scatter(
        np.full((count, 2), 0.1), np.full((count, 2), bound), np.full((count, 2), optimal),
        points[None] * np.stack([np.ones(count), spread], 1)[:, None],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 4),
        ({"bound": 2.0}, [False, True, True, True]),
        ({"bound": 0.4}, [False, False, True, True]),
        ({"growing": False}, [True, True, False, False]),
    ],
)
def test_capacity_norms(changed, expected):
    assert verdicts(capacity_norms.judge(capacity_norms.Settings(), [scatter(**changed)] * 2)) == expected
