"""What users call wrongly: one line each, with what was wrong, what was expected and what to pass."""

import copy
import pickle
import re

import pytest
import torch
from loops import Memory, Norm, run_steps
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from probes import Measurement, Probe, ProbeManager, every, hookimpl, log_spaced, open_run
from probes_complexity import Capacity, PathComplexity, fisher_rao_norm, sharpness
from probes_fourier import (
    FourierSpectrum,
    KernelSpectrum,
    RadialSpectrum,
    fourier_coefficients,
    half_amplitude_steps,
    segment_samples,
)
from probes_mine import MutualInformation, mutual_information
from probes_ntk import TangentKernel, alignment, center, effective_rank, eigenvalues, label_matrix, tangent_kernel
from probes_representation import class_means

INPUTS, TARGETS = torch.randn(8, 2), torch.randint(3, (8,))
DATA = TensorDataset(INPUTS, TARGETS)


def network():
    return nn.Sequential(nn.Linear(2, 3))


NORM = Norm()
CONSTRUCTED = {
    "overhead in words": ({"overhead": "5%"}, "`overhead` must be a share of training time between 0 and 1"),
    "overhead in percent": ({"overhead": 5}, r"`overhead` must be a share .* \(0.05 is 5 %\)"),
    "overhead True": ({"overhead": True}, "`overhead` must be a share"),
    "negative head start": ({"head_start": -1}, "`head_start` must be a number of seconds, 0 or greater, got -1"),
    "head start in words": ({"head_start": "30 s"}, "`head_start` must be a number of seconds"),
    "batches for probes": ({"probes": {"train": INPUTS}}, r"`probes` must be a list .* got dict.*batches=\{'train'"),
    "a pair for probes": ({"probes": (INPUTS, TARGETS)}, r"`probes` must be a list .* got tensors.*batches="),
    "a loader for probes": ({"probes": DataLoader(DATA)}, r"`probes` must be a list .* got DataLoader.*batches="),
    "a data set for probes": ({"probes": DATA}, r"`probes` must be a list .* got TensorDataset.*batches="),
    "one probe": ({"probes": NORM}, r"`probes` must be a list of probes or names, got Norm. Write \["),
    "one name": ({"probes": "fourier"}, r"got str. Write \['fourier'\]"),
    "a class": ({"probes": [Norm]}, r"write Norm\(\) instead of the class"),
    "a number": ({"probes": [5]}, "`probes` must hold Probe instances or names of installed probes, got int"),
    "an unknown name": ({"probes": ["furrier"]}, "furrier.*fourier"),
    "a probe twice": ({"probes": [NORM, NORM]}, "`probes` holds .*Norm.* twice"),
    "a name twice": ({"probes": ["fourier", "fourier"]}, "`probes` holds 'fourier' twice"),
    "one sink": ({"sinks": "hdf5"}, r"`sinks` must be a list of sinks or names, got str. Write \['hdf5'\]"),
    "a sink that is none": ({"sinks": [5]}, r"`sinks` must hold sinks, objects with a method write\(run"),
    "a class of sinks": ({"sinks": [Memory]}, r"write Memory\(\) instead of the class"),
    "an unknown sink": ({"sinks": ["hdf"]}, "hdf5"),
    "a batch alone": ({"batches": INPUTS}, r"`batches` must be a dict from names to batches, .* got Tensor"),
    "a pair of batches": ({"batches": (INPUTS, TARGETS)}, "`batches` must be a dict from names to batches"),
    "a name with a space": ({"batches": {"val set": INPUTS}}, "got 'val set'. Write 'val_set'"),
    "a name that is none": ({"batches": {0: INPUTS}}, "got 0. Write '0'"),
    "a path for a name": ({"batches": {"a/b": INPUTS}}, "got 'a/b'. Write 'a_b'"),
    "an empty log_dir": ({"log_dir": ""}, "`log_dir` is empty. Pass a directory"),
    "an empty name": ({"batches": {"": INPUTS}}, "got ''. Write 'test'"),
    "a key for output": ({"output": "logits"}, "`output` must be a function of what the model returns, got str"),
    "a number for log_dir": ({"log_dir": 5}, "`log_dir` must be a path, got 5"),
    "a word for seed": ({"seed": "abc"}, "`seed` must be an integer, .*got 'abc'"),
    "a seed too large": ({"seed": 2**70}, r"`seed` must be an integer, 0 or greater and below 2\*\*63"),
    "a log_dir that is none": ({"log_dir": "a\0b"}, "`log_dir` must be a path"),
    "an unknown on_error": ({"on_error": "ignore"}, "`on_error` must be 'log' or 'raise', got 'ignore'"),
    "no deadline": ({"deadline": 0}, "`deadline` must be a number of seconds greater than 0, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_an_argument_that_is_wrong_is_told_in_one_line(name):
    arguments, message = CONSTRUCTED[name]
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        ProbeManager(network(), **arguments)
    assert "\n" not in str(raised.value)


SETTINGS = {
    TangentKernel: {"num_samples": 2.5, "num_outputs": "a", "eigenfunctions": 1.5, "memory": "1 GB"},
    MutualInformation: {"num_samples": "all", "noise": "a", "cold_every": 2.5},
    FourierSpectrum: {"num_points": 2.5, "num_segments": [3], "frequencies": []},
    RadialSpectrum: {"num_points": "a"},
    KernelSpectrum: {"sigma": "a"},
    PathComplexity: {"memory": [3]},
    Capacity: {"margin_quantile": None, "epsilon": "a"},
    log_spaced: {"base": None, "factor": "a"},
    every: {"n": 2.5},
    open_run: {"path": 3},
}


@pytest.mark.parametrize("function", SETTINGS)
def test_a_setting_of_the_wrong_type_is_named(function):
    for argument, value in SETTINGS[function].items():
        with pytest.raises((TypeError, ValueError), match=f"`{argument}`.*got.*{re.escape(str(value))}"):
            function(**{argument: value})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet", "`model` must be a torch.nn.Module, got str"),
        (nn.Linear, "`model` must be a torch.nn.Module, got type"),
        (nn.ReLU(), r"`model` has no parameters \(ReLU\)"),
        ([nn.Linear(2, 1)], "`model` must be a torch.nn.Module, got list"),
    ],
)
def test_what_is_no_model_is_told(model, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ProbeManager(model)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adam", "`optimizer` must be a torch.optim.Optimizer"),
        (torch.optim.SGD, "`optimizer` must be a torch.optim.Optimizer"),
        ([{"params": []}], "`optimizer` must be a torch.optim.Optimizer"),
        (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), "holds no parameter of the watched model"),
    ],
)
def test_what_is_no_optimizer_of_the_model_is_told(optimizer, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ProbeManager(network(), [], sinks=[]).attach(optimizer)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (5, r"`batches\['train'\]` must be a tensor of inputs"),
        ("train.pt", "must be a tensor of inputs"),
        ((INPUTS, TARGETS[:7]), "has 8 inputs but targets of shape"),
        ((INPUTS, "labels"), "The targets of .* must be a tensor, got str"),
        ((INPUTS, [0, 1, 2]), "The targets of .* must be a tensor, got list"),
        (INPUTS[:0], r"`batches\['train'\]` is empty: it holds a tensor of shape \(0, 2\)"),
    ],
)
def test_what_is_no_batch_is_told(batch, message):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        ProbeManager(network(), [], {"train": batch}, sinks=[]).attach()
    assert "\n" not in str(raised.value)


class Returns(Probe):
    name = "returns"

    def __init__(self, value):
        super().__init__(every(1))
        self.value = value

    def measure(self, run, step):
        return self.value


def logged(caplog):
    return [record.getMessage().splitlines()[0] for record in caplog.records]


@pytest.mark.parametrize("value", [1.5, torch.ones(()), "loss", {"loss": 1.0}])
def test_a_measure_that_returns_no_measurements_is_told(value, caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Returns(value)], sinks=[]).attach(optimizer):
        run_steps(model, optimizer, 1)
    assert any("measure must yield measurements, it returned" in line for line in logged(caplog))


def test_a_measure_that_returns_one_measurement_is_taken():
    model, sink = network(), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Returns(Measurement("one", 1.0))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    assert sink.steps("one") == [0, 1, 2]


class Undecorated:
    def __init__(self):
        self.rows, self.flushed = [], 0

    def write(self, run, measurements):
        self.rows += measurements

    def flush(self):
        self.flushed += 1


class Misspelt(Undecorated):
    def on_detatch(self, run):
        pass


class Wrapping(Undecorated):
    @hookimpl(wrapper=True)
    def flush(self):
        yield


class OtherNames(Undecorated):
    def write(self, run, rows):
        pass


class First(Undecorated):
    @hookimpl(tryfirst=True)
    def write(self, run, measurements):
        pass


def test_methods_of_a_sink_that_are_named_like_hooks_are_hooks():
    model, sink = network(), Undecorated()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Returns(Measurement("one", 1.0))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 3)
    assert [row.step for row in sink.rows if row.name == "one"] == [0, 1, 2, 3] and sink.flushed


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (Misspelt, "implements unknown hook 'on_detatch'"),
        (
            OtherNames,
            r"its method write takes 'rows', but arguments are passed by name: write def write(self, run, mea",
        ),
        (Wrapping, "hook 'flush' asks for wrapper=True, which does not hold here"),
        (First, "hook 'write' asks for tryfirst=True, which does not hold here"),
    ],
)
def test_hooks_that_would_not_be_called_as_asked_are_told(sink, message, caplog):
    with ProbeManager(network(), [], sinks=[sink()]).attach() as manager:
        report = manager.report()
    assert any(message in line for line in logged(caplog))
    if sink is not Misspelt:
        assert message in report
        with pytest.raises(ValueError, match=re.escape(message)):
            ProbeManager(network(), [], sinks=[sink()], on_error="raise").attach()


def test_a_tilde_in_log_dir_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with ProbeManager(network(), [], log_dir="~/runs/one").attach() as manager:
        assert manager.run.log_dir == tmp_path / "runs" / "one"


def test_a_batch_that_does_not_fit_the_model_is_told_in_one_line(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = {"train": (torch.randn(8, 5), TARGETS)}
    with ProbeManager(model, [TangentKernel(every(1)), "fourier"], batches, sinks=[]).attach(optimizer):
        run_steps(model, optimizer, 4)
    lines = [line for line in logged(caplog) if "cannot measure" in line]
    assert len(lines) == 1 and "cannot be called with batch 'train', of shape (8, 5)" in lines[0]


class Of(nn.Module):
    """Returns what is asked for, of a network's outputs."""

    def __init__(self, result):
        super().__init__()
        self.network, self.result = network(), result

    def forward(self, x):
        return self.result(self.network(x))


class Named:
    def __init__(self, values):
        self.count, self.values = 3, values


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda y: {"loss": y.sum(), "scores": [y.argmax(1)]},
            r"dict with keys \['loss', 'scores'\].*Pass output=, a function",
        ),
        (lambda y: Named([y.argmax(1)]), r"The model returns Named, .*Pass output=, a function"),
        (lambda y: y.argmax(1), r"a tensor of torch\.int64.*e\.g\. output=lambda result: result\.float\(\)"),
        (lambda y: y.sum(), r"returns one number for 8 samples, .*e\.g\. ProbeManager\(model\.network\)"),
        (lambda y: y.reshape(4, -1), r"must have one row for each of the 8 samples, got shape \(4, 6\)"),
    ],
)
def test_an_output_that_cannot_be_used_is_told_with_what_to_pass_in_code(result, message, caplog):
    model = Of(result)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [TangentKernel(every(1))], {"train": INPUTS}, sinks=[]).attach(optimizer):
        for _ in range(2):
            model.network(INPUTS).sum().backward()
            optimizer.step()
    lines = [line for line in logged(caplog) if "cannot measure" in line]
    assert len(lines) == 1 and re.search(message, lines[0]), lines


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (lambda y: {"loss": y.sum(), "scores": y}, lambda result: result["scores"]),
        (lambda y: Named(y), lambda result: result.values),
        (lambda y: (3, y), lambda result: result[1]),
    ],
)
def test_the_advice_works_when_followed(result, output):
    model, sink = Of(result), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [TangentKernel(every(1))]
    with ProbeManager(model, probes, {"train": (INPUTS, TARGETS)}, [sink], output=output).attach(optimizer):
        model.network(INPUTS).sum().backward()
        optimizer.step()
    assert sink.steps("ntk/alignment/train") == [0, 1]


def test_an_output_without_a_gradient_is_told(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [TangentKernel()], sinks=[], output=lambda y: y.detach()).attach() as manager:
        run_steps(model, optimizer, 2)
        assert "output= picks something that has no gradient" in manager.report()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda y: y["logits"], r"output= fails on it \(IndexError: .*e\.g\. output=lambda result: result\."),
        (lambda y: [y], r"output= gives list\. It must be a function that picks"),
    ],
)
def test_an_output_that_fails_is_told_as_that(output, message, given):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = {"train": (INPUTS, TARGETS)} if given else None
    with ProbeManager(model, [TangentKernel()], batches, [], output=output).attach(optimizer) as manager:
        run_steps(model, optimizer, 2)
        assert re.search(message, manager.report())


class Recurrent(nn.Module):
    """Its state has the samples in the second dimension."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x, state):
        return self.head(self.recurrent(x, state)[0][:, -1])


class Sparse(nn.Linear):
    def forward(self, x):
        return torch.sparse.mm(x, self.weight.T)


def recurrent():
    model, state = Recurrent(), torch.zeros(1, 128, 4)
    return model, lambda: model(torch.randn(128, 5, 2), (state, state)).sum().backward()


def sparse():
    model = Sparse(2, 3)
    return model, lambda: model(INPUTS.to_sparse()).sum().backward()


def per_example():
    """Gradients of each example, as differentially private training takes them."""
    model = network()

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).sum()

    def backward():
        named = dict(model.named_parameters())
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(named, INPUTS)
        for name, parameter in named.items():
            parameter.grad = gradients[name].mean(0)

    return model, backward


def scripted():
    model = torch.jit.script(network())
    return model, lambda: model(INPUTS).sum().backward()


def on_meta():
    model = nn.Linear(2, 3, device="meta")
    return model, lambda: model(torch.randn(8, 2, device="meta")).sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    ("case", "message"),
    [
        (recurrent, r"passed whole: \(1, 128, 4\), \(1, 128, 4\); let the model take samples in the first dimension"),
        (sparse, "The batch has no dense floating-point input"),
        (per_example, "calls the model within torch.func"),
        (on_meta, "on the meta device"),
        (scripted, "The model is a ScriptModule, of whose calls nothing is seen. Pass batches="),
    ],
)
def test_calls_that_cannot_be_measured_are_no_fault_of_any_probe(case, message, caplog):
    model, backward = case()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [PathComplexity(every(1)), TangentKernel(every(1)), FourierSpectrum(every(1)), KernelSpectrum(every(1)),
              MutualInformation(every(1)), "spectral_norm"]  # fmt: skip
    with ProbeManager(model, probes, sinks=[], overhead=None).attach(optimizer) as manager:
        for _ in range(4):
            optimizer.zero_grad()
            backward()
            optimizer.step()
        assert re.search(message, manager.report())
        assert "Last failure" not in manager.report() and "quarantined" not in manager.report()
    assert not any(record.exc_info for record in caplog.records)


def test_a_path_of_another_shape_is_told_in_one_line(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [FourierSpectrum(every(1), path=lambda z: z[:, None])]
    with ProbeManager(model, probes, {"train": INPUTS}, [], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 4)
    (line,) = [line for line in logged(caplog) if "cannot measure" in line]
    assert re.search(r"`path` must give inputs of shape \(2,\), as those of the batch, got \(1,\)", line)


KERNEL = tangent_kernel(network(), INPUTS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eigenvalues(KERNEL), "`kernel` must be a tensor, got TangentGram: pass its .kernel"),
        (lambda: center(KERNEL, "outputs"), "pass its .kernel"),
        (lambda: alignment(KERNEL, TARGETS, "outputs"), "pass its .kernel"),
        (lambda: effective_rank(KERNEL.kernel), r"`eigenvalues` must be .* Pass eigenvalues\(kernel\)"),
        (lambda: effective_rank(torch.eye(3)), r"Pass eigenvalues\(kernel\)"),
        (lambda: tangent_kernel(network(), (INPUTS, TARGETS)), "pass the inputs alone, without the targets"),
        (lambda: mutual_information(torch.randn(50), torch.randn(50), seed="a"), "`seed` must be an integer, got 'a'"),
        (lambda: half_amplitude_steps([0, 1], torch.ones(3, 2)), r"one row for each of the steps.* got shape \(3, 2\)"),
        (lambda: half_amplitude_steps([], torch.ones(0, 2)), "one row for each of the steps, at least one"),
        (lambda: fourier_coefficients(torch.empty(2, 0), [0]), "`values` must have shape .*, one point at least"),
        (lambda: fourier_coefficients(torch.tensor(1.0), [0]), r"one point at least, got \(\)"),
        (lambda: segment_samples(1, 5, seed=0), "`n` must be at least 2 samples"),
        (lambda: class_means(torch.empty(0, 3), torch.empty(0).long()), r"one row at least, got \(0, 3\)"),
        (lambda: label_matrix(torch.empty(0).long(), 3), r"one label for each example, got shape \(0,\)"),
        (lambda: label_matrix(torch.tensor(1), 3), r"one label for each example, got shape \(\)"),
    ],
)
def test_a_wrong_call_of_a_function_is_told_in_one_line(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_mode_of_the_caller_does_not_matter(mode):
    torch.manual_seed(0)
    model = network()
    expected = fisher_rao_norm(model, INPUTS), sharpness(model, INPUTS, TARGETS)
    with mode():
        assert (fisher_rao_norm(model, INPUTS), sharpness(model, INPUTS, TARGETS)) == expected


def test_a_manager_within_its_model_is_copied_and_watches_nothing(tmp_path):
    model = network()
    model.probes = ProbeManager(model, [], log_dir=tmp_path).attach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.probes.step()
        assert other.probes.report().startswith("Inactive: it came with a copy of a model")
        with pytest.raises(RuntimeError, match="Make a ProbeManager of that one"):
            other.probes.attach()
    model.probes.detach()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
@pytest.mark.parametrize("probes", [[], None])
def test_a_manager_is_copied_and_pickled_before_it_is_attached(copied, probes, tmp_path):
    other = copied(ProbeManager(network(), probes, log_dir=tmp_path, overhead=None))
    optimizer = torch.optim.SGD(other.run.model.parameters(), lr=0.1)
    with other.attach(optimizer):
        run_steps(other.run.model, optimizer, 1)
    assert other.run.step == 1


def test_a_manager_within_its_model_is_pickled_with_it_before_it_is_attached(tmp_path):
    model = network()
    model.probes = ProbeManager(model, [], log_dir=tmp_path)
    other = pickle.loads(pickle.dumps(model))
    assert other.probes.run.model is other
    with other.probes.attach():
        pass
