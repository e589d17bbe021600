"""PathComplexity in real loops, against the sum over Jacobians written out beside the loop."""

import copy
import math

import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager, at, every, log_spaced
from probes_complexity import PathComplexity
from probes_ntk import widening

INPUTS, CLASSES = 5, 3


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


def two_layers():
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def frozen():
    model = two_layers()
    model[0].bias.requires_grad_(False)
    return model


MODELS = {
    "linear": lambda: nn.Linear(INPUTS, CLASSES),
    "two layers": two_layers,
    "frozen": frozen,
    "tied": Tied,
}
OPTIMIZERS = {
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "decay": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "groups": lambda model: torch.optim.Adam(
        [{"params": [p], "lr": 0.01 * (k + 1)} for k, p in enumerate(model.parameters())], weight_decay=0.01
    ),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3),
}


def data(n=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, INPUTS, generator=generator, dtype=dtype), torch.randint(CLASSES, (n,), generator=generator)


def make(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]().double()


class Reference:
    """The sum from explicit Jacobians, for all parameters and for those of each name."""

    def __init__(self, model, x):
        self.model, self.x = model, x
        self.start = self.now()
        self.total, self.length, self.last = 0.0, 0.0, 0.0
        self.layers = {}

    def now(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    def features(self):
        """Squared norm of the derivatives of all outputs by each parameter, an output at a time."""
        squares = {name: 0.0 for name in self.now()}
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        for value in self.model(self.x).flatten():
            for name, gradient in zip(squares, torch.autograd.grad(value, trainable, retain_graph=True), strict=True):
                squares[name] += float(gradient.square().sum())
        return squares

    def step(self, update):
        before, features = self.now(), self.features()
        update()
        moved = {name: float((value - before[name]).square().sum()) for name, value in self.now().items()}
        self.last = math.sqrt(math.fsum(moved.values()))
        self.total += self.last * math.sqrt(math.fsum(features.values()))
        self.length += self.last
        for layer in {name.rpartition(".")[0] for name in moved}:
            own = [name for name in moved if name.rpartition(".")[0] == layer]
            product = sum(moved[name] for name in own) * sum(features[name] for name in own)
            self.layers[layer] = self.layers.get(layer, 0.0) + math.sqrt(product)

    @property
    def displacement(self):
        return math.sqrt(sum(float((value - self.start[name]).square().sum()) for name, value in self.now().items()))


def update(model, optimizer, x, y, part=slice(None)):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[part]), y[part])
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def watch(model, probe, optimizer=None, n=30, dtype=torch.float64, **arguments):
    memory = Memory()
    manager = ProbeManager(
        model, [probe], {"train": data(n, dtype)}, sinks=[memory], overhead=None, on_error="raise", **arguments
    )
    return manager.attach(optimizer), memory


def last(memory, name):
    return next(row for row in reversed(memory.rows) if row.name == name)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_path_complexity_matches_explicit_jacobians(name, optimizer_name):
    model, (x, y) = make(name), data()
    optimizer = OPTIMIZERS[optimizer_name](model)
    reference = Reference(model, x)
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"), optimizer)
    with manager:
        for step in range(7):
            batch = slice(5 * (step % 5), 5 * (step % 5) + 10)
            reference.step(lambda batch=batch: update(model, optimizer, x, y, batch))
            expected = {
                "path_complexity/train": reference.total, "path_length": reference.length,
                "update_norm": reference.last, "displacement": reference.displacement,
                "feature_norm/train": math.sqrt(sum(reference.features().values())),
            }  # fmt: skip
            for quantity, value in expected.items():
                row = last(memory, f"complexity/{quantity}")
                assert row.step == step + 1 and float(row.value) == pytest.approx(value, rel=1e-10), quantity
                assert row.standard_error is None or row.standard_error == 0
    row = last(memory, "complexity/layer_path_complexity/train")
    found = dict(zip(row.coords["layer"].values.tolist(), row.value.tolist(), strict=True))
    own = {layer or type(model).__name__: value for layer, value in reference.layers.items()}
    assert found == pytest.approx(own, rel=1e-10)


def test_layers_unfrozen_and_parameters_added_midway_count_from_their_first_update():
    model, (x, y) = make("two layers"), data()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    total = 0.0
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"))
    with manager:
        for step in range(6):
            if step == 3:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[0].parameters())})
                moved = last(memory, "complexity/layer_displacement").value
                assert moved[0] == 0 < moved[1]
            reference = Reference(model, x)
            if step == 3:
                # The feature norm was taken before the layer was unfrozen.
                before = float(last(memory, "complexity/feature_norm/train").value)
                reference.step(lambda: update(model, optimizer, x, y))
                total += reference.last * before
            else:
                reference.step(lambda: update(model, optimizer, x, y))
                total += reference.total
    assert float(last(memory, "complexity/path_complexity/train").value) == pytest.approx(total, rel=1e-10)
    assert last(memory, "complexity/layer_path_length").value.min() > 0


def test_accumulation_and_mixed_precision_count_true_steps():
    torch.manual_seed(0)
    model = two_layers()
    x, y = data(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"), dtype=torch.float32)
    length, steps = 0.0, 0
    with manager:
        for batch in range(12):
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x).float(), y)
            scaler.scale(loss if batch != 5 else loss * torch.inf).backward()
            if batch % 2 == 0:
                continue
            before = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            after = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
            length, steps = length + float((after - before).norm()), steps + bool((after != before).any())
    row = last(memory, "complexity/path_length")
    assert steps == 5 and row.step == 5  # the one with infinite gradients was skipped
    assert float(row.value) == pytest.approx(length, rel=1e-6)


def test_half_precision_parameters():
    torch.manual_seed(0)
    model = two_layers().bfloat16()
    x, y = data(dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    manager, memory = watch(model, PathComplexity(every(1)), dtype=torch.bfloat16)
    length = 0.0
    with manager:
        for _ in range(4):
            before = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
            update(model, optimizer, x, y)
            after = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
            length += float((after - before).norm())
    assert float(last(memory, "complexity/path_length").value) == pytest.approx(length, rel=1e-3)


def test_parameters_of_several_dtypes():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 4), nn.Linear(4, CLASSES, dtype=torch.float64)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)).double())

    torch.manual_seed(0)
    model, (x, y) = Mixed(), data(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = Reference(model, x)
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"), optimizer, dtype=torch.float32)
    with manager:
        for _ in range(3):
            reference.step(lambda: update(model, optimizer, x, y))
    assert float(last(memory, "complexity/path_complexity/train").value) == pytest.approx(reference.total, rel=1e-5)


def test_updates_of_a_second_optimizer_are_counted_with_the_next_step():
    model, (x, y) = make("two layers"), data()
    optimizers = [torch.optim.SGD(model[layer].parameters(), lr=0.1) for layer in (0, 2)]
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"))
    lengths = []
    with manager:
        for _ in range(3):
            before = [torch.cat([p.detach().flatten() for p in model[layer].parameters()]) for layer in (0, 2)]
            nn.functional.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            after = [torch.cat([p.detach().flatten() for p in model[layer].parameters()]) for layer in (0, 2)]
            lengths.append([float((b - a).norm()) for a, b in zip(before, after, strict=True)])
    row = last(memory, "complexity/layer_path_length")
    assert row.step == 3
    # The last of the second optimizer came after the third step was counted.
    expected = [sum(step[0] for step in lengths), sum(step[1] for step in lengths[:2])]
    assert row.value.tolist() == pytest.approx(expected, rel=1e-10)


def test_nothing_is_held_between_steps_nor_after_detach():
    model, (x, y) = make("two layers"), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = PathComplexity(every(1))
    manager, _ = watch(model, probe)
    with manager:
        update(model, optimizer, x, y)
        assert not probe._before  # no copy of the model during forward and backward
        assert all(tensor.device.type == "cpu" for tensor in probe._initial.values.values())
    assert not probe._parameters and not probe._moving


def test_weights_that_are_loaded_after_attach_are_the_initial_ones():
    model, other, (x, y) = make("two layers"), make("two layers", 5), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager, memory = watch(model, PathComplexity(at([3])), optimizer)
    with manager:
        model.load_state_dict(other.state_dict())
        reference = Reference(model, x)
        for _ in range(3):
            reference.step(lambda: update(model, optimizer, x, y))
    assert float(last(memory, "complexity/displacement").value) == pytest.approx(reference.displacement, rel=1e-10)
    assert float(last(memory, "complexity/path_length").value) == pytest.approx(reference.length, rel=1e-10)


@pytest.mark.parametrize("cut", [4, 10, 13])
@pytest.mark.parametrize("schedule", [every(1), every(5), log_spaced()], ids=["every step", "every 5", "log"])
@pytest.mark.parametrize("trace", ["signs", "exact"])
def test_resumed_run_equals_an_uninterrupted_one(schedule, trace, cut, tmp_path):
    x, y = data(dtype=torch.float32)

    def start():
        torch.manual_seed(0)
        model = two_layers()
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    def loop(model, optimizer, steps):
        for step in steps:
            update(model, optimizer, x, y, slice(step % 10, step % 10 + 10))

    model, optimizer = start()
    manager, whole = watch(model, PathComplexity(schedule, trace=trace), optimizer, dtype=torch.float32)
    with manager:
        loop(model, optimizer, range(30))

    model, optimizer = start()
    manager, first = watch(model, PathComplexity(schedule, trace=trace), optimizer, dtype=torch.float32)
    loop(model, optimizer, range(cut))
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "probes": manager.state_dict()}, path)
    manager.detach()

    saved = torch.load(path, weights_only=True)
    model, optimizer = start()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    memory = Memory()
    manager = ProbeManager(model, [PathComplexity(schedule, trace=trace)], sinks=[memory], overhead=None, seed=0)
    manager.load_state_dict(saved["probes"])
    with manager.attach(optimizer):
        loop(model, optimizer, range(cut, 30))

    def rows(sink):
        return [row for row in sink.rows if row.name.startswith("complexity")]

    both, expected = rows(first) + rows(memory), rows(whole)
    assert [(row.name, row.step) for row in both] == [(row.name, row.step) for row in expected]
    for found, row in zip(both, expected, strict=True):
        assert found.value.tobytes() == row.value.tobytes(), (row.name, row.step)
        assert row.standard_error is None or found.standard_error.tobytes() == row.standard_error.tobytes()


def test_state_does_not_change_with_later_steps_and_lazy_layers_wait():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    model.unused = nn.LazyLinear(3)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    x, y = data(dtype=torch.float32)
    optimizer = torch.optim.SGD([p for p in model.parameters() if not nn.parameter.is_lazy(p)], lr=0.1)
    probe = PathComplexity(every(10))
    manager, _ = watch(model, probe, optimizer, dtype=torch.float32)
    with manager:
        update(model, optimizer, x, y)
        state = probe.state_dict()
        before = copy.deepcopy(state)
        update(model, optimizer, x, y)
        assert all(torch.equal(state["segment"][key], before["segment"][key]) for key in ("length", "moment", "first"))
        assert probe.state_dict()["segment"]["steps"] == 2 and probe._layers == ["0", "2"]


def test_training_is_bit_for_bit_the_same():
    torch.manual_seed(0)
    start = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
    )
    images, labels = torch.randn(40, 1, 8, 8), torch.randint(3, (40,))

    def train(probe):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(7)
        if probe is not None:
            manager = ProbeManager(model, [probe], sinks=[Memory()], overhead=None, on_error="raise").attach()
        for _ in range(20):
            chosen = torch.randperm(40)[:16]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        if probe is not None:
            manager.detach()
        states = [value["momentum_buffer"] for value in optimizer.state.values()]
        return [*model.state_dict().values(), *(p.grad for p in model.parameters()), *states, torch.get_rng_state()]

    expected = train(None)
    for trace in ("signs", "exact"):
        found = train(PathComplexity(every(3), trace=trace))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_estimated_feature_norm_is_unbiased_and_its_error_is_stated():
    class Alike(nn.Linear):
        """Outputs with much in common, whose sum with random signs varies."""

        def forward(self, x):
            out = super().forward(x)
            return out + 2 * out.mean(1, keepdim=True)

    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), Alike(16, CLASSES)).double(), data(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager, memory = watch(model, PathComplexity(every(1)), optimizer, n=6)
    with manager:
        for _ in range(300):
            update(model, optimizer, x, y)
    exact = math.sqrt(sum(Reference(model, x).features().values()))
    rows = [row for row in memory.rows if row.name == "complexity/feature_norm/train"]
    values = torch.tensor([float(row.value) for row in rows])
    errors = torch.tensor([float(row.standard_error) for row in rows])
    assert values.std() / exact > 0.1  # so that the root of an unbiased estimate is biased
    assert abs(values.mean() - exact) < 3 * values.std() / len(rows) ** 0.5
    assert errors.square().mean().sqrt() == pytest.approx(values.std().item() * float(widening(6)), rel=0.15)


def test_error_of_the_estimated_feature_norm_covers_on_the_default_batch():
    """400 estimates for fixed weights of 100 examples: +-1.96 standard errors hold the exact norm in 95 %, less 3 %."""
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, CLASSES)).double(), data(100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager, memory = watch(model, PathComplexity(every(1)), optimizer, n=100)
    with manager:
        for _ in range(400):
            update(model, optimizer, x, y)
    exact = math.sqrt(sum(Reference(model, x).features().values()))
    rows = [row for row in memory.rows if row.name == "complexity/feature_norm/train"]
    errors = torch.tensor([float(row.value) - exact for row in rows])
    stated = torch.tensor([float(row.standard_error) for row in rows])
    assert (errors.abs() <= 1.96 * stated).double().mean() >= 0.92
    assert stated.median() <= 1.3 * errors.std()  # and is not merely wide


def test_measurements_are_recorded_when_asked_for_and_the_sum_is_that_of_every_step():
    x, y = data()

    def rows(**arguments):
        model = make("two layers")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        manager, memory = watch(model, PathComplexity(every(1), trace="exact", **arguments), optimizer)
        with manager:
            for _ in range(20):
                update(model, optimizer, x, y)
        return {row.step: float(row.value) for row in memory.rows if row.name == "complexity/path_complexity/train"}

    everything, some = rows(), rows(record=every(7))
    assert list(some) == [0, 7, 14] and all(everything[step] == value for step, value in some.items())


def test_frozen_parameters_are_not_copied():
    model, (x, y) = make("frozen"), data()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    probe = PathComplexity(every(1))
    manager, _ = watch(model, probe)
    with manager:
        update(model, optimizer, x, y)
        assert set(probe._initial.values) == {"0.weight", "2.weight", "2.bias"}


@pytest.mark.parametrize("record", [100, "every"])
def test_bad_record_is_refused(record):
    with pytest.raises(TypeError, match=r"`record` must be a schedule such as every\(100\)"):
        PathComplexity(record=record)


def test_unknown_trace_is_refused():
    with pytest.raises(ValueError, match="`trace` must be one of 'signs', 'exact', got 'hutchinson'"):
        PathComplexity(trace="hutchinson")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["signs", "every 5", "log-spaced", "signs, every 5"])
def test_standard_error_covers_the_exact_sum(kind):
    """Of 20 networks trained on noisy labels, at least 18 have the exact C in the interval of 95 %."""
    schedule = every(1) if kind == "signs" else log_spaced() if kind == "log-spaced" else every(5)
    inside, scores = 0, []
    for seed in range(20):
        sums = []
        for probe in (
            PathComplexity(every(1), trace="exact"),
            PathComplexity(schedule, trace="signs" if "signs" in kind else "exact"),
        ):
            torch.manual_seed(seed)
            model = nn.Sequential(
                nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)
            )
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            x, y = data(200, torch.float32)
            manager, memory = watch(model, probe, optimizer, dtype=torch.float32, seed=seed)
            with manager:
                for step in range(382):  # a step of both schedules
                    chosen = torch.randperm(200, generator=torch.Generator().manual_seed(1000 * seed + step))[:32]
                    update(model, optimizer, x, y, chosen)
            sums.append([row for row in memory.rows if row.name == "complexity/path_complexity/train"])
        found = sums[1][-1]
        exact = next(row for row in sums[0] if row.step == found.step)
        scores.append(float((found.value - exact.value) / found.standard_error))
        inside += abs(scores[-1]) <= 1.96
    assert inside >= 18, scores
    assert max(map(abs, scores)) > 0.2, scores  # the interval says something


def assigned(model):
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def new_head(model):
    torch.manual_seed(7)
    model[2] = nn.Linear(16, CLASSES).double()


def wider_head(model):
    torch.manual_seed(7)
    model[2] = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
@pytest.mark.parametrize("change", [assigned, new_head, wider_head])
def test_updates_of_parameters_that_replace_others_are_seen(change, given):
    model, (x, y) = make("two layers"), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager, memory = watch(model, PathComplexity(every(1), trace="exact"), optimizer if given else None)
    with manager:
        whole = Reference(model, x)
        for _ in range(3):
            whole.step(lambda: update(model, optimizer, x, y))
        before = float(last(memory, "complexity/feature_norm/train").value)
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        first, rest = Reference(model, x), Reference(model, x)
        first.step(lambda: update(model, optimizer, x, y))
        for _ in range(3):
            rest.step(lambda: update(model, optimizer, x, y))
    total = whole.total + first.last * before + rest.total  # those features were taken before the change
    assert manager.run.step == 7
    assert float(last(memory, "complexity/path_complexity/train").value) == pytest.approx(total, rel=1e-10)
    length = whole.length + first.length + rest.length
    assert float(last(memory, "complexity/path_length").value) == pytest.approx(length, rel=1e-10)


@pytest.mark.parametrize("trace", ["signs", "exact"])
def test_a_head_with_another_number_of_outputs_is_measured(trace):
    model, (x, y) = make("two layers"), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager, memory = watch(model, PathComplexity(every(1), trace=trace))
    with manager:
        for classes in (CLASSES, CLASSES + 2):
            model[2] = nn.Linear(16, classes).double()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                update(model, optimizer, x, y)
    assert last(memory, "complexity/feature_norm/train").step == 4


@pytest.mark.parametrize("schedule", [every(1), every(3)], ids=["every step", "every 3"])
def test_steps_that_are_not_finite_are_left_out_of_the_sums_and_told(schedule):
    model, (x, y) = make("two layers"), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager, memory = watch(model, PathComplexity(schedule, trace="exact"), optimizer)
    length = 0.0
    with manager:
        for step in range(12):
            if step == 4:
                kept = [p.detach().clone() for p in model.parameters()]
                with torch.no_grad():
                    model[0].weight.fill_(torch.nan)
            if step == 7:
                with torch.no_grad():
                    for parameter, value in zip(model.parameters(), kept, strict=True):
                        parameter.copy_(value)
            reference = Reference(model, x)
            reference.step(lambda: update(model, optimizer, x, y))
            length += reference.length if math.isfinite(reference.length) else 0.0
    values = {row.step: float(row.value) for row in memory.rows if row.name == "complexity/path_complexity/train"}
    assert [step for step, value in values.items() if math.isnan(value)] == [s for s in (5, 6, 7) if s in values]
    assert math.isfinite(values[12]) and float(last(memory, "complexity/path_length").value) == pytest.approx(length)
    assert any("were not finite; the sums go on without them" in event.message for event in memory.events)
