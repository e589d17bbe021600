import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from loops import step_hooks
from torch import nn
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from probes import ProbeManager
from probes.loop import step_hook
from probes.loop.steps import StepCounter
from probes.loop.wrappers import unwrap_optimizer


class Watch:
    def __init__(self, model, optimizers=(), due=0):
        self.seen, self.first = [], 0
        self.counter = StepCounter(model, list(optimizers), self.before, self.seen.append, lambda: due)

    def before(self):
        self.first += 1


def backward(model):
    model.zero_grad()
    model(torch.randn(4, 2)).square().mean().backward()


@pytest.fixture(params=["given", "found"])
def given(request):
    return request.param == "given"


BUILTIN = [
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "ASGD",
    "Rprop",
    "RMSprop",
    "Adafactor",
]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_optimizer_is_counted(name, given):
    model = nn.Linear(2, 1)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    watch = Watch(model, [optimizer] if given else [])
    for _ in range(3):
        backward(model)
        optimizer.step()
    assert watch.seen == [1, 2, 3] and watch.first == 1
    watch.counter.remove()
    optimizer.step()
    assert watch.seen == [1, 2, 3]


def test_a_closure_that_runs_many_times_is_one_step(given):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    watch = Watch(model, [optimizer] if given else [])

    def closure():
        backward(model)
        return model(torch.ones(1, 2)).sum()

    optimizer.step(closure)
    optimizer.step(closure)
    assert watch.seen == [1, 2] and watch.first == 1


def test_before_step_is_called_before_every_update_and_leaves_no_hook(given):
    model, seen = nn.Linear(2, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()

    def note(optimizer, closure):
        seen.append(model.weight.detach().clone())

    others = step_hooks()
    counter = StepCounter(model, [optimizer] if given else [], lambda: None, lambda step: None, lambda: 0, note)
    other = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    for _ in range(2):
        other.step()
        backward(model)
        optimizer.step()
    assert len(seen) == 2 and torch.equal(seen[0], before) and not torch.equal(seen[1], before)
    counter.remove()
    optimizer.step()
    assert len(seen) == 2 and not optimizer._optimizer_step_pre_hooks and step_hooks() <= others


def test_a_nested_super_step_counts_once(given):
    class Nested(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    model = nn.Linear(2, 1)
    optimizer = Nested(model.parameters(), lr=0.1)
    watch = Watch(model, [optimizer] if given else [])
    for _ in range(3):
        backward(model)
        optimizer.step()
    assert watch.seen == [1, 2, 3]


def test_a_part_of_an_optimizer_that_was_given_is_not_told_of():
    class Sharpness(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 0.1})
            self.base = torch.optim.SGD(self.param_groups, lr=0.1)

        def step(self, closure=None):
            self.base.step()

    model, seen, told = nn.Linear(2, 1), [], []
    optimizer = Sharpness(model.parameters())
    counter = StepCounter(model, [optimizer], lambda: None, seen.append, lambda: 0, notice=told.append)
    for _ in range(3):
        backward(model)
        optimizer.step()
    assert seen == [1, 2, 3] and not told
    optimizer.base.step()
    assert seen == [1, 2, 3, 4] and len(told) == 1 and "its steps count" in told[0]
    counter.remove()


def test_counting_goes_on_after_an_exception_inside_a_nested_step():
    class Failing(torch.optim.SGD):
        fail = True

        def step(self, closure=None):
            super().step(closure)
            if self.fail:
                raise RuntimeError("after the inner step")

    model = nn.Linear(2, 1)
    optimizer = Failing(model.parameters(), lr=0.1)
    watch = Watch(model)
    backward(model)
    with pytest.raises(RuntimeError, match="after the inner step"):
        optimizer.step()
    optimizer.fail = False
    optimizer.step()
    optimizer.step()
    assert watch.seen == [1, 2]


def test_a_scheduler_does_not_change_the_count():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        backward(model)
        optimizer.step()
        scheduler.step()
    assert watch.seen == [1, 2, 3]


def test_two_optimizers_of_one_model_count_one_step_each_round():
    model = nn.Linear(2, 1)
    both = [torch.optim.SGD([model.weight], lr=0.1), torch.optim.Adam([model.bias])]
    watch = Watch(model)
    for _ in range(3):
        backward(model)
        for optimizer in both:
            optimizer.step()
    assert watch.seen == [1, 2, 3]


def test_the_optimizer_of_another_model_does_not_count():
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    watch = Watch(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    backward(other)
    optimizer.step()
    assert watch.seen == [] and watch.first == 0
    # ... until it is given a parameter of ours.
    optimizer.add_param_group({"params": [model.weight]})
    optimizer.step()
    assert watch.seen == [1]


def test_a_scaler_that_skips_is_no_step():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for bad in (True, False, True, False):
        backward(model)
        if bad:
            model.weight.grad[0, 0] = float("inf")
        scaler.scale(torch.zeros(()))  # so that the scaler is initialised
        scaler.step(optimizer)
        scaler.update()
    assert watch.seen == [1, 2]


@pytest.mark.parametrize("due", [0, 1, 3])
def test_a_fused_update_that_was_skipped_inside_the_kernel_is_no_step(due):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    watch = Watch(model, due=due)
    for bad in (True, False, True, False, False):
        backward(model)
        # What GradScaler does around the step of a fused optimizer.
        optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.full((), float(bad))
        before = model.weight.clone()
        optimizer.step()
        assert torch.equal(before, model.weight) == bad
        del optimizer.grad_scale, optimizer.found_inf
    # Once a step may be due the count is exact.
    assert watch.counter.step == 3 and watch.seen[-1] == 3


def test_resumed_counting_goes_on():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model)
    watch.counter.step = 41
    backward(model)
    optimizer.step()
    assert watch.seen == [42]


def test_step_hooks_do_not_keep_the_model_alive_and_go_with_it():
    before = step_hooks()
    model = nn.Linear(2, 1)
    watch = Watch(model)
    gone = weakref.ref(model)
    del model, watch
    assert step_hooks() <= before and gone() is None


@pytest.mark.parametrize("method", ["before", "after"])
def test_counters_come_and_go_while_the_step_of_another_thread_lasts(method):
    before = step_hooks()
    inside, over = threading.Event(), threading.Event()
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (model, other)]
    first, beside = Watch(model), Watch(nn.Linear(2, 1))

    def wait(*_):
        inside.set()
        over.wait(60)

    setattr(first.counter, "_before_first" if method == "before" else "_on_step", wait)
    backward(model)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(optimizers[0].step)
        assert inside.wait(60)
        second, third = Watch(other), Watch(other)
        third.counter.remove()
        backward(other)
        optimizers[1].step()
        over.set()
        step.result()
    assert first.counter.step == 1 and third.counter.step == 0
    assert second.counter.step == second.first == 1
    for watch in (first, beside, second):
        watch.counter.remove()
    assert step_hooks() <= before


def test_the_step_of_a_watched_optimizer_within_a_hook_of_another_step():
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    inner, outer = (torch.optim.SGD(module.parameters(), lr=0.1) for module in (model, other))
    watch = Watch(model)

    def train(optimizer, *_):
        if optimizer is outer:
            backward(model)
            inner.step()

    handles = [register_optimizer_step_pre_hook(train), register_optimizer_step_pre_hook(lambda *_: None)]
    try:
        for step in range(6):
            watch.counter.look_before(step % 2 == 1)
            backward(other)
            outer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert watch.counter.step == 6
    watch.counter.remove()


def test_attaching_waits_for_a_step_that_is_going_through_hooks_of_others(monkeypatch):
    inside, over = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        over.wait(60)

    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    backward(model)
    handles = [register_optimizer_step_post_hook(wait), register_optimizer_step_post_hook(lambda *_: None)]
    try:
        with ThreadPoolExecutor(2) as pool:
            step = pool.submit(optimizer.step)
            assert inside.wait(60)
            monkeypatch.setattr(step_hook, "PATIENCE", 0.1)
            with pytest.raises(RuntimeError, match=r"waited 0\.1 seconds for the step of an optimizer"):
                Watch(other)
            monkeypatch.setattr(step_hook, "PATIENCE", 60.0)
            watch = pool.submit(Watch, other)
            over.set()
            step.result()
            watch.result().counter.remove()
    finally:
        over.set()
        for handle in handles:
            handle.remove()


def test_a_hook_that_could_not_leave_leaves_later():
    before = step_hooks()
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer, watch = torch.optim.SGD(model.parameters(), lr=0.1), Watch(model)
    optimizer.register_step_post_hook(lambda *_: watch.counter.remove())
    backward(model)
    optimizer.step()
    Watch(other).counter.remove()
    assert step_hooks() <= before


def test_a_framework_wrapper_is_taken_off():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    inner = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    assert unwrap_optimizer(Wrapper(inner)) is inner


def test_what_is_no_torch_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer .* got dict"):
        unwrap_optimizer({})


def adam(*parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def counted(model, updates, **settings):
    """The steps called back after each of some updates."""
    watch = Watch(model, **settings)
    steps = []
    for optimizer in updates:
        backward(model)
        optimizer() if callable(optimizer) else optimizer.step()
        steps.append(watch.counter.resolve())
    watch.counter.remove()
    assert watch.seen == sorted(set(watch.seen))
    return steps


def test_a_critic_that_steps_five_times_for_each_step_of_the_generator_sets_the_pace():
    model = nn.Linear(2, 1)
    critic, generator = adam(model.weight), adam(model.bias)
    assert counted(model, [*[critic] * 5, generator] * 2)[-1] == 10
    assert counted(model, [generator, *[critic] * 5] * 2)[-1] == 10


def test_a_step_of_which_one_of_two_optimizers_was_skipped_is_one():
    model = nn.Linear(2, 1)
    first, second = adam(model.weight), adam(model.bias)
    assert counted(model, [first, second, second, first, first, second]) == [1, 1, 2, 3, 4, 4]


def test_an_optimizer_that_takes_over_goes_on_counting():
    model = nn.Linear(2, 1)
    first, second = adam(*model.parameters()), adam(*model.parameters())
    assert counted(model, [*[first] * 3, *[second] * 2]) == [1, 2, 3, 4, 5]
    fresh = [lambda: adam(*model.parameters()).step()] * 3  # one for each epoch; the last one is gone
    assert counted(model, fresh) == [1, 2, 3]
    pairs = [[adam(model.weight), adam(model.bias)] for _ in range(2)]
    assert counted(model, [*pairs[0], *pairs[0], *pairs[1], *pairs[1]]) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_what_may_have_been_skipped_is_asked_for_in_time_and_not_hoarded(monkeypatch):
    monkeypatch.setattr("probes.loop.steps.UNCERTAIN", 10)
    model = nn.Linear(2, 1)
    both = [torch.optim.SGD([parameter], lr=0.1, fused=True) for parameter in model.parameters()]
    watch = Watch(model, due=2**62)
    kept = []
    for number in range(40):
        backward(model)
        for optimizer in both:
            optimizer.found_inf = torch.full((), float(number % 4 == 0))
            optimizer.grad_scale = torch.ones(())
            optimizer.step()
            kept.append(len(watch.counter._uncertain))
    assert max(kept) < 10 and watch.counter.resolve() == 30 and watch.counter.resolve() == 30


@pytest.mark.parametrize("attached", ["before", "after"])
def test_a_compiled_step_is_counted(attached):
    torch._dynamo.reset()
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model) if attached == "before" else None
    step = torch.compile(optimizer.step, backend="eager")
    watch = watch or Watch(model)
    for _ in range(3):
        backward(model)
        step()
    assert watch.seen == [1, 2, 3]
    watch.counter.remove()


@pytest.mark.parametrize("attached", ["bare", "before", "after"])
def test_a_compiled_step_is_compiled_as_it_would_be(attached, tmp_path):
    def trained(watched):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)  # whose compiled step rounds otherwise
        x, y = torch.randn(24, 6), torch.randn(24, 2)
        manager = ProbeManager(model, ["layers", "spectral_norm"], log_dir=tmp_path / "run", overhead=0.05)
        if watched == "before":
            manager.attach()
        step = torch.compile(lambda: optimizer.step(), backend="eager")
        if watched == "after":
            manager.attach()
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            step()
        if watched != "bare":
            assert manager.run.step == 6
            manager.detach()
        return list(model.parameters()), torch._dynamo.utils.counters["frames"]["total"]

    (bare, frames), (weights, others) = trained("bare"), trained(attached)
    assert all(map(torch.equal, bare, weights))
    assert others <= frames + 3  # nothing of ours is compiled


def test_a_counter_that_becomes_garbage_during_a_step_does_not_disturb_it():
    collecting = register_optimizer_step_post_hook(lambda *_: gc.collect())
    try:
        before, model = step_hooks(), nn.Linear(2, 1)
        watch = Watch(model)
        watch.itself = watch  # only the garbage collector finds it
        optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        del watch
        optimizer.step()  # torch goes through its table of hooks meanwhile
        assert len({*_global_optimizer_post_hooks} - before) == 1
        StepCounter(model, [optimizer], lambda: None, lambda step: None, lambda: 0)
        assert {*_global_optimizer_post_hooks} <= before
    finally:
        collecting.remove()


@pytest.mark.parametrize("keyword", [False, True])
def test_what_a_closure_shows_is_seen_before_the_first_update(given, keyword):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start, calls = model.weight.detach().clone(), []

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        backward(model)
        return torch.ones(())

    def first():
        calls.append("first")
        assert model.weight.grad is not None and torch.equal(model.weight, start)

    counter = StepCounter(model, [optimizer] if given else [], first, calls.append, lambda: 0)
    for _ in range(2):
        result = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert result == 1
    assert calls == ["closure", "first", 1, "closure", 2] and counter.step == 2


def test_a_closure_after_a_backward_pass_is_not_waited_for(given):
    class Perturbing(torch.optim.SGD):
        def step(self, closure):
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            return super().step(closure)

    model = nn.Linear(2, 1)
    start = model.weight.detach().clone()
    optimizer = Perturbing(model.parameters(), lr=0.1)
    seen = []

    def first():
        seen.append(model.weight.detach().clone())

    counter = StepCounter(model, [optimizer] if given else [], first, lambda step: None, lambda: 0)
    backward(model)
    optimizer.step(lambda: torch.ones(()))
    assert torch.equal(seen[0], start) and counter.step == 1


# ------------------------------------------------------------------------------------------- replaced while training


def noticed(model, optimizers=()):
    seen, notices, new = [], [], []
    counter = StepCounter(
        model, list(optimizers), lambda: None, seen.append, lambda: 0, notice=notices.append,
        new=lambda optimizer, replaced: new.append(optimizer),
    )  # fmt: skip
    return counter, seen, notices, new


def stepped(model, optimizer, times=1):
    for _ in range(times):
        backward(model)
        optimizer.step()


@pytest.mark.parametrize("change", ["same parameters", "assigned", "new head"])
def test_an_optimizer_that_takes_over_from_a_given_one_is_counted_and_told(change):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    counter, seen, notices, new = noticed(model, [first])
    stepped(model, first, 2)
    if change == "assigned":
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    if change == "new head":
        model[1] = nn.Linear(3, 1)
    second = torch.optim.Adam(model.parameters())
    stepped(model, second, 3)
    assert seen == [1, 2, 3, 4, 5] and new == [first, second]
    assert len(notices) == 1 and notices[0].startswith("Adam updates parameters of the model now, as SGD did")
    counter.remove()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("looks", [False, True])
def test_one_that_is_replaced_is_named_and_let_go_of(assigned, given, looks):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    seen, new = [], []
    optimizer = torch.optim.Adam(model.parameters())
    counter = StepCounter(
        model, [optimizer] if given else [], lambda: None, seen.append, lambda: 0,
        (lambda optimizer, closure: None) if looks else None,
        new=lambda optimizer, replaced: new.append((id(optimizer), [*map(id, replaced)])),
    )  # fmt: skip
    ids, references = [], []
    for _ in range(3):
        ids.append(id(optimizer))
        references.append(weakref.ref(optimizer))
        stepped(model, optimizer, 2)
        if assigned:
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
        optimizer = torch.optim.Adam(model.parameters())
    gc.collect()
    assert seen == [1, 2, 3, 4, 5, 6] and new[0] == (ids[0], []) and [mine for mine, _ in new] == ids
    assert not any(reference() for reference in references)
    counter.remove()


def test_one_that_steps_within_another_does_not_replace_it():
    class Outer(torch.optim.SGD):
        def step(self, closure=None):
            inner.step()
            super().step()

    model = nn.Linear(2, 1)
    inner, outer = torch.optim.SGD(model.parameters(), lr=0.1), Outer(model.parameters(), lr=0.1)
    new = []
    counter = StepCounter(
        model, [], lambda: None, lambda step: None, lambda: 0, lambda optimizer, closure: None,
        new=lambda optimizer, replaced: new.append((optimizer, replaced)),
    )  # fmt: skip
    stepped(model, outer, 3)
    assert new == [(outer, []), (inner, [])] and counter.step == 3
    stepped(model, inner)
    stepped(model, outer)
    assert new[2:] == [] and counter.step == 5
    counter.remove()


def test_an_optimizer_beside_the_given_one_is_told_and_not_counted():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    given, other = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[1].parameters())
    counter, seen, notices, new = noticed(model, [given])
    for _ in range(3):
        stepped(model, given)
        stepped(model, other)
    assert seen == [1, 2, 3] and new == [given]
    assert len(notices) == 1 and "was not given to attach(), which names SGD: its updates are not counted" in notices[0]
    counter.remove()


def test_an_optimizer_whose_parameters_come_into_the_model_later_is_found():
    model, head = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.Linear(3, 1)
    old, optimizer = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(head.parameters())
    counter, seen, _, new = noticed(model)
    stepped(model, old, 2)
    head(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert seen == [1, 2]
    model[1] = head
    stepped(model, optimizer, 2)
    assert new == [old, optimizer] and counter.step >= 3
    counter.remove()


def test_an_optimizer_of_another_model_is_never_counted():
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for given in ([], [torch.optim.SGD(model.parameters(), lr=0.1)]):
        counter, seen, notices, new = noticed(model, given)
        stepped(other, optimizer, 25)
        assert not seen and not notices and not new
        counter.remove()


def test_steps_by_hand_are_counted_unless_an_optimizer_makes_them():
    model = nn.Linear(2, 1)
    counter, seen, _, _ = noticed(model)
    assert counter.by_hand() and counter.by_hand() and seen == [1, 2]
    stepped(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert not counter.by_hand() and seen == [1, 2, 3]
    counter.remove()


def test_an_optimizer_that_cannot_be_looked_at_stops_no_training_and_is_told(caplog, tmp_path):
    class Odd(torch.optim.SGD):
        def __eq__(self, other):
            return self is other  # and so no hash

    model = nn.Linear(2, 1)
    optimizer = Odd(model.parameters(), lr=0.1)
    before = step_hooks()
    with ProbeManager(model, [], sinks=[], log_dir=tmp_path).attach():
        for _ in range(3):
            backward(model)
            optimizer.step()
    assert caplog.text.count("A step of an optimizer could not be counted") == 1 and step_hooks() == before


def test_on_error_raise_raises_what_keeps_a_step_from_being_counted(tmp_path):
    model, other = nn.Linear(2, 1), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    other.param_groups.append({"lr": 0.1})
    with ProbeManager(model, [], sinks=[], on_error="raise").attach(), pytest.raises(KeyError):
        other.step()


@pytest.mark.parametrize("detach", [True, False])
def test_a_hook_of_the_scripts_may_detach_and_what_it_attaches_is_refused(detach, caplog):
    model = nn.Linear(2, 1)
    optimizer, before, manager = torch.optim.SGD(model.parameters(), lr=0.1), step_hooks(), None

    def hook(*_):
        manager.detach() if detach else ProbeManager(nn.Linear(1, 1), [], sinks=[]).attach()

    handle = register_optimizer_step_post_hook(hook)
    try:
        manager = ProbeManager(model, [], sinks=[]).attach()
        for _ in range(2):
            backward(model)
            optimizer.step()
    finally:
        handle.remove()
    assert manager.run.step == (0 if detach else 2)  # its hook comes before ours
    assert ("attach() was called within the step of an optimizer" in caplog.text) is not detach
    manager.detach()
    ProbeManager(model, [], sinks=[]).attach().detach()
    assert step_hooks() <= before


@pytest.mark.parametrize("probe", ["complexity", "spectral_norm", "tangent_kernel"])
def test_a_model_may_be_converted_by_swapping_its_parameters(probe):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model, x = nn.Linear(2, 1), torch.ones(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with ProbeManager(model, [probe], sinks=[], overhead=None).attach() as manager:
            for step in range(4):
                if step == 2:
                    optimizer.zero_grad()
                    model.double(), (x := x.double())
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
        assert manager.run.step == 4
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
