"""Trace and density beside those of the matrix, and how often what they state covers it."""

import pytest
import torch
from curvature_matrices import diagonal, explicit, millions
from torch import nn
from torch.nn import functional as F

from probes_curvature import Objective, density_of, hessian_eigenvalues, hessian_trace, spectral_density, trace_of


def network(kind):
    torch.manual_seed(1)
    if kind == "classes":
        model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5)).double()
        return model, F.cross_entropy, torch.randn(40, 10).double(), torch.randint(0, 5, (40,))
    if kind == "numbers":
        model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2)).double()
        return model, F.mse_loss, torch.randn(40, 10).double(), torch.randn(40, 2).double()
    model = nn.Sequential(nn.Conv1d(1, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    return model, F.cross_entropy, torch.randn(30, 1, 10).double(), torch.randint(0, 3, (30,))


def test_the_trace_of_few_parameters_is_exact():
    found = hessian_trace(*diagonal([1.0, -2.0, 3.0, 5.0]), products=30)
    assert found.value == pytest.approx(7.0, rel=1e-12) and 0 < found.standard_error < 1e-13  # of rounding


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "numbers", "convolution"])
def test_the_trace_is_covered(kind):
    given = network(kind)
    objective = Objective(*given)
    exact = float(explicit(*given)[0].trace())
    covered, errors = 0, []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        found = trace_of(objective, objective.hessian_product, products=30, generator=generator)
        covered += abs(found.value - exact) <= 1.96 * found.standard_error
        errors.append(found.value - exact)
    assert covered >= 90
    spread = torch.tensor(errors)
    assert abs(float(spread.mean())) <= 3 * float(spread.std()) / 10  # unbiased


def test_trace_in_some_steps_is_covered():
    given = network("classes")
    exact = float(explicit(*given)[0].trace())
    covered = sum(
        abs((found := hessian_trace(*given, products=60, generator=torch.Generator().manual_seed(seed))).value - exact)
        <= 1.96 * found.standard_error
        for seed in range(20)
    )
    assert covered >= 17  # of 20 at 95 %, less has a probability of 0.003


def test_moments_are_those_of_the_vectors():
    given = network("classes")
    whole, _ = explicit(*given)
    found = spectral_density(*given, vectors=3, steps=12, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    signs = torch.stack([torch.randint(0, 2, (len(whole),), generator=generator) for _ in range(3)]) * 2.0 - 1
    vectors = signs.double() / len(whole) ** 0.5
    for power in range(1, 10):
        expected = ((vectors @ torch.linalg.matrix_power(whole, power)) * vectors).sum(1)
        torch.testing.assert_close(
            (found.weights * found.nodes.nan_to_num(0) ** power).sum(1), expected, rtol=1e-8, atol=1e-10
        )


def test_all_steps_give_the_eigenvalues():
    values = [4.0, 1.0, 0.0, -2.0]
    found = spectral_density(*diagonal(values), vectors=2, steps=9)
    for nodes in found.nodes:
        torch.testing.assert_close(nodes[~nodes.isnan()], torch.tensor(sorted(values), dtype=torch.float64))
    assert found.above(0.5).value == pytest.approx(0.5) and found.moment(1).value == pytest.approx(0.75)
    points = torch.tensor([4.0, 2.5])
    density, error = found.density(points, 0.1)
    assert density[0] == pytest.approx(1 / (4 * 0.1 * (2 * torch.pi) ** 0.5)) and density[1] < 1e-9
    assert error[1] < 1e-9


def test_of_zeros_all_is_at_zero():
    found = spectral_density(nn.Linear(3, 1), lambda f, y: f.mean(), torch.ones(4, 3), torch.zeros(4))
    assert found.moment(2).value == 0 and found.above(-1e-9).value == 1


def test_the_density_of_millions_of_eigenvalues_is_as_precise():
    found = density_of(*millions(), vectors=2, steps=4)  # all but four are 1
    assert found.moment(1).value == pytest.approx(1, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "numbers", "convolution"])
def test_the_density_is_covered(kind):
    given = network(kind)
    objective = Objective(*given)
    values = torch.linalg.eigvalsh(explicit(*given)[0])
    width = float(values.max() - values.min()) / 20
    points = torch.linspace(float(values.min()), float(values.max()), 9, dtype=torch.float64)
    exact = torch.exp(-((points[:, None] - values) / width).square() / 2).mean(1) / (width * (2 * torch.pi) ** 0.5)
    covered = 0
    for seed in range(20):
        found = density_of(
            objective, objective.hessian_product, vectors=8, steps=25, generator=torch.Generator().manual_seed(seed)
        )
        density, error = found.density(points, width)
        covered += int(((density - exact).abs() <= 1.96 * error + 1e-6 * exact.max()).sum())
    assert covered >= 0.9 * 20 * 9


def test_moments_of_few_vectors_are_covered():
    model, *given = network("classes")
    whole, _ = explicit(model, *given)
    truth, covered = float(whole.square().sum()) / len(whole), 0
    for seed in range(40):
        found = spectral_density(model, *given, vectors=3, steps=8, generator=torch.Generator().manual_seed(seed))
        covered += abs(found.moment(2).value - truth) <= 1.96 * found.moment(2).standard_error
    assert covered >= 36


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_losses_whose_squares_leave_single_precision(scale):
    """All is proportional to the loss."""
    model, _, inputs, targets = network("classes")
    given = model.float(), lambda f, y: scale * F.cross_entropy(f, y), inputs.float(), targets
    plain = model, F.cross_entropy, *given[2:]
    one, other = (spectral_density(*each, vectors=2, steps=10).moment(1).value for each in (given, plain))
    assert one / scale == pytest.approx(other, rel=1e-4)
    one, other = (hessian_trace(*each).value for each in (given, plain))
    assert one / scale == pytest.approx(other, rel=1e-4)
    one, other = (hessian_eigenvalues(*each, k=2).values for each in (given, plain))
    torch.testing.assert_close(one / scale, other, rtol=1e-4, atol=1e-6)


def test_bad_settings_are_named(tanh):
    given = tanh[0], F.cross_entropy, *tanh[1:]
    with pytest.raises(ValueError, match="`products` must be an integer from 9 on, got 5"):
        hessian_trace(*given, products=5)
    with pytest.raises(ValueError, match="`vectors` and `steps`"):
        spectral_density(*given, vectors=1)
    with pytest.raises(ValueError, match="`width` must be a positive number"):
        spectral_density(*given, steps=2).density(torch.zeros(1), 0.0)
