"""Each test does on purpose, inside the guard, what a careless probe would do."""

import argparse
import array
import collections
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from probes.guard import process
from probes.guard.fingerprint import differences, of_process
from probes.guard.process import SETTINGS
from probes.guard.unnoticed import ModelChanged, unnoticed


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))
    net[1].eval()  # a layer the user froze on purpose
    net[0].bias.requires_grad_(False)
    net(torch.randn(5, 3)).sum().backward()
    return net


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


def test_settings_are_as_before(model):
    with torch.no_grad(), unnoticed(model):
        assert torch.is_grad_enabled()
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.set_grad_enabled(False)
    assert torch.get_default_dtype() == torch.float32 and not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest" and torch.is_grad_enabled()


def test_autocast_is_off_inside(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with unnoticed(model):
            assert model(torch.randn(5, 3)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")


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


KINDS = {
    "a namespace": (lambda: types.SimpleNamespace(n=0), lambda s: vars(s).update(n=s.n + 1), lambda s: s.n),
    "arguments": (lambda: argparse.Namespace(n=0), lambda s: vars(s).update(n=s.n + 1), lambda s: s.n),
    "a UserDict": (lambda: collections.UserDict(n=0), lambda s: s.update(n=s["n"] + 1), lambda s: s["n"]),
    "a ChainMap": (lambda: collections.ChainMap({"n": 0}), lambda s: s.update(n=s["n"] + 1), lambda s: s["n"]),
    "an array": (lambda: array.array("d", [0]), lambda s: s.__setitem__(0, s[0] + 1), lambda s: s[0]),
    "bytes": (lambda: bytearray(1), lambda s: s.__setitem__(0, s[0] + 1), lambda s: s[0]),
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


@pytest.mark.parametrize("hide", [lambda module: module, lambda module: [module], lambda module: {"of": [(module,)]}])
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


def test_what_a_script_asks_for_to_find_its_own_faults_is_not_asked_of_a_measurement(monkeypatch):
    monkeypatch.setattr(process, "strict", False)
    before = (np.geterr(), torch.is_anomaly_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    try:
        np.seterr(all="raise"), torch.autograd.set_detect_anomaly(True), torch.use_deterministic_algorithms(True)
        kept = dict(of_process())
        with unnoticed(nn.Linear(2, 1)), warnings.catch_warnings(record=True) as told:
            warnings.warn("of a library", stacklevel=1)
            assert np.isinf(np.ones(1) / np.zeros(1)).all() and np.geterr()["divide"] == "warn"
            assert not torch.is_anomaly_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert len(told) == 2 and dict(of_process()) == kept
    finally:
        np.seterr(**before[0]), torch.autograd.set_detect_anomaly(before[1]), torch.use_deterministic_algorithms(False)


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


def test_more_settings_are_as_before(model):
    attention, denormal = torch.backends.cuda.flash_sdp_enabled(), torch.tensor([1e-39])
    with unnoticed(model):
        torch.backends.cuda.enable_flash_sdp(not attention)
        torch.set_flush_denormal(True)
        torch.set_default_device("meta")
        np.seterr(all="raise")
        gc.disable()
    assert torch.backends.cuda.flash_sdp_enabled() == attention and torch.ones(1).device.type == "cpu"
    assert np.geterr()["over"] != "raise" and gc.isenabled() and (denormal * 0.5).item() != 0


def test_matmul_precision_set_by_the_newer_names_is_no_fault(model):
    # Of a process of its own: torch cannot be brought back to the older names.
    if not hasattr(torch.backends, "fp32_precision"):
        return  # this torch has the older names only
    script = (
        "import torch\nfrom probes.guard.unnoticed import unnoticed\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "with unnoticed(torch.nn.Linear(1, 1)):\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'ieee'\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CARELESS = {
    "gradients enabled": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda: (torch.set_autocast_cache_enabled(False), torch.set_autocast_dtype("cpu", torch.float16)),
    "attention backends": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "mkldnn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "denormal numbers": lambda: torch.set_flush_denormal(True),
    "numpy errors": lambda: np.seterr(all="ignore"),
    "warning filters": lambda: warnings.simplefilter("ignore"),
    "garbage collection": lambda: (gc.set_threshold(1, 1, 1), gc.freeze()),
    "recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "working directory": lambda: os.chdir(tempfile.gettempdir()),
    "tracing": lambda: sys.setprofile(lambda *_: None),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
}


def test_every_setting_has_a_careless_probe():
    assert CARELESS.keys() == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("name", CARELESS)
def test_every_setting_that_is_compared_is_restored(name):
    model = nn.Linear(2, 1)
    before = dict(of_process())
    with unnoticed(model):
        CARELESS[name]()
        changed = differences(before, dict(of_process()))
    assert differences(before, dict(of_process())) == []
    assert f"setting {name}" in changed
