"""Broken lines whose Fourier integrals are known in closed form, and quadrature in Python's own floats."""

import cmath
import math

import pytest
import torch

from probes_fourier import fourier_coefficients, grid, linear_regions, piecewise_linear_coefficients


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


TRIANGLE = (torch.tensor([0, 0.5, 1], dtype=torch.float64), column(0, 1, 0))


def simpson(positions, values, k: float, weight=lambda t: 1.0) -> complex:
    total = 0j
    for a, b, va, vb in zip(positions, positions[1:], values, values[1:], strict=False):
        n = 400
        for j in range(n + 1):
            u = j / n
            share = (1 if j in (0, n) else 4 if j % 2 else 2) / (3 * n)
            t = a + u * (b - a)
            total += share * (b - a) * (va + u * (vb - va)) * weight(t) * cmath.exp(-2j * math.pi * k * t)
    return total


def test_coefficients_of_the_triangle_wave_are_those_of_its_fourier_series():
    # 1/2 - sum over odd k of 4 cos(2 pi k t) / (pi k)^2
    measured = piecewise_linear_coefficients(*TRIANGLE, range(8))[:, 0]
    expected = [0.5] + [-2 / (math.pi * k) ** 2 if k % 2 else 0 for k in range(1, 8)]
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.complex128), rtol=1e-13, atol=1e-16)


def test_coefficients_of_a_sawtooth_are_those_of_its_fourier_series():
    measured = piecewise_linear_coefficients(torch.tensor([0.0, 1.0]), column(0, 1), [0, 1, 2, 1000])[:, 0]
    expected = torch.tensor([0.5] + [1j / (2 * math.pi * k) for k in (1, 2, 1000)], dtype=torch.complex128)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-16)


def test_coefficients_do_not_change_when_a_piece_is_cut_into_tiny_ones():
    t = torch.tensor([0, 0.2, 0.2 + 1e-13, 0.2 + 2e-13, 0.2 + 1e-7, 0.5, 1], dtype=torch.float64)
    v = 1 - (2 * t - 1).abs()
    measured = piecewise_linear_coefficients(t, v[:, None], [0, 1, 2.5, 9])
    torch.testing.assert_close(measured, piecewise_linear_coefficients(*TRIANGLE, [0, 1, 2.5, 9]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("window", [None, "hann"])
def test_coefficients_match_quadrature(window):
    t, v = [0, 0.1, 0.15, 0.6, 1], [0.3, -1, 2, 0.5, 1.5]
    weight = (lambda t: 1 - math.cos(2 * math.pi * t)) if window else (lambda t: 1.0)
    expected = [[simpson(t, v, k, weight)] for k in (0, 0.3, 1, 7)]
    measured = piecewise_linear_coefficients(column(*t)[:, 0], column(*v), [0, 0.3, 1, 7], window=window)
    # The error of Simpson's rule with 400 points a piece is below 1e-8 at 7 cycles.
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.complex128), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("detrend", [False, True])
@pytest.mark.parametrize("window", [None, "hann"])
def test_coefficients_are_the_limit_of_the_discrete_transform(detrend, window):
    t = torch.tensor([0, 0.13, 0.4, 0.77, 1], dtype=torch.float64)
    v = column(0.3, -1, 2, 0.5, 0.3 if window is None and not detrend else 1.5)[:, 0]
    exact = piecewise_linear_coefficients(t, v[:, None], [1, 2, 5], detrend=detrend, window=window)[:, 0]
    errors = []
    for n in (2**10, 2**16):
        z = grid(n, torch.float64)
        i = torch.searchsorted(t, z, right=True).clamp(1, 4)
        f = v[i - 1] + (v[i] - v[i - 1]) * (z - t[i - 1]) / (t[i] - t[i - 1])
        errors.append((fourier_coefficients(f, [1, 2, 5], detrend=detrend, window=window) - exact).abs().max().item())
    assert errors[1] < 2e-5
    assert errors[1] < errors[0] / 50


def test_detrended_line_has_no_coefficients():
    t = column(0, 0.3, 1)[:, 0]
    assert piecewise_linear_coefficients(t, column(1, 1.6, 3), [0, 1, 2], detrend=True).abs().max() < 1e-15


def test_coefficients_have_a_column_for_each_output():
    t, v = TRIANGLE
    both = piecewise_linear_coefficients(t, torch.cat([v, -2 * v], 1), [1, 3])
    torch.testing.assert_close(both[:, 1], -2 * both[:, 0])


def test_coefficients_reject_values_of_another_length():
    with pytest.raises(ValueError, match=r"`values` must have shape \(3, c\), a row for each position, got \(2, 1\)"):
        piecewise_linear_coefficients(TRIANGLE[0], column(0, 1), [1])


def test_coefficients_reject_unknown_windows():
    with pytest.raises(ValueError, match="`window` must be None or 'hann', got 'flat'"):
        piecewise_linear_coefficients(*TRIANGLE, [1], window="flat")


def test_linear_regions_merge_collinear_pieces_and_see_a_bend_in_any_output():
    t = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    straight, bent = 3 * t + 1, (t - 0.5).relu()
    assert linear_regions(t, straight[:, None]) == 1
    assert linear_regions(t, torch.stack([straight, bent], 1)) == 2
    assert linear_regions(t, torch.stack([(t - 0.25).relu(), bent], 1)) == 3


def test_linear_regions_do_not_count_rounding_on_short_pieces():
    t = torch.tensor([0, 0.3, 0.3 + 1e-12, 1], dtype=torch.float64)
    assert linear_regions(t, (math.pi * t + 1)[:, None]) == 1
