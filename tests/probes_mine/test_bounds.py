"""Bounds against sums written out in Python floats and against distributions whose divergence is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes_mine import (
    LogMovingAverage,
    donsker_varadhan_bound,
    f_divergence_bound,
    info_nce_bound,
    jensen_shannon_bound,
    log_mean_exp,
    mine_surrogate,
    smile_estimate,
)

scores = st.lists(st.floats(-20, 20), min_size=1, max_size=8).map(lambda row: torch.tensor(row, dtype=torch.float64))


def mean(values):
    return math.fsum(values) / len(values)


@given(scores, scores)
def test_bounds_match_sums_written_out(joint, marginal):
    j, m = joint.tolist(), marginal.tolist()
    dv = mean(j) - math.log(mean([math.exp(t) for t in m]))
    f = mean(j) - mean([math.exp(t - 1) for t in m])
    js = math.log(2) - mean([math.log1p(math.exp(-t)) for t in j]) / 2 - mean([math.log1p(math.exp(t)) for t in m]) / 2
    smile = mean(j) - math.log(mean([math.exp(min(max(t, -3.0), 3.0)) for t in m]))
    expected = {donsker_varadhan_bound: dv, f_divergence_bound: f, jensen_shannon_bound: js}
    for bound, value in expected.items():
        assert float(bound(joint, marginal)) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert float(smile_estimate(joint, marginal, 3.0)) == pytest.approx(smile, rel=1e-9, abs=1e-9)


@given(scores, scores)
def test_donsker_varadhan_is_never_below_the_f_divergence(joint, marginal):
    assert donsker_varadhan_bound(joint, marginal) >= f_divergence_bound(joint, marginal) - 1e-9


def test_bounds_are_tight_for_the_log_density_ratio():
    """Of a joint distribution of 3 x 4 values, whose expectations are exact sums."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    p = (1000 * p / p.sum()).round().clamp_min(1)
    total = int(p.sum())
    q = p.sum(1, keepdim=True) * p.sum(0) / total
    ratio = (p / q).log()
    information = float((p / total * ratio).sum())
    joint = ratio.flatten().repeat_interleave(p.flatten().long())
    # Samples of the product, in proportion, as weights do not exist here: the mean of e^T under it is one.
    counts = (q / total * 10**6).round().long().flatten()
    marginal = ratio.flatten().repeat_interleave(counts)
    assert float(donsker_varadhan_bound(joint, marginal)) == pytest.approx(information, abs=1e-5)
    assert float(f_divergence_bound(joint + 1, marginal + 1)) == pytest.approx(information, abs=1e-5)
    worse = 0.7 * ratio.flatten()
    assert float(
        donsker_varadhan_bound(worse.repeat_interleave(p.flatten().long()), worse.repeat_interleave(counts))
    ) < (information - 1e-3)


def test_info_nce_matches_a_sum_written_out_and_is_capped():
    generator = torch.Generator().manual_seed(1)
    joint, marginal = torch.randn(5, generator=generator), torch.randn(3, 5, generator=generator)
    expected = mean(
        [
            t - math.log(mean([math.exp(t), *(math.exp(other) for other in column)]))
            for t, column in zip(joint.tolist(), marginal.T.tolist(), strict=True)
        ]
    )
    assert float(info_nce_bound(joint, marginal)) == pytest.approx(expected, rel=1e-5)
    assert float(info_nce_bound(joint + 1e4, marginal)) == pytest.approx(math.log(4))


@pytest.mark.parametrize("bound", [donsker_varadhan_bound, f_divergence_bound, jensen_shannon_bound, smile_estimate])
@pytest.mark.parametrize("level", [-500.0, 500.0])
def test_critics_of_hundreds_give_finite_values_and_gradients(bound, level):
    generator = torch.Generator().manual_seed(0)
    joint = (level + 30 * torch.randn(64, generator=generator)).requires_grad_()
    marginal = (level + 30 * torch.randn(64, generator=generator)).requires_grad_()
    value = bound(joint, marginal)
    if bound is f_divergence_bound and level > 0:
        assert value == -torch.inf  # e^500 is no float32, and the bound is as low as that
        return
    value.backward()
    assert value.isfinite() and joint.grad.isfinite().all() and marginal.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_more_pairs_than_its_largest_number_are_finite(dtype):
    joint, marginal = torch.zeros(257, dtype=dtype), torch.zeros(257, 257, dtype=dtype)
    assert donsker_varadhan_bound(joint, marginal).item() == pytest.approx(0, abs=1e-6)
    assert f_divergence_bound(joint, marginal).item() == pytest.approx(-math.exp(-1), abs=1e-6)
    assert smile_estimate(joint, marginal).item() == pytest.approx(0, abs=1e-6)
    many = torch.zeros(70_000, 1, dtype=dtype)
    assert info_nce_bound(joint[:1], many).item() == pytest.approx(0, abs=1e-5)


def test_log_mean_exp_of_any_shape():
    values = torch.tensor([[0.0, math.log(3.0)], [math.log(2.0), math.log(2.0)]])
    assert float(log_mean_exp(values)) == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_moving_average_matches_one_of_plain_numbers(rate):
    average, plain, weight = LogMovingAverage(rate), 0.0, 0.0
    for value in [3.0, -1.0, 2.0, 0.5]:
        plain = (1 - rate) * plain + rate * math.exp(value)
        weight = (1 - rate) * weight + rate
        assert float(average.update(torch.tensor(value, dtype=torch.float64))) == pytest.approx(
            math.log(plain / weight)
        )


def test_moving_average_goes_on_after_a_resume():
    whole, first, second = (LogMovingAverage(0.1) for _ in range(3))
    values = [torch.tensor(value) for value in (5.0, -3.0, 900.0, 2.0)]
    expected = [whole.update(value) for value in values][-1]
    for value in values[:2]:
        first.update(value)
    second.load_state_dict(first.state_dict())
    assert torch.equal([second.update(value) for value in values[2:]][-1], expected)


def test_surrogate_has_the_gradient_of_equation_12_with_the_average_below():
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    average, plain, weight = LogMovingAverage(0.2), 0.0, 0.0
    for _ in range(3):
        pairs, others = torch.randn(6, 2).double(), torch.randn(9, 2).double()
        critic.zero_grad()
        mine_surrogate(critic(pairs)[:, 0], critic(others)[:, 0], average).backward()
        found = [p.grad.clone() for p in critic.parameters()]
        plain = 0.8 * plain + 0.2 * critic(others).exp().mean().item()
        weight = 0.8 * weight + 0.2
        expected = [torch.zeros_like(p) for p in critic.parameters()]
        for batch, sign in ((pairs, 1), (others, -1)):
            for row in batch:
                critic.zero_grad()
                value = critic(row[None])[0, 0]
                value.backward()
                factor = 1 / 6 if sign == 1 else -value.exp().item() / 9 / (plain / weight)
                for total, p in zip(expected, critic.parameters(), strict=True):
                    total += factor * p.grad
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_surrogate_of_rate_one_has_the_gradient_of_the_bound():
    joint, marginal = torch.randn(5, requires_grad=True), torch.randn(7, requires_grad=True)
    found = torch.autograd.grad(mine_surrogate(joint, marginal, LogMovingAverage(1.0)), [joint, marginal])
    expected = torch.autograd.grad(donsker_varadhan_bound(joint, marginal), [joint, marginal])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_surrogate_stays_finite_when_the_critic_jumps():
    average = LogMovingAverage(0.1)
    for level in (0.0, 500.0, -500.0, 500.0):
        marginal = (level + torch.zeros(4)).requires_grad_()
        mine_surrogate(torch.zeros(3), marginal, average).backward()
        assert marginal.grad.abs().sum() <= 10 * (1 + 1e-4)  # 1 / rate


@pytest.mark.parametrize("rate", [0.0, 1.5, -1])
def test_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"`rate` must be the weight of a new value, in \(0, 1\]"):
        LogMovingAverage(rate)


def test_bad_clip_and_shapes_are_refused():
    with pytest.raises(ValueError, match="`clip` must be positive, got 0"):
        smile_estimate(torch.zeros(1), torch.zeros(1), 0)
    with pytest.raises(ValueError, match=r"`marginal` \(k, n\), got \(2,\) and \(3,\)"):
        info_nce_bound(torch.zeros(2), torch.zeros(3))
