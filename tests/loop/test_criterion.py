"""The loss of the loop, seen as a function: the loop's own numbers, on other rows too, and from a checkpoint."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import Measurement, Probe, ProbeManager, at
from probes.loop.criterion import Criterion

X, Y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
TOKENS = torch.arange(24).reshape(4, 6) % 7
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)


class Seen(Probe):
    name = "seen"
    criterion = value = None

    def measure(self, run, step):
        self.criterion, self.batch = run.criterion, run.batch("train")
        if run.criterion is not None:
            self.value = float(run.criterion(run.evaluate("train"), self.batch.targets))
        yield Measurement("seen/once", 1.0, unit="1", description="once")


def trained(model, inputs, loss, tmp_path, state=None):
    """One step of a loop; what a probe saw, the loop's own loss and the state after it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probe = Seen(at([1, 2]))
    manager = ProbeManager(model, [probe], log_dir=tmp_path, sinks=[], overhead=None, on_error="raise", quiet=True)
    if state is not None:
        manager.load_state_dict(state)
    with manager.attach(optimizer):
        optimizer.zero_grad()
        value = loss(model(inputs))
        value.backward()
        optimizer.step()
        state = manager.state_dict()
    return probe, value.item(), state


def network(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, outputs))


def language():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))


CASES = {
    "weighted module": (lambda: network(3), X, lambda out: WEIGHTED(out, Y), "cross_entropy(label_smoothing=0.1)"),
    "two functions": (lambda: network(3), X, lambda out: F.nll_loss(F.log_softmax(out, -1), Y), "nll_loss()"),
    "view": (
        lambda: network(1),
        X,
        lambda out: F.binary_cross_entropy_with_logits(out[:, 0], (Y > 0).float()),
        "binary_cross_entropy_with_logits()",
    ),
    "sum": (
        lambda: network(3), X, lambda out: F.mse_loss(out, F.one_hot(Y, 3).float(), reduction="sum"),
        "mse_loss(reduction=sum)",
    ),
    "flat tokens": (
        language, TOKENS, lambda out: F.cross_entropy(out.view(-1, 7), TOKENS.view(-1), ignore_index=3),
        "cross_entropy(ignore_index=3)",
    ),
    "turned tokens": (language, TOKENS, lambda out: F.cross_entropy(out.transpose(1, 2), TOKENS), "cross_entropy()"),
    "half": (
        lambda: network(1), X, lambda out: nn.HuberLoss()(out.float().squeeze(-1), Y.float()), "huber_loss()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_the_loop_computed(name, tmp_path):
    build, inputs, loss, words = CASES[name]
    probe, value, state = trained(build(), inputs, loss, tmp_path)
    assert probe.value == pytest.approx(value, rel=1e-6)
    assert str(probe.criterion) == words
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    # Of the first loop, though the resumed one has another.
    kept = torch.load(file, weights_only=True)
    again, _, _ = trained(build(), inputs, lambda out: out.square().mean(), tmp_path, kept)
    assert again.value == pytest.approx(value, rel=1e-6) and str(again.criterion) == words


@pytest.mark.parametrize("name", ["weighted module", "two functions", "view", "flat tokens"])
def test_it_takes_other_rows(name, tmp_path):
    build, inputs, loss, _ = CASES[name]
    probe, _, _ = trained(build(), inputs, loss, tmp_path)
    model, rows = build(), torch.tensor([1, 3])
    part = probe.batch.select(rows)
    assert torch.isfinite(probe.criterion(model(*part.args), part.targets))


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: (out - F.one_hot(Y, 3)).square().mean(),
        lambda out: out.square().mean(),
        lambda out: F.cross_entropy((out - 1) * 2, Y),
        lambda out: F.cross_entropy(out, Y, reduction="none").sum(),
        lambda out: F.cross_entropy(out, Y) + 0.1 * out.square().mean(),
        lambda out: 10 * F.cross_entropy(out, Y),
        lambda out: F.cross_entropy(out.float().mul_(2.0), Y),
        lambda out: F.gaussian_nll_loss(out[:, 0], Y.float(), out[:, 1].exp()),
    ],
    ids=["difference", "no targets", "computed", "own sum", "penalty", "scaled", "in place", "two outputs"],
)
def test_what_is_not_one_function_is_not_seen(loss, tmp_path):
    probe, _, state = trained(network(3), X, loss, tmp_path)
    assert probe.criterion is None and state["criterion"] is None


def divided(loss, count):
    loss /= count
    return loss


@pytest.mark.parametrize(
    ("divide", "scaler", "seen"),
    [
        (lambda loss: loss / 4, False, True),
        (lambda loss: 0.25 * loss, False, True),
        (lambda loss: divided(loss, 4), False, True),
        (lambda loss: loss / 4, True, True),
        (lambda loss: loss / 2, False, False),
        (lambda loss: loss, True, True),  # their sum: the loss of each
        (lambda loss: loss / torch.tensor(4.0), False, False),  # a number that may be another one at each step
    ],
)
def test_of_accumulated_batches_each_is_divided_by_their_number(divide, scaler, seen, tmp_path):
    model = network(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probe = Seen(at([1]))
    scaler = torch.amp.GradScaler("cpu", enabled=scaler)
    manager = ProbeManager(model, [probe], log_dir=tmp_path, sinks=[], overhead=None, on_error="raise", quiet=True)
    with manager.attach(optimizer):
        for _ in range(4):
            scaler.scale(divide(F.cross_entropy(model(X), Y, label_smoothing=0.1))).backward()
        scaler.step(optimizer)
    assert (str(probe.criterion) == "cross_entropy(label_smoothing=0.1)") == seen


def test_a_gradient_scaler_does_not_hide_it(tmp_path):
    scaler = torch.amp.GradScaler("cpu")
    probe, _, _ = trained(network(3), X, lambda out: scaler.scale(WEIGHTED(out, Y)), tmp_path)
    assert str(probe.criterion) == "cross_entropy(label_smoothing=0.1)"


def test_of_several_it_is_the_one_that_is_trained(tmp_path):
    def loss(out):
        with torch.no_grad():
            F.cross_entropy(out, Y)  # to be logged
        trained = WEIGHTED(out, Y)
        F.multi_margin_loss(out, Y)
        return trained

    probe, value, _ = trained(network(3), X, loss, tmp_path)
    assert str(probe.criterion) == "cross_entropy(label_smoothing=0.1)" and probe.value == pytest.approx(value)


def test_of_two_that_are_trained_apart_neither_is_the_loss(tmp_path):
    def loss(out):
        F.cross_entropy(out, Y).backward(retain_graph=True)
        return F.cross_entropy(out, Y, label_smoothing=0.5)

    probe, _, _ = trained(network(3), X, loss, tmp_path)
    assert probe.batch.targets is not None and probe.criterion is None


def test_an_argument_that_cannot_be_kept_leaves_it_unseen(tmp_path):
    class Odd(int):
        pass

    probe, _, _ = trained(network(3), X, lambda out: F.cross_entropy(out, Y, ignore_index=Odd(-100)), tmp_path)
    assert probe.batch.targets is not None and probe.criterion is None


def test_labels_that_the_loss_ignores_are_those_that_losses_ignore_by_default(tmp_path):
    labels = Y.clone()
    labels[::4] = 255
    loss = lambda out: F.cross_entropy(out, labels, ignore_index=255)  # noqa: E731
    probe, value, state = trained(network(3), X, loss, tmp_path / "a")
    assert torch.equal(probe.batch.targets, torch.where(labels == 255, -100, labels)) and probe.value == value
    resumed, value, _ = trained(network(3), X, loss, tmp_path / "b", state)
    assert torch.equal(resumed.batch.targets, probe.batch.targets) and resumed.value == value


def test_tensors_are_copies(tmp_path):
    weight = torch.ones(3)
    probe, _, _ = trained(network(3), X, lambda out: F.cross_entropy(out, Y, weight), tmp_path)
    before = probe.criterion(X[:, :3], Y)
    weight.zero_()
    assert torch.equal(probe.criterion(X[:, :3], Y), before)
    assert isinstance(Criterion.of_state(probe.criterion.state()), Criterion)
