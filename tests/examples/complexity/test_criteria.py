"""The criteria of the experiments on complexity pass on results as published and fail on others."""

import numpy as np
import pytest
import torch

from examples.complexity import capacity_norms, channels, gap, supernat, widths
from probes_complexity import multiclass_bound, optimal_rescaling


def verdicts(findings):
    return [finding.passed for finding in findings if finding.passed is not None]


def regression(descent=(1.0, 0.03, 0.5), stretched=(1.0, 0.03, 0.08)):
    return {
        method: np.array(descent if method in ("gradient descent", "trace") else stretched)
        for method in (*supernat.METHODS, supernat.UNSCALED)
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


def scatter(bound=5.0, optimal=0.4, growing=True, again=5.0, shuffled=(80.0, 0.8)):
    count = len(capacity_norms.Settings().scalings)
    spread = np.linspace(1, 9, count) ** 2 if growing else np.linspace(9, 1, count)
    points = np.array([[-1.0, -1.0], [1.0, 1.0]])
    return capacity_norms.Scatter(
        np.full((count, 2), 0.1),
        np.full((count, 2), bound),
        np.full((count, 2), optimal),
        points[None] * np.stack([np.ones(count), spread], 1)[:, None],
        np.full((2, len(capacity_norms.AGAIN)), again),
        np.array([shuffled, shuffled]),
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 5),
        ({"bound": 1.5, "again": 1.5}, [False, True, True, True, True]),
        ({"shuffled": (5.0, 0.4)}, [False, False, True, True, True]),  # labels do not enter
        ({"bound": 80.0, "again": 80.0, "optimal": 0.8}, [False, False, True, True, True]),  # labels are shuffled
        ({"again": 5.3}, [True, True, False, True, True]),
        ({"growing": False}, [True, True, True, False, False]),
    ],
)
def test_capacity_norms(changed, expected):
    assert verdicts(capacity_norms.judge(capacity_norms.Settings(), [scatter(**changed)] * 2)) == expected


def test_the_bounds_of_shuffled_labels_fail():
    settings = capacity_norms.Settings(num_subsamples=30, scalings=(0.0, 0.9, 1.0))
    seed = capacity_norms.read(settings, None, 0)
    assert verdicts(capacity_norms.judge(settings, [seed]))[:3] == [True, True, True]
    mixed = seed._replace(bound=seed.bound.copy(), optimal_bound=seed.optimal_bound.copy())
    mixed.bound[-1], mixed.optimal_bound[-1] = seed.shuffled.T
    assert verdicts(capacity_norms.judge(settings, [mixed]))[:2] == [False, False]


NEYSHABUR = "Neyshabur et al. 2019, two layers / margin"


def curves(settings, complexities, loss=0.009, others=(1.0, 2.0, 3.0, 2.0, 1.0)):
    """Networks of three widths, of which the last is the noisy one, then two more shares of random labels."""
    n = len(widths.parts(settings))
    found = {label: np.array(others) for label in gap.MEASURES}
    found |= {"gap": np.array([0.12, 0.11, 0.1, 0.4, 0.9]), "loss": np.full(n, loss), "steps": np.full(n, 500.0)}
    return found | {"path complexity C": np.array(complexities), NEYSHABUR: np.array([3.0, 2, 1, 4, 5])}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"complexities": (12, 11, 10, 20, 40)}, [True] * 3),
        ({"complexities": (12, 11, 10, 40, 5)}, [True, False, True]),
        ({"complexities": (10, 11, 12, 20, 40)}, [True, True, False]),
        ({"complexities": (12, 11, 10, 20, 40), "loss": 0.02}, [False, True, True]),
        # What grows with the noise like the number of steps follows the gap too: the claim is that C alone does.
        ({"complexities": (12, 11, 10, 20, 40), "others": (1, 2, 3, 4, 5)}, [True, False, True]),
    ],
)
def test_complexity(changed, expected):
    settings = widths.Settings(widths=(16, 64, 256), noise=(0.0, 0.5, 1.0))
    findings = widths.judge(settings, [curves(settings, **changed)] * 3)
    assert verdicts(findings) == expected


def test_permuted_gaps_fail_the_claim():
    settings = widths.Settings(widths=(16, 64, 256), noise=(0.0, 0.5, 1.0))
    seed = curves(settings, (12, 11, 10, 20, 40))
    seed["gap"] = seed["gap"][[2, 0, 4, 1, 3]]
    assert verdicts(widths.judge(settings, [seed] * 3)) == [True, False, False]


def test_complexity_of_channels():
    settings = channels.Settings(widths=(4, 8))
    seed = {label: np.array([2.0, 1.0]) for label in gap.MEASURES} | {"steps": np.full(2, 9.0)}
    seed |= {"gap": np.array([0.7, 0.6]), "loss": np.full(2, 0.0), "number of parameters": np.array([1.0, 2.0])}
    seed["Neyshabur et al. 2019, two layers / margin"] = np.full(2, np.nan)  # not defined for more layers
    reached, right = channels.judge(settings, [seed])
    assert reached.passed and "number of parameters: -1.00" in right.measured and "two layers" not in right.measured
    assert right.passed is False  # of two networks every measure follows the gap, or none
    seed["loss"][1] = 1.0
    assert not channels.judge(settings, [seed])[0].passed


def test_eq_60_of_two_outputs_is_a_constant_times_that_of_one():
    features, labels = torch.randn(6, 9, dtype=torch.float64), torch.tensor([1.0, -1, 1, 1, -1, 1]).double()
    w = torch.linalg.pinv(features) @ labels
    two, both = torch.cat([w, -w]) / 2, torch.block_diag(features, features)  # outputs of 1/2 and -1/2: margin 1
    bound = multiclass_bound(two.norm(), both.square().sum(), 6, c=2, margin=1)
    assert float(bound) == pytest.approx(2**1.5 * capacity_norms.bound(features, labels, 1e-12))
    assert float(bound) == pytest.approx(2**1.5 * float(optimal_rescaling(features, labels).bound_before))
