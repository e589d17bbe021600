"""The loss of an update, in loops that share gradients between updates, beside what each loop knows it to be."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from probes.loop import backward_watch
from probes.loop.backward_watch import BackwardWatch
from probes.loop.sharding import whole


class Loop:
    """Two layers, an optimizer of each, and a watch that is told of their updates as a run does."""

    def __init__(self):
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)
        self.model = nn.Sequential(self.first, nn.Tanh(), self.second)
        self.watch = BackwardWatch()
        self.both = self.optimizer(self.model)
        self.one, self.other = self.optimizer(self.first), self.optimizer(self.second)
        self.begin()

    def optimizer(self, module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: self.watch.before_update(opt, bool(args)))
        return optimizer

    def begin(self):
        self.watch.begin(self.model.parameters())

    def backward(self, factor=1.0):
        loss = factor * self.model(torch.randn(4, 3)).square().mean()
        loss.backward()
        return loss.item()

    def seen(self):
        loss = self.watch.update()
        self.begin()
        return None if loss is None else pytest.approx(loss.item())


@pytest.fixture
def loop():
    return Loop()


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("known", [True, False], ids=["optimizer", "by hand"])
def test_micro_batches_are_added_up(loop, to_none, known):
    for _ in range(3):
        losses = [loop.backward() for _ in range(3)]
        if known:
            loop.both.step()
        assert sum(losses) == loop.seen()
        loop.both.zero_grad(to_none)


@pytest.mark.parametrize("how", ["zero_", "fill_", "data", "new"])
def test_a_loss_whose_gradients_were_zeroed_behind_their_backs_does_not_count(loop, how):
    loop.backward()
    for parameter in loop.model.parameters():
        if how == "data":
            parameter.grad.data = torch.zeros_like(parameter)
        elif how == "new":
            parameter.grad = torch.zeros_like(parameter)
        else:
            getattr(parameter.grad.data, how)(*[0] * (how == "fill_"))
    last = loop.backward()
    loop.both.step()
    assert last == loop.seen()


def test_a_parameter_without_a_gradient_does_not_hide_the_loss_that_follows_a_discarded_one(loop):
    loop.backward()
    loop.model.zero_grad()
    loss = loop.second(torch.randn(4, 3)).square().mean()  # the first layer has no part in it
    loss.backward()
    loop.both.step()
    assert loss.item() == loop.seen()


def test_a_gradient_that_is_zero_of_itself_does_not_hide_a_loss(loop):
    with torch.no_grad():
        loop.second.weight.zero_()  # no gradient for the first layer
    losses = [loop.backward(), loop.backward()]
    loop.both.step()
    assert sum(losses) == loop.seen()


@pytest.mark.parametrize("what", ["gradients there", "micro-batches"])
def test_a_model_whose_tensors_are_swapped_is_converted(loop, what):
    try:
        torch.__future__.set_swap_module_params_on_conversion(True)
        loop.backward()
        if what == "micro-batches":
            loop.backward()
        loop.model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert all(parameter.grad.dtype == torch.float64 for parameter in loop.model.parameters())


def test_a_loss_of_which_no_rank_holds_all_is_not_known():
    class Parts(torch.Tensor):
        """As a DTensor."""

        placements: tuple

        def to_local(self):
            return self.as_subclass(torch.Tensor)

    class Place:
        def __init__(self, replicate):
            self.is_replicate = lambda: replicate

    for replicate in (True, False):
        loss = torch.tensor(3.0).as_subclass(Parts)
        loss.placements = (Place(replicate),)
        found = whole(loss)
        assert (found is None) is not replicate and (not replicate or float(found) == 3)


def test_several_losses_of_one_call_count_once_each(loop):
    a, b = loop.model(torch.randn(4, 3)).mean(), loop.model(torch.randn(4, 3)).square().mean()
    torch.autograd.backward([a, b])
    loop.both.step()
    assert (a + b).item() == loop.seen()


def test_of_optimizers_that_take_turns_it_is_the_last_ones(loop):
    for _ in range(3):
        loop.one.zero_grad()
        loop.backward(100.0)  # reaches both
        loop.one.step()
        loop.other.zero_grad()
        mine = loop.backward()
        loop.other.step()
        assert mine == loop.seen()


def test_a_loss_that_reaches_layers_of_another_optimizer_is_none_of_that(loop):
    """A discriminator's step, then a generator's through it, as most GANs are trained."""
    loop.one.zero_grad()
    for _ in range(3):
        loop.other.zero_grad()
        real, fake = loop.backward(), loop.backward(2.0)
        loop.other.step()
        assert real + fake == loop.seen()
        loop.one.zero_grad()
        loop.backward(100.0)


def test_gradients_that_were_dropped_do_not_count(loop):
    """Sharpness-aware minimization: the gradient at the weights says where to take that of the update."""
    for _ in range(2):
        loop.both.zero_grad()
        loop.backward(100.0)
        loop.both.zero_grad()
        mine = loop.backward()
        loop.both.step()
        assert mine == loop.seen()


def test_a_closure_counts_once(loop):
    losses = []

    def closure():
        loop.both.zero_grad()
        losses.append(loop.backward())
        return losses[-1]

    lbfgs = torch.optim.LBFGS(loop.model.parameters(), max_iter=3)
    lbfgs.register_step_pre_hook(lambda optimizer, args, kwargs: loop.watch.before_update(optimizer, closure=True))
    for _ in range(2):
        lbfgs.step(closure)
        assert len(losses) > 1 and losses[0] == loop.seen()
        losses.clear()


def test_a_closure_that_computes_nothing_leaves_what_was_seen(loop):
    for _ in range(2):
        losses = [loop.backward(), loop.backward()]
        loop.both.step(lambda: None)
        assert sum(losses) == loop.seen()
        loop.both.zero_grad()


def test_a_closure_goes_on_with_micro_batches(loop):
    before, losses = loop.backward(), []
    loop.both.step(lambda: losses.append(loop.backward()))
    assert before + losses[0] == loop.seen()


def test_steps_within_the_backward_pass(loop):
    """An optimizer of each parameter, which steps as soon as its gradient is there, before our look."""
    loop.watch.end()
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in loop.model.parameters()}
    for parameter, optimizer in optimizers.items():
        optimizer.register_step_pre_hook(lambda optimizer, *_: loop.watch.before_update(optimizer, closure=False))

        def step(parameter):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
    loop.begin()
    for _ in range(3):
        mine = loop.backward()
        assert mine == loop.seen()


def test_layers_that_are_frozen_by_turns_keep_their_losses(loop):
    """As Lightning's toggle_optimizer does."""
    for _ in range(3):
        loop.first.requires_grad_(False)
        loop.other.zero_grad()
        mine = loop.backward()
        loop.other.step()
        loop.first.requires_grad_(True)
        loop.begin()
        assert mine == loop.seen()


def test_a_gradient_that_is_given_other_memory_goes_on(loop):
    """As DDP does, which puts a view of its bucket in the place of each."""
    first = loop.backward()
    for parameter in loop.model.parameters():
        parameter.grad = parameter.grad.clone()
    second = loop.backward()
    loop.both.step()
    assert first + second == loop.seen()


def test_one_loss_of_two_updates_is_that_of_both(loop):
    loss = loop.model(torch.randn(4, 3)).mean()  # linear in the last bias alone: its graph stays valid for that
    for _ in range(2):
        loop.second.bias.grad = None
        loss.backward(retain_graph=True, inputs=[loop.second.bias])
        loop.other.step()
        assert loss.item() == loop.seen()


def test_nothing_is_left(loop):
    loop.backward()
    loop.watch.end()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in loop.model.parameters())
    assert loop.watch.update() is None
    loop.begin()
    watch, loop.watch = weakref.ref(loop.watch), None
    gc.collect()
    assert watch() is None
    loop.backward()


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_were_emptied_do_not_count(loop, to_none):
    """As of a step that a scaler skips, or of an attack on the inputs."""
    for _ in range(3):
        loop.backward(math.inf)
        loop.both.zero_grad(to_none)
        losses = [loop.backward() for _ in range(2)]
        loop.both.step()
        assert sum(losses) == loop.seen()
        loop.both.zero_grad(to_none)


def test_gradients_that_were_clipped_still_count(loop):
    for _ in range(3):
        losses = []
        for _ in range(3):
            losses.append(loop.backward())
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.01)
        loop.both.step()
        assert sum(losses) == loop.seen()
        loop.both.zero_grad(set_to_none=False)


def test_a_loss_has_the_factor_that_backward_was_given(loop):
    loss = loop.model(torch.randn(4, 3)).mean()
    loss.backward(torch.tensor(-2.0))
    loop.both.step()
    assert -2 * loss.item() == loop.seen()
    loop.both.zero_grad()
    a, b = (loop.model(torch.randn(4, 3)).square().mean() for _ in range(2))
    torch.autograd.backward([a, b], [None, torch.tensor(0.5)])
    loop.both.step()
    assert (a + b / 2).item() == loop.seen()


def test_losses_of_examples_are_added_up_with_their_weights(loop):
    losses, weights = loop.model(torch.randn(4, 3)).square().mean(1), torch.rand(4)
    losses.backward(weights)
    loop.both.step()
    assert (losses * weights).sum().item() == loop.seen()


def test_what_is_within_a_model_is_no_loss(loop):
    hidden = loop.model(torch.randn(4, 3))
    hidden.backward(torch.randn(4, 1))
    loop.both.step()
    assert loop.seen() is None


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_all_micro_batches_of_a_closures_first_evaluation_count(loop, to_none, alone):
    model = nn.Linear(3, 1, bias=False) if alone else loop.model
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: loop.watch.before_update(opt, bool(args)))
    evaluations = []

    def closure():
        optimizer.zero_grad(to_none)
        losses = [model(torch.randn(4, 3)).square().mean() for _ in range(1 if alone else 3)]
        for loss in losses:
            loss.backward()
        evaluations.append(sum(losses).item())
        return sum(losses)

    for _ in range(3):
        loop.watch.begin(model.parameters())
        evaluations.clear()
        optimizer.step(closure)
        assert len(evaluations) > 1
        assert loop.watch.update().item() == pytest.approx(evaluations[0])


def test_a_loss_of_more_calls_than_are_kept_is_not_known(loop, monkeypatch):
    monkeypatch.setattr(backward_watch, "MANY", 5)
    for count in (5, 6, 5):
        losses = [loop.backward() for _ in range(count)]
        loop.both.step()
        assert loop.seen() == (sum(losses) if count == 5 else None)
        loop.both.zero_grad()


def test_losses_in_half_precision_are_added_up_in_single(loop):
    losses = [loop.model(torch.randn(4, 3)).square().mean().bfloat16() for _ in range(200)]
    for loss in losses:
        loss.backward()
    loop.both.step()
    assert math.fsum(loss.item() for loss in losses) == pytest.approx(loop.watch.update().item(), rel=1e-6)


def test_of_a_gradient_put_together_from_those_of_several_calls_no_loss_is_known(loop):
    parameters = list(loop.model.parameters())
    for _ in range(3):  # as PCGrad does
        parts = []
        for _ in range(2):
            loop.both.zero_grad()
            loop.backward()
            parts.append([parameter.grad.clone() for parameter in parameters])
        loop.both.zero_grad()
        for parameter, *gradients in zip(parameters, *parts, strict=True):
            parameter.grad = sum(gradients)
        loop.both.step()
        assert loop.seen() is None
    loop.both.zero_grad()  # a plain update after them
    loss = loop.backward()
    loop.both.step()
    assert loss == loop.seen()


def test_a_gradient_that_was_exchanged_before_the_update_still_counts(loop):
    for _ in range(3):  # noise is added, as for privacy
        loop.both.zero_grad()
        loss = loop.backward()
        for parameter in loop.model.parameters():
            parameter.grad = parameter.grad + 0.01
        loop.both.step()
        assert loss == loop.seen()
