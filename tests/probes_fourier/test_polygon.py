"""Polygons whose transforms are known in closed form, and networks on a fine grid."""

import cmath
import math

import pytest
import torch
from torch import nn

from probes_fourier import affine_transform, indicator_transform, planar_pieces, planar_transform

F = torch.float64
SQUARE = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=F)
TRIANGLE = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=F)
WAVES = torch.tensor([[0, 0], [1e-9, 0], [0.3, 0.2], [2, 0], [0, -7], [5, 5], [3, -3], [40.5, 12.1], [900, 0]], dtype=F)


def sinc(x: float) -> float:
    return math.sin(x) / x if x else 1.0


def triangle(p: float, q: float) -> complex:
    """Transform of the triangle (0, 0), (1, 0), (0, 1), by divided differences of exp at 0, -ip, -iq."""

    def first(a: complex, b: complex) -> complex:
        return cmath.exp(a) if abs(a - b) < 1e-12 else (cmath.exp(a) - cmath.exp(b)) / (a - b)

    a, b = -1j * p, -1j * q
    if abs(a - b) < 1e-12:  # divided difference of first(0, .) is its derivative
        return (cmath.exp(a) * a - cmath.exp(a) + 1) / a**2
    return (first(0, a) - first(0, b)) / (a - b)


def test_transform_of_a_square_is_a_product_of_two_sines():
    expected = torch.tensor([4 * sinc(p) * sinc(q) for p, q in WAVES.tolist()], dtype=torch.complex128)
    torch.testing.assert_close(indicator_transform(SQUARE, WAVES), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wave", [(2.0, 0.7), (-3.0, 4.0), (5.0, 5.0), (0.4, 9.0), (0.5, 0.2), (300.0, 41.0)])
def test_transform_of_a_triangle_is_a_divided_difference(wave):
    measured = indicator_transform(TRIANGLE, torch.tensor([wave], dtype=F)).item()
    assert measured == pytest.approx(triangle(*wave), rel=1e-11, abs=1e-14)


def test_transform_of_an_affine_function_on_a_square_is_the_derivative_of_its_indicator():
    # int x e^{-ikx} = i d/dk; on the square 2 (sin k / k) and its derivative
    p, q = 2.3, -1.1
    slope = (math.cos(p) * p - math.sin(p)) / p**2
    measured = affine_transform(SQUARE, torch.tensor([1.0, 0.0]), torch.tensor(0.5), torch.tensor([[p, q]], dtype=F))
    assert measured.item() == pytest.approx(4 * sinc(q) * (1j * slope + 0.5 * sinc(p)), rel=1e-12)


def test_transform_at_the_origin_is_the_integral():
    measured = affine_transform(TRIANGLE, torch.tensor([3.0, 0.0]), torch.tensor(1.0), torch.zeros(1, 2))
    assert measured.item() == pytest.approx(0.5 + 0.5, rel=1e-14)  # area times the value at the centroid, 1/3


def test_transform_is_continuous_where_quadrature_gives_way_to_the_closed_form():
    directions = torch.tensor([[0.6, 0.8]], dtype=F)
    radius = float((TRIANGLE - TRIANGLE.mean(0)).norm(dim=1).max())
    below, above = (directions * (1 + step) / radius for step in (-1e-12, 1e-12))
    args = (TRIANGLE, torch.tensor([0.3, -2.0]), torch.tensor(0.7))
    torch.testing.assert_close(affine_transform(*args, below), affine_transform(*args, above), rtol=1e-11, atol=0)


def test_transform_of_a_moved_polygon_turns_by_its_phase():
    moved = indicator_transform(TRIANGLE + torch.tensor([0.4, -2.0], dtype=F), WAVES)
    phase = torch.polar(torch.ones(len(WAVES), dtype=F), -(WAVES @ torch.tensor([0.4, -2.0], dtype=F)))
    torch.testing.assert_close(moved, phase * indicator_transform(TRIANGLE, WAVES), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    ("direction", "power"), [((1.0, 0.0), 1), ((1.0, 1.0), 1), ((1.0, 0.4), 2)], ids=["side", "hypotenuse", "generic"]
)
def test_transform_falls_with_the_codimension_of_the_face_that_a_direction_is_orthogonal_to(direction, power):
    k = torch.linspace(1000, 2000, 500, dtype=F)[:, None] * torch.tensor(direction, dtype=F)
    here, far = (indicator_transform(TRIANGLE, k * scale).abs().square().mean().sqrt() for scale in (1, 8))
    assert math.log(here / far, 8) == pytest.approx(power, abs=0.05)


def network(seed: int, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)]
    return nn.Sequential(nn.Flatten(), nn.Sequential(*layers)).double()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pieces_of_a_network_fill_the_square_and_reproduce_it(seed):
    model = network(seed)
    pieces = planar_pieces(model, SQUARE)
    assert len(pieces) > 5
    areas = sum(indicator_transform(piece.vertices, torch.zeros(1, 2)).real.item() for piece in pieces)
    assert areas == pytest.approx(4, rel=1e-12)
    for piece in pieces:
        weights = torch.distributions.Dirichlet(torch.ones(len(piece.vertices), dtype=F)).sample((5,))
        inside = weights @ piece.vertices
        expected = model(inside)[:, 0].detach()
        torch.testing.assert_close(inside @ piece.gradient + piece.offset, expected, rtol=1e-9, atol=1e-12)


def test_transform_of_a_network_matches_a_fine_grid():
    model, n = network(3), 1500
    middles = (torch.arange(n, dtype=F) + 0.5) * 2 / n - 1
    points = torch.cartesian_prod(middles, middles)
    values = model(points)[:, 0].detach()
    waves = torch.tensor([[0, 0], [1, 2], [-4, 3], [10, 0], [6, -17]], dtype=F)
    expected = torch.stack([(values * torch.exp(-1j * (points @ k))).sum() * 4 / n**2 for k in waves])
    # The midpoint rule is off by about k^2 h^2 / 24.
    measured = planar_transform(planar_pieces(model, SQUARE), waves)
    torch.testing.assert_close(measured, expected, rtol=0, atol=3e-5)


def test_pieces_are_refused_where_they_would_not_be_exact():
    with pytest.raises(ValueError, match="got Tanh"):
        planar_pieces(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), SQUARE)
    with pytest.raises(ValueError, match="more than `max_pieces`, 3"):
        planar_pieces(network(0), SQUARE, max_pieces=3)
    with pytest.raises(ValueError, match="counter-clockwise"):
        planar_pieces(network(0), SQUARE.flip(0))
    with pytest.raises(ValueError, match="3 inputs, but there are 2"):
        planar_pieces(nn.Linear(3, 1), SQUARE)
    with pytest.raises(ValueError, match=r"`vertices` must have shape \(m, 2\)"):
        indicator_transform(torch.zeros(2, 2), WAVES)
    with pytest.raises(ValueError, match=r"`wave_vectors` must have shape \(K, 2\)"):
        indicator_transform(SQUARE, torch.zeros(3))


def test_a_sequence_with_a_forward_of_its_own_is_refused():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="got Residual"):
        planar_pieces(nn.Sequential(Residual(nn.Linear(2, 2)), nn.Linear(2, 1)), square)
