"""What the gradients of accumulated micro-batches have in common, beside copies of all of them."""

from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from probes import Probe, ProbeManager, at
from probes.loop.micro_batches import MicroBatchWatch, inner


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 3)).to(dtype)


def losses(model, count=4):
    """Of one micro-batch after the other."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(7, 40, generator=generator).to(next(model.parameters()))
        yield F.cross_entropy(model(x), torch.randint(3, (7,), generator=generator))


def watched(model):
    watch = MicroBatchWatch()
    watch.begin(model.parameters())
    return watch


def reference(model, count=4):
    each = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses(model, count)]
    flat = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each]).double()
    return flat.square().sum(1), (flat * (flat.cumsum(0) - flat)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zeros", [False, True])
def test_products_of_gradients(dtype, zeros):
    model = network(dtype)
    expected, watch = reference(model), watched(model)
    for _ in range(2):  # of each update anew
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if zeros else None
        for loss in losses(model):
            loss.backward()
        watch.before_update(model.parameters(), closure=False)
        found = watch.update()
        rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        for one, other in zip(found[:2], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * float(expected[0].max()))
    watch.end()
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_a_sum_of_many_keeps_its_digits():
    torch.manual_seed(0)
    one, other = torch.randn(300_007) + 3, torch.randn(300_007) + 5
    assert float(inner(one, other)) == pytest.approx(float(one.double() @ other.double()), rel=1e-6)
    assert float(inner(one[:5], other[:5])) == pytest.approx(float(one[:5].double() @ other[:5].double()), rel=1e-6)


def once(model):
    next(losses(model)).backward()


def several_losses(model):
    out = model(torch.randn(7, 40))
    for column in range(3):
        out[:, column].sum().backward(retain_graph=column < 2)


def left_out_by_some(model):
    for index, loss in enumerate(losses(model)):
        (loss if index else model[0](torch.randn(2, 40)).sum()).backward()


def not_zero_at_first(model):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for loss in losses(model):
        loss.backward()


def by_other_means(model):
    for loss in losses(model):
        for parameter, part in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            parameter.grad = part if parameter.grad is None else parameter.grad + part


def with_their_graph(model):
    for loss in losses(model):
        loss.backward(create_graph=True)


def taken_away(model, to_none=True):
    for loss in losses(model):
        model.zero_grad(set_to_none=to_none)
        loss.backward()


def set_to_zero(model):
    taken_away(model, to_none=False)


def zeroed_in_the_midst(model):
    for index, loss in enumerate(losses(model, 6)):
        if index == 3:
            model.zero_grad(set_to_none=False)
        loss.backward()


def clipped_each_time(model):
    for loss in losses(model):
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)


def parts_in_turn(model):
    x = torch.randn(7, 40)
    for index in range(8):
        (model[0](x) if index % 2 else model[2](torch.randn(7, 50))).square().mean().backward()


def a_block_that_is_called_again(model):
    x = torch.randn(7, 40, requires_grad=True)
    again = [checkpoint(model, x * scale, use_reentrant=True).sum() for scale in (1.0, 2.0, 3.0, 4.0)]
    sum(again).backward()


OTHERS = [
    once,
    several_losses,
    left_out_by_some,
    not_zero_at_first,
    by_other_means,
    with_their_graph,
    taken_away,
    set_to_zero,
    zeroed_in_the_midst,
    clipped_each_time,
    parts_in_turn,
    a_block_that_is_called_again,
]


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("other", OTHERS, ids=lambda function: function.__name__)
def test_what_is_no_accumulation_is_left_out(other):
    model = network()
    watch = watched(model)
    other(model)
    assert watch.update() is None
    model.zero_grad()
    for loss in losses(model):
        loss.backward()
    assert len(watch.update().squares) == 4  # of the next update it is seen
    watch.end()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant):
    model = network()
    expected, watch = reference(model), watched(model)
    run = model.forward
    model.forward = lambda x: checkpoint(run, x.requires_grad_(), use_reentrant=reentrant)
    for loss in losses(model):
        loss.backward()
    for one, other in zip(watch.update()[:2], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    watch.end()


class Seen(Probe):
    watched_updates = 1
    sees_micro_batches = True

    def on_step(self, run, step):
        pass

    def measure(self, run, step):
        self.found.append((step, run.micro_batches))
        loss = run.model(torch.ones(2, 40)).sum()
        torch.autograd.grad(loss, list(run.model.parameters()))  # of the probe, not of the loop
        return []


def train(directory, watch, closure=False):
    model, probe = network(), Seen(at([2, 4]))
    probe.found = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [probe], log_dir=directory, sinks=[], overhead=None, on_error="raise", quiet=True)
    hooks = []

    def gradients():
        optimizer.zero_grad()
        for loss in losses(model):
            (loss / 4).backward()
            hooks.append(sum(len(parameter._backward_hooks or {}) for parameter in model.parameters()))
        return loss

    if watch:
        manager.attach(optimizer)
    for _ in range(5):
        if closure:
            optimizer.step(gradients)
        else:
            gradients()
            optimizer.step()
    manager.detach()
    return [p.detach().clone() for p in model.parameters()], probe.found, hooks


def test_a_probe_sees_them_of_the_update_before_its_turn(tmp_path):
    bare, _, _ = train(tmp_path / "bare", watch=False)
    weights, found, hooks = train(tmp_path / "watched", watch=True)
    assert all(torch.equal(one, other) for one, other in zip(weights, bare, strict=True))
    assert [step for step, _ in found] == [2, 4]
    assert all(len(seen.squares) == 4 and bool((seen.squares > 0).all()) for _, seen in found)
    assert hooks == [0] * 4 + [4] * 4 + [0] * 4 + [4] * 4 + [0] * 4  # of four parameters, before its turns alone


def test_of_a_closure_nothing_is_seen(tmp_path):
    _, found, _ = train(tmp_path, watch=True, closure=True)
    assert [seen for _, seen in found] == [None, None]


def test_what_is_unfrozen_or_replaced_is_looked_at_from_the_next_turn_on():
    model = network()
    model[0].weight.requires_grad_(False)
    watch = watched(model)
    model[0].weight.requires_grad_(True)
    for loss in losses(model):
        loss.backward()
    watch.before_update(model.parameters(), closure=False)
    assert watch.update() is None  # of some it does not know
    model.zero_grad()
    watch.begin(model.parameters())
    watch.end()
    expected = reference(model)
    watch.begin(model.parameters())
    for loss in losses(model):
        loss.backward()
    watch.before_update(model.parameters(), closure=False)
    torch.testing.assert_close(watch.update().squares, expected[0], rtol=1e-5, atol=0)
    watch.end()


def test_a_model_goes_to_another_process_without_a_word():
    model = network()
    watch = watched(model)
    ForkingPickler.dumps(model)
    watch.end()


def test_parameters_that_are_swapped_in_the_midst_are_noticed():
    model = network()
    watch, before = watched(model), torch.__future__.get_swap_module_params_on_conversion()
    try:
        torch.__future__.set_swap_module_params_on_conversion(True)
        for loss in losses(model):
            loss.backward()
            del loss
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    watch.before_update(model.parameters(), closure=False)
    assert watch.update() is None
    watch.end()
