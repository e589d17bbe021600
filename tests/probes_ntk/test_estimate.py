"""Summaries from products alone, beside those of all eigenvalues."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from probes import CannotMeasure
from probes_ntk import (
    alignment,
    center,
    effective_rank,
    eigenvalues,
    estimate_spectrum,
    tangent_diagonal,
    tangent_kernel,
)


def mlp(outputs=10, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs))


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 10),
    ).eval()  # fmt: skip


def attention():
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(4, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 4)), layer, nn.Flatten(), nn.Linear(12, 10)).eval()


def exact(model, inputs, how):
    values = eigenvalues(center(tangent_kernel(model, inputs).kernel, how))
    ratio = (values.sum().square() / values.square().sum()).item()
    return values, effective_rank(values).item(), ratio


@pytest.mark.parametrize("how", ["none", "outputs", "all"])
def test_the_trace_is_exact_and_the_largest_eigenvalues_are_within_their_residuals(how):
    model, inputs = mlp().double(), torch.randn(40, 12, dtype=torch.float64)
    values, _, _ = exact(model, inputs, how)
    found = estimate_spectrum(model, inputs, centering=how)
    assert found.trace.value == pytest.approx(values.sum().item(), rel=1e-9)
    assert 0 < found.trace.standard_error < 1e-12 * found.trace.value
    assert len(found.eigenvalues) >= 8 and found.products <= 100
    distance = (found.eigenvalues[:, None] - values).abs().amin(1)
    assert (distance <= found.residuals + 1e-12 * values[0]).all()
    torch.testing.assert_close(found.eigenvalues[:5], values[:5], rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [mlp, convolutional, attention])
@pytest.mark.parametrize("how", ["none", "outputs"])
def test_the_interval_covers_the_exact_value(make, how):
    model = make()
    torch.manual_seed(3)
    inputs = torch.randn(60, 12)
    _, rank, ratio = exact(model, inputs, how)
    covered = []
    for seed in range(20):
        found = estimate_spectrum(model, inputs, centering=how, generator=torch.Generator().manual_seed(seed))
        for (value, error), true in ((found.effective_rank, rank), (found.participation_ratio, ratio)):
            assert abs(value / true - 1) < 0.08 and 0 < error < 0.05 * true
            covered.append(abs(value - true) <= 1.96 * error)
    assert sum(covered) >= 35  # of 40; 36 are 90 %, and this many or fewer at 95 % would come once in 60


def test_single_precision_lets_nothing_in_of_the_largest_eigenvalues():
    """What rounding leaves of them in a product grows with every step: 0.4 % here, 3 % for a trained network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.randn(60, 12) + 3
    single = estimate_spectrum(model, inputs, centering="none").effective_rank
    double = estimate_spectrum(model.double(), inputs.double(), centering="none").effective_rank
    assert single == pytest.approx(double, rel=1e-4)


def test_products_are_in_double_precision_where_rounding_shows():
    """All examples but one are alike: 0.5 % of the trace is left, of which rounding would move the rank by 0.7 %."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
    inputs = torch.randn(1, 5).repeat(400, 1)
    inputs[0] = torch.randn(5)
    labels = (torch.arange(400) == 0).long()
    kernel = tangent_kernel(model, inputs).kernel
    values = eigenvalues(center(kernel, "outputs"))
    exact = (
        effective_rank(values).item(),
        (values.sum() ** 2 / values.square().sum()).item(),
        alignment(kernel, labels, "outputs").item(),
    )
    for seed in range(5):
        found = estimate_spectrum(
            model, inputs, centering="outputs", targets=labels, generator=torch.Generator().manual_seed(seed)
        )
        numbers = found.effective_rank, found.participation_ratio, found.alignment
        for (value, error), true in zip(numbers, exact, strict=True):
            assert abs(value - true) <= 1.96 * error + 1e-4 * true and error < 1e-3 * true


def test_the_trace_is_off_by_rounding_where_centring_leaves_little():
    torch.manual_seed(0)
    model, inputs = nn.Linear(8, 3), 1 + 0.1 * torch.randn(100, 8)
    found = estimate_spectrum(model, inputs, centering="outputs")
    kernel = center(tangent_kernel(model.double(), inputs.double()).kernel, "outputs")
    true = torch.einsum("aiai->", kernel).item()
    assert abs(found.trace.value - true) <= 1.96 * found.trace.standard_error < 1e-4 * true
    largest = eigenvalues(kernel)[0].item() / true
    assert abs(found.density.trace_ratio(1).value - largest) <= 1.96 * found.density.trace_ratio(1).standard_error


def test_more_products_know_more():
    model, inputs = mlp(), torch.randn(60, 12)
    errors = [
        estimate_spectrum(model, inputs, centering="outputs", products=products).effective_rank.standard_error
        for products in (50, 400)
    ]
    assert errors[1] < errors[0] / 2


def test_a_kernel_of_few_rows_is_known_exactly():
    model, inputs = mlp(2).double(), torch.randn(10, 12, dtype=torch.float64)
    values, rank, ratio = exact(model, inputs, "outputs")
    found = estimate_spectrum(model, inputs, centering="outputs")
    assert found.effective_rank.value == pytest.approx(rank, rel=1e-5)
    assert found.participation_ratio.value == pytest.approx(ratio, rel=1e-5)
    assert found.effective_rank.standard_error < 1e-4 * rank
    assert len(found.eigenvalues) == (values > 1e-6 * values.mean()).sum() == 18  # two means are taken away


def test_inputs_far_from_zero_are_computed_in_double_precision():
    model, inputs = mlp(3), 1 + 1e-3 * torch.randn(30, 12)
    _, rank, _ = exact(model.double(), inputs.double(), "all")
    found = estimate_spectrum(model.float(), inputs, centering="all")
    assert abs(found.effective_rank.value - rank) <= 3 * found.effective_rank.standard_error + 1e-4 * rank
    assert model[0].weight.dtype == torch.float32


def test_equal_eigenvalues():
    """One direction of many equal ones is all that products from one vector find; the random vectors find the rest."""
    found = estimate_spectrum(
        nn.Linear(32, 3, bias=False).double(), torch.eye(32, dtype=torch.float64), centering="none"
    )
    assert found.effective_rank == (pytest.approx(96), pytest.approx(0, abs=2e-3))
    assert found.participation_ratio == (pytest.approx(96), pytest.approx(0, abs=2e-4))


def test_the_same_seed_gives_the_same_and_the_global_generator_is_left_alone():
    model, inputs = mlp(), torch.randn(30, 12)
    state = torch.get_rng_state()
    first, second = (estimate_spectrum(model, inputs, centering="outputs") for _ in range(2))
    assert first.effective_rank == second.effective_rank and torch.equal(state, torch.get_rng_state())
    other = estimate_spectrum(model, inputs, centering="outputs", generator=torch.Generator().manual_seed(1))
    assert other.effective_rank.value != first.effective_rank.value


def test_what_cannot_be_is_named():
    model = mlp()
    with pytest.raises(ValueError, match="`products` must be an integer from 24 on, got 10"):
        estimate_spectrum(model, torch.randn(20, 12), centering="none", products=10)
    with pytest.raises(ValueError, match="centering"):
        estimate_spectrum(model, torch.randn(20, 12), centering="mean")
    with pytest.raises(CannotMeasure, match="examples alike"):
        estimate_spectrum(model, torch.ones(20, 12), centering="outputs")
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    with pytest.raises(CannotMeasure, match="finite"):
        estimate_spectrum(model, torch.randn(20, 12), centering="none")


def test_a_kernel_that_is_not_finite_is_not_called_zero():
    with pytest.raises(CannotMeasure, match=r"trace of the centred tangent kernel is (inf|nan)"):
        estimate_spectrum(nn.Linear(5, 3), torch.randn(20, 5) * 1e19, centering="outputs")


def test_many_steps_say_where_between_the_brackets_of_few_the_rank_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.randn(300, 20)
    _, rank, _ = exact(model, inputs, "outputs")
    found = [
        estimate_spectrum(model, inputs, centering="outputs", generator=torch.Generator().manual_seed(seed))
        for seed in range(10)
    ]
    errors = torch.tensor([each.effective_rank for each in found], dtype=torch.float64)
    assert errors[:, 1].mean() < 0.018 * rank  # with a quarter of the distance of the brackets it would be 0.022
    assert ((errors[:, 0] - rank).abs() <= 1.96 * errors[:, 1]).sum() >= 8


def test_of_many_examples_some_are_looked_at_for_what_they_do_to_one_another():
    class Recording(nn.Linear):
        sizes: ClassVar[list[int]] = []

        def forward(self, x):
            Recording.sizes.append(len(x))
            return super().forward(x) + (x - x.mean(0)).sum() * 1e3 * self.mixes

    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Recording(8, 2))
    model[2].mixes = 0
    tangent_diagonal(model, torch.randn(3000, 5))
    before_the_sweep = Recording.sizes[: Recording.sizes.index(3)]  # three examples are tried for the layout of each
    assert max(before_the_sweep) == 1000
    model[2].mixes = 1
    with pytest.raises(CannotMeasure, match="Examples interact"):
        tangent_diagonal(model, torch.randn(3000, 5))
