"""What is seen of loops that were not written for us: the model, its first batch and its output."""

import copy
import dataclasses
import gc
import pickle
import types
import weakref
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
import warm
from loop.watched import Seen, X, Y, attached, net, train
from loops import Memory
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from probes import ProbeManager, every, open_run


def test_a_functional_call_is_no_reason_for_a_warning():
    model = net()  # whose parameters are then no leaves; warnings are errors here
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attached(model):
        for _ in range(2):
            weights = {name: parameter * 1 for name, parameter in model.named_parameters()}
            F.cross_entropy(torch.func.functional_call(model, weights, (X,)), Y).backward()
            optimizer.step()


def test_a_fault_of_ours_in_the_forward_does_not_reach_the_loop(monkeypatch):
    monkeypatch.setattr("probes.loop.first_batch.FirstBatch._count", lambda *_: 1 / 0)
    manager = attached(net())
    train(manager.run.model, lambda out: F.cross_entropy(out, Y), X)
    assert "ZeroDivisionError" in manager.report()
    manager.detach()


def test_the_batch_is_at_most_a_hundred_samples_and_a_copy():
    model, x = net(), torch.randn(300, 4)
    manager = attached(model)
    kept = x[:100].clone()
    train(model, lambda out: F.mse_loss(out, x[:, :3]), x)
    x.zero_()
    assert torch.equal(manager.run.batches["train"].inputs, kept)
    assert manager.run.batches["train"].targets.shape == (100, 3)
    manager.detach()


@pytest.mark.parametrize("kind", [types.SimpleNamespace, dataclasses.make_dataclass("Result", ["logits", "hidden"])])
@pytest.mark.parametrize("settings", [{}, {"output": lambda result: result.logits}], ids=["default", "output="])
def test_outputs_in_objects_are_seen_with_their_targets(kind, settings):
    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            hidden = self.body(x).relu()
            return kind(logits=self.head(hidden), hidden=hidden)

    model = Returning()
    manager = attached(model, **settings)
    train(model, lambda result: F.cross_entropy(result.logits, Y), X)
    assert torch.equal(manager.run.batches["train"].targets, Y) and manager.run.evaluate("train").shape == (len(X), 3)
    manager.detach()


def test_a_dry_run_and_an_evaluation_are_not_taken_for_the_first_batch():
    model = net()
    manager = attached(model)
    model(torch.zeros(1, 4))
    with torch.no_grad():
        model(torch.ones(2, 4))
    train(model, lambda out: F.cross_entropy(out, Y), X)
    assert torch.equal(manager.run.batches["train"].inputs, X)
    manager.detach()


def test_gradient_accumulation_keeps_one_micro_batch():
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for part in range(3):
        F.cross_entropy(model(X[2 * part : 2 * part + 2]), Y[2 * part : 2 * part + 2]).backward()
    optimizer.step()
    batch = manager.run.batches["train"]
    assert torch.equal(batch.inputs, X[:2]) and torch.equal(batch.targets, Y[:2]) and manager.run.step == 1
    manager.detach()


def test_nothing_is_watched_after_the_first_step():
    model = net()
    manager = attached(model)
    train(model, lambda out: F.cross_entropy(out, Y), X, steps=1)
    assert not model._forward_hooks and not model._forward_pre_hooks and _get_current_function_mode_stack() == []
    manager.detach()


def test_an_output_without_a_tensor_is_reported_and_training_goes_on(caplog):
    class Model(nn.Linear):
        def forward(self, x):
            return {"nested": [self, super().forward(x).argmax(1)]}

    model = Model(4, 3)
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X)["nested"][0].weight.sum().backward()
    optimizer.step()
    assert "The model returns dict with keys ['nested']" in caplog.text and "Pass output=" in caplog.text
    assert caplog.text.count("Not running: 'Seen'") == 1 and manager.run.step == 1
    manager.detach()


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda out: {"loss": out.sum(), "scores": out}, "result['scores'] of 'loss', 'scores', which the loss of the"),
        (lambda out: (out.sum(), out), "result[1] of 2, which the loss of the"),
        (lambda out: {"head": {"scores": out}, "more": {}}, "result['head']['scores'] of 'head', 'more', which the"),
        (lambda out: out, ""),
    ],
    ids=["dict", "tuple", "nested", "tensor"],
)
def test_the_first_output_of_more_than_one_number_is_taken_and_named(returned, words):
    class Model(nn.Linear):
        def forward(self, x):
            return returned(super().forward(x))

    model, sink = Model(4, 3), Memory()
    manager = attached(model, sinks=[sink])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(manager.run.output(model(X)), Y).backward()
    optimizer.step()
    assert sink.steps("seen/mean") == [0, 1] and torch.equal(manager.run.batches["train"].targets, Y)
    assert (f"Output     {words}" in manager.report()) == bool(words)
    assert ("chosen here; output= takes another" in manager.report()) == bool(words)
    manager.detach()


class Several(nn.Linear):
    """Returns a gate, what it was given, and scores."""

    def forward(self, x):
        scores = super().forward(x)
        return {"gate": scores.sigmoid().mean(1, keepdim=True), "given": x, "scores": scores}


def one_step(model, loss, **settings):
    sink = Memory()
    manager = attached(model, sinks=[sink], **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss(model(X)).backward()
    optimizer.step()
    report, batch = manager.report(), manager.run.batches["train"]
    state = manager.state_dict()
    manager.detach()
    return report, batch, float([row for row in sink.rows if row.name == "seen/mean"][-1].value), state


@pytest.mark.parametrize(
    ("loss", "taken"),
    [
        (lambda out: F.cross_entropy(out["scores"], Y), "scores"),
        (lambda out: F.cross_entropy(out["scores"].view(3, 2, 3).reshape(6, 3), Y), "scores"),
        (lambda out: F.cross_entropy(out["scores"], Y) + out["gate"].square().mean(), "scores"),
        (lambda out: F.mse_loss(out["gate"], torch.full((6, 1), 0.5)) + F.cross_entropy(out["scores"], Y), "scores"),
        (lambda out: (out["scores"] - F.one_hot(Y).float()).square().mean(), "scores"),
        (lambda out: F.cross_entropy(out["scores"], Y) + F.mse_loss(out["gate"], Y[:, None] / 2), "gate"),
        (lambda out: out["scores"].logsumexp(1).sum(), "gate"),
    ],
    ids=["loss", "view", "penalty", "constant", "difference", "both", "unseen"],
)
def test_of_several_outputs_the_one_that_the_loss_compares_is_taken(loss, taken):
    torch.manual_seed(0)
    model = Several(4, 3)
    report, batch, mean, _ = one_step(model, loss)
    assert f"Output     result['{taken}'] of 'gate', 'given', 'scores', " in report
    assert ("which the loss of the loop compares" in report) == (batch.targets is not None)
    assert mean == pytest.approx(model(X)[taken].mean().item())


def test_a_resumed_run_takes_the_output_that_was_compared():
    model = Several(4, 3)
    *_, mean, state = one_step(model, lambda out: F.cross_entropy(out["scores"], Y))
    manager = attached(model)
    manager.load_state_dict(state)
    with torch.no_grad():
        assert float(manager.run.output(model(X)).mean()) == pytest.approx(mean)
    manager.detach()


def test_an_output_without_a_gradient_beside_one_that_no_loss_is_seen_to_compare_is_named(caplog):
    class Model(nn.Linear):
        def forward(self, x):
            return {"mask": x > 0, "given": x, "scores": super().forward(x)}

    model = Model(4, 3)
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X)["scores"].logsumexp(1).sum().backward()
    optimizer.step()
    assert "result['given'] of 'given', 'mask', 'scores' is something that has no gradient. Pass output=" in caplog.text
    manager.detach()


def test_output_picks_from_what_the_model_returns():
    class Model(nn.Linear):
        def forward(self, x):
            return {"scores": super().forward(x)}

    model = Model(4, 3)
    sink = Memory()
    manager = attached(model, output=lambda result: result["scores"], sinks=[sink])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(X)["scores"], Y).backward()
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, Y) and sink.steps("seen/mean") == [0, 1]
    manager.detach()


@pytest.mark.parametrize("when", ["fresh", "trained"])
def test_copies_and_pickles_of_an_attached_model_do_not_call_us(when, tmp_path):
    model = net()
    manager = attached(model)
    if when == "trained":
        train(model, lambda out: F.cross_entropy(out, Y), X)
    twin = copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    pickle.loads(pickle.dumps(model))
    step = manager.run.step
    for other in (twin, loaded):
        assert other(X).shape == (6, 3) and "ProbeManager" not in repr(vars(other))
        train(other, lambda out: F.cross_entropy(out, Y), X)
    if when == "fresh":
        assert manager._now._first.batch is None
    assert manager.run.step == step
    manager.detach()


def test_a_saved_model_loads_where_this_package_is_not_installed(tmp_path):
    model = net()
    manager = attached(model)
    torch.save(model, tmp_path / "model.pt")
    manager.detach()
    script = (
        "import sys\n"
        "for name in [name for name in sys.modules if name.startswith('probes')]: del sys.modules[name]\n"
        "sys.modules['probes'] = None\n"
        f"import torch; model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "print(model(torch.ones(1, 4)).shape)"
    )
    done = warm.run(script, cwd=tmp_path)
    assert "torch.Size([1, 3])" in done.stdout, done.stderr


@pytest.mark.parametrize("sinks", [[], None])
def test_the_run_of_an_unassigned_manager_lives_as_long_as_the_model(sinks, tmp_path):
    model = net()
    manager = ProbeManager(model, probes=[Seen(every(1))], sinks=sinks, overhead=None, log_dir=tmp_path).attach()
    gone = weakref.ref(manager._now)
    del manager
    gc.collect()
    train(model, lambda out: F.cross_entropy(out, Y), X)
    assert gone() is not None and gone().run.step == 2
    del model
    gc.collect()
    assert gone() is None
    if sinks is None:  # and what it measured was written and closed
        assert open_run(tmp_path)["seen/mean"].sizes["step"] == 3


def test_a_compiled_wrapper_is_seen_when_it_is_given():
    model = net()
    compiled = torch.compile(model, backend="eager")
    sink = Memory()
    manager = attached(compiled, sinks=[sink])
    train(compiled, lambda out: F.cross_entropy(out, Y), X)
    assert manager.run.model is model and sink.steps("seen/mean") == [0, 1, 2]
    assert all("_orig_mod" not in name for name in manager.run.layers)
    manager.detach()


def test_a_model_called_through_a_compiled_wrapper_is_reported_without_recompiling(caplog):
    torch._dynamo.reset()
    model = net()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    manager = attached(model)
    compiled = torch.compile(model, backend=backend)
    train(compiled, lambda out: F.cross_entropy(out, Y), X, steps=4)
    assert len(graphs) == 1
    assert "Pass the object that the loop calls" in caplog.text and manager.run.step == 4
    manager.detach()


def test_a_lazy_model_is_initialised_as_without_us():
    def weights(watch):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
        sink = Memory()
        manager = attached(model, sinks=[sink]) if watch else None
        model(X)
        train(model, lambda out: F.cross_entropy(out, Y), X)
        if manager is not None:
            assert sink.steps("seen/mean") == [0, 1, 2]
            manager.detach()
        return [parameter.detach() for parameter in model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(weights(True), weights(False), strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saved", [True, False])
def test_a_model_that_was_compiled_in_place_is_seen_and_left_as_it_was(saved):
    torch.manual_seed(0)
    plain, watched = nn.Linear(2, 3), nn.Linear(2, 3)
    watched.load_state_dict(plain.state_dict())
    compiled = []
    watched.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    before = watched._compiled_call_impl
    x, y = torch.randn(5, 2), torch.randint(3, (5,))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, watched)]
    with ProbeManager(watched, [], sinks=[]).attach() as manager:
        if saved:
            assert "_compiled_call_impl" not in vars(copy.deepcopy(watched))
        for _ in range(3):
            for model, optimizer in zip((plain, watched), optimizers, strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        batch = manager.run.batches["train"]
        assert torch.equal(batch.inputs, x) and torch.equal(batch.targets, y)
        assert watched._compiled_call_impl is before
    assert torch.equal(plain.weight, watched.weight) and len(compiled) == 1


def test_a_batch_that_draws_as_it_is_read_is_read_by_nobody_else(tmp_path):
    class Augmented(Mapping):
        def __getitem__(self, key):
            return X + 0.1 * torch.randn_like(X)

        def __iter__(self):
            return iter(["x"])

        def __len__(self):
            return 1

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, batch):
            return self.inner(batch["x"])

    drawn = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = Reads()
        manager = ProbeManager(model, [Seen(every(1))], sinks=[], overhead=None)
        if watched:
            manager.attach()
        train(model, lambda out: F.cross_entropy(out, Y), Augmented())
        manager.detach()
        drawn.append([torch.get_rng_state(), *(p.detach().clone() for p in model.parameters())])
    assert all(map(torch.equal, *drawn))


class Odd(nn.Module):
    """May be asked for other things than its outputs."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x, mode="fit"):
        if isinstance(x, str):
            return torch.zeros(1)
        return self.body(x).mean() if mode == "init" else self.body(x)


@pytest.mark.parametrize("first", [{"x": X, "mode": "init"}, {"x": "size"}, None], ids=["mode", "text", "none"])
def test_an_odd_call_before_the_loop_is_not_the_last_that_is_looked_at(first):
    model = Odd()
    manager = attached(model)
    first and model(**first)
    train(model, lambda out: F.cross_entropy(out, Y), X)
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


def test_what_a_refused_call_has_computed_is_let_go():
    model = Odd()
    manager = attached(model)
    collecting = gc.isenabled()
    gc.disable()
    try:
        x = X.clone()
        out = model(x, mode="init")
        kept = weakref.ref(x), weakref.ref(out)
        del x, out
        assert kept[0]() is None and kept[1]() is None
        train(model, lambda out: F.cross_entropy(out, Y), X)
        manager.detach()
        gone = weakref.ref(model)
        del model, manager
        assert gone() is None
    finally:
        collecting and gc.enable()


def test_inputs_of_a_forward_that_raised_are_let_go():
    model = net()
    manager = attached(model)
    x = torch.zeros(6, 5)
    kept = weakref.ref(x)
    with pytest.raises(RuntimeError):
        model(x)
    del x
    gc.collect()
    assert kept() is None
    train(model, lambda out: F.cross_entropy(out, Y), X)
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


def test_a_call_that_can_be_used_is_kept_beside_one_that_cannot():
    model = Odd()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = model(X)
    (model(X, mode="init").square() + F.cross_entropy(out, Y)).backward()
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


class Teaches(nn.Module):
    """Calls itself, on other inputs."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x, once=False):
        if once:
            return self.body(x)
        with torch.no_grad():
            noise = self(x[:3] + 1, once=True)
        return self.body(x) + 0 * noise.sum()


def test_of_a_model_that_calls_itself_the_outer_call_is_kept():
    model = Teaches()
    manager = attached(model)
    train(model, lambda out: F.cross_entropy(out, Y), X)
    assert manager.run.batches["train"].n == 6 and torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()
