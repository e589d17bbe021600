"""Adaptive clipping against the equation written out for one long vector."""

import math

import pytest
import torch
from torch import nn

from probes_mine import adaptive_clip


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_matches_the_equation(scale):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), ()]
    main = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    information = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    u, m = ([value for tensor in tensors for value in tensor.flatten().tolist()] for tensors in (main, information))
    norm_u, norm_m = (math.sqrt(math.fsum(value**2 for value in vector)) for vector in (u, m))
    expected = [min(norm_u, norm_m) * value / norm_m for value in m]
    found = adaptive_clip(main, information)
    assert [value for tensor in found.gradients for value in tensor.flatten().tolist()] == pytest.approx(
        expected, 1e-12
    )
    assert float(found.main_norm) == pytest.approx(norm_u) and float(found.information_norm) == pytest.approx(norm_m)
    assert float(found.ratio) == pytest.approx(min(1.0, norm_u / norm_m))


def test_clipping_of_a_generator_leaves_its_gradients_alone():
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    noise = torch.randn(8, 2)
    main = torch.autograd.grad(generator(noise).square().mean(), list(generator.parameters()))
    information = torch.autograd.grad(100 * critic(generator(noise)).mean(), list(generator.parameters()))
    before = [gradient.clone() for gradient in (*main, *information)]
    found = adaptive_clip(main, information)
    assert all(torch.equal(a, b) for a, b in zip(before, (*main, *information), strict=True))
    length = torch.cat([gradient.flatten() for gradient in found.gradients]).norm()
    assert float(length) == pytest.approx(float(found.main_norm), rel=1e-5) and found.ratio < 1
    assert generator.weight.grad is None and critic.weight.grad is None


def test_missing_and_zero_gradients():
    found = adaptive_clip([torch.ones(2), None], [None, torch.full((3,), 2.0)])
    assert found.gradients[0] is None and float(found.gradients[1].norm()) == pytest.approx(2**0.5)
    zero = adaptive_clip([torch.ones(2)], [torch.zeros(2)])
    assert zero.gradients[0].tolist() == [0.0, 0.0] and zero.ratio == 1
    assert adaptive_clip([None], [torch.ones(2)]).gradients[0].tolist() == [0.0, 0.0]  # nothing to be as long as


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_no_harm(bad):
    found = adaptive_clip([torch.ones(2)], [torch.tensor([1.0, bad])])
    assert found.gradients[0].tolist() == [0.0, 0.0] and found.ratio == 0


def test_bad_numbers_of_gradients_are_refused():
    with pytest.raises(ValueError, match="as many, got 1 and 2"):
        adaptive_clip([None], [None, None])
    with pytest.raises(ValueError, match="depends on none of these parameters"):
        adaptive_clip([torch.ones(1)], [None])
