"""What is seen of loops that were not written for us: the targets, by watching the loss."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from loop.watched import X, Y, attached, net, train
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

HAS_TORCH_FUNCTION = torch.overrides.has_torch_function
SOFT = 0.9 * F.one_hot(Y, 3) + 0.1 * F.one_hot(Y.flip(0), 3)
SKIPPED = torch.cat([torch.tensor([7]), Y[1:]])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (lambda out: F.cross_entropy(out, Y), Y),
        (lambda out: F.cross_entropy(input=out, target=Y), Y),
        (lambda out: nn.CrossEntropyLoss()(out, Y), Y),
        (lambda out: F.nll_loss(F.log_softmax(out, 1), Y), Y),
        (lambda out: nn.MSELoss()(out[:, 0], Y.float()), Y.float()),
        (lambda out: F.binary_cross_entropy_with_logits(out[:, 1], (Y > 0).float()), (Y > 0).float()),
        (lambda out: ((out[:, 0] - Y.float()) ** 2).mean(), Y.float()),
        (lambda out: (Y.float() - out[:, 0]).abs().mean(), Y.float()),
        (lambda out: -F.log_softmax(out, dim=-1).gather(dim=-1, index=Y[:, None]).squeeze(1).mean(), Y),
        (lambda out: -torch.gather(out.log_softmax(1), 1, Y[:, None]).mean(), Y),
        (lambda out: torch.sum(-SOFT * F.log_softmax(out, dim=-1), dim=-1).mean(), SOFT),
        (lambda out: -(F.log_softmax(out, 1) * F.one_hot(Y, 3)).sum(1).mean(), F.one_hot(Y, 3).float()),
        (
            lambda out: F.cross_entropy(out, SKIPPED, ignore_index=7) + out.square().mean(),
            SKIPPED.where(SKIPPED < 7, -100),
        ),
        (lambda out: F.smooth_l1_loss(out.squeeze(), Y.float()[:, None].expand(6, 3)), Y.float()[:, None].expand(6, 3)),
    ],
)
def test_inputs_and_targets_are_seen(loss, targets):
    model = net()
    manager = attached(model)
    train(model, loss, X)
    batch = manager.run.batches["train"]
    assert torch.equal(batch.inputs, X) and torch.equal(batch.targets, targets)
    assert "with targets, seen in" in manager.report()
    manager.detach()


def agreement(model):
    """A loss with another of the model's own outputs first."""
    return lambda out: F.mse_loss(model(X + 0.1), out.detach()) + F.cross_entropy(out, Y)


def pseudo_labels(model):
    with torch.no_grad():
        labels = model(X + 0.1).argmax(1)
    return lambda out: F.cross_entropy(out, labels)


def greedy(model):
    """Labels of the model's own, in evaluation mode, by way of a list."""
    model.eval()
    with torch.no_grad():
        labels = model(X + 0.1).argmax(1).tolist()
    model.train()
    return lambda out: F.cross_entropy(out, torch.tensor(labels))


def replayed(model):
    buffer = torch.randn(6, 3)
    with torch.no_grad():
        buffer[:, :].copy_(model(X + 0.1))
    return lambda out: F.mse_loss(out, buffer)


def evaluated(model):
    model.eval()
    with torch.no_grad():
        labels = model(X + 0.1).argmax(1)
    model.train()
    return lambda out: F.cross_entropy(out, labels)


NOISE, OFFSET, OTHER = torch.randn(6, 3), torch.randn(6, 1), Y.roll(1)


@pytest.mark.parametrize(
    ("loss", "seen"),
    [
        (greedy, False),
        (replayed, False),
        (evaluated, False),
        (lambda model: lambda out: F.mse_loss(NOISE - out, torch.randn(6, 3)), False),
        (lambda model: lambda out: (((out - NOISE) - torch.randn(6, 3)) ** 2).mean(), False),
        (lambda model: lambda out: F.mse_loss(out[:, :1] - OFFSET, torch.randn(6, 1)), False),
        (
            lambda model: lambda out: F.l1_loss(out.softmax(1), torch.full((6, 3), 1 / 3)) + F.cross_entropy(out, Y),
            True,
        ),
        (lambda model: lambda out: F.mse_loss(out, NOISE) + F.cross_entropy(out, Y), True),
        (lambda model: lambda out: F.mse_loss(out, NOISE) + F.cross_entropy(out - out.detach(), Y), True),
        (lambda model: lambda out: -(torch.ones(6, 3) - out.sigmoid()).log().mean(), False),
        (lambda model: lambda out: F.cross_entropy(out, Y) + F.cross_entropy(out, Y.clone(), reduction="sum"), True),
        (lambda model: lambda out: 0.3 * F.cross_entropy(out, Y) + 0.7 * F.cross_entropy(out, OTHER), False),
        (lambda model: lambda out: F.mse_loss(out, NOISE) + F.mse_loss(out, 2 * NOISE), False),
        (lambda model: lambda out: F.cross_entropy(out - out.detach().max(1, keepdim=True).values, Y), True),
        (lambda model: lambda out: F.cross_entropy(out.sub(out.data.mean(1, keepdim=True).expand(6, 3)), Y), True),
        (lambda model: lambda out: F.cross_entropy(out - torch.arange(3.0), Y), True),
        (lambda model: lambda out: F.mse_loss(out, torch.stack([out.detach().argmax(1)] * 3, 1).float()), False),
        (lambda model: lambda out: F.mse_loss(out, out.detach()) + F.cross_entropy(out, Y), True),
        (lambda model: lambda out: (out - out.detach()).sum() + F.cross_entropy(out.log_softmax(1), Y), True),
        (lambda model: lambda out: (out.log_softmax(1) * torch.ones(6, 3)).sum(), False),
        (lambda model: lambda out: (out.log_softmax(1) * out.softmax(1)).sum() + F.cross_entropy(out, Y), True),
        (lambda model: lambda out: (out.log_softmax(1) * (1 + SOFT)).sum(), False),
        (
            lambda model: lambda out: -out.log_softmax(1).gather(1, out.detach().softmax(1).multinomial(1)).mean(),
            False,
        ),
        (agreement, False),
        (pseudo_labels, False),
    ],
)
def test_what_was_computed_from_an_output_is_no_target(loss, seen):
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = model(X)
    loss(model)(out).backward()
    optimizer.step()
    targets = manager.run.batches["train"].targets
    assert torch.equal(targets, Y) if seen else targets is None
    manager.detach()


def test_a_loss_that_cannot_be_seen_is_reported_with_what_to_pass():
    model = net()
    manager = attached(model)
    train(model, lambda out: out.square().mean(), X)
    assert manager.run.batches["train"].targets is None
    assert "without targets: pass batches={'train': (inputs, targets)}" in manager.report()
    manager.detach()


def test_labels_among_the_keyword_arguments_are_the_targets():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x=None, labels=None):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    model = Model()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x=X, labels=Y)["loss"].backward()
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, Y)
    assert "the argument 'labels' of the model" in manager.report()
    manager.detach()


class Mine(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        Mine.calls += 1
        return func(*args, **(kwargs or {}))


def test_targets_are_those_of_the_loss_though_the_loop_writes_over_them():
    model, labels = net(), Y.clone()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(X), labels).backward()
    labels.zero_()
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


def test_targets_that_are_all_alike_are_taken_where_there_are_no_others():
    model = net()
    manager = attached(model)
    train(model, lambda out: F.mse_loss(out, torch.ones(6, 3)), X)
    assert torch.equal(manager.run.batches["train"].targets, torch.ones(6, 3))
    manager.detach()


def test_labels_that_only_steer_the_model_are_no_targets():
    class Conditional(nn.Linear):
        def forward(self, x, labels):
            return super().forward(x) + labels[:, None]

    model = Conditional(4, 4)
    manager = attached(model)
    train(model, lambda out: F.mse_loss(out, X.flip(1)), X, labels=Y)
    assert torch.equal(manager.run.batches["train"].targets, X.flip(1))
    manager.detach()


COMPILED = {
    "loss": lambda: torch.compile(lambda out: F.cross_entropy(out, Y) + out.sum(), backend="eager", fullgraph=True),
    "difference": lambda: torch.compile(lambda out: (out - Y[:, None]).sin().mean(), backend="eager", fullgraph=True),
    "other model": lambda: (lambda other: lambda out: F.softplus(-other(out)).mean())(
        torch.compile(net(3, 1), backend="eager", fullgraph=True)
    ),
    "condition": lambda: lambda out: torch.cond(
        out.sum() > 0, lambda o: o.pow(2).mean(), lambda o: o.abs().mean(), (out,)
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
@pytest.mark.parametrize("what", COMPILED)
def test_what_is_compiled_after_the_forward_is_compiled_as_without_us(what):
    def losses(watched):
        torch._dynamo.reset(), torch._dynamo.utils.counters.clear()
        model, loss, seen = net(), COMPILED[what](), []
        manager = attached(model) if watched else None
        train(model, lambda out: (seen.append(value := loss(out)), value)[1], X, steps=3)
        if watched:
            manager.detach()
        return [value.item() for value in seen], dict(torch._dynamo.utils.counters["stats"])

    assert losses(True) == losses(False)
    assert not _get_current_function_mode_stack() and not torch._dynamo.callback_handler.start_callbacks


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_device_of_a_block_ends_with_it(device):
    model = net()
    manager = attached(model)
    with torch.device(device):
        loss = model(X).pow(2).mean()
    assert torch.zeros(1).device.type == "cpu"
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    manager.detach()
    assert torch.zeros(1).device.type == "cpu" and not _get_current_function_mode_stack()


def test_an_optimizer_that_steps_in_the_backward_pass_leaves_nothing_on_the_stack():
    model = net()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    manager = attached(model)
    for _ in range(3):
        F.cross_entropy(model(X), Y).backward()
    assert not _get_current_function_mode_stack() and not model._forward_pre_hooks
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


def test_a_forward_in_another_thread_leaves_nothing_on_its_stack():
    model, optimizer = net(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = attached(model)
    with ThreadPoolExecutor(1) as other:
        for _ in range(3):
            loss = other.submit(lambda: F.cross_entropy(model(X), Y)).result()
            loss.backward()
            optimizer.step()
        assert not other.submit(_get_current_function_mode_stack).result()
    assert not model._forward_pre_hooks
    manager.detach()


def test_where_no_step_comes_the_loop_is_watched_no_more():
    model = net()
    manager = attached(model)
    for _ in range(30):
        F.cross_entropy(model(X), Y).backward()
        model.zero_grad()
    assert not _get_current_function_mode_stack()
    manager.detach()


def test_a_users_function_modes_may_begin_and_end_anywhere():
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Mine() as outer:
        out = model(X)
        with Mine() as inner:
            assert _get_current_function_mode_stack()[-1] is inner
        assert _get_current_function_mode_stack()[-1] is outer
    with torch.device("cpu"):
        loss = F.cross_entropy(out, Y)
    loss.backward()
    optimizer.step()
    assert _get_current_function_mode_stack() == [] and torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()


def test_a_default_device_is_left_alone():
    model = net()
    manager = attached(model)
    with torch.device("cpu"):
        train(model, lambda out: F.cross_entropy(out, Y), X)
        assert torch.equal(manager.run.batches["train"].targets, Y)
    assert _get_current_function_mode_stack() == []
    manager.detach()


def test_targets_of_all_positions_in_one_row_are_put_back_to_their_sequences():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 5), nn.Linear(5, 7)

        def forward(self, ids):
            return self.out(self.embed(ids))

    model, ids = Language(), torch.arange(12).reshape(4, 3) % 7
    manager = attached(model)
    train(model, lambda out: F.cross_entropy(out.flatten(0, 1), ids.flatten()), ids)
    assert torch.equal(manager.run.batches["train"].targets, ids)
    manager.detach()


def test_an_output_that_is_gone_when_its_view_is_compared_is_known_by_its_shape():
    model, ids = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7)), torch.arange(12).reshape(4, 3) % 7
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(ids).reshape(-1, 7), ids.reshape(-1)).backward()  # nobody keeps what the model has returned
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, ids)
    manager.detach()


def test_a_transformer_in_eval_mode_computes_as_without_the_watch(monkeypatch):
    called, fast = [], torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: called.append(1) or fast(*args))
    teacher = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2).eval()
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = model(X)
    with torch.no_grad():
        teacher(X[:, None])
        assert called == [1, 1]
        with pytest.raises(RuntimeError):
            teacher(X[:, None, :3])  # of another size
    assert len(_get_current_function_mode_stack()) == 1  # it looks again
    F.cross_entropy(out, Y).backward()
    optimizer.step()
    assert torch.equal(manager.run.batches["train"].targets, Y)
    manager.detach()
    assert torch.overrides.has_torch_function is HAS_TORCH_FUNCTION


def test_what_an_encoder_makes_of_an_output_is_no_target():
    teacher = nn.TransformerEncoderLayer(3, 1, 8, batch_first=True).eval()
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = model(X)
    with torch.no_grad():
        made = teacher(out.detach()[:, None])[:, 0]
    F.mse_loss(out, made).backward()
    optimizer.step()
    assert manager.run.batches["train"].targets is None
    manager.detach()


def test_a_watch_on_another_thread_changes_nothing_there_and_leaves():
    model, encoder = net(), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    manager = attached(model)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(model, X).result()
        assert len(pool.submit(_get_current_function_mode_stack).result()) == 1
        manager.detach()
        pool.submit(encoder, X[:, None]).result()
        assert pool.submit(_get_current_function_mode_stack).result() == []
    assert torch.overrides.has_torch_function is HAS_TORCH_FUNCTION


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_attention_is_scripted_while_the_loss_is_watched():
    model, encoder = net(), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    manager = attached(model)
    model(X)
    scripted = torch.jit.script(encoder)
    assert torch.equal(scripted(X[:, None]), encoder(X[:, None]))
    manager.detach()


def test_a_script_may_have_a_has_torch_function_of_its_own(monkeypatch):
    model, asked = net(), []
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    manager = attached(model)
    model(X)
    there = torch.overrides.has_torch_function
    assert there is not HAS_TORCH_FUNCTION

    def counting(tensors):
        asked.append(1)
        return there(tensors)

    monkeypatch.setattr(torch.overrides, "has_torch_function", counting)
    train(model, lambda out: (encoder(X[:, None]), F.cross_entropy(out, Y))[1], X)
    encoder(X[:, None])
    assert asked and torch.overrides.has_torch_function is counting
    manager.detach()


def test_actions_that_come_back_as_numbers_are_no_targets():
    model = net()
    manager = attached(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        actions = [model(row[None]).softmax(1).multinomial(1).item() for row in X]
    (-model(X).log_softmax(1).gather(1, torch.LongTensor(actions)[:, None])).mean().backward()
    optimizer.step()
    assert manager.run.batches["train"].targets is None
    manager.detach()


@pytest.mark.parametrize(
    "fill", [lambda y: y.clamp(min=0), lambda y: torch.where(y < 0, 0, y), lambda y: y.masked_fill(y < 0, 0)]
)
@pytest.mark.parametrize("written_out", [False, True])
def test_labels_that_take_the_place_of_missing_ones_are_no_targets(fill, written_out):
    missing = torch.cat([torch.tensor([-1]), Y[1:]])

    def loss(out):
        labels = fill(missing)
        picked = -out.log_softmax(1).gather(1, labels[:, None])[:, 0]
        return ((picked if written_out else F.cross_entropy(out, labels, reduction="none")) * (missing >= 0)).sum()

    model = net()
    manager = attached(model)
    train(model, loss, X)
    assert manager.run.batches["train"].targets is None
    manager.detach()


def test_one_hot_labels_of_booleans_are_seen():
    model = net()
    manager = attached(model)
    train(model, lambda out: -(out.log_softmax(1) * (Y[:, None] == torch.arange(3))).sum(1).mean(), X)
    assert torch.equal(manager.run.batches["train"].targets, F.one_hot(Y, 3).float())
    manager.detach()
