"""The loss of an update, in loops that share gradients between updates, beside what each loop knows it to be."""

import gc
import weakref

import pytest
import torch
from torch import nn

from probes.loop.backward_watch import BackwardWatch


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
