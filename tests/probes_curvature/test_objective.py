"""Products with the Hessian and the Gauss-Newton matrix beside the matrices, and what is left behind: nothing."""

import pytest
import torch
from curvature_matrices import explicit
from probes_ntk_models import models
from torch import nn
from torch.nn import functional as F

from probes import CannotMeasure
from probes_curvature import Objective, hessian_eigenvalues
from probes_ntk import KernelOperator

MODELS = {name: made for name, made in models().items() if name != "embedding_bag"}


def made(name):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model = build().double().eval()
    inputs = inputs if isinstance(inputs, torch.Tensor) else torch.randn(inputs, dtype=torch.float64)
    return model, inputs, torch.arange(len(inputs)) % 2


def by_rows(model, loss, inputs, targets):
    """The Hessian by plain double backward, a row at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        value = loss(model(inputs), targets)
        gradient = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    flat = torch.cat([part.reshape(-1) for part in gradient])
    rows = []
    for entry in flat:
        if not entry.requires_grad:
            rows.append(torch.zeros_like(flat))
            continue
        parts = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("name", MODELS)
def test_a_product_is_that_with_the_hessian(name):
    model, inputs, targets = made(name)
    if name == "weight_norm":
        with pytest.raises(CannotMeasure, match="weight norm, of which torch's is wrong"):
            Objective(model, F.cross_entropy, inputs, targets).hessian_product(torch.ones(30))
        assert torch.isfinite(Objective(model, F.cross_entropy, inputs, targets).gradient()).all()
        return
    if sum(p.numel() for p in model.parameters()) > 3000:
        pytest.skip("too large to be formed")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vector = None
    for memory in (1e9, 1.0):  # of all examples at once, and one by one
        objective = Objective(model, F.cross_entropy, inputs, targets, memory=memory)
        vector = torch.randn(objective.size, dtype=torch.float64) if vector is None else vector
        try:
            expected = by_rows(model, F.cross_entropy, inputs, targets) @ vector
        except RuntimeError as error:
            pytest.skip(f"has no second derivatives: {error}")
        found = objective.hessian_product(vector)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * float(expected.norm()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.2),
        lambda f, y: F.mse_loss(f, F.one_hot(y, 3).double()),
        lambda f, y: (f[:, 0] * f[:, 1]).mean(),
        lambda f, y: f.logsumexp((0, 1)),  # not a sum over the examples
    ],
    ids=["cross-entropy", "smoothed sum", "squares", "saddle", "of all"],
)
@pytest.mark.parametrize("memory", [1e9, 5000.0])
def test_both_matrices_of_any_loss(tanh, loss, memory):
    model, inputs, targets = tanh
    whole, gauss_newton = explicit(model, loss, inputs, targets)
    objective = Objective(model, loss, inputs, targets, memory=memory)
    assert len(objective._places) == (1 if memory == 1e9 else len(objective._places)) and objective.size == len(whole)
    vector = torch.randn(objective.size, dtype=torch.float64)
    torch.testing.assert_close(objective.hessian_product(vector), whole @ vector, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(objective.ggn_product(vector), gauss_newton @ vector, rtol=1e-10, atol=1e-10)
    value = loss(model(inputs), targets)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(objective.gradient(), gradient)
    assert objective.value() == pytest.approx(value.item())


def test_examples_go_in_pieces_where_memory_is_short(tanh):
    assert len(Objective(tanh[0], F.cross_entropy, *tanh[1:], memory=1.0)._places) == len(tanh[1])


def test_frozen_parameters_are_no_part_of_it(tanh):
    model, inputs, targets = tanh
    model[0].requires_grad_(False)
    objective = Objective(model, F.cross_entropy, inputs, targets)
    assert list(objective.parameters) == ["2.weight", "2.bias"] and objective.size == 21
    whole, _ = explicit(model, F.cross_entropy, inputs, targets)
    vector = torch.randn(21, dtype=torch.float64)
    torch.testing.assert_close(objective.hessian_product(vector), whole @ vector)


def test_a_layer_is_a_block(tanh):
    model, inputs, targets = tanh
    whole, _ = explicit(model, F.cross_entropy, inputs, targets)
    objective = Objective(model, F.cross_entropy, inputs, targets, parameters=["2.weight"])
    vector = torch.randn(18, dtype=torch.float64)
    torch.testing.assert_close(objective.hessian_product(vector), whole[30:48, 30:48] @ vector)


def test_half_precision_is_computed_in_single(tanh):
    model, inputs, targets = tanh
    model = model.bfloat16()
    single = hessian_eigenvalues(model.float(), F.cross_entropy, inputs.bfloat16().float(), targets, 2)
    model.bfloat16()
    found = hessian_eigenvalues(model, F.cross_entropy, inputs.bfloat16(), targets, 2)
    assert model[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(found.values, single.values, rtol=1e-4, atol=0)


@pytest.mark.parametrize("memory", [1e9, 1e4])
def test_parameters_may_be_of_several_precisions(memory):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.head = nn.Linear(3, 4).double(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.tanh(self.wide(x.double())).float())

    torch.manual_seed(0)
    model, x, y = Mixed().eval(), torch.randn(20, 3), torch.arange(20) % 2
    mixed = Objective(model, F.cross_entropy, x, y, memory=memory)
    exact = Objective(nn.Sequential(model.wide, nn.Tanh(), nn.Linear(4, 2).double()), F.cross_entropy, x.double(), y)
    exact.call.model[2].load_state_dict(model.head.state_dict())
    direction = torch.randn(mixed.size, dtype=torch.float64)
    for name in ("hessian_product", "ggn_product"):
        found, expected = (getattr(each, name)(direction) for each in (mixed, exact))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixed.gradient(), exact.gradient(), rtol=1e-5, atol=1e-6)
    assert mixed.value_at(direction, 0.1) == pytest.approx(exact.value_at(direction, 0.1), rel=1e-5)


def test_the_loss_elsewhere(tanh):
    model, inputs, targets = tanh
    objective = Objective(model, F.cross_entropy, inputs, targets)
    way = torch.randn(objective.size, dtype=torch.float64)
    found = objective.value_at(way, 0.3)
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(start + 0.3 * way, model.parameters())
    assert found == pytest.approx(F.cross_entropy(model(inputs), targets).item(), rel=1e-12)
    nn.utils.vector_to_parameters(start, model.parameters())


def test_some_of_the_examples(tanh):
    model, inputs, targets = tanh
    rows = torch.tensor([1, 4, 5])
    part = Objective(model, F.cross_entropy, inputs, targets).subset(rows)
    alone = Objective(model, F.cross_entropy, inputs[rows], targets[rows])
    torch.testing.assert_close(part.gradient(), alone.gradient())
    assert part.value() == pytest.approx(alone.value())
    few = Objective(model, F.cross_entropy, inputs, targets, memory=1.0).subset(rows)
    assert len(few._places) == 3
    torch.testing.assert_close(few.gradient(), alone.gradient())


def test_targets_may_be_none_or_several(tanh):
    model, inputs, targets = tanh
    plain = Objective(model, F.cross_entropy, inputs, targets)
    several = Objective(model, lambda f, y: F.cross_entropy(f, y["class"]) + 0 * y["other"][0].mean(), inputs,
                        {"class": targets, "other": (torch.ones(12),)})  # fmt: skip
    torch.testing.assert_close(several.gradient(), plain.gradient())
    rows = torch.tensor([0, 3])
    torch.testing.assert_close(several.subset(rows).gradient(), plain.subset(rows).gradient())
    found = hessian_eigenvalues(model, lambda f, y: f.square().mean(), inputs, None, 1)
    assert float(found.values[0]) > 0


def test_what_is_no_loss_is_named(tanh):
    model, inputs, targets = tanh
    with pytest.raises(ValueError, match=r"must give a scalar.*\(12,\)"):
        Objective(model, lambda f, y: f[:, 0], inputs, targets).gradient()
    with pytest.raises(TypeError, match="`loss` must be a function"):
        Objective(model, None, inputs, targets)
    with pytest.raises(ValueError, match=r"there are: 0\.weight, 0\.bias"):
        Objective(model, F.cross_entropy, inputs, targets, parameters=["1.weight"])
    with pytest.raises(CannotMeasure, match=r"loss of \d+ examples is nan"):
        Objective(model, lambda f, y: f.mean() * torch.nan, inputs, targets).gradient()
    with pytest.raises(CannotMeasure, match="depends on no trainable parameter"):
        Objective(model, lambda f, y: f.detach().mean(), inputs, targets).gradient()
    with pytest.raises(CannotMeasure, match=r"training mode.*model\.eval"):
        Objective(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double(), F.cross_entropy, inputs, targets)


def test_an_operation_without_second_derivatives_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    class Squares(nn.Linear):
        def forward(self, x):
            return Once.apply(super().forward(x))

    for memory in (1e9, 1.0):
        with pytest.raises(CannotMeasure, match=r"second derivatives.*marked as differentiable once"):
            hessian_eigenvalues(Squares(2, 2), F.mse_loss, torch.randn(3, 2), torch.randn(3, 2), memory=memory)
    with pytest.raises(CannotMeasure, match=r"second derivatives.*marked as differentiable once"):
        KernelOperator(Squares(2, 2), torch.randn(3, 2), "none").matvec(torch.ones(6))
