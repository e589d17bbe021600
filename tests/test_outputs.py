"""Whether a model is a function of its examples: couplings of every kind are seen, and rounding is told from them."""

import collections
import types

import pytest
import torch
from probes_ntk_models import Do, models
from torch import nn

from probes import CannotMeasure
from probes.batches import Batch
from probes.outputs import ExampleAxis, why_not_a_function
from probes.picking import pick_output, where_picked

MODELS = models()


def rounded(x, scale):
    """To 8 bits."""
    return (x / scale * 127).round().clamp(-127, 127) * scale / 127


def experts(m, x):
    """Two experts, each of which takes at most a third of the batch."""
    weight, chosen = m.gate(x).softmax(1).max(1)
    result = torch.zeros(len(x), 3, dtype=x.dtype)
    for index, expert in enumerate((m.a, m.b)):
        mine = (chosen == index).nonzero()[: max(1, len(x) // 3), 0]
        result = result.index_add(0, mine, expert(x[mine]) * weight[mine, None])
    return result


def loop(m, x):
    for _ in range(int(3 * x.max())):
        x = x + 0.1 * torch.tanh(m.a(x))
    return m.h(x)


def linear(outputs=3):
    return nn.Linear(6, outputs)


COUPLED = {
    "experts of a capacity": lambda: Do(experts, gate=linear(2), a=linear(), b=linear()),
    "previous row": lambda: Do(lambda m, x: m.h(torch.cat([torch.zeros_like(x[:1]), x[:-1]]) + x), h=linear()),
    "pairs": lambda: Do(lambda m, x: m.h(x) + 0.01 * m.h(x.view(-1, 2, 6).flip(1).reshape(-1, 6)), h=linear()),
    "8 bits of the batch": lambda: Do(lambda m, x: m.h(rounded(x, x.abs().max())), h=linear()),
    "loop on a maximum": lambda: Do(loop, a=linear(6), h=linear()),
    "scale of the batch": lambda: Do(lambda m, x: m.h(x / x.abs().max()), h=linear()),
    "attention over the batch": lambda: Do(lambda m, x: m.h((x @ x.T).softmax(1) @ x), h=linear()),
    "place": lambda: Do(lambda m, x: m.h(x) + torch.arange(len(x))[:, None] / len(x), h=linear()),
    "number": lambda: Do(lambda m, x: m.h(x) / len(x), h=linear()),
    "batch norm": lambda: nn.Sequential(linear(4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
}


def reason(model, x, named=None):
    return why_not_a_function(lambda batch: model(*batch.args), Batch((x,)), model=named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [6, 20, 100])
@pytest.mark.parametrize("kind", COUPLED)
def test_coupled_examples_are_seen(kind, n, dtype):
    for seed in range(10):
        torch.manual_seed(seed)
        model, x = COUPLED[kind]().to(dtype).eval(), torch.randn(n, 6, dtype=dtype)
        assert reason(model, x)[:8] in ("Examples", "The outp"), seed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # a checkpoint without gradients
def test_rounding_is_not_taken_for_coupling(name, dtype):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    tokens = isinstance(inputs, torch.Tensor)
    x = inputs.repeat(10, 1) if tokens else torch.randn((40, *inputs[1:]), dtype=dtype)
    assert reason(build().to(dtype).eval(), x) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rounding_to_8_bits_on_a_scale_of_its_own_is_not_taken_for_coupling(dtype):
    """Where float32 falls to the other side of a step, the output moves by more than rounding."""

    def forward(m, x):
        for conv in m.convs:
            x = torch.relu(conv(rounded(x, 4.0))) / 0.3
        return m.head(x.mean((2, 3)))

    for seed in range(3):
        torch.manual_seed(seed)
        convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 32), (32, 32), (32, 48), (48, 64)))
        model = Do(forward, convs=convs, head=nn.Linear(64, 10)).to(dtype)
        assert reason(model, torch.randn(40, 3, 16, 16, dtype=dtype)) == ""


def test_rounding_of_large_outputs_is_not_taken_for_coupling():
    """Their spread is a millionth of them."""
    torch.manual_seed(0)
    model = nn.Linear(300, 3)
    x = 1e5 + 1e-1 * torch.randn(40, 300)
    outputs = model(x)
    assert (outputs - outputs.mean(0)).abs().max() < 1e-4 * outputs.abs().max()
    assert reason(model, x) == ""


def test_a_large_constant_hides_no_coupling():
    torch.manual_seed(0)
    model = Do(lambda m, x: 1e3 + m.h(x - 0.1 * x.mean(0)), h=linear()).double()
    assert "Examples interact" in reason(model, torch.randn(20, 6).double())


def test_the_module_that_mixes_examples_is_named_and_left_as_it_was():
    torch.manual_seed(0)
    inner = nn.Sequential(linear(4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU())
    model = nn.Sequential(inner, nn.Linear(4, 3)).eval()
    assert "first seen in the output of 0.1 (BatchNorm1d)" in reason(model, torch.randn(20, 6), named=model)
    assert not any(module._forward_hooks for module in model.modules())
    assert "batch statistics" in reason(model, torch.randn(20, 6))


def test_a_model_that_takes_the_steps_of_a_sequence_first_is_named_as_such():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model, batch = Tagger(), Batch((torch.randn(12, 6, 2),))
    reason = why_not_a_function(lambda batch: model(*batch.args), batch, model=model)
    assert "lstm (LSTM), which takes the steps of a sequence first: build LSTM with batch_first=True" in reason


@pytest.mark.parametrize("n", [2, 6, 100])
@pytest.mark.parametrize(
    "noise", [lambda y: y * (1 + 1e-3 * torch.rand(())), lambda y: y + 1e-4 * torch.randn_like(y)], ids=["scale", "sum"]
)
def test_noise_that_is_small_is_seen_too(noise, n):
    torch.manual_seed(0)
    model = Do(lambda m, x: noise(m.h(x)), h=linear())
    assert "The output is random" in reason(model, torch.randn(n, 6))


def test_random_outputs_are_told_from_coupled_ones():
    model = Do(lambda m, x: m.h(x) + torch.rand(len(x), 1), h=linear())
    assert "The output is random" in reason(model, torch.randn(20, 6))


def test_an_argument_about_all_rows_is_told():
    layer = linear()
    edges = Batch((torch.randn(20, 6), torch.randint(20, (2, 40))))
    found = why_not_a_function(
        lambda b: layer(b.args[0]).index_add(0, b.args[1][0], layer(b.args[0][b.args[1][1]])), edges
    )
    assert found.startswith("Examples cannot be told apart: the model takes all 20 together, but not 10")
    assert "\n" not in found
    sparse = Batch((torch.randn(20, 6), torch.eye(20).to_sparse()))
    found = why_not_a_function(lambda b: torch.sparse.mm(b.args[1], layer(b.args[0])), sparse)
    assert found.startswith("Examples cannot be told apart") and "\n" not in found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_outputs_that_tell_nothing_are_not_called_coupled(value):
    assert reason(Do(lambda m, x: torch.full_like(m.h(x), value), h=linear()), torch.randn(20, 6)) == ""
    assert reason(linear(), torch.randn(1, 6)) == ""


Named = collections.namedtuple("Named", "loss logits")
ROWS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("result", "where"),
    [
        (ROWS, ""),
        ((ROWS, torch.zeros(3, 9)), "result[0] of 2"),
        ((torch.tensor(0.5), ROWS), "result[1] of 2"),
        ({"hidden": torch.zeros(3, 9), "logits": ROWS}, "result['logits'] of 'hidden', 'logits'"),
        ({"loss": torch.tensor(0.5), "ids": torch.zeros(3, dtype=torch.long), "out": ROWS}, "result['out'] of"),
        (types.SimpleNamespace(hidden=torch.zeros(3, 9), logits=ROWS), "result.logits"),
        (types.SimpleNamespace(sample=ROWS), "result.sample"),
        (Named(torch.tensor(0.5), ROWS), "result.logits"),
        ({"a": {"b": ROWS}}, "result['a']['b'] of 'a'"),
        (({"ids": torch.arange(3), "scores": ROWS}, {"more": torch.zeros(3, 9)}), "result[0]['scores'] of 2"),
        ({"parts": [torch.zeros(3, 9)], "scores": ROWS}, "result['scores'] of 'parts', 'scores'"),
        ((types.SimpleNamespace(logits=ROWS), None), "result[0].logits of 2"),
    ],
)
def test_the_output_is_the_logits_or_the_first_of_more_than_one_number(result, where):
    assert pick_output(result) is ROWS
    assert where_picked(result).startswith(where) and bool(where_picked(result)) == bool(where)


@pytest.mark.parametrize("result", [None, {}, {"loss": torch.tensor(0.5)}, (torch.arange(3),), "text"])
def test_what_holds_no_output_is_refused_with_what_to_pass(result):
    with pytest.raises(CannotMeasure, match="Pass output="):
        pick_output(result)
    assert where_picked(result) == ""


@pytest.mark.parametrize(
    ("module", "axis"),
    [
        (nn.GRU(4, 4), 1), (nn.LSTM(4, 4, batch_first=True), 0), (nn.MultiheadAttention(4, 2), 1),
        (nn.MultiheadAttention(4, 2, batch_first=True), 0), (nn.TransformerEncoderLayer(4, 2, 8), 1),
        (nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 0), (nn.Linear(4, 4), 0),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, enable_nested_tensor=False), 1),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1), 0),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_axis_of_the_examples(module, axis):
    """Of a module and all that is in it, and of a layer beside it, by how many examples and steps there are."""
    beside = nn.Linear(4, 4)
    found = ExampleAxis(nn.ModuleList([module, beside]), 5)
    few, many = torch.zeros(5, 7, 4), torch.zeros(7, 5, 4)
    for inner in module.modules():
        assert (found.of(inner, few), found.of(inner, many)) == ((0, None) if axis == 0 else (None, 1))
        assert found.of(inner, torch.zeros(5, 5, 4)) == axis
    assert found.of(beside, few) == 0 and found.of(beside, torch.zeros(5, 4)) == 0
    assert found.of(beside, many) == (None if axis == 0 else 1)  # it is given what the sequence gives
    assert found.of(beside, torch.zeros(5, 5, 4)) == (0 if axis == 0 else None)
    assert (
        found.rows(module, (many, None)) is None if axis == 0 else found.rows(module, (many, None)).shape == few.shape
    )
