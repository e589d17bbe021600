"""The estimators against explicit covariances in float64, exact expectations, and leaving out by hand."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from probes import ProbeManager, at
from probes.testing import Recorder
from torch import Tensor, nn

from probes_gradient_noise import GradientNoise, gradient_products, noise_scale


def of_gradients(gradients: Tensor, group_size: int = 1) -> tuple[float, ...]:
    return tuple(
        value.item() for value in noise_scale(gradients.square().sum(1), gradients @ gradients.mean(0), group_size)
    )


def naive(gradients: Tensor) -> tuple[float, float]:
    """From the whole covariance matrix."""
    covariance, mean, n = torch.cov(gradients.T), gradients.mean(0), len(gradients)
    return covariance.trace().item(), (mean @ mean - covariance.trace() / n).item()


@pytest.fixture
def gradients() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=generator, dtype=torch.float64) + torch.tensor([1.0, 0, -1, 0, 2])


def test_noise_scale_matches_the_explicit_covariance(gradients: Tensor) -> None:
    trace, _, square, _, scale, _ = of_gradients(gradients)
    expected = naive(gradients)
    assert (trace, square) == pytest.approx(expected, rel=1e-12)
    assert scale == pytest.approx(expected[0] / expected[1], rel=1e-12)


def test_noise_scale_matches_the_two_batch_estimators_of_the_paper(gradients: Tensor) -> None:
    small, big = 3, 12
    groups = gradients.reshape(4, 3, 5).mean(1)
    trace, _, square, _, _, _ = of_gradients(groups, small)
    of_small, of_big = groups.square().sum(1).mean().item(), gradients.mean(0).square().sum().item()
    assert square == pytest.approx((big * of_big - small * of_small) / (big - small), rel=1e-12)
    assert trace == pytest.approx((of_small - of_big) / (1 / small - 1 / big), rel=1e-12)


@pytest.mark.parametrize("group_size", [1, 2])
def test_trace_and_square_norm_are_unbiased(group_size: int) -> None:
    """Over all samples, with replacement, of a population of two gradients: the exact expectation."""
    population = torch.tensor([[1.0, 3.0], [-1.0, 0.5]], dtype=torch.float64)
    m = 3
    found = []
    for drawn in itertools.product(range(2), repeat=m * group_size):
        groups = population[list(drawn)].reshape(m, group_size, 2).mean(1)
        found.append(of_gradients(groups, group_size))
    mean = population.mean(0)
    variance = (population - mean).square().sum(1).mean().item()
    assert sum(row[0] for row in found) / len(found) == pytest.approx(variance, rel=1e-12)
    assert sum(row[2] for row in found) / len(found) == pytest.approx(mean.square().sum().item(), rel=1e-12)


def test_standard_errors_match_leaving_out_by_hand(gradients: Tensor) -> None:
    n = len(gradients)
    left_out = [naive(torch.cat([gradients[:i], gradients[i + 1 :]])) for i in range(n)]
    _, trace_error, _, square_error, _, scale_error = of_gradients(gradients)
    for values, error in (
        ([trace for trace, _ in left_out], trace_error),
        ([square for _, square in left_out], square_error),
        ([trace / square for trace, square in left_out], scale_error),
    ):
        mean = sum(values) / n
        assert error == pytest.approx(math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in values)), rel=1e-9)


def test_standard_errors_are_those_seen_over_repetitions() -> None:
    generator = torch.Generator().manual_seed(1)
    mean = torch.full((4,), 0.5, dtype=torch.float64)
    found = torch.tensor(
        [of_gradients(mean + torch.randn(100, 4, generator=generator, dtype=torch.float64)) for _ in range(300)]
    )
    for value in (0, 2):
        seen, told = found[:, value].std().item(), found[:, value + 1].mean().item()
        assert told == pytest.approx(seen, rel=0.15)  # three errors of a deviation from 300


def test_scale_is_infinite_when_the_gradient_cannot_be_told_from_noise() -> None:
    gradients = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert of_gradients(gradients)[4] == math.inf


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((4,), (3,)), ((4, 1), (4, 1))])
def test_noise_scale_rejects_wrong_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"one shape \(m,\)"):
        noise_scale(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_gradient_products_match_explicit_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    unused = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    mean_loss = nn.functional.cross_entropy(model(x), y)
    parameters = [*model.parameters(), unused]
    squares, products = gradient_products(
        (nn.functional.cross_entropy(model(x[[i]]), y[[i]]) for i in range(6)), mean_loss, parameters
    )
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
        for loss in losses
    ]
    gradients = torch.stack(rows)
    torch.testing.assert_close(squares, gradients.square().sum(1))
    torch.testing.assert_close(products, gradients @ gradients.mean(0))


def measured(model: nn.Module, x: Tensor, y: Tensor, **settings: object) -> dict[str, float]:
    sink = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = GradientNoise(at([0]), **settings)  # type: ignore[arg-type]
    manager = ProbeManager(model, [probe], {"train": (x, y)}, [sink], overhead=None, on_error="raise")
    with manager.attach(optimizer):
        nn.functional.mse_loss(model(x), torch.zeros_like(model(x))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {row.name: row.value.item() for row in sink.rows if row.name.startswith("gradient_noise/")}


@pytest.mark.parametrize("group_size", [1, 4])
def test_probe_matches_the_closed_form_of_a_linear_regression(
    group_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss (w x - y)^2 / 2 has the gradient (w x - y) x."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(32, 3, dtype=torch.float64), torch.randn(32, 1, dtype=torch.float64)
    gradients = ((x @ model.weight.T - y) * x).detach()
    expected = of_gradients(gradients.reshape(-1, group_size, 3).mean(1), group_size)
    found = measured(model, x, y, group_size=group_size)
    assert found["gradient_noise/trace/train"] == pytest.approx(expected[0], rel=1e-9)
    assert found["gradient_noise/square_norm/train"] == pytest.approx(expected[2], rel=1e-9)
    assert found["gradient_noise/scale/train"] == pytest.approx(expected[4], rel=1e-9)


def test_probe_rejects_a_batch_of_two_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="at least three groups of 4 samples, got 11"):
        measured(nn.Linear(3, 1), torch.randn(11, 3), torch.randn(11, 1), group_size=4)
