"""The sum over steps, against the sum written out; the standard error, against how far off it is."""

import math

import pytest
import torch

from probes_complexity import PathComplexitySum, Segment

STEPS = 600


def path(kind, seed):
    """Update norms, and feature norms that are smooth, fluctuate, or wander."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(STEPS + 1, generator=generator, dtype=torch.float64)
    time = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    smooth = 10 + 5 * torch.sin(3 * time) + 3 * time.square()
    norms = {"smooth": smooth, "fluctuates": smooth + 0.3 * noise, "wanders": smooth + 0.05 * noise.cumsum(0)}[kind]
    return 0.5 + torch.rand(STEPS, generator=generator, dtype=torch.float64), norms


def summed(updates, norms, knots, sign_error=0.0, seed=0):
    """The sum with feature norms known at some steps, and what it should be."""
    generator = torch.Generator().manual_seed(seed)
    total, segment = PathComplexitySum(1), Segment.empty(1)
    for step in range(knots[-1] + 1):
        if step:
            segment.add(updates[step - 1 : step])
        if step in knots:
            error = sign_error * norms[step : step + 1]
            total.knot(
                norms[step] + error * torch.randn(1, generator=generator, dtype=torch.float64), error.square(), segment
            )
            segment = Segment.empty(1)
    return total, math.fsum(a * b for a, b in zip(updates[: knots[-1]].tolist(), norms.tolist(), strict=False))


@pytest.mark.parametrize("kind", ["smooth", "fluctuates", "wanders"])
def test_sum_with_every_feature_norm_is_the_sum(kind):
    total, exact = summed(*path(kind, 0), range(STEPS + 1))
    assert total.value.item() == pytest.approx(exact, rel=1e-12) and total.standard_error.item() == 0
    assert total.length.item() == pytest.approx(path(kind, 0)[0].sum().item(), rel=1e-12)


def test_sum_of_a_feature_norm_that_is_linear_along_the_path_is_exact():
    updates, _ = path("smooth", 1)
    norms = 3 + 0.2 * torch.cat([torch.zeros(1), updates.cumsum(0)])
    total, exact = summed(updates, norms, [0, 1, 4, 30, 31, 200, STEPS])
    assert total.value.item() == pytest.approx(exact, rel=1e-12)
    assert total.standard_error.item() < 1e-6 * exact


def test_sum_is_by_hand():
    total, segment = PathComplexitySum(1), Segment.empty(1)
    total.knot(torch.tensor([2.0]), torch.tensor([0.04]), segment)
    for norm in (1.0, 3.0):
        segment.add(torch.tensor([norm]))
    # The second update begins 1 of 4 along the segment, where the line from 2 to 6 is at 3.
    total.knot(torch.tensor([6.0]), torch.tensor([0.04]), segment)
    assert total.value.item() == 1 * 2 + 3 * 3
    # Weights 13/4 and 3/4 of the ends; the norm of the second update may be anywhere between 2 and 6.
    assert total.standard_error.item() == pytest.approx(math.sqrt(0.04 * (13**2 + 3**2) / 16 + (3 * 4) ** 2 / 12))


@pytest.mark.parametrize("sign_error", [0.0, 0.02], ids=["exact", "estimated"])
@pytest.mark.parametrize(
    "gap", [pytest.param(2, marks=pytest.mark.slow), 3, 11, pytest.param(50, marks=pytest.mark.slow), "log"]
)
@pytest.mark.parametrize("kind", ["fluctuates", "wanders"])
def test_standard_error_covers(kind, gap, sign_error):
    knots = [0, *(int(5 * 1.15**k) for k in range(34))] if gap == "log" else list(range(0, STEPS + 1, gap))
    found = [summed(*path(kind, seed), sorted(set(knots)), sign_error, seed) for seed in range(60)]
    errors = torch.tensor([total.value.item() - exact for total, exact in found])
    stated = torch.tensor([total.standard_error.item() for total, _ in found])
    assert (errors.abs() <= 1.96 * stated).double().mean() >= 0.85  # 0.95, less two of its standard errors and a half
    assert stated.mean() <= 2.5 * errors.square().mean().sqrt()  # and is not merely wide


def test_error_of_estimated_feature_norms_is_not_counted_twice():
    found = [summed(*path("smooth", seed), range(0, STEPS + 1, 5), 0.05, seed) for seed in range(60)]
    errors = torch.tensor([total.value.item() - exact for total, exact in found])
    stated = torch.tensor([total.standard_error.item() for total, _ in found])
    assert 0.8 <= stated.mean() / errors.square().mean().sqrt() <= 1.3  # 1.2; were it counted twice, 1.4


def test_quantities_do_not_mix():
    updates, norms = path("wanders", 0)
    both, segment = PathComplexitySum(2), Segment.empty(2)
    for step in range(0, 60):
        if step:
            segment.add(torch.stack([updates[step], torch.zeros((), dtype=torch.float64)]))
        if step % 7 == 0:
            both.knot(torch.stack([norms[step], norms[step] * 2]), torch.zeros(2), segment)
            segment = Segment.empty(2)
    assert both.value[0] > 0 and both.value[1] == 0 and both.standard_error[1] == 0


def test_state_goes_on_to_the_last_bit():
    updates, norms = path("fluctuates", 3)
    knots = list(range(0, STEPS + 1, 13))
    whole, _ = summed(updates, norms, knots)
    total, segment = PathComplexitySum(1), Segment.empty(1)
    for step in range(knots[-1] + 1):
        if step:
            segment.add(updates[step - 1 : step])
        if step in knots:
            total.knot(norms[step : step + 1], torch.zeros(1), segment)
            segment = Segment.empty(1)
        if step == 300:  # within a segment
            state, total = total.state_dict(), PathComplexitySum(1)
            total.load_state_dict(state)
    assert torch.equal(total.value, whole.value) and torch.equal(total.standard_error, whole.standard_error)
