import pytest
import torch
from torch import nn

from probes_ntk import (
    eigenfunctions,
    perturbation_effects,
    random_directions,
    right_singular_vectors,
    tangent_kernel,
)


def flat(direction):
    return torch.cat([tensor.flatten() for tensor in direction.values()])


def test_right_singular_vectors_are_those_of_the_jacobian(small):
    model, inputs, phi = small
    eigen = eigenfunctions(tangent_kernel(model, inputs).kernel)
    vectors = torch.stack([flat(v) for v in right_singular_vectors(model, inputs, eigen, 5)])
    expected = torch.linalg.svd(phi, full_matrices=False)[2][:5]
    sign = (vectors * expected).sum(1, keepdim=True).sign()
    torch.testing.assert_close(vectors, sign * expected, rtol=0, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_are_in_no_direction(small):
    model, inputs, _ = small
    model[0].requires_grad_(False)
    eigen = eigenfunctions(tangent_kernel(model, inputs).kernel)
    (direction,) = right_singular_vectors(model, inputs, eigen, 1)
    assert list(direction) == ["2.weight", "2.bias"]


def test_effect_of_a_small_perturbation_along_a_singular_vector_is_its_singular_value(small):
    model, inputs, phi = small
    eigen = eigenfunctions(tangent_kernel(model, inputs).kernel)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    directions = right_singular_vectors(model, inputs, eigen, 4)
    effects = perturbation_effects(model, inputs, directions, 1e-6)
    torch.testing.assert_close(effects, 1e-6 * torch.linalg.svdvals(phi)[:4], rtol=1e-4, atol=0)
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


def test_effect_is_the_distance_between_two_models(small):
    model, inputs, _ = small
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    (direction,) = random_directions(parameters, 1, generator)
    (effect,) = perturbation_effects(model, inputs, [direction], 2.0)
    before = model(inputs).detach()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.add_(2 * direction[name])
    assert effect.item() == pytest.approx((model(inputs) - before).norm().item(), rel=1e-12)


def test_random_directions_are_of_unit_length_and_repeat():
    parameters = {"a": torch.zeros(30, 2), "b": torch.zeros(7)}
    one, two = (list(random_directions(parameters, 3, torch.Generator().manual_seed(5))) for _ in range(2))
    for left, right in zip(one, two, strict=True):
        assert torch.equal(flat(left), flat(right)) and flat(left).norm().item() == pytest.approx(1)
    assert abs(flat(one[0]) @ flat(one[1])) < 0.5


def test_bad_directions_are_refused(small):
    model, inputs, _ = small
    with pytest.raises(ValueError, match=r"parameters that the model has not: 5\.weight"):
        perturbation_effects(model, inputs, [{"5.weight": torch.ones(1)}], 1.0)
    eigen = eigenfunctions(tangent_kernel(model, inputs).kernel)
    with pytest.raises(ValueError, match=r"kernel of these 6 examples and 3 outputs, got functions of shape \(3, 7\)"):
        next(right_singular_vectors(model, inputs[:6], eigen, 1))
    with pytest.raises(ValueError, match="between 1 and 1"):
        linear = nn.Linear(1, 1, bias=False)
        x = torch.ones(3, 1)
        next(right_singular_vectors(linear, x, eigenfunctions(tangent_kernel(linear, x).kernel), 2))


def test_no_direction_is_named(small):
    model, inputs, _ = small
    with pytest.raises(ValueError, match="at least one direction"):
        perturbation_effects(model, inputs, [], 1.0)
