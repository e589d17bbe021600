"""The Fisher-Rao norm, against gradients of single examples and against the theorem for networks without biases."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes.measurement import CannotMeasure
from probes_complexity.fisher_rao import fisher_rao_norm


def naive(model, inputs, likelihood, loss):
    """The root of the mean squared product of parameters and gradient: one example and one label at a time.

    ``likelihood`` gives the labels of an example and their probabilities.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = 0.0
    for i, x in enumerate(inputs):
        f = model(x[None])[0]
        for label, probability in likelihood(f.detach(), i):
            gradients = torch.autograd.grad(loss(f, label), parameters, retain_graph=True, allow_unused=True)
            products = [
                float((g * p).sum().detach()) for g, p in zip(gradients, parameters, strict=True) if g is not None
            ]
            total += probability * math.fsum(products) ** 2
    return math.sqrt(total / len(inputs))


def draw(*layers, n=6, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double().eval(), torch.randn(n, 4, dtype=torch.float64)


def convolutional():
    return draw(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(),
        nn.Linear(36, 3),
    )  # fmt: skip


def cross_entropy(f, label):
    return F.cross_entropy(f[None], torch.tensor([label]))


def all_classes(f, i):
    return enumerate(f.softmax(0).tolist())


@pytest.mark.parametrize("make", [lambda: draw(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), convolutional])
def test_cross_entropy_matches_gradients_of_single_examples(make):
    model, x = make()
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    expected = naive(model, x, all_classes, cross_entropy)
    found = fisher_rao_norm(model, x)
    assert float(found) == pytest.approx(expected, rel=1e-10) and found.dtype == torch.float64
    expected = naive(model, x, lambda f, i: [(int(labels[i]), 1.0)], cross_entropy)
    assert float(fisher_rao_norm(model, x, labels)) == pytest.approx(expected, rel=1e-10)


def test_one_output_is_a_logit_of_two_classes():
    model, x = draw(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    labels = torch.tensor([0, 1, 1, 0, 1, 1])

    def loss(f, label):
        return F.binary_cross_entropy_with_logits(f[0], torch.tensor(float(label), dtype=torch.float64))

    def both(f, i):
        p = float(f.sigmoid())
        return [(0, 1 - p), (1, p)]

    assert float(fisher_rao_norm(model, x)) == pytest.approx(naive(model, x, both, loss), rel=1e-10)
    expected = naive(model, x, lambda f, i: [(int(labels[i]), 1.0)], loss)
    for targets in (labels, 2 * labels - 1, labels[:, None].double()):
        assert float(fisher_rao_norm(model, x, targets)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("outputs", [1, 3])
def test_square_loss_matches_gradients_of_single_examples(outputs):
    model, x = draw(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    y = torch.randn(6, outputs, dtype=torch.float64)
    expected = naive(model, x, lambda f, i: [(y[i], 1.0)], lambda f, label: (f - label).square().sum() / 2)
    assert float(fisher_rao_norm(model, x, y, loss="square")) == pytest.approx(expected, rel=1e-10)
    if outputs == 1:
        assert float(fisher_rao_norm(model, x, y[:, 0], loss="square")) == pytest.approx(expected, rel=1e-10)
    # Labels f + noise of variance one: <theta, gradient> = <noise, J theta>, of variance |J theta|^2.
    units = [
        naive(model, x, lambda f, i, a=a: [(f - torch.eye(outputs)[a], 1.0)], lambda f, y: (f - y).square().sum() / 2)
        for a in range(outputs)
    ]
    expected = math.sqrt(math.fsum(unit**2 for unit in units))
    assert float(fisher_rao_norm(model, x, loss="square")) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_networks_without_biases_have_the_norm_of_the_theorem(hidden):
    """(L + 1)^2 E <dl/df, f>^2, with L hidden layers of ReLU."""
    layers = [layer for _ in range(hidden) for layer in (nn.Linear(4, 4, bias=False), nn.ReLU())]
    model, x = draw(*layers, nn.Linear(4, 3, bias=False))
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    with torch.no_grad():
        f = model(x)
    p = f.softmax(1)
    residuals = p - F.one_hot(labels, 3)
    expected = (hidden + 1) * (residuals * f).sum(1).square().mean().sqrt()
    assert float(fisher_rao_norm(model, x, labels)) == pytest.approx(float(expected), rel=1e-10)
    expected = (hidden + 1) * sum(p[:, y] * ((p - torch.eye(3)[y]) * f).sum(1).square() for y in range(3)).mean().sqrt()
    assert float(fisher_rao_norm(model, x)) == pytest.approx(float(expected), rel=1e-10)


def test_the_norm_is_invariant_to_rescaling_of_units():
    model, x = draw(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    before = float(fisher_rao_norm(model, x))
    with torch.no_grad():
        model[0].weight.mul_(7), model[2].weight.div_(7)
    assert float(fisher_rao_norm(model, x)) == pytest.approx(before, rel=1e-10)


def test_only_trainable_parameters_count():
    model, x = draw(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    assert float(fisher_rao_norm(model, x)) == pytest.approx(naive(model, x, all_classes, cross_entropy), rel=1e-10)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.rnn = nn.GRU(8, 4, batch_first=True)
        self.spare, self.head = nn.Linear(3, 3), nn.Linear(4, 3)

    def forward(self, tokens):
        return {"logits": self.head(self.rnn(self.layer(self.embed(tokens)))[0][:, -1])}


def test_attention_and_recurrence_are_differentiated_and_nothing_is_left_behind():
    torch.manual_seed(0)
    model = Attention().double().eval()
    tokens = torch.randint(7, (4, 5))
    found = fisher_rao_norm(model, tokens)
    twin = copy.deepcopy(model)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = twin

        def forward(self, tokens):
            return self.inner(tokens)["logits"]

    assert float(found) == pytest.approx(naive(Logits(), tokens, all_classes, cross_entropy), rel=1e-9)
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_is_computed_in_float32():
    model, x = draw(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    expected = float(fisher_rao_norm(model.half().double(), x.half().double()))
    assert float(fisher_rao_norm(model.half(), x.half())) == pytest.approx(expected, rel=1e-5)


def test_refused():
    model, x = draw(nn.Linear(4, 3), nn.Dropout())
    with pytest.raises(ValueError, match="'cross_entropy', 'square', got 'hinge'"):
        fisher_rao_norm(model, x, loss="hinge")
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        fisher_rao_norm(model, x, torch.full((6,), 3))
    with pytest.raises(ValueError, match=r"shape of the outputs, \(6, 3\), got \(6,\)"):
        fisher_rao_norm(model, x, torch.zeros(6), loss="square")
    with pytest.raises(ValueError, match="dropout in training mode"):
        fisher_rao_norm(model.train(), x)
    with pytest.raises(ValueError, match="no trainable parameter"):
        fisher_rao_norm(model.eval().requires_grad_(False), x)


def test_an_operation_without_a_second_derivative_is_named():
    model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3))
    with pytest.raises(CannotMeasure, match=r"Fisher-Rao norm needs a derivative of the gradient.*_embedding_bag"):
        fisher_rao_norm(model, torch.randint(9, (5, 3)))
