"""The tangent kernel against a Jacobian made one example and one output at a time."""

import copy
import dataclasses
import re

import pytest
import torch
from probes_ntk_models import Do, models
from scipy import stats
from torch import nn

import probes_ntk.engine
import probes_ntk.gram
import probes_ntk.parts
import probes_ntk.plan
import probes_ntk.trial
from probes import CannotMeasure
from probes.batches import Batch
from probes_ntk import (
    alignment,
    center,
    cka,
    effective_rank,
    eigenfunctions,
    eigenvalues,
    estimate_trace,
    perturbation_effects,
    right_singular_vectors,
    tangent_diagonal,
    tangent_kernel,
    widening,
)
from probes_ntk.call import Call
from probes_ntk.factors import Factors
from probes_ntk.operands import Convolution

MODELS = models()


def make(name, dtype=torch.float64):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model = build().to(dtype).eval()
    for parameter in model.parameters():  # no zero bias, no unit scale
        if parameter.ndim < 2:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, inputs if isinstance(inputs, torch.Tensor) else torch.randn(inputs, dtype=dtype)


def jacobian(model, inputs):
    """Rows of derivatives, shape (c, n, P), and the owner of each column."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows, owners = [], []
    for i in range(len(inputs)):
        # Without a graph of its own an input lets a checkpointed block of the reentrant kind be differentiated.
        values = model(inputs[i : i + 1]).reshape(-1)
        of_example = []
        for value in values:
            model.zero_grad()
            value.backward(retain_graph=True)
            grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for _, p in named]
            of_example.append(torch.cat([grad.flatten() for grad in grads]).clone())
        rows.append(torch.stack(of_example))
    model.zero_grad()
    for name, p in named:
        owner = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        owners += [owner or type(model).__name__] * p.numel()
    return torch.stack(rows, 1), owners


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", MODELS)
def test_exact(name):
    model, x = make(name)
    rows, owners = jacobian(model, x)
    expected = torch.einsum("aip,bjp->aibj", rows, rows)
    kernel, layers = tangent_kernel(model, x, layers=True)
    assert relative(kernel, expected) <= 1e-10
    assert relative(sum(layers.values()), kernel) <= 1e-14
    for layer in set(owners) | set(layers):
        part = rows[:, :, [owner == layer for owner in owners]]
        reference = torch.einsum("aip,bjp->aibj", part, part)
        found = layers.get(layer, torch.zeros_like(reference))
        assert (found - reference).abs().max() <= 1e-10 * expected.abs().max(), layer
    diagonal = tangent_diagonal(model, x).diagonal
    assert relative(diagonal, rows.square().sum(2)) <= 1e-10


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # within torch.func.jvp
def test_a_transform_within_forward():
    body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model = Do(lambda m, x: sum(torch.func.jvp(m.body, (x,), (torch.ones_like(x),))), body=body)
    x = torch.randn(5, 3, dtype=torch.float64)
    features, _ = jacobian(model, x)
    kernel = tangent_kernel(model, x).kernel
    assert relative(kernel, torch.einsum("aip,bjp->aibj", features, features)) <= 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_between_two_batches_of_chosen_outputs(name):
    model, x = make(name)
    if len(x) == 1:
        x = torch.cat([x, x + 1])
    rows, _ = jacobian(model, x)
    found = tangent_kernel(model, x[:2], x[1:]).kernel
    expected = torch.einsum("aip,bjp->aibj", rows[:, :2], rows[:, 1:])
    assert relative(found, expected) <= 1e-10
    last = tangent_kernel(model, x, outputs=[-1]).kernel
    assert relative(last, torch.einsum("aip,bjp->aibj", rows[-1:], rows[-1:])) <= 1e-10
    total = rows.sum(0, keepdim=True)
    assert (
        relative(tangent_kernel(model, x, outputs="sum").kernel, torch.einsum("aip,bjp->aibj", total, total)) <= 1e-10
    )


@pytest.mark.parametrize("name", MODELS)
def test_in_blocks_and_chunks(name, monkeypatch):
    """The same, when few examples fit in the memory and fewer still in the cache."""
    model, x = make(name)
    whole = tangent_kernel(model, x).kernel
    monkeypatch.setattr(probes_ntk.trial, "_CHUNK", 1.0)
    assert relative(tangent_kernel(model, x).kernel, whole) <= 1e-12
    monkeypatch.setattr(probes_ntk.plan, "_HELD", 1.0)
    assert relative(tangent_kernel(model, x).kernel, whole) <= 1e-12
    plan = probes_ntk.engine.make_plan
    for changes in ({"again": True}, {"block": 2}, {"again": True, "block": 2}):
        monkeypatch.setattr(
            probes_ntk.engine,
            "make_plan",
            lambda *args, changes=changes, **kwargs: dataclasses.replace(plan(*args, **kwargs), **changes),
        )
        assert relative(tangent_kernel(model, x).kernel, whole) <= 1e-12
    assert relative(tangent_diagonal(model, x).diagonal, torch.einsum("aiai->ai", whole)) <= 1e-12


def test_below_a_head_of_zeros_nothing_goes_one_example_at_a_time():
    body = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = Do(lambda m, x: m.h(m.e(x).mean(1)), e=body, h=nn.Linear(4, 3)).double().eval()
    nn.init.zeros_(model.h.weight)
    x = torch.randn(4, 5, 4, dtype=torch.float64)
    assert not probes_ntk.engine.make_plan(Call.of(model, x), 1e9, kernel=True, layers=False).general
    rows, _ = jacobian(model, x)
    assert relative(tangent_kernel(model, x).kernel, torch.einsum("aip,bjp->aibj", rows, rows)) <= 1e-12


@pytest.mark.parametrize("name", ["tied_head_of_tokens", "position_table", "positions_looked_up_twice"])
def test_a_tied_table_and_one_of_positions_do_not_go_one_example_at_a_time(name):
    model, tokens = make(name)
    assert not probes_ntk.engine.make_plan(Call.of(model, tokens), 1e9, kernel=True, layers=False).general


def test_examples_go_forward_again_where_their_graphs_do_not_fit():
    layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Tanh(), nn.Tanh()) for _ in range(8)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 48 * 48, 10)).double()
    call = Call.of(model, torch.randn(40, 4, 48, 48, dtype=torch.float64))
    with torch.enable_grad():
        plans = [probes_ntk.engine.make_plan(call, memory, kernel=True, layers=False) for memory in (2e9, 4e8)]
    assert [(plan.block, plan.again) for plan in plans] == [(40, False), (40, True)]


def test_segments_end_where_one_tensor_separates_what_lies_below(monkeypatch):
    monkeypatch.setattr(probes_ntk.plan, "_HELD", 1.0)

    def segments(model, x):
        return probes_ntk.engine.make_plan(Call.of(model, x), 1e9, kernel=True, layers=False).segments

    layers = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)]
    x = torch.randn(5, 3)
    assert segments(nn.Sequential(*layers), x) == [(3, 4), (2, 3), (1, 2), (0, 1)]
    inner = Do(lambda m, x: x + m.b(m.a(x)), a=layers[1], b=layers[2])
    assert segments(nn.Sequential(layers[0], inner, layers[3]), x) == [(3, 4), (1, 3), (0, 1)]
    across = Do(lambda m, x: m.c(m.a(x) + m.b(m.a(x))) + m.a(x), a=layers[0], b=layers[1], c=layers[2])
    assert segments(across, x)[-1][0] == 0


@pytest.mark.parametrize("method", ["pairs", "chain", "explicit"])
@pytest.mark.parametrize("name", MODELS)
def test_every_way_of_evaluating(name, method, monkeypatch):
    model, x = make(name)
    whole = tangent_kernel(model, x).kernel
    between = tangent_kernel(model, x, x[:1]).kernel
    monkeypatch.setattr(probes_ntk.gram, "cheapest", lambda *sizes: method)
    monkeypatch.setattr(probes_ntk.parts, "cheapest", lambda *sizes: method)
    assert relative(tangent_kernel(model, x).kernel, whole) <= 1e-12
    assert relative(tangent_kernel(model, x, x[:1]).kernel, between) <= 1e-12


@pytest.mark.parametrize("size", [(9,), (6, 5), (4, 3, 5)])
@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(3, 1, 1), (2, 0, 1), (2, 2, 2), (3, 0, 1), (1, 1, 1)])
def test_products_of_patches_from_products_of_pixels(size, kernel, padding, dilation):
    dims = len(size)
    x = torch.randn(4, 2, *size, dtype=torch.float64)
    conv = Convolution(x, (kernel,) * dims, (1,) * dims, (padding,) * dims, (dilation,) * dims, 1, False)
    patches = conv.unfold(x).transpose(1, 2)
    expected = torch.einsum("itp,jsp->itjs", patches, patches)
    factors = Factors(None, patches=conv)
    rows, extent = factors.rows()
    found = factors.products(torch.einsum("ipc,jqc->ipjq", rows, rows), extent)
    assert relative(found, expected) <= 1e-13


@pytest.mark.parametrize("name", MODELS)
def test_leaves_nothing_behind(name):
    model, x = make(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    rng = torch.get_rng_state()
    tangent_kernel(model, x)
    estimate_trace(model, x)
    assert torch.equal(rng, torch.get_rng_state())
    assert flags == [(p.requires_grad, p.grad) for p in model.parameters()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["parameters", "modules"])
def test_hooks_of_the_user_are_no_part_of_the_features(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    expected, called = tangent_kernel(model, inputs).kernel, []
    if kind == "parameters":
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: called.append(1) or gradient / 2)
    else:
        for module in model:
            module.register_full_backward_hook(lambda *args: called.append(1) or (torch.zeros(6, 5).double(),))
    torch.testing.assert_close(tangent_kernel(model, inputs).kernel, expected)
    assert not called and all(len(part._backward_hooks) == (kind == "modules") for part in model)


@pytest.mark.parametrize("name", ["mlp", "conv2d", "encoder", "lstm", "layer_norm", "embedding", "weight_norm"])
def test_float32(name):
    model, x = make(name, torch.float32)
    x = x.relu() if name == "mlp" else x
    expected = tangent_kernel(model.double(), x.double() if x.is_floating_point() else x).kernel
    found = tangent_kernel(model.float(), x).kernel
    assert found.dtype == torch.float32
    assert relative(found.double(), expected) <= 1e-6


def test_half_precision_weights_are_taken_as_they_are():
    model, x = make("mlp", torch.bfloat16)
    found = tangent_kernel(model, x).kernel
    assert found.dtype == torch.float32
    assert relative(found, tangent_kernel(model.float(), x.float()).kernel) <= 1e-6


def test_other_calls():
    model, x = make("mlp")
    expected = tangent_kernel(model, x).kernel
    wrapped = Do(lambda m, features, scale: {"logits": m.l(features * scale)}, l=model)
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    assert torch.equal(tangent_kernel(wrapped, (x, ones)).kernel, expected)
    assert torch.equal(tangent_kernel(wrapped, {"features": x, "scale": ones}).kernel, expected)
    assert torch.equal(tangent_kernel(wrapped, Batch((x,), {"scale": ones})).kernel, expected)
    named = Do(lambda m, x: {"scores": m.l(x)}, l=model)
    assert torch.equal(tangent_kernel(named, x, output=lambda result: result["scores"]).kernel, expected)


@pytest.mark.slow
def test_trace_and_its_standard_error():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    x = torch.randn(100, 5, dtype=torch.float64)
    exact = tangent_diagonal(model, x).diagonal.sum()
    scores = []
    for seed in range(400):
        estimate = estimate_trace(model, x, layers=True, generator=torch.Generator().manual_seed(seed))
        assert torch.isclose(sum(estimate.layers.values()), estimate.trace)
        scores.append((estimate.trace - exact) / estimate.standard_error)
    scores = torch.stack(scores)
    assert abs(scores.mean()) < 0.2  # 4 standard errors
    assert 0.85 < scores.std() < 1.15
    assert 0.91 < (scores.abs() < 1.96).double().mean() < 0.98


@pytest.mark.parametrize(("sizes", "c", "trained"), [((4, 8), 5, False), ((20, 32), 3, True), ((5, 16), 30, False)])
def test_standard_error_from_few_repetitions_covers(sizes, c, trained):
    """The trace of 1,000 draws of the signs, against the sum of the squared gradients."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(*sizes), nn.ReLU(), nn.Linear(sizes[1], c)).double(), torch.randn(60, sizes[0])
    x, optimizer = x.double(), torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100 * trained):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(60) % c).backward()
        optimizer.step()
    exact = 0.0
    for output in model(x).flatten():
        exact += sum(
            float(gradient.square().sum())
            for gradient in torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
        )
    plan, errors, stated = None, [], []
    for seed in range(1000):
        found = estimate_trace(model, x, repeats=8, generator=torch.Generator().manual_seed(seed), plan=plan)
        plan = found.plan
        errors.append(float(found.trace) - exact)
        stated.append(float(found.standard_error))
    errors, stated, t = torch.tensor(errors), torch.tensor(stated), float(widening(8))
    assert t == pytest.approx(stats.t.ppf(0.975, 8) / 1.96, rel=1e-3)
    assert (errors.abs() <= 1.96 * t * stated).double().mean() >= 0.92
    assert stated.square().mean().sqrt() == pytest.approx(float(errors.square().mean().sqrt()), rel=0.15)


def test_trace_of_one_output_is_exact():
    model, x = make("scalar")
    estimate = estimate_trace(model, x)
    assert torch.isclose(estimate.trace, tangent_diagonal(model, x).diagonal.sum())
    assert estimate.standard_error == 0


@pytest.mark.parametrize("repeats", [2, 30])
def test_trace_of_any_number_of_repetitions_is_unbiased(repeats):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4)).double(), torch.randn(30, 5).double()
    exact, plan, found = tangent_diagonal(model, x).diagonal.sum(), None, []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        estimate = estimate_trace(model, x, repeats=repeats, layers=True, generator=generator, plan=plan)
        plan = estimate.plan
        found.append(torch.stack([estimate.trace, estimate.standard_error.square()]))
    mean, variance = torch.stack(found).mean(0)
    assert abs(mean - exact) < 4 * (variance / 200).sqrt()
    assert variance == pytest.approx(torch.stack(found)[:, 0].var().item(), rel=0.3)


def test_plan_is_used_again_only_where_it_fits(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, made = torch.randn(7, 5, dtype=torch.float64), []
    make_plan = probes_ntk.engine.make_plan
    monkeypatch.setattr(
        probes_ntk.engine, "make_plan", lambda *args, **kwargs: made.append(1) or make_plan(*args, **kwargs)
    )

    def check(plan, inputs, fresh):
        count = len(made)
        found = tangent_diagonal(model, inputs, plan=plan)
        assert len(made) - count == fresh
        kernel = tangent_kernel(model, inputs).kernel
        assert relative(found.diagonal, torch.einsum("aiai->ai", kernel)) <= 1e-12
        return found.plan

    plan = check(None, x, True)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert check(plan, x + 1, False) is plan
    check(plan, x[:5], True)
    model[0].requires_grad_(False)
    check(plan, x, True)
    model[0].requires_grad_(True)
    # A graph that the plan does not know: evaluated one example at a time, and right.
    model.forward = lambda x: model[2](torch.tanh(model[0](x)) + x @ model[0].weight.T)
    check(plan, x, False)
    monkeypatch.setattr(probes_ntk.trial, "_CHUNK", 1.0)  # and one that only a later example has
    torch.nn.Module.__delattr__(model, "forward")
    plan = check(None, x, True)
    some = lambda x: x[:, :1].relu() if (x[:, 0] > 0).any() else None  # noqa: E731
    model.forward = lambda x: model[2](
        torch.tanh(model[0](x)) + (0 if some(x) is None else some(x) * (x @ model[0].weight.T))
    )
    assert len({bool(value) for value in x[:, 0] > 0}) == 2
    check(plan, x, False)
    held = [item for item in vars(plan).values() if isinstance(item, torch.Tensor | nn.Module)]
    assert not held  # neither the model nor its inputs


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), groups=2),
        nn.Conv2d(2, 5, 1, stride=2, bias=False),
        nn.Conv1d(3, 4, 5, stride=2, padding=2),
        nn.Conv3d(2, 3, 2, padding=1),
    ],
    ids=["plain", "geometry", "one", "1d", "3d"],
)
def test_diagonal_in_float32_matches_float64(layer):
    torch.manual_seed(0)
    size = [layer.in_channels, *[9] * len(layer.kernel_size)]
    x = torch.randn(20, *size)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten())
    model.append(nn.Linear(model(x[:1]).shape[1], 3))
    for outputs in (None, "sum"):
        single = tangent_diagonal(model.float(), x, outputs=outputs, layers=True)
        double = tangent_diagonal(model.double(), x.double(), outputs=outputs, layers=True)
        assert single.diagonal.dtype == torch.float32
        for name, part in double.layers.items():
            assert (single.layers[name] - part).abs().max() <= 1e-5 * part.abs().max(), name


@pytest.mark.parametrize("outputs", [None, "sum"])
def test_diagonal_of_many_examples_in_blocks(outputs, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 9, 3), nn.Flatten(), nn.Linear(81, 3)
    )
    x = torch.randn(9, 2, 5, 5, dtype=torch.float64)
    kernel = tangent_kernel(model.double(), x, outputs=outputs).kernel
    monkeypatch.setattr(probes_ntk.gram, "_PRODUCTS", 3 * 9 * 9 * 8)  # three examples at a time
    found = tangent_diagonal(model, x, outputs=outputs).diagonal
    assert relative(found, torch.einsum("aiai->ai", kernel)) <= 1e-12


def noisy(m, x):
    return m.l(x) + torch.rand(len(x), 1, dtype=x.dtype)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), r"batch normalisation in training mode \('1'\).*eval"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), "dropout in training mode.*random.*eval"),
        (Do(lambda m, x: nn.functional.dropout(m.l(x)), l=nn.Linear(3, 2)), "output is random"),
        (Do(noisy, l=nn.Linear(3, 2)), "output is random"),
        (
            Do(lambda m, x: m.l(x) - m.l(x).mean(0), l=nn.Linear(3, 2)),
            r"Examples interact.*first seen in the output of the model \(Do\)",
        ),
        (Do(lambda m, x: m.l(x)[:, :, None], l=nn.Linear(3, 2)), r"\(n, c\) or \(n,\).*output="),
        (Do(lambda m, x: m.l(x).mean(), l=nn.Linear(3, 2)), r"\(n, c\) or \(n,\)"),
        (Do(lambda m, x: m.l(x).detach(), l=nn.Linear(3, 2)), "depend on no trainable parameter"),
        (nn.Linear(3, 2).requires_grad_(False), "no trainable parameter"),
    ],
)
def test_refused(model, match):
    with pytest.raises(ValueError, match=match):
        tangent_kernel(model.train(), torch.randn(6, 3))


def test_refused_arguments():
    model, x = nn.Linear(3, 2), torch.randn(6, 3)
    with pytest.raises(ValueError, match=r"memory.*too little.*Pass memory="):
        tangent_kernel(model, x, memory=1e6)
    with pytest.raises(ValueError, match="positive number of bytes"):
        tangent_kernel(model, x, memory=0)
    with pytest.raises(ValueError, match="indices of the model's 2 outputs"):
        tangent_kernel(model, x, outputs=[2])
    with pytest.raises(ValueError, match="'sum'"):
        tangent_kernel(model, x, outputs="mean")
    with pytest.raises(ValueError, match="rows of the same shape"):
        tangent_kernel(model, x, torch.randn(6, 4))
    for output in (None, lambda result: result):
        with pytest.raises(CannotMeasure, match=r"floating-point.*output="):
            tangent_kernel(Do(lambda m, x: m.l(x).argmax(1), l=model), x, output=output)


def test_every_refusal_is_one_that_the_core_tells_in_a_line():
    x = torch.randn(6, 3)
    for model in (
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(),
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train(),
        Do(lambda m, x: m.l(x) - m.l(x).mean(0), l=nn.Linear(3, 2)),
        Do(lambda m, x: m.l(x).mean(), l=nn.Linear(3, 2)),
        nn.Linear(3, 2).requires_grad_(False),
    ):
        with pytest.raises(CannotMeasure) as caught:
            tangent_kernel(model, x)
        assert "\n" not in str(caught.value)


def test_batch_normalisation_without_running_statistics_is_named_and_no_mode_is_blamed():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(
        CannotMeasure, match=r"without running statistics \('1': BatchNorm1d\).*track_running_stats=True"
    ) as e:
        tangent_kernel(model, torch.randn(6, 3))
    assert "model.eval()" not in str(e.value)


def test_the_advice_about_memory_works():
    torch.manual_seed(0)
    general = Do(lambda m, x: torch.einsum("ni,ijk,nk->nj", x, m.w, x), w=torch.randn(64, 64, 64))
    for model, x, memory in ((nn.Linear(3, 2), torch.randn(6, 3), 1e6), (general, torch.randn(6, 64), 1.5e8)):
        with pytest.raises(CannotMeasure) as caught:
            tangent_kernel(model, x, memory=memory)
        advised = float(re.search(r"Pass memory=([\d.e+]+) or more", str(caught.value))[1])
        assert relative(tangent_kernel(model, x, memory=advised).kernel, tangent_kernel(model, x).kernel) <= 1e-6


@pytest.mark.parametrize("uses", [1, 2])
def test_a_diagonal_of_many_examples_takes_few_passes_whatever_the_memory(uses):
    """The derivatives by a bias or a scale of all examples would not fit; they need not be there at once."""
    torch.manual_seed(0)
    model = Do(
        lambda m, x: m.out((m.l(x) * m.s).tanh() * (m.s if uses == 2 else 1)),
        l=nn.Linear(8, 2048), s=torch.randn(2048), out=nn.Linear(2048, 10),
    )  # fmt: skip
    x = torch.randn(1000, 8)
    expected = tangent_diagonal(model, x, layers=True)
    calls = []
    with model.register_forward_hook(lambda *_: calls.append(None)):
        found = tangent_diagonal(model, x, layers=True, memory=1.6e8)  # all: 82e6 bytes
    assert relative(found.diagonal, expected.diagonal) <= 1e-6
    assert all(relative(found.layers[layer], part) <= 1e-6 for layer, part in expected.layers.items())
    assert len(calls) < 200, "one example at a time"


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_copies_of_scripted_modules_are_as_exact_as_the_module():
    """The parameters of such a copy are no leaves of the graph."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3).double()
    expected = tangent_kernel(plain, x, layers=True)
    for model in (
        copy.deepcopy(nn.Sequential(torch.jit.script(plain[:2]), plain[2])),
        copy.deepcopy(torch.jit.script(plain)),
        copy.deepcopy(copy.deepcopy(nn.Sequential(plain[0], torch.jit.script(plain[1:])))),
    ):
        found = tangent_kernel(model, x, layers=True)
        assert relative(found.kernel, expected.kernel) <= 1e-14
        for part, other in zip(found.layers.values(), expected.layers.values(), strict=True):
            assert relative(part, other) <= 1e-14
        assert relative(tangent_diagonal(model, x).diagonal, torch.einsum("aiai->ai", expected.kernel)) <= 1e-14


def test_a_parameter_that_trains_and_is_not_of_the_model_is_told_and_an_unused_one_is_none():
    torch.manual_seed(0)
    x, hidden = torch.randn(5, 3), [nn.Linear(3, 4)]
    model = Do(lambda m, x: m.l(torch.tanh(hidden[0](x))), l=nn.Linear(4, 2), idle=nn.Linear(3, 3))
    with pytest.raises(
        CannotMeasure, match=r"a parameter of shape \((4, 3|4,)\).*not among model.parameters\(\).*ModuleList"
    ):
        tangent_kernel(model, x)
    hidden[0].requires_grad_(False)
    assert list(tangent_kernel(model, x, layers=True).layers) == ["l"]
    assert tangent_kernel(nn.Linear(3, 2), nn.Parameter(x)).kernel.shape == (2, 5, 2, 5)  # an input is none either


def mean_off(name, offset):
    """A float32 model, inputs whose mean is far from zero, and what the kernel says of them in each precision."""
    torch.manual_seed(0)
    models = {
        "mlp": nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
        "conv": nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)),
        "normed": nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
    }
    model, x, labels = models[name], torch.randn(20, 8) + offset, torch.randint(3, (20,))
    found = []
    for dtype in (torch.float32, torch.float64):
        kernel = tangent_kernel(model.to(dtype), x.to(dtype)).kernel
        for how in ("outputs", "all"):
            values = eigenvalues(center(kernel, how))
            found += [values.sum(), effective_rank(values), alignment(kernel, labels, how)]
    return torch.stack(found).chunk(2)


@pytest.mark.parametrize("offset", [0, 3, 30, 100, 300, 1000, 3000, 10000])
@pytest.mark.parametrize("name", ["mlp", "conv", "normed"])
def test_what_centring_leaves_of_a_float32_kernel_is_right_within_a_percent(name, offset):
    single, double = mean_off(name, offset)
    torch.testing.assert_close(single, double, rtol=1e-2, atol=0)


def test_a_model_that_float64_breaks_is_measured_in_float32_with_a_warning():
    torch.manual_seed(0)
    model = Do(lambda m, x: m.l(x) + torch.ones(len(x), 8) @ m.w, l=nn.Linear(8, 3), w=torch.randn(8, 3))
    with pytest.warns(UserWarning, match=r"cannot be evaluated in float64 \(RuntimeError"):
        assert tangent_kernel(model, torch.randn(20, 8) + 1e3).kernel.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e6, 1e9, 1e12])
def test_large_inputs_overflow_no_square(scale):
    torch.manual_seed(0)
    model, labels = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randint(3, (20,))
    x = scale * torch.randn(20, 8)
    single = tangent_kernel(model, x).kernel
    estimate = estimate_trace(model, x)
    direction = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    effect = perturbation_effects(model, x, [direction], 1e8)
    double = tangent_kernel(model.double(), x.double()).kernel
    assert alignment(single, labels, "outputs").item() == pytest.approx(
        alignment(double, labels, "outputs").item(), rel=1e-4
    )
    assert cka(single, double, "all").item() == pytest.approx(1, rel=1e-6)
    trace = torch.einsum("aiai->", double).item()
    assert 0 < estimate.standard_error < trace and estimate.trace.item() == pytest.approx(trace, rel=0.5)
    assert torch.isfinite(effect).all()


class Counting(nn.Module):
    """Its output depends on a buffer that every call changes."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(3, 2)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        self.scale.mul_(1.5)
        return self.l(x) * self.scale


@pytest.mark.parametrize("name", ["instance", "spectral", "spectral_hook", "counting"])
def test_a_model_in_training_mode_keeps_its_buffers_and_is_one_function(name):
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    model = (
        {
            "instance": lambda: nn.Sequential(norm, nn.Tanh(), nn.Flatten(), nn.Linear(108, 2)),
            "spectral": lambda: nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2)
            ),
            "spectral_hook": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2)),
            "counting": Counting,
        }[name]()
        .double()
        .train()
    )
    x = torch.randn((4, 3, 6, 6) if name == "instance" else (6, 3), dtype=torch.float64)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    kernel = tangent_kernel(model, x).kernel
    assert torch.equal(kernel, tangent_kernel(model, x).kernel)
    rows = []
    for i in range(len(x)):  # each from the same buffers
        model.load_state_dict(state)
        out = model(x[i : i + 1])[0]
        gradients = [torch.autograd.grad(o, list(parameters.values()), retain_graph=True) for o in out]
        rows.append(torch.stack([torch.cat([g.flatten() for g in one]) for one in gradients]))
    model.load_state_dict(state)
    j = torch.stack(rows, 1)
    assert relative(kernel, torch.einsum("aip,bjp->aibj", j, j)) <= 1e-10
    assert relative(tangent_diagonal(model, x).diagonal, torch.einsum("aiai->ai", kernel)) <= 1e-10
    estimate_trace(model, x)
    perturbation_effects(model, x, [parameters], 0.1)
    list(right_singular_vectors(model, x, eigenfunctions(kernel), 1))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_chosen_outputs_may_be_of_any_shape():
    torch.manual_seed(0)
    model, x = Do(lambda m, x: m.l(x).view(-1, 2, 3), l=nn.Linear(3, 6)).double(), torch.randn(5, 3).double()
    whole = tangent_kernel(model.l, x).kernel
    assert torch.equal(tangent_kernel(model, x, outputs=[1, 5]).kernel, whole[[1, 5]][:, :, [1, 5]])
    assert relative(tangent_kernel(model, x, outputs="sum").kernel, whole.sum((0, 2))[None, :, None]) <= 1e-14


def test_the_callers_grad_mode_does_not_matter():
    model, x = nn.Linear(2, 1), torch.randn(3, 2)
    with torch.no_grad():
        torch.testing.assert_close(tangent_kernel(model, x).kernel[0, :, 0], x @ x.T + 1)
        assert torch.is_grad_enabled() is False
    with torch.inference_mode(), pytest.raises(CannotMeasure, match="outside of it"):
        tangent_kernel(model, x)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        tangent_kernel(lambda x: x, torch.randn(3, 2))
