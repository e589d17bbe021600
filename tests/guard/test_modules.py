"""Each test does on purpose, inside the guard, what a forward does to what its modules hold."""

import argparse
import array
import collections
import functools
import importlib
import queue
import random
import threading
import types
import warnings
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from probes import Probe
from probes.guard.unnoticed import ModelChanged, unnoticed


class Remembering(nn.Linear):
    """Keeps what is no buffer: a count, a list, a dict, a set."""

    def __init__(self):
        super().__init__(3, 1)
        self.calls, self.seen, self.last, self.sizes = 0, [], {"mean": None}, {1}

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.mean())
        self.last["mean"] = self.seen[-1]
        self.sizes.add(len(x))
        self.cache = x
        return super().forward(x)


def test_what_a_forward_leaves_in_its_module_is_as_before():
    model = Remembering()
    model(torch.ones(2, 3))
    containers = [model.seen, model.last, model.sizes]
    before = model.calls, list(model.seen), model.last["mean"], set(model.sizes), model.cache
    with unnoticed(model):
        model(torch.zeros(5, 3))
        model.forward = lambda x: x
        model.sizes = None
    after = model.calls, list(model.seen), model.last["mean"], set(model.sizes), model.cache
    assert all(a is b or a == b for a, b in zip(before, after, strict=True)) and "forward" not in vars(model)
    assert all(one is other for one, other in zip(containers, [model.seen, model.last, model.sizes], strict=True))


class Counting(nn.Linear):
    """Changes in place what is neither a parameter nor a buffer."""

    def __init__(self, size=1):
        super().__init__(2, 2)
        self.calls = torch.zeros(size)
        self.state = (torch.zeros(2), [torch.zeros(2, dtype=torch.bfloat16)])
        self.statistics = {"of": {"each": np.zeros(2), "all": [0]}}
        self.counts = collections.Counter()

    def forward(self, x):
        self.calls += 1
        self.state[0].fill_(torch.nan), self.state[1][0].add_(1)
        self.statistics["of"]["each"] += 1
        self.statistics["of"]["all"].append(1)
        self.counts["calls"] += 1
        return super().forward(x)


def test_tensors_arrays_and_nested_containers_of_a_module_are_as_before():
    model = Counting()
    model.state[0].copy_(torch.tensor([-0.0, torch.nan]))
    model(torch.ones(1, 2))
    model.state[0].copy_(torch.tensor([-0.0, torch.nan]))
    with unnoticed(model):
        model(torch.ones(1, 2))
        model.state[0].copy_(torch.tensor([0.0, 1.0]))
    assert model.calls.item() == model.counts["calls"] == model.state[1][0][0].item() == 1
    assert str(model.state[0].tolist()) == "[-0.0, nan]"
    assert model.statistics["of"]["each"].tolist() == [1, 1] and model.statistics["of"]["all"] == [0, 1]


class State(dict):
    def __init__(self):
        self.calls, self.losses = 0, [torch.zeros(1)]


def test_an_object_of_the_scripts_own_class_is_as_before():
    class Stateful(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.state = State()

        def forward(self, x):
            self.state.calls += 1
            self.state.losses[0] += 1
            self.state["calls"] = self.state.calls
            self.state.last = x
            return super().forward(x)

    model = Stateful()
    model(torch.ones(1, 2))
    with unnoticed(model):
        model(torch.zeros(1, 2))
    assert model.state.calls == model.state.losses[0].item() == model.state.last[0, 0].item() == 1
    assert model.state == {"calls": 1}


def test_an_object_of_another_file_of_the_script_is_as_before(tmp_path, monkeypatch):
    (tmp_path / "a_helper.py").write_text("class Average:\n    n = 0\n    generator = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.Linear(2, 2)
    model.average = importlib.import_module("a_helper").Average()
    model.average.generator = torch.Generator().manual_seed(1)
    with unnoticed(model):
        model.average.n += 1
        drawn = torch.rand(1, generator=model.average.generator)
    assert model.average.n == 0 and torch.rand(1, generator=model.average.generator) == drawn


class Shared(nn.Linear):
    """Keeps what all its instances share."""

    calls, last, sizes = 0, None, [1]

    def forward(self, x):
        type(self).calls += 1
        type(self).last = x
        self.sizes.append(len(x))
        return super().forward(x)


def test_attributes_of_a_class_of_the_script_are_as_before():
    model = nn.Sequential(Shared(2, 2))
    model(torch.ones(3, 2))
    last = Shared.last
    with unnoticed(model):
        model(torch.ones(5, 2))
    assert (Shared.calls, Shared.sizes) == (1, [1, 3]) and Shared.last is last


class Ahead:
    """A loader that works ahead, in a thread."""

    def __init__(self, worker):
        self.worker, self.ready = worker, [1]


@pytest.mark.parametrize(("worker", "kept"), [(queue.Queue, [1, 2]), (threading.Event, [1, 2]), (threading.Lock, [1])])
def test_what_another_thread_fills_is_let_be(worker, kept):
    model = nn.Linear(2, 2)
    model.loader = Ahead(worker())
    with unnoticed(model):
        model.loader.ready = [1, 2]
    assert model.loader.ready == kept


def test_what_a_probe_that_the_model_holds_has_measured_stays():
    class Counter(Probe):
        name, seen = "counter", 0

    model = nn.Linear(2, 2)
    model.probe = Counter()
    with unnoticed(model):
        model.probe.seen += 1
    assert model.probe.seen == 1


class Pair(NamedTuple):
    one: list
    other: object


class Count:
    n = 0

    def add(self):
        self.n += 1


@dataclass(slots=True)
class Slotted:
    n: int = 0
    seen: list = field(default_factory=list)

    def add(self):
        self.n += 1
        self.seen.append(self.n)


@dataclass(slots=True)
class WithMore(Slotted):
    more: object = None


class Late:
    __slots__ = ("__dict__", "n")

    def add(self):
        self.n, self.other = getattr(self, "n", 0) + 1, 1


class Answers:
    __slots__ = ("empty", "n")

    def __init__(self):
        self.n = 0

    def __getattr__(self, name):
        raise KeyError(name)

    def add(self):
        self.n += 1


class SlottedLinear(nn.Linear):
    __slots__ = ("calls",)


KEPT = Count()
KINDS = {
    "a namespace": (lambda: types.SimpleNamespace(n=0), lambda s: vars(s).update(n=s.n + 1), lambda s: s.n),
    "arguments": (lambda: argparse.Namespace(n=0), lambda s: vars(s).update(n=s.n + 1), lambda s: s.n),
    "a UserDict": (lambda: collections.UserDict(n=0), lambda s: s.update(n=s["n"] + 1), lambda s: s["n"]),
    "a ChainMap": (lambda: collections.ChainMap({"n": 0}), lambda s: s.update(n=s["n"] + 1), lambda s: s["n"]),
    "an array": (lambda: array.array("d", [0]), lambda s: s.__setitem__(0, s[0] + 1), lambda s: s[0]),
    "bytes": (lambda: bytearray(1), lambda s: s.__setitem__(0, s[0] + 1), lambda s: s[0]),
    "an array of objects": (lambda: np.array([0], dtype=object), lambda s: s.__setitem__(0, s[0] + 1), lambda s: s[0]),
    "an array of another class": (lambda: np.zeros(1).view(np.recarray), lambda s: s.__iadd__(1), lambda s: s[0]),
    "a named tuple": (lambda: Pair([0], None), lambda s: s.one.append(1), lambda s: len(s.one) - 1),
    "a method of an object": (lambda: Count().add, lambda s: s(), lambda s: s.__self__.n),
    "an object with slots": (Slotted, lambda s: s.add(), lambda s: s.n + len(s.seen) - (s.n > 0)),
    "slots of its base": (WithMore, lambda s: s.add(), lambda s: s.n + len(s.seen) - (s.n > 0)),
    "an object in a slot": (lambda: WithMore(more=Count()), lambda s: s.more.add(), lambda s: s.more.n),
    "a slot that is empty": (Late, lambda s: s.add(), lambda s: max(len(vars(s)), int(hasattr(s, "n")))),
    "an object that answers anything": (Answers, lambda s: s.add(), lambda s: s.n),
    "a weak dictionary": (lambda: weakref.WeakValueDictionary(), lambda s: s.update(n=KEPT), lambda s: len(s)),
    "a parameter in a list": (lambda: [nn.Parameter(torch.zeros(1))], lambda s: s[0].data.add_(1), lambda s: s[0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_that_a_forward_keeps_is_as_before(kind):
    make, count, read = KINDS[kind]
    model = nn.Linear(2, 2)
    model.state = make()
    with unnoticed(model):
        count(model.state)
        assert read(model.state) == 1
    assert read(model.state) == 0


def test_a_slot_of_a_module_is_as_before():
    model = SlottedLinear(2, 2)
    model.calls = 1
    empty = SlottedLinear(2, 2)
    with unnoticed(nn.Sequential(model, empty)):
        model.calls += 1
        empty.calls = 1
    assert model.calls == 1 and not hasattr(empty, "calls")


GROWS = {
    "resized": lambda b: b.resize_(3).fill_(5),
    "given other memory": lambda b: setattr(b, "data", torch.full((4,), 5.0)),
    "made shorter": lambda b: b.resize_(1),
}


@pytest.mark.parametrize("how", GROWS)
def test_a_buffer_that_a_forward_grows_is_as_before(how):
    model = nn.Linear(2, 2)
    model.register_buffer("seen", torch.ones(2))
    memory = model.seen.data_ptr()
    with unnoticed(model):
        GROWS[how](model.seen)
    assert model.seen.tolist() == [1, 1] and (model.seen.data_ptr() == memory or how == "resized")


def test_a_nested_buffer_is_as_before():
    model = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: a prototype
        model.register_buffer("rows", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
        with unnoticed(model):
            model.rows[0].fill_(7)
    assert model.rows[0].tolist() == [1, 1]


def test_parametrized_weights_that_a_script_has_cached_are_computed_anew():
    model = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with torch.nn.utils.parametrize.cached():
        cached = model.weight
        with unnoticed(model):
            assert model.weight is not cached
            model.weight.sum().backward()
        assert model.weight is cached
        cached.sum().backward()


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sparse_tensor_of_a_module_is_left_alone(layout):
    model = nn.Linear(2, 2)
    model.adjacency = getattr(torch.eye(2), layout)()
    with unnoticed(model):
        torch.sparse.mm(model.adjacency, model(torch.ones(2, 2)))


def test_what_is_in_a_table_of_data_is_not_looked_at():
    model = nn.Linear(2, 2)
    model.rows = [[number] for number in range(2000)]
    with unnoticed(model):
        model.rows[0].append(1), model.rows.append([1])
    assert len(model.rows) == 2000 and model.rows[0] == [0, 1]


def test_generators_of_a_module_are_as_before():
    class Drawing(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.own = [torch.Generator().manual_seed(1), random.Random(1), np.random.default_rng(1),
                        np.random.RandomState(1)]  # fmt: skip

        def draw(self):
            first, *others = self.own
            return [torch.rand(1, generator=first).item(), *(generator.random() for generator in others[:2]),
                    others[2].rand()]  # fmt: skip

    model = Drawing()
    expected = Drawing().draw()
    with unnoticed(model):
        assert model.draw() == expected != model.draw()
    assert model.draw() == expected


def noise_of_a_closure():
    generator, count = torch.Generator().manual_seed(1), 0

    def noise():
        nonlocal count
        count += 1
        return count + torch.rand(1, generator=generator).item()

    return noise


@pytest.mark.parametrize(
    "make",
    [
        lambda: functools.partial(torch.rand, 1, generator=torch.Generator().manual_seed(1)),
        lambda: lambda generator=torch.Generator().manual_seed(1): torch.rand(1, generator=generator),  # noqa: B008
        noise_of_a_closure,
    ],
)
def test_what_a_function_of_a_module_draws_from_or_counts_is_as_before(make):
    model = nn.Linear(2, 2)
    model.noise = make()
    with unnoticed(model):
        expected = [float(model.noise()), float(model.noise())]
    assert [float(model.noise()), float(model.noise())] == expected


def test_default_arguments_of_a_forward_are_as_before():
    class Noisy(nn.Linear):
        def forward(self, x, generator=torch.Generator().manual_seed(1), seen=[]):  # noqa: B006, B008
            seen.append(len(x))
            return super().forward(x) + torch.rand(1, generator=generator) + len(seen)

    model = Noisy(2, 2)
    with unnoticed(model):
        expected = model(torch.ones(1, 2))
        assert not torch.equal(model(torch.ones(1, 2)), expected)
    assert torch.equal(model(torch.ones(1, 2)), expected)


class Holder:
    def __init__(self, module):
        self.module = module


class Named(NamedTuple):
    module: object


@pytest.mark.parametrize(
    "hide",
    [
        lambda module: module, lambda module: [module], lambda module: {"of": [(module,)]}, Holder, Named,
        lambda module: types.SimpleNamespace(of=[module]), lambda module: module.forward, functools.partial,
        lambda module: functools.partial(map, module), lambda module: lambda x: module(x),
        lambda module: types.MappingProxyType({"of": module}),
    ],
)  # fmt: skip
def test_a_module_that_is_not_registered_is_as_before(hide):
    model, teacher = nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    object.__setattr__(model, "teacher", hide(teacher))
    with unnoticed(model):
        assert not teacher.training and not teacher[0].training
        teacher.train()(torch.randn(8, 2)).sum().backward()
    assert teacher[0].running_mean.tolist() == [0, 0] and teacher[0].num_batches_tracked == 0
    assert teacher.training and teacher[0].weight.grad is None


def test_a_large_tensor_that_is_no_buffer_is_not_copied_but_its_change_is_detected():
    with pytest.raises(ModelChanged, match="tensor 'calls' was changed in place"), unnoticed(model := Counting(2**21)):
        model(torch.ones(1, 2))


def test_a_buffer_in_memory_that_cannot_be_written_is_left_alone(tmp_path):
    np.save(tmp_path / "table.npy", np.ones((4, 2), dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: the array is not writable
        table = torch.from_numpy(np.load(tmp_path / "table.npy", mmap_mode="r"))
    model = nn.Linear(2, 1)
    model.register_buffer("table", table)
    with unnoticed(model):
        model(model.table)  # a write would end the process


@pytest.mark.parametrize("freed_within", [False, True])
def test_a_tensor_whose_storage_was_freed_is_left_alone(freed_within):
    """So FSDP leaves what it has gathered; a read would end the process."""
    model, shape = nn.Linear(2, 1), (64, 1024)
    model.gathered = torch.ones(shape)
    model.register_buffer("table", torch.ones(shape))

    def free():
        for tensor in (model.gathered, model.table):
            tensor.untyped_storage().resize_(0)

    if not freed_within:
        free()
        model.weight.untyped_storage().resize_(0)
    with unnoticed(model):
        freed_within and free()
    assert model.gathered.untyped_storage().nbytes() == 0 and model.gathered.shape == shape


def test_a_buffer_that_repeats_its_elements_is_as_before():
    model = nn.Linear(2, 1)
    model.register_buffer("scale", torch.ones(1, 3).expand(2, 3))
    with unnoticed(model):
        model.scale[0].fill_(5)
    assert model.scale.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_forward_that_the_script_has_replaced_is_the_one_that_is_measured():
    layer = nn.Linear(2, 2)
    layer._original_forward = layer.forward
    layer.forward = lambda x: 3 * layer._original_forward(x)
    expected = layer(torch.ones(1, 2))
    with unnoticed(layer):
        assert torch.equal(layer(torch.ones(1, 2)), expected)
    layer.forward = torch.relu  # which is of no module
    with unnoticed(layer):
        assert torch.equal(layer(-torch.ones(1, 2)), torch.zeros(1, 2))
