"""Trace ratios, numbers of eigenvalues and alignments from products alone, beside those of all eigenvalues."""

import math

import pytest
import torch
from torch import nn

from probes import CannotMeasure
from probes_ntk import SpectralDensity, alignment, center, eigenvalues, estimate_spectrum, tangent_kernel, trace_ratio


def mlp(width=32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def linear():
    """Whose eigenvalues are tenfold without centring."""
    torch.manual_seed(1)
    return nn.Linear(12, 10)


@pytest.mark.parametrize("make", [mlp, linear])
@pytest.mark.parametrize("how", ["none", "outputs"])
def test_the_intervals_cover_the_exact_values(make, how):
    model, labels = make(), torch.randint(10, (60,), generator=torch.Generator().manual_seed(4))
    inputs = torch.randn(60, 12, generator=torch.Generator().manual_seed(3))
    kernel = tangent_kernel(model, inputs).kernel
    values = eigenvalues(center(kernel, how))
    aligned = alignment(kernel, labels, how).item()
    levels = [values[k - 1 : k + 1].mean().item() for k in (20, 50, 100)]
    covered = {"ratio": [], "above": [], "alignment": []}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = estimate_spectrum(model, inputs, centering=how, targets=labels, generator=generator)
        for k in (5, 24, 48, 96):
            exact, (value, error) = trace_ratio(values, k).item(), found.density.trace_ratio(k)
            assert abs(value / exact - 1) < 0.16
            covered["ratio"].append(abs(value - exact) <= 1.96 * error + 1e-5)
        for level in levels:
            exact, (value, error) = (values > level).sum().item(), found.density.above(level)
            covered["above"].append(abs(value - exact) <= 1.96 * error + 1e-3)
        value, error = found.alignment
        assert abs(value / aligned - 1) < 0.05 and error < 0.03 * aligned
        covered["alignment"].append(abs(value - aligned) <= 1.96 * error + 1e-7)
    shares = {name: sum(each) / len(each) for name, each in covered.items()}
    assert min(shares.values()) >= 0.85, shares  # 95 % is meant; levels of one model are not independent


def test_what_few_points_miss_is_seen_on_a_vector_of_many():
    """Six points alone are 2 % off here, in one direction for every vector, so that their spread does not tell."""
    model, inputs = mlp(), torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    exact = trace_ratio(eigenvalues(center(tangent_kernel(model, inputs).kernel, "outputs")), 320).item()
    ratios = []
    for seed in range(4):
        found = estimate_spectrum(
            model, inputs, centering="outputs", generator=torch.Generator().manual_seed(seed)
        ).density
        ratios.append([each.trace_ratio(320).value / exact for each in (found, found._replace(refined=None))])
    whole, few = torch.tensor(ratios).mean(0)
    assert abs(whole - 1) < 0.01 < few - 1


def test_eigenvalues_that_are_many_times_there_are_not_refined_by_a_vector_that_sees_one_of_each():
    found = estimate_spectrum(linear(), torch.randn(60, 12), centering="none")
    assert found.density.refined is None and found.density.trace_ratio(600).value == 1


def test_points_that_are_the_eigenvalues_give_the_exact_numbers():
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    density = SpectralDensity(values, torch.ones_like(values))
    assert [density.trace_ratio(k) for k in (1, 2, 5)] == [(pytest.approx(each), 0) for each in (0.4, 0.7, 1.0)]
    assert [density.above(each) for each in (5.0, 3.0, 2.5, -1.0)] == [(each, 0) for each in (0, 1, 2, 5)]


def test_a_point_of_many_is_spread_out_and_keeps_its_sum():
    """Eigenvalues that fall as a power law, in lumps of a tenth each: what lies inside of a lump is told to 2 %."""
    values = torch.arange(1, 1001, dtype=torch.float64).pow(-0.7)
    lumps = torch.stack([chunk.mean() for chunk in values[10:].chunk(9)])
    counts = torch.tensor([float(len(chunk)) for chunk in values[10:].chunk(9)], dtype=torch.float64)
    density = SpectralDensity(
        torch.cat([values[:10], lumps])[None], torch.cat([torch.ones(10, dtype=torch.float64), counts])[None]
    )
    for k in (5, 50, 120, 300, 700, 1000):
        value, error = density.trace_ratio(k)
        exact = trace_ratio(values, k).item()
        assert abs(value / exact - 1) < 0.02 and abs(value - exact) <= 1.96 * error + 1e-12
        value, error = density.above(values[k - 1].item() * 0.9999)
        assert abs(value - k) <= 1.96 * error + 1e-9


def test_alignment_of_few_rows_is_exact():
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    inputs, labels = torch.randn(10, 12, dtype=torch.float64), torch.arange(10) % 2
    found = estimate_spectrum(model, inputs, centering="outputs", targets=labels)
    assert found.alignment.value == pytest.approx(alignment(tangent_kernel(model, inputs).kernel, labels, "outputs"))
    values = eigenvalues(center(tangent_kernel(model, inputs).kernel, "outputs"))
    for k in (1, 3, 20):
        assert found.density.trace_ratio(k).value == pytest.approx(trace_ratio(values, k).item(), rel=1e-4)


def test_what_cannot_be_is_named():
    model, inputs = mlp(), torch.randn(20, 12)
    with pytest.raises(ValueError, match="one target for each of the 20 examples, got 19"):
        estimate_spectrum(model, inputs, centering="outputs", targets=torch.zeros(19, dtype=torch.long))
    with pytest.raises(CannotMeasure, match="all alike"):
        estimate_spectrum(model, inputs, centering="outputs", targets=torch.zeros(20, dtype=torch.long))
    with pytest.raises(TypeError, match="`targets` must be a tensor of labels or numbers, got list"):
        estimate_spectrum(model, inputs, centering="outputs", targets=[0] * 20)
    found = estimate_spectrum(model, inputs, centering="outputs", products=24)
    assert found.alignment is None
    for k in (0, 201, 2.5):
        with pytest.raises(ValueError, match="between 1 and the number of eigenvalues, 200"):
            found.density.trace_ratio(k)
    with pytest.raises(ValueError, match="nan"):
        found.density.above(math.nan)


@pytest.mark.parametrize("k", [5, 7, 10, 12])
def test_the_interval_covers_where_some_of_the_largest_are_found_and_others_not(k):
    torch.manual_seed(0)
    x, model = torch.randn(50, 20), nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 10))
    every = eigenvalues(center(tangent_kernel(model.double(), x.double()).kernel, "outputs"))
    exact = trace_ratio(every, k).item()
    model.float()
    covered = 0
    for seed in range(20):
        found = estimate_spectrum(model, x, centering="outputs", generator=torch.Generator().manual_seed(seed))
        value, error = found.density.trace_ratio(k)
        covered += abs(value - exact) <= 1.96 * error
    assert covered >= 18
