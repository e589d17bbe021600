"""The sum over steps, against the sum written out; the standard error, against how far off it is."""

import math

import pytest
import torch

from probes_complexity import PathComplexitySum, Segment

STEPS = 600


def paths(kind, number=1, seed=0):
    """Update norms of some paths, and feature norms that are smooth, fluctuate, or wander. A column each."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(STEPS + 1, number, generator=generator, dtype=torch.float64)
    time = torch.arange(STEPS + 1, dtype=torch.float64)[:, None] / STEPS
    smooth = 10 + 5 * torch.sin(3 * time) + 3 * time.square() + 0 * noise
    norms = {"smooth": smooth, "fluctuates": smooth + 0.3 * noise, "wanders": smooth + 0.05 * noise.cumsum(0)}[kind]
    return 0.5 + torch.rand(STEPS, number, generator=generator, dtype=torch.float64), norms


def summed(updates, norms, knots, sign_error=0.0):
    """The sums with feature norms known at some steps, and what they should be."""
    generator = torch.Generator().manual_seed(0)
    number = norms.shape[1]
    total, segment = PathComplexitySum(number), Segment.empty(number)
    for step in range(knots[-1] + 1):
        if step:
            segment.add(updates[step - 1])
        if step in knots:
            error = sign_error * norms[step]
            noise = torch.randn(number, generator=generator, dtype=torch.float64)
            total.knot(norms[step] + error * noise, error.square(), segment)
            segment = Segment.empty(number)
    return total, (updates * norms[:-1])[: knots[-1]].sum(0)


@pytest.mark.parametrize("kind", ["smooth", "fluctuates", "wanders"])
def test_sum_with_every_feature_norm_is_the_sum(kind):
    updates, norms = paths(kind)
    total, _ = summed(updates, norms, range(STEPS + 1))
    exact = math.fsum(a * b for a, b in zip(updates[:, 0].tolist(), norms[:-1, 0].tolist(), strict=True))
    assert total.value.item() == pytest.approx(exact, rel=1e-12) and total.standard_error.item() == 0
    assert total.length.item() == pytest.approx(updates.sum().item(), rel=1e-12)


def test_sum_of_a_feature_norm_that_is_linear_along_the_path_is_exact():
    updates, _ = paths("smooth", seed=1)
    norms = 3 + 0.2 * torch.cat([torch.zeros(1, 1), updates.cumsum(0)])
    for knots in ([0, 1, 4, 30, 31, 200, STEPS], range(0, STEPS + 1, 50)):
        total, exact = summed(updates, norms, knots)
        assert total.value.item() == pytest.approx(exact.item(), rel=1e-12)
    # Of the first segment nothing is known at its own scale; the bends of the others are none.
    unknown = updates[1:50].sum() * (norms[50] - norms[0])
    assert total.standard_error.item() == pytest.approx(unknown.item() / math.sqrt(12))


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
@pytest.mark.parametrize("gap", [2, 3, 11, 50, "log"])
@pytest.mark.parametrize("kind", ["fluctuates", "wanders"])
def test_standard_error_covers(kind, gap, sign_error):
    knots = [0, *(int(5 * 1.15**k) for k in range(34))] if gap == "log" else list(range(0, STEPS + 1, gap))
    total, exact = summed(*paths(kind, 400), sorted(set(knots)), sign_error)
    errors, stated = total.value - exact, total.standard_error
    # 0.95, less nearly three of its standard errors.
    assert (errors.abs() <= 1.96 * stated).double().mean() >= 0.92
    assert stated.mean() <= 2.5 * errors.square().mean().sqrt()  # and is not merely wide


@pytest.mark.parametrize("sign_error", [0.0, 0.02], ids=["exact", "estimated"])
@pytest.mark.parametrize(
    "knots", [(0, 300), (0, 300, 600), (0, 30, 300), (0, 5, 40), (0, 10, 60, 400), (0, 5, 20, 100, 500)], ids=str
)
@pytest.mark.parametrize("kind", ["fluctuates", "wanders"])
def test_standard_error_of_few_knots_covers(kind, knots, sign_error):
    total, exact = summed(*paths(kind, 400), knots, sign_error)
    errors, stated = total.value - exact, total.standard_error
    assert (errors.abs() <= 1.96 * stated).double().mean() >= 0.92
    assert stated.mean() <= 4.5 * errors.square().mean().sqrt()


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_variances_that_are_known_from_few_numbers_cover_and_do_not_add_up_to_too_much(steps):
    """The norm is 5 with an error of 1 at every step; its variance comes from four numbers."""
    number, degrees, generator = 4000, 4, torch.Generator().manual_seed(steps)
    noise, *others = torch.randn(1 + degrees, steps + 1, number, generator=generator, dtype=torch.float64)
    variances = torch.stack(others).square().mean(0)
    total, plain, ones = PathComplexitySum(number), PathComplexitySum(number), Segment.empty(number)
    ones.add(torch.ones(number, dtype=torch.float64))
    for norm, variance in zip(5 + noise, variances, strict=True):
        total.knot(norm, variance, ones, degrees)
        plain.knot(norm, variance, ones)
    errors = total.value - 5 * steps
    assert 0.94 <= (errors.abs() <= 1.96 * total.standard_error).double().mean() <= 0.975
    assert steps > 2 or (errors.abs() <= 1.96 * plain.standard_error).double().mean() < 0.93
    wide = float(total.standard_error.square().mean().sqrt()) / math.sqrt(steps)
    assert 1 <= wide <= {1: 1.45, 2: 1.3, 5: 1.15, 30: 1.03}[steps]
    again = PathComplexitySum(number)
    again.load_state_dict(total.state_dict())
    assert torch.equal(again.standard_error, total.standard_error)


def test_state_of_a_version_that_knew_no_degrees_of_freedom_is_read():
    updates, norms = paths("fluctuates")
    total, _ = summed(updates, norms, range(0, 100, 5))
    state = total.state_dict()
    del state["_estimated"], state["_doubt"], state["last"]["degrees"], state["before"]["degrees"]
    again = PathComplexitySum(1)
    again.load_state_dict(state)
    assert torch.equal(again.standard_error, total.standard_error)


def test_error_of_estimated_feature_norms_is_not_counted_twice():
    total, exact = summed(*paths("smooth", 400), range(0, STEPS + 1, 5), 0.05)
    errors, stated = total.value - exact, total.standard_error
    assert 0.8 <= stated.mean() / errors.square().mean().sqrt() <= 1.3  # 1.2; were it counted twice, 1.4


def test_quantities_do_not_mix():
    updates, norms = (of_one[:, 0] for of_one in paths("wanders"))
    both, segment = PathComplexitySum(2), Segment.empty(2)
    for step in range(0, 60):
        if step:
            segment.add(torch.stack([updates[step], torch.zeros((), dtype=torch.float64)]))
        if step % 7 == 0:
            both.knot(torch.stack([norms[step], norms[step] * 2]), torch.zeros(2), segment)
            segment = Segment.empty(2)
    assert both.value[0] > 0 and both.value[1] == 0 and both.standard_error[1] == 0


def test_state_goes_on_to_the_last_bit():
    updates, norms = paths("fluctuates", seed=3)
    knots = list(range(0, STEPS + 1, 13))
    whole, _ = summed(updates, norms, knots)
    total, segment = PathComplexitySum(1), Segment.empty(1)
    for step in range(knots[-1] + 1):
        if step:
            segment.add(updates[step - 1])
        if step in knots:
            total.knot(norms[step], torch.zeros(1), segment)
            segment = Segment.empty(1)
        if step == 300:  # within a segment
            state, total = total.state_dict(), PathComplexitySum(1)
            total.load_state_dict(state)
    assert torch.equal(total.value, whole.value) and torch.equal(total.standard_error, whole.standard_error)
