"""Each test does on purpose, inside the guard, what a careless probe would do to the training."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from probes.guard.unnoticed import ModelChanged, unnoticed


def states():
    return (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_random_states_are_as_before(model):
    before = states()
    with unnoticed(model):
        torch.randn(3), random.random(), np.random.rand()  # noqa: NPY002
        assert states() != before
    assert states() == before


def test_modes_are_eval_inside_and_as_before_after(model):
    before = [module.training for module in model.modules()]
    with unnoticed(model):
        assert not any(module.training for module in model.modules())
        model.train()
    assert [module.training for module in model.modules()] == before and False in before and True in before


def test_modes_are_set_without_the_users_train_method():
    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("merges its adapters here")

    with unnoticed(Merging(2, 2)):
        pass


def test_buffers_are_as_before(model):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objects = [id(buffer) for buffer in model.buffers()]
    with unnoticed(model):
        model.train()
        model(torch.randn(50, 3))
        model[1].running_var = torch.zeros(4)
    assert [id(buffer) for buffer in model.buffers()] == objects
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_graph_that_the_loop_holds_stays_valid(model):
    model.eval()  # batch norm then keeps its statistics for the backward
    loss = model(torch.randn(5, 3)).sum()
    with unnoticed(model):
        model(torch.randn(5, 3)).sum().backward()
    loss.backward()


def test_gradients_are_as_before(model):
    before = [
        (parameter.grad, None if parameter.grad is None else parameter.grad.clone()) for parameter in model.parameters()
    ]
    with unnoticed(model):
        assert all(parameter.grad is None for parameter in model.parameters())
        model[0].bias.requires_grad_(True)
        model(torch.randn(5, 3)).sum().backward()
    for parameter, (gradient, value) in zip(model.parameters(), before, strict=True):
        assert parameter.grad is gradient and (gradient is None or torch.equal(gradient, value))
    assert not model[0].bias.requires_grad


def test_forward_hooks_left_behind_are_removed(model):
    keep = model[0].register_forward_hook(lambda *_: None)
    with unnoticed(model):
        model[0].register_forward_hook(lambda *_: None)
        model.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
        model[3].register_full_backward_hook(lambda *_: None)
    assert list(model[0]._forward_hooks) == [keep.id]
    assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs and not model[3]._backward_hooks


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_restored_after_an_exception(model, error):
    before, mean = states(), model[1].running_mean.clone()
    with pytest.raises(error), unnoticed(model):
        model.train()
        model(torch.randn(5, 3)).sum().backward()
        raise error
    assert states() == before and torch.equal(model[1].running_mean, mean) and not model[1].training


def test_a_changed_parameter_is_detected(model):
    with pytest.raises(ModelChanged, match=r"parameter '3.weight' was changed in place"), unnoticed(model):
        model[3].weight.data.zero_()
        with torch.no_grad():
            model[3].weight.add_(1)


def test_a_parameter_that_is_changed_behind_its_version_is_detected(model):
    with pytest.raises(ModelChanged, match="a parameter was changed in place"), unnoticed(model):
        model[3].weight.data[0, 0] += 1e-6
    with unnoticed(model):  # and one that was put back is no change
        before = model[3].weight.data.clone()
        model[3].weight.data.add_(1)
        model[3].weight.data.copy_(before)


@pytest.mark.parametrize("place", ["a part", "a part, in place", "the whole, in place"])
def test_what_is_compiled_is_not_compiled_again(place):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    if place == "a part":
        model[0] = torch.compile(model[0], backend=backend)
    else:
        (model if place.startswith("the whole") else model[0]).compile(backend=backend)
    model(torch.ones(5, 3))
    count = len(graphs)
    for rows in range(1, 12):
        with unnoticed(model):
            model(torch.ones(rows, 3)).sum().backward()
    assert count > 0 and len(graphs) == count
    model(torch.ones(5, 3))
    assert len(graphs) == count
