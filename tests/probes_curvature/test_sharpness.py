"""Sharpness along directions, of mini-batches and under perturbations, beside closed forms; and up to which an
optimizer is stable, beside runs of it on a quadratic."""

import math

import pytest
import torch
from curvature_matrices import diagonal, explicit
from torch import nn
from torch.nn import functional as F

from probes.measurement import CannotMeasure
from probes_curvature import (
    Objective,
    adaptive_sharpness,
    batch_sharpness,
    critical_sharpness,
    critical_sharpness_of,
    directional_sharpness,
    hessian_eigenvalues,
    last_update,
    pac_bayes_sharpness,
    stability,
)


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += not torch.is_grad_enabled()
        return self.model(x)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("rate", [None, 1e-3, 10.0])
def test_of_a_quadratic_it_is_the_curvature_along_the_gradient(scale, rate):
    torch.manual_seed(0)
    values = torch.rand(20).double() * scale
    model, loss, inputs, targets = diagonal(values)
    counted = Counted(model)
    found = critical_sharpness(counted, loss, inputs, targets, learning_rate=rate)
    weights = model.weight.detach()[0]
    gradient = values * weights
    expected = float((values * gradient.square()).sum() / gradient.square().sum())
    if math.isfinite(found.standard_error):
        assert abs(found.value - expected) <= found.standard_error <= 0.05 * expected + 1e-9 * scale
    else:  # the first trial was too far from it for ten
        assert scale != 1.0
    assert found.forward_passes <= 10 and counted.calls <= 11  # and one that looks at what graphs hold


@pytest.mark.parametrize("rate", [1e-12, 1e-5])
def test_it_is_found_from_a_learning_rate_that_is_far_too_small(rate):
    torch.manual_seed(0)
    model, *given = diagonal(torch.rand(20).double())
    found, usual = critical_sharpness(model, *given, learning_rate=rate), critical_sharpness(model, *given)
    assert abs(found.value - usual.value) <= found.standard_error + usual.standard_error < 0.2 * usual.value


def test_along_an_eigenvector_it_is_the_eigenvalue(tanh):
    model, inputs, targets = tanh
    objective = Objective(model, F.cross_entropy, inputs, targets)
    values = torch.tensor([5.0, 1.0, 0.2])
    model, *given = diagonal(values)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    found = critical_sharpness(model, *given)
    top = hessian_eigenvalues(model, *given, 1)
    assert abs(found.value - float(top.values[0])) <= found.standard_error <= 0.25
    assert critical_sharpness_of(objective, objective.gradient()).value > 0


def test_a_loss_that_never_rises_has_none():
    line = nn.Linear(1, 1, bias=False)
    found = critical_sharpness(line, lambda f, y: f.mean(), torch.ones(1, 1), torch.ones(1, 1))
    assert found.value == 0 and found.standard_error == math.inf


def test_against_the_gradient_it_is_not_a_number(tanh):
    objective = Objective(tanh[0], F.cross_entropy, *tanh[1:])
    found = critical_sharpness_of(objective, -objective.gradient())
    assert math.isnan(found.value) and found.standard_error == math.inf
    assert math.isnan(critical_sharpness_of(objective, torch.zeros(objective.size)).value)


def test_against_the_gradient_rounding_is_no_fall():
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
        objective = Objective(model, F.cross_entropy, torch.randn(30, 6), torch.randint(0, 3, (30,)))
        found = critical_sharpness_of(objective, -objective.gradient())
        assert math.isnan(found.value) and math.isinf(found.standard_error)


def test_a_loss_that_overflows_has_risen():
    line = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        line.weight.fill_(1.0)
    found = critical_sharpness(
        line, lambda f, y: (f.square() * 50).exp().mean() / 1e20, torch.ones(1, 1), torch.ones(1)
    )
    assert found.value > 0


@pytest.mark.parametrize("kind", ["tanh", "quadratic"])
def test_along_a_direction_it_is_that_of_the_hessian(tanh, kind):
    model, inputs, targets = tanh
    given = (model, F.cross_entropy, inputs, targets) if kind == "tanh" else diagonal([3.0, -1.0, 0.5])
    objective = Objective(*given)
    way = torch.randn(objective.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = float(way @ explicit(*given)[0] @ way / way.square().sum())
    found = directional_sharpness(objective, way)
    assert abs(found.value - expected) <= 2 * found.standard_error
    assert found.standard_error <= 1e-3 * abs(expected)


def test_mini_batches_have_the_sharpness_of_their_own_gradients(tanh):
    model, inputs, targets = tanh
    objective = Objective(model, F.cross_entropy, inputs, targets)
    found = batch_sharpness(objective, 5, batches=400, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(7)
    above = below = 0.0
    for _ in range(400):
        rows = torch.randperm(12, generator=generator)[:5]
        whole, _ = explicit(model, F.cross_entropy, inputs[rows], targets[rows])
        value = F.cross_entropy(model(inputs[rows]), targets[rows])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])
        above += float(gradient @ whole @ gradient)
        below += float(gradient @ gradient)
    assert abs(found.value - above / below) <= 4 * found.standard_error < 0.2 * found.value
    whole, _ = explicit(model, F.cross_entropy, inputs, targets)
    gradient = objective.gradient()
    all_of_them = batch_sharpness(objective, 12, batches=2)
    assert all_of_them.value == pytest.approx(float(gradient @ whole @ gradient / gradient.square().sum()))
    assert all_of_them.standard_error < 1e-9


def test_adaptive_sharpness_does_not_see_the_scale_of_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    batch = torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    before = adaptive_sharpness(Objective(model, F.cross_entropy, *batch), 0.1)
    plain = hessian_eigenvalues(model, F.cross_entropy, *batch, 1).values
    with torch.no_grad():
        model[0].weight *= 10
        model[2].weight /= 10
    assert adaptive_sharpness(Objective(model, F.cross_entropy, *batch), 0.1) == pytest.approx(before)
    assert not torch.allclose(hessian_eigenvalues(model, F.cross_entropy, *batch, 1).values, plain, rtol=0.5)


@pytest.mark.parametrize("magnitude_aware", [False, True])
def test_pac_bayes_sharpness_of_a_quadratic(magnitude_aware):
    torch.manual_seed(0)
    values = torch.rand(200).double() + 0.1
    model, *given = diagonal(values)
    objective = Objective(model, *given)
    weights = model.weight.detach()[0].square() if magnitude_aware else torch.ones(200)
    expected = float((values * weights).sum()) / (2 * 0.1)
    found = pac_bayes_sharpness(objective, magnitude_aware=magnitude_aware, draws=40)
    assert abs(found.value - expected) <= 3 * found.standard_error < 0.5 * expected


def test_bad_settings_are_named(tanh):
    objective = Objective(tanh[0], F.cross_entropy, *tanh[1:])
    for call, message in (
        (lambda: critical_sharpness_of(objective, torch.ones(3)), r"`direction` must have shape \(51,\)"),
        (lambda: critical_sharpness_of(objective, objective.gradient(), forward_passes=2), "`forward_passes`"),
        (lambda: critical_sharpness_of(objective, objective.gradient(), learning_rate=0.0), "`learning_rate`"),
        (lambda: batch_sharpness(objective, 13), "from 1 to the 12 examples, got 13"),
        (lambda: batch_sharpness(objective, 3, batches=1), "`batches`"),
        (lambda: adaptive_sharpness(objective, 0), "`rho` must be positive"),
        (lambda: pac_bayes_sharpness(objective, rise=0), "`rise` must be positive"),
        (lambda: pac_bayes_sharpness(objective, draws=1.5), "`draws` must be an integer"),
        (lambda: adaptive_sharpness(objective, "a"), "`rho` must be a positive number, got 'a'"),
        (
            lambda: critical_sharpness_of(objective, [1.0] * 51),
            "`direction` must be a real tensor of shape .51,., got list",
        ),
        (lambda: pac_bayes_sharpness(objective, generator=3), "`generator` must be a torch.Generator or None, got 3"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


OPTIMIZERS = {
    "gradient descent": lambda w, lr: torch.optim.SGD(w, lr=lr),
    "decayed": lambda w, lr: torch.optim.SGD(w, lr=lr, weight_decay=0.7),
    "momentum": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9),
    "dampened": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9, dampening=0.5),
    "Nesterov": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9, nesterov=True),
    "Adam": lambda w, lr: torch.optim.Adam(w, lr=lr, betas=(0.9, 1 - 1e-12)),
    "RMSprop": lambda w, lr: torch.optim.RMSprop(w, lr=lr, alpha=1 - 1e-12),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_an_optimizer_is_stable_up_to_the_threshold(name, factor):
    """On h w^2 / 2: it comes to rest below, and runs away above. The squares that Adam divides by are held still."""
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([w], 0.1)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    held = 4.0
    state = optimizer.state[w]
    for key in ("exp_avg_sq", "square_avg"):
        if key in state:
            # As if many steps had been made: what corrects the start is over.
            state[key].fill_(held * (1e-12 * 1000 if key == "exp_avg_sq" else 1))
            if "step" in state:
                state["step"].fill_(1000.0)
    found = stability([optimizer], {"w": w})
    scale = 1.0 if found.preconditioner is None else float(found.preconditioner["w"])
    if name in ("Adam", "RMSprop"):
        assert scale == pytest.approx(2.0, rel=1e-3)
    h = factor * found.threshold * scale
    with torch.no_grad():
        w.fill_(1e-3)
    for _ in range(1500):
        if "exp_avg_sq" in state:
            state["exp_avg_sq"].fill_(held * (1 - (1 - 1e-12) ** (float(state["step"]) + 1)))
        if "square_avg" in state:
            state["square_avg"].fill_(held)
        w.grad = h * w.detach()
        optimizer.step()
    assert (abs(w.item()) < 1e-3) == (factor < 1)


def test_several_learning_rates_are_a_preconditioner():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.4}])
    found = stability([optimizer], {"a": a, "b": b})
    assert found.threshold == 20 and found.preconditioner["b"].tolist() == [0.25] * 3
    assert found.preconditioner["a"].tolist() == [1.0, 1.0]


def test_a_parameter_without_a_gradient_has_no_curvature():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([used, unused])
    used.grad = torch.ones(2)
    optimizer.step()
    found = stability([optimizer], {"used": used, "unused": unused})
    assert found.preconditioner["unused"].tolist() == [1.0] * 3
    assert last_update([optimizer], {"used": used, "unused": unused})["unused"].tolist() == [0.0] * 3


def test_weight_decays_that_differ_are_left_out():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    for decays in ((5.0, 0.0), (0.0, 5.0)):
        groups = [{"params": [p], "weight_decay": d} for p, d in zip((a, b), decays, strict=True)]
        found = stability([torch.optim.SGD(groups, lr=0.1)], {"a": a, "b": b})
        assert found[:2] == (20.0, "2 / lr, without the weight decay")


def test_a_weight_decay_that_is_not_taken_off_is_told_of():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 10.0}]
    assert stability([torch.optim.SGD(groups, weight_decay=0.15)], {"a": a, "b": b})[:2] == (
        20.0,
        "2 / lr, without the weight decay",
    )
    for kind, words in (
        (torch.optim.RMSprop, "2 / lr, without the weight decay"),
        (torch.optim.Adam, "38 / lr, without the weight decay"),
        (torch.optim.AdamW, "38 / lr"),  # its decay is no part of the gradient
    ):
        assert stability([kind([a], weight_decay=15.0)], {"a": a}).words == words


def test_an_update_is_known_of_all_parameters_or_not_at_all():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    a.grad, b.grad = torch.ones(2), torch.ones(3)
    for other in ({"momentum": 0.0}, {"momentum": 0.9, "nesterov": True}):
        optimizer = torch.optim.SGD([{"params": [a], "momentum": 0.9}, {"params": [b], **other}], lr=0.1)
        optimizer.step()
        assert last_update([optimizer], {"a": a, "b": b}) is None
        assert last_update([optimizer], {"a": a})["a"].tolist() == [1.0, 1.0]


def test_nothing_is_known_of_another_optimizer_of_the_same_name():
    class Adam(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

    w = nn.Parameter(torch.ones(2))
    assert stability([Adam([w])], {"w": w}) is None and last_update([Adam([w])], {"w": w}) is None


def test_what_is_not_known_has_no_threshold():
    w = nn.Parameter(torch.ones(2))
    assert stability([], {"w": w}) is None
    assert stability([torch.optim.Adagrad([w])], {"w": w}) is None
    assert stability([torch.optim.SGD([w], lr=0.0)], {"w": w}) is None
    assert stability([torch.optim.SGD([w], lr=0.1, maximize=True)], {"w": w}) is None
    assert stability([torch.optim.Adam([w])], {"w": w})[1:] == ("38 / lr", None, True)  # before its first step
    assert stability([torch.optim.SGD([w], lr=0.1, momentum=0.9, dampening=1.0)], {"w": w}) is None
    other = nn.Parameter(torch.ones(2))
    assert stability([torch.optim.SGD([other], lr=0.1)], {"w": w}) is None


@pytest.mark.parametrize(
    "made",
    [
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9),
        lambda w: torch.optim.Adam(w, lr=0.1),
        lambda w: torch.optim.AdamW(w, lr=0.1, weight_decay=0.0),
    ],
)
def test_the_last_update_is_what_the_parameters_moved_by(made):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = made([w])
    for _ in range(4):
        before = w.detach().clone()
        w.grad = torch.randn_like(w)
        optimizer.step()
    torch.testing.assert_close(-0.1 * last_update([optimizer], {"w": w})["w"], w.detach() - before)
    assert last_update([torch.optim.SGD([w], lr=0.1)], {"w": w}) is None


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda model, x: nn.DataParallel(model), "got DataParallel. Pass what was given to DataParallel"),
        (torch.jit.trace, "Pass what was given to torch.jit"),
    ],
)
def test_models_that_cannot_be_called_at_other_weights_are_named(tanh, wrap, message):
    model, *batch = tanh
    with pytest.raises(CannotMeasure, match=message):
        critical_sharpness(wrap(model, batch[0]), F.cross_entropy, *batch)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_mini_batches_whose_squares_leave_single_precision(tanh, scale):
    model, *batch = tanh
    model.float(), batch[0].float()
    plain, scaled = (
        batch_sharpness(Objective(model, loss, batch[0].float(), batch[1]), 4).value
        for loss in (F.cross_entropy, lambda f, y: scale * F.cross_entropy(f, y))
    )
    assert scaled / scale == pytest.approx(plain, rel=1e-3)
