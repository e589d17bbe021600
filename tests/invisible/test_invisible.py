"""Training with probes attached equals training without them, to the last bit."""

import gc
import random
import textwrap
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import warm
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.session.discovery import installed, load


class Nasty(Probe):
    """Does what a careless probe does: trains, draws, iterates a loader, leaves modes and hooks behind."""

    needs = frozenset({"targets"})

    def measure(self, run, step):
        model, batch = run.model, run.batch("train")
        model.train()
        loss = F.cross_entropy(run.forward(batch), batch.targets)
        loss.backward()
        next(iter(DataLoader(TensorDataset(batch.inputs), shuffle=True)))
        torch.randn(3), random.random(), np.random.rand()  # noqa: NPY002
        nn.Linear(3, 3)
        model.register_forward_hook(lambda *_: None)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield Measurement("nasty/loss", loss)


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def digest(model, optimizer, generator):
    state = optimizer.state_dict()["state"]
    tensors = [*model.state_dict().values()]
    tensors += [item for entry in state.values() for item in entry.values() if isinstance(item, torch.Tensor)]
    tensors += [torch.get_rng_state(), generator.get_state()]
    gradients = [parameter.grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    rest = (random.random(), np.random.rand(), modes, [len(module._forward_hooks) for module in model.modules()])  # noqa: NPY002
    return [tensor.clone() for tensor in tensors + gradients], rest


def train(optimizer_name, tmp_path, probes, steps=200, attach="global", accumulate=1, evaluate=False):
    torch.manual_seed(7), random.seed(7), np.random.seed(7)  # noqa: NPY002
    model = conv()
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(64, 1, 8, 8), torch.randint(0, 3, (64,)))
    loader = DataLoader(data, batch_size=16, shuffle=True, generator=generator)
    settings = {"SGD": {"lr": 0.05, "momentum": 0.9}, "Adam": {"lr": 1e-3}, "AdamW": {"lr": 1e-3, "foreach": True}}
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), **settings[optimizer_name])
    manager = None
    if probes is not None:
        manager = ProbeManager(model, probes=probes, log_dir=tmp_path / "run", overhead=None)
        manager.attach(optimizer if attach == "given" else None)
    step = micro = 0
    while step < steps:
        for x, y in loader:
            (F.cross_entropy(model(x), y) / accumulate).backward()
            micro += 1
            if micro % accumulate:
                continue
            optimizer.step()
            step += 1
            if step == steps:
                break
            optimizer.zero_grad()
        if evaluate:
            model.eval()
            with torch.no_grad():
                model(data.tensors[0])
            model.train()
    result = digest(model, optimizer, generator)
    if manager is not None:
        assert manager.run.step == steps
        manager.detach()
        assert [len(module._forward_hooks) for module in model.modules()] == result[1][3]
        held = open_run(tmp_path / "run")
        kinds = [str(kind) for kind in held["events"]["kind"].values]
        assert len(held.children) > 2 and not {"fault", "disabled"} & set(kinds), held["events"]
    return result


def assert_same(first, second):
    assert first[1] == second[1]
    assert len(first[0]) == len(second[0])
    for one, other in zip(first[0], second[0], strict=True):
        assert torch.equal(one, other)


SHIPPED = sorted(name for name, entry in installed().items() if entry.module.startswith("probes_"))


@pytest.mark.parametrize("optimizer", ["SGD", pytest.param("Adam", marks=pytest.mark.slow), "AdamW"])
@pytest.mark.parametrize("attach", ["global", "given"])
def test_two_hundred_steps_with_all_probes_that_run_by_default_are_bitwise_equal(optimizer, attach, tmp_path):
    chosen = [load(name) for name in SHIPPED]
    probes = [cls(every(20)) for cls in chosen if cls.by_default]
    assert len(probes) >= 2
    assert_same(train(optimizer, tmp_path, None), train(optimizer, tmp_path, probes, attach=attach))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_careless_probe_changes_nothing(accumulate, tmp_path):
    bare = train("Adam", tmp_path, None, 40, accumulate=accumulate, evaluate=True)
    assert_same(bare, train("Adam", tmp_path, [Nasty(every(1))], 40, accumulate=accumulate, evaluate=True))


def test_the_comparison_would_notice_one_draw(tmp_path):
    class Draws(Probe):
        def measure(self, run, step):
            yield Measurement("draws/one", 1.0)

        def on_step(self, run, step):  # outside the guard, where a probe must not draw
            torch.rand(1)

    bare = train("SGD", tmp_path, None, 3)
    with pytest.raises(AssertionError):
        assert_same(bare, train("SGD", tmp_path, [Draws(every(1))], 3))


class DrawsAtEachOperation(TorchDispatchMode):
    """As one that rounds at random, or counts."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        torch.rand(1)
        return func(*args, **(kwargs or {}))


class DrawsAtEachFunction(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        torch.rand(1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [DrawsAtEachOperation, DrawsAtEachFunction])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("probes", [None, ["curvature", "complexity", "kernel_motion", "layers"]])
def test_a_mode_of_the_script_sees_nothing_of_the_probes(mode, scaled, probes, tmp_path):
    def trained(attach):
        torch.manual_seed(7)
        model = conv()
        optimizer, scaler = torch.optim.Adam(model.parameters()), torch.amp.GradScaler("cpu", enabled=scaled)
        with mode() as seen:
            if attach:
                manager = ProbeManager(model, probes, log_dir=tmp_path, overhead=None).attach()
            for _ in range(4):
                inputs, targets = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
                scaler.scale(F.cross_entropy(model(inputs), targets)).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if attach:
                manager.report(), manager.state_dict()
                manager.detach()
        return [*model.parameters(), torch.get_rng_state()], seen.count

    bare, bare_count = trained(attach=False)
    watched, count = trained(attach=True)
    assert count == bare_count
    assert all(map(torch.equal, bare, watched))
    assert "weight_norm" in open_run(tmp_path)["layers"]


@pytest.mark.parametrize("name", [*SHIPPED, None])
def test_what_the_loop_lets_go_is_freed_without_a_search_for_cycles(name, tmp_path):
    def step(model, optimizer):
        for _ in range(2):  # micro-batches
            inputs = torch.randn(8, 1, 8, 8)
            outputs = model(inputs)
            loss = F.cross_entropy(outputs, torch.randint(3, (8,)))
            loss.backward()
        optimizer.step()
        seen = [inputs, outputs, loss, *(parameter.grad for parameter in model.parameters())]
        optimizer.zero_grad()
        return list(map(weakref.ref, seen))

    def fold():
        model = conv()
        optimizer = torch.optim.AdamW(model.parameters())
        manager = ProbeManager(model, name and [name], log_dir=tmp_path, overhead=None).attach()
        steps = [[kept() is not None for kept in step(model, optimizer)] for _ in range(5)]
        manager.report()
        manager.detach()
        return steps[1:], [weakref.ref(item) for item in (model, optimizer, manager)]

    gc.collect()
    gc.disable()
    try:
        steps, whole = fold()
        assert not any(map(any, steps))
        assert [kept() for kept in whole] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("change", ["appended", "removed", "wrapped"])
@pytest.mark.parametrize("name", SHIPPED)
def test_streams_keep_their_axes_when_layers_come_and_go(name, change, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    manager = ProbeManager(model, [name], log_dir=tmp_path, overhead=None).attach()
    for step in range(8):
        if step == 4:
            new = nn.Linear(3, 3)
            if change == "removed":
                del model[2]
            elif change == "appended":
                model.append(new)
            else:
                model[4] = nn.Sequential(model[4], new)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    report = manager.report()
    manager.detach()
    assert "does not fit its stream" not in report


def test_importing_matplotlib_holds_nothing_of_the_loop(tmp_path):
    script = f"""
        import gc, sys, weakref, torch
        from torch import nn
        from probes import ProbeManager

        def fold():
            model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            manager = ProbeManager(model, ["fourier"], log_dir={str(tmp_path)!r}, overhead=None).attach()
            for _ in range(8):
                model(torch.randn(8, 2)).square().mean().backward()
                optimizer.step()
            manager.detach()
            return weakref.ref(model)

        assert "matplotlib" not in sys.modules
        gc.collect()
        gc.disable()
        model = fold()
        assert "matplotlib" in sys.modules
        print("freed" if model() is None else "held")
    """
    done = warm.run(textwrap.dedent(script))
    assert done.stdout == "freed\n", done.stderr


def test_a_run_that_nobody_ends_goes_when_the_next_one_begins(tmp_path):
    def fold(number):
        model = nn.Linear(2, 1)
        ProbeManager(model, [], log_dir=tmp_path / str(number)).attach()
        return weakref.ref(model)

    gc.collect()
    gc.disable()
    try:
        first = fold(0)
        assert first() is not None
        second = fold(1)
        assert first() is None and second() is not None
    finally:
        gc.enable()
