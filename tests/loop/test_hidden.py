import copy
import gc
import io

import pytest
import torch
from torch import nn

from probes import ProbeManager


def saved(item):
    """The file that torch.save writes of it."""
    file = io.BytesIO()
    torch.save(item, file)
    return file.getvalue()


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(5, 4)).sum().backward()
    optimizer.step()


class OwnState(nn.Sequential):
    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "cache"}


class OwnReduce(nn.Sequential):
    def __reduce__(self):
        return type(self), tuple(self)


class OwnCopy(nn.Sequential):
    def __deepcopy__(self, memo):
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other


def made(kind=nn.Sequential):
    torch.manual_seed(0)
    model = kind(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("kind", [nn.Sequential, OwnState, OwnReduce])
def test_a_watched_model_is_saved_byte_for_byte_as_one_that_is_not(kind, steps, tmp_path):
    (plain, plain_optimizer), (watched, optimizer) = made(kind), made(kind)
    with ProbeManager(watched, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        for _ in range(steps):
            step(plain, plain_optimizer)
            step(watched, optimizer)
        assert saved(watched) == saved(plain)
        assert saved(optimizer) == saved(plain_optimizer)
        assert saved(nn.ModuleDict({"inner": watched})) == saved(nn.ModuleDict({"inner": plain}))
    assert vars(watched).keys() == vars(plain).keys()


def test_a_file_saved_while_watched_loads_where_only_weights_may_be(tmp_path):
    model, optimizer = made()
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        step(model, optimizer)
        file = io.BytesIO(saved(model))
    with torch.serialization.safe_globals([nn.Sequential, nn.Linear, nn.ReLU]):
        loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded[0].weight, model[0].weight)


@pytest.mark.parametrize("kind", [nn.Sequential, OwnState, OwnReduce, OwnCopy])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_not_watched_and_can_be_saved(kind, copied, tmp_path):
    (plain, _), (model, _) = made(kind), made(kind)
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach() as manager:
        other = copied(model)
        if kind is not OwnCopy:  # it copies what is in the model itself; what is ours does nothing there
            assert vars(other).keys() <= vars(plain).keys()
            assert not other._forward_hooks
        loaded = torch.load(io.BytesIO(saved(other)), weights_only=False)
        step(loaded, torch.optim.SGD(loaded.parameters(), lr=0.1))
        assert manager.run.step == 0


def test_two_managers_of_one_model_leave_it_as_it_was(tmp_path):
    (plain, _), (model, _) = made(), made()
    first = ProbeManager(model, [], log_dir=tmp_path / "a").attach()
    second = ProbeManager(model, [], log_dir=tmp_path / "b").attach()
    assert saved(model) == saved(plain)
    first.detach()
    assert saved(model) == saved(plain)
    second.detach()
    assert vars(model).keys() == vars(plain).keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", [nn.Sequential, OwnState])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_watched_model_is_scripted_exported_traced_and_compiled(steps, kind, tmp_path):
    model, optimizer = made(kind)
    x = torch.randn(3, 4)
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        for _ in range(steps):
            step(model, optimizer)
        right = model(x)
        others = [torch.jit.script(model), torch.fx.symbolic_trace(model), torch.compile(model, backend="eager")]
        others += [torch.export.export(model, (x,)).module(), torch.jit.trace(model, (x,))]
        others.append(torch.jit.script(nn.Sequential(model)))
        for other in others:
            assert torch.equal(other(x), right)


@pytest.mark.parametrize("watched", [True, False])
def test_safetensors_and_transformers_save_a_watched_model(watched, tmp_path):
    import safetensors.torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, **small))
    manager = ProbeManager(model, ["spectral_norm"], log_dir=tmp_path / "run", overhead=None)
    if watched:
        manager.attach()
    model.save_pretrained(tmp_path / "pretrained")
    weights = safetensors.torch.load_file(tmp_path / "pretrained" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    manager.detach()


class StateOfItsOwn(nn.Sequential):
    def __getstate__(self):
        return vars(self).copy(), "second version"

    def __setstate__(self, state):
        vars(self).update(state[0])


def clone(module):
    """As libraries of meta-learning make one: other parameters, and all else that is in the module."""
    other = type(module).__new__(type(module))
    vars(other).update(vars(module))
    vars(other)["_parameters"] = {name: nn.Parameter(item + 5) for name, item in module._parameters.items()}
    vars(other)["_modules"] = {name: clone(child) for name, child in module._modules.items()}
    return other


def loaded(file):
    return torch.load(io.BytesIO(file), weights_only=False)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_clone_is_copied_and_saved_with_its_own_weights(steps, tmp_path):
    model, optimizer = made()
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        for _ in range(steps):
            step(model, optimizer)
        other = clone(model)
        expected = [parameter + 5 for parameter in weights(model)]
        for copied in (copy.deepcopy(other), loaded(saved(other))):
            assert all(map(torch.equal, weights(copied), expected))
            assert "_probes" not in vars(copied) and not copied._forward_hooks


@pytest.mark.parametrize("steps", [0, 1])
def test_a_model_with_a_state_of_its_own_is_copied_and_saved(steps, tmp_path):
    (plain, plain_optimizer), (model, optimizer) = made(StateOfItsOwn), made(StateOfItsOwn)
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        for _ in range(steps):
            step(model, optimizer)
            step(plain, plain_optimizer)
        assert saved(model) == saved(plain)
        assert vars(copy.deepcopy(model)).keys() == vars(plain).keys()


def test_a_model_that_is_parametrized_while_watched_is_copied(tmp_path):
    model = nn.Linear(4, 2)
    with ProbeManager(model, ["spectral_norm"], log_dir=tmp_path, overhead=None).attach():
        torch.nn.utils.parametrize.register_parametrization(model, "weight", nn.Identity())
        assert torch.equal(copy.deepcopy(model)(torch.ones(1, 4)), model(torch.ones(1, 4)))


@pytest.mark.parametrize("kind", [nn.Sequential, OwnState])
def test_a_class_is_as_it_was_when_no_model_of_it_is_watched(kind, tmp_path):
    before = dict(vars(kind))
    (first, _), (second, _), (bystander, _) = made(kind), made(kind), made(kind)
    one = ProbeManager(first, [], log_dir=tmp_path / "a").attach()
    ProbeManager(second, [], log_dir=tmp_path / "b").attach()
    assert not hasattr(bystander, "__prepare_scriptable__")
    assert saved(bystander) == saved(first) == saved(second)
    one.detach()
    assert saved(second) == saved(bystander)
    del second
    gc.collect()
    assert dict(vars(kind)) == before


@pytest.mark.parametrize("what", ["a list", "the manager"])
def test_a_model_has_a_probes_of_its_own(what, tmp_path):
    model, optimizer = made()
    manager = ProbeManager(model, ["layers"], log_dir=tmp_path)
    own = model._probes = [1.0] if what == "a list" else manager
    manager.attach()
    step(model, optimizer)
    assert model._probes is own
    (manager if what == "a list" else model._probes).detach()
    assert model._probes is own and not model._forward_hooks
