"""Bounds of the Rademacher complexity, against the complexity itself over all signs."""

import itertools
import math

import pytest
import torch

from probes_complexity import flow_bound, linear_bound, multiclass_bound, optimal_rescaling


def draw(n=8, p=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, p, dtype=torch.float64, generator=generator),
        torch.randn(n, dtype=torch.float64, generator=generator),
    )


def complexity(features, norm):
    """The mean over all signs of the largest correlation, eq. 43, with a maximizer written out."""
    values = []
    for signs in itertools.product((-1.0, 1.0), repeat=len(features)):
        direction = torch.tensor(signs, dtype=torch.float64) @ features
        w = norm * direction / direction.norm()
        values.append(float(sum(sign * (row @ w) for sign, row in zip(signs, features, strict=True))) / len(features))
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("seed", range(3))
def test_linear_bound_holds_and_is_near(seed):
    features, _ = draw(seed=seed)
    bound = float(linear_bound(2.0, features.square().sum(), len(features)))
    exact = complexity(features, 2.0)
    assert exact <= bound <= 1.3 * exact


def test_linear_bound_is_attained_by_one_direction_that_all_signs_share():
    features = torch.eye(4, dtype=torch.float64)  # every sum of signed rows has the same length
    assert complexity(features, 3.0) == pytest.approx(float(linear_bound(3.0, 4.0, 4)), rel=1e-12)


def test_flow_of_one_step_is_linear():
    features, _ = draw()
    one = flow_bound(torch.tensor([2.0]), features.norm()[None], len(features))
    assert one == pytest.approx(float(linear_bound(2.0, features.square().sum(), len(features))), rel=1e-6)


def test_multiclass():
    assert float(multiclass_bound(2.0, 5.0, 7, c=3, margin=0.5)) == pytest.approx(3**1.5 * 2 / (0.5 * 7) * 5**0.5)


@pytest.mark.parametrize("shape", [(5, 9), (8, 5)])
def test_optimal_rescaling_is_a_minimum(shape):
    features, targets = draw(*shape)
    found = optimal_rescaling(features, targets)
    _, s, vh = torch.linalg.svd(features, full_matrices=False)
    w = torch.linalg.pinv(features) @ targets

    def bound(nu):
        a = torch.eye(shape[1], dtype=torch.float64) + vh.T @ torch.diag(nu.sqrt() - 1) @ vh
        trace = (features @ torch.linalg.inv(a).T).square().sum()
        return float((a.T @ w).norm() * trace.sqrt() / shape[0])

    assert bound(torch.ones_like(s)) == pytest.approx(float(found.bound_before), rel=1e-10)
    best = 1 / found.factors
    assert bound(best) == pytest.approx(float(found.bound), rel=1e-10)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        nudged = best * torch.randn(best.shape, dtype=torch.float64, generator=generator).mul(0.3).exp()
        assert bound(nudged) >= bound(best)


def test_refused():
    with pytest.raises(ValueError, match="negative"):
        linear_bound(-1.0, 1.0, 3)
    with pytest.raises(ValueError, match="one shape"):
        flow_bound(torch.ones(2), torch.ones(3), 4)
    with pytest.raises(ValueError, match="margin"):
        multiclass_bound(1.0, 1.0, 3, c=2, margin=0)
