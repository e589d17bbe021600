"""Each test does on purpose, inside the guard, what a careless probe would do to the training."""

import operator
import random
import threading
import time
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

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


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_that_shorten_their_vectors_do_so_in_a_copy(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(9, 4, max_norm=0.5))
    weight, tokens = model[0].weight, torch.arange(8).view(2, 4)
    before, place, version = weight.detach().clone(), weight.data_ptr(), weight._version
    with unnoticed(model):
        seen = model(tokens)
        assert torch.equal(weight, before) or kind is nn.EmbeddingBag  # what is measured of it is what it holds
        derivative = torch.autograd.grad(seen.sum(), weight)[0]
    assert torch.equal(weight, before) and (weight.data_ptr(), weight._version) == (place, version)
    assert model[0].max_norm == 0.5
    torch.testing.assert_close(seen, model(tokens), rtol=1e-6, atol=0)
    assert torch.equal(derivative, torch.autograd.grad(model(tokens).sum(), weight)[0])
    assert not torch.equal(weight, before)  # as training would have it


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


def test_parameters_that_change_places_behind_their_version_are_detected():
    model = nn.Linear(100, 100)
    with pytest.raises(ModelChanged, match="a parameter was changed in place"), unnoticed(model):
        model.weight.data[[0, 90]] = model.weight.data[[90, 0]]


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


def stepped():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_states_and_groups_of_optimizers_are_as_before():
    model, optimizer = stepped()
    state = optimizer.state[model.weight]
    before, groups, held = dict(state), list(optimizer.param_groups), list(optimizer.param_groups[0]["params"])
    with unnoticed(model, [optimizer]):
        state["exp_avg"], state["more"] = torch.zeros(1, 2), 1
        optimizer.state[nn.Parameter(torch.zeros(1))] = {}
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(1)))
    assert dict(state) == before and len(optimizer.state) == 2
    assert optimizer.param_groups == groups and all(map(operator.is_, optimizer.param_groups[0]["params"], held))
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_a_state_of_an_optimizer_that_is_changed_in_place_is_told():
    model, optimizer = stepped()
    with (
        pytest.raises(ModelChanged, match=r"state 'exp_avg' of Adam was changed in place"),
        unnoticed(model, [optimizer]),
    ):
        optimizer.state[model.weight]["exp_avg"].mul_(2)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters_see_nothing_and_those_left_behind_are_removed(kind):
    own, bare = nn.Linear(2, 1), nn.Linear(2, 1)
    seen = []
    register = getattr(own.weight, kind)
    first, second = register(lambda _: seen.append("first")), register(lambda _: seen.append("second"))
    for model in (own, bare):
        with unnoticed(model):
            getattr(model.weight, kind)(lambda _: seen.append("left behind"))
            model(torch.ones(1, 2)).sum().backward()
            assert seen == ["left behind"]
            seen.clear()
    for model in (own, bare):
        model(torch.ones(1, 2)).sum().backward()
    assert seen == ["first", "second"]
    second.remove()
    own(torch.ones(1, 2)).sum().backward()
    assert seen == ["first", "second", "first"] and first is not None
    with unnoticed(bare):
        pass
    bare.weight.register_hook(lambda _: seen.append("later"))
    bare(torch.ones(1, 2)).sum().backward()
    assert seen[3:] == ["later"]


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_modules_see_nothing_and_change_nothing(kind):
    model, seen = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), []

    def doubled(module, gradients, *more):
        seen.append(module)
        return tuple(None if each is None else 2 * each for each in gradients)

    handle = getattr(model[1], kind)(doubled)
    x = torch.ones(1, 2, requires_grad=True)
    (twice,) = torch.autograd.grad(model(x).sum(), x)
    with unnoticed(model):
        (once,) = torch.autograd.grad(model(x).sum(), x)
    assert len(seen) == 1 and torch.allclose(twice, 2 * once)
    handle.remove()  # from the table that it was put into
    torch.autograd.grad(model(x).sum(), x)
    assert len(seen) == 1


def test_within_a_hook_of_a_parameter():
    model, seen = nn.Linear(2, 1, bias=False), []

    def step(parameter):
        with unnoticed(model):
            assert parameter.grad is None
            model(torch.ones(1, 2)).sum().backward()  # and is not called by this
        seen.append(parameter.grad.tolist())

    model.weight.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
    assert seen == [[[1.0, 1.0]], [[2.0, 2.0]]]


def test_hooks_of_all_modules_are_as_before():
    model, optimizer = stepped()
    right = model(torch.ones(1, 2))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        before = list(nn.modules.module._global_forward_hooks)
        with unnoticed(model, [optimizer]):
            nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 0)
            nn.modules.module.register_module_full_backward_hook(lambda *_: None)
        assert list(nn.modules.module._global_forward_hooks) == before and torch.equal(model(torch.ones(1, 2)), right)
        assert nn.modules.module._global_is_full_backward_hook is None
    finally:
        handle.remove()


class Sees(TorchFunctionMode):
    seen = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


class SeesNothing(TorchFunctionMode):
    """One that can only be left."""


@pytest.mark.parametrize("device", [False, True])
def test_modes_of_the_script_see_nothing_and_stay(device):
    model, optimizer = stepped()
    with torch.device("cpu") if device else nullcontext(), Sees() as mode, FlopCounterMode(display=False) as flops:
        model(torch.ones(1, 2))
        seen, counted = mode.seen, flops.get_total_flops()
        with unnoticed(model, [optimizer]):
            model(torch.ones(1, 2))
            assert torch.zeros(1).device.type == "cpu"
            SeesNothing().__enter__()
        model(torch.ones(1, 2))
        assert mode.seen == 2 * seen and flops.get_total_flops() == 2 * counted > 0
    assert torch._C._len_torch_function_stack() == 0


def test_hooks_of_the_script_on_what_autograd_saves_see_nothing_and_stay():
    seen: list[torch.Tensor] = []
    layers = nn.Sequential(nn.Linear(2, 3), nn.Tanh())

    def pack(tensor):
        seen.append(tensor)
        return 2 * tensor

    def gradient():
        return torch.autograd.grad(layers(torch.ones(1, 2)).sum(), layers[0].weight)[0]

    expected = gradient()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with unnoticed(layers):
            assert torch.equal(gradient(), expected) and not seen
            torch.autograd.graph.saved_tensors_hooks(pack, pack).__enter__()
        assert not torch.equal(gradient(), expected) and seen
    assert torch.equal(gradient(), expected)


def test_another_generator_of_numpy_is_as_before(model):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with unnoticed(model):
                drawn = np.random.rand()  # noqa: NPY002
        assert np.random.rand() == drawn  # noqa: NPY002
    finally:
        np.random.set_bit_generator(before)


def test_a_default_device_is_what_it_was_and_can_be_set_again():
    model, optimizer = stepped()
    try:
        torch.set_default_device("cpu")
        with Sees() as mode, unnoticed(model, [optimizer]):
            torch.set_default_device("meta")
        assert torch.zeros(1).device.type == "cpu" and mode.seen == 0
    finally:
        torch.set_default_device(None)
    assert torch._C._len_torch_function_stack() == 0


def test_one_thread_at_a_time_is_within_a_guard():
    model, order = nn.Linear(2, 1), []
    inside = threading.Event()

    def other():
        inside.wait()
        with unnoticed(model):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with unnoticed(model):
        inside.set()
        with unnoticed(model):  # the same thread may
            time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_settings_are_right_after_several_threads_were_in_guards():
    torch.use_deterministic_algorithms(True)
    try:

        def work():
            model = nn.Linear(2, 1)
            for _ in range(20):
                with unnoticed(model):
                    model(torch.ones(1, 2))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
