import pytest
import torch
from torch import nn

from examples.frame.models import MLP


def test_depth_counts_the_linear_layers():
    linear = [module for module in MLP(1, 256, 6, 1) if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(1, 256), *[(256, 256)] * 4, (256, 1)]


def test_mlp_is_affine_maps_with_relu_between():
    torch.manual_seed(0)
    model, x = MLP(4, 5, 3, 2), torch.randn(7, 4)
    hidden = (x @ model.linear1.weight.T + model.linear1.bias).clamp(min=0)
    hidden = (hidden @ model.linear2.weight.T + model.linear2.bias).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ model.linear3.weight.T + model.linear3.bias)


def test_mlp_flattens_images():
    assert MLP(784, 8, 2, 10)(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_mlp_has_biases_that_are_not_zero():
    assert all((module.bias != 0).all() for module in MLP(1, 16, 4, 1) if isinstance(module, nn.Linear))


def test_mlp_rejects_a_depth_of_zero():
    with pytest.raises(ValueError, match="`depth` must be at least 1 linear layer, got 0"):
        MLP(1, 8, 0, 1)
