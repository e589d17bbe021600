"""Activations of models whose outputs are known, and of all ways to call an activation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes_layers import activations, output_entropy, summarize


class Fixed(nn.Module):
    """Gives what it was made with, whatever it is called with."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x):
        return self.values


def summary(model, name, *given):
    seen, _ = activations(model, lambda: model(*given or (torch.zeros(1, 1),)))
    return dict(
        zip(
            ("rms", "mean", "max", "variation", "zero", "dead", "saturated"),
            summarize([seen[name]])[0].tolist(),
            strict=True,
        )
    )


def test_values_by_hand():
    values = torch.tensor([[0.0, -3.0, 0.0, 1.0], [0.0, 4.0, 2.0, 0.0]])
    assert summary(nn.Sequential(Fixed(values)), "0") == pytest.approx(
        {
            "rms": math.sqrt(30 / 8),
            "mean": 0.5,
            "max": 4,
            "variation": math.sqrt(1 - 2 * 1.5 / 30),
            "zero": 0.5,
            "dead": 0.25,
            "saturated": 0,
        }
    )
    found = summary(nn.Sequential(Fixed(values), nn.ReLU()), "1")
    assert found["zero"] == 5 / 8 and found["dead"] == 1 / 4


def test_a_unit_whose_values_add_up_to_nothing_is_not_dead():
    values = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.0, 2.0]])
    assert summary(nn.Sequential(Fixed(values)), "0")["dead"] == pytest.approx(1 / 3)
    sequences = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    assert summary(nn.Sequential(Fixed(sequences)), "0")["dead"] == 0.5


def test_samples_that_are_alike_do_not_vary():
    assert summary(nn.Sequential(Fixed(torch.randn(1, 7).expand(50, 7).clone())), "0")["variation"] < 1e-3
    independent = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    assert summary(nn.Sequential(Fixed(independent)), "0")["variation"] == pytest.approx(1, abs=0.002)


def test_units_of_convolutions_are_channels_and_those_of_sequences_features():
    convolution = nn.Conv1d(1, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0])[:, None, None])
        convolution.bias.zero_()
    model = nn.Sequential(convolution, nn.ReLU())
    assert summary(model, "1", torch.ones(3, 1, 5))["dead"] == 0.5
    linear = nn.Linear(1, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([1.0, -1.0, -1.0, -1.0])[:, None])
        linear.bias.zero_()
    assert summary(nn.Sequential(linear, nn.ReLU()), "1", torch.ones(3, 5, 1))["dead"] == 0.75


class Moved(nn.Module):
    """A layer, axes moved, a ReLU."""

    def __init__(self, layer, move, relu=F.relu):
        super().__init__()
        self.layer, self.move, self.relu = layer, move, relu

    def forward(self, x):
        return self.relu(self.move(self.layer(x)))


def two_dead(layer):
    """Of a layer's units the first two are dead and the others alive, on all that is small."""
    with torch.no_grad():
        layer.bias.fill_(100)[:2] = -100
    return layer


class OwnConvolution(nn.Conv1d):
    pass


class OwnScale(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize(
    ("layer", "move", "shape"),
    [
        (nn.Conv1d(6, 8, 1), lambda z: z.transpose(1, 2), (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), lambda z: z.mT, (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), lambda z: torch.einsum("ncl->nlc", z), (5, 6, 9)),
        (nn.Conv2d(6, 8, 1), lambda z: z.permute(0, 2, 3, 1), (5, 6, 4, 4)),
        (nn.Conv2d(6, 8, 1), lambda z: z.flatten(2).transpose(1, 2), (5, 6, 3, 3)),
        (nn.Linear(6, 8), lambda z: z.transpose(1, 2), (5, 9, 6)),
        (nn.Conv1d(6, 8, 1), nn.Identity(), (5, 6, 8)),  # as many positions as channels, and nothing moved
        (nn.Linear(6, 8), nn.Identity(), (5, 8, 6)),
        (nn.Conv1d(6, 16, 1), lambda z: z[:, :8], (5, 6, 16)),
        (OwnConvolution(6, 8, 1), nn.Identity(), (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), nn.PReLU(8), (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), OwnScale((8, 1)), (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), nn.RMSNorm((8, 9)), (5, 6, 9)),
        (nn.Conv1d(6, 8, 1), lambda z: F.rms_norm(z.mT, (8,)), (5, 6, 8)),
    ],
)
@pytest.mark.parametrize("relu", [F.relu, nn.ReLU()], ids=["function", "module"])
def test_dead_units_are_found_wherever_their_axis_is(layer, move, shape, relu):
    model = Moved(two_dead(layer), move, relu)
    name = "Moved.relu" if relu is F.relu else "relu"
    assert summary(model, name, torch.rand(shape))["dead"] == 1 / 4


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(6, 8, 1), (5, 6, 8)), (nn.Linear(6, 8), (5, 8, 6)), (nn.Conv2d(6, 8, 1), (5, 6, 8, 4))],
)
def test_it_is_not_guessed_which_of_two_axes_the_units_are(layer, shape):
    assert math.isnan(
        summary(Moved(two_dead(layer), lambda z: z.transpose(1, 2)), "Moved.relu", torch.rand(shape))["dead"]
    )


@pytest.mark.parametrize(
    ("module", "inputs", "share"),
    [
        (nn.Sigmoid(), [-9.0, 0.0, 9.0, 1.0], 0.5), (nn.Tanh(), [-9.0, 0.0, 9.0, 9.0], 0.75),
        (nn.Hardtanh(), [-1.0, 0.98, 0.9, 0.0], 0.5), (nn.Softsign(), [0.0, 1.0, 1e9, -1e9], 0.5),
        (nn.Hardtanh(-2, 3), [-1.0, 1.0, 2.9, 2.96], 0.25), (nn.Hardtanh(-2, 3), [-9.0, -1.96, 3.0, 0.0], 0.75),
        (nn.Hardtanh(0, 20), [5.0, 1.0, 0.0, -1.0], 0.0), (nn.Hardtanh(0, 20), [5.0, 19.9, 30.0, -1.0], 0.5),
        (nn.Hardtanh(-1, 0), [-2.0, 1.0, -0.5, -0.2], 0.5), (nn.ReLU6(), [5.0, 5.95, 7.0, -1.0], 0.5),
        (nn.Hardsigmoid(), [-3.0, 0.0, 2.9, 1.0], 0.25), (nn.LeakyReLU(), [-9.0, 0.0, 1.0, 1.0], 0.0),
    ],
)  # fmt: skip
def test_saturated(module, inputs, share):
    assert summary(nn.Sequential(Fixed(torch.tensor([inputs])), module), "1")["saturated"] == share


@pytest.mark.parametrize(
    ("function", "name", "inputs", "share"),
    [
        (F.hardtanh, "hardtanh", [-1.0, 0.98, 0.9, 0.0], 0.5), (F.relu6, "relu6", [5.0, 5.95, 7.0, -1.0], 0.5),
        (lambda x: F.hardtanh(x, -2, 3), "hardtanh", [-9.0, 1.0, 2.9, 2.98], 0.5),
        (lambda x: F.hardtanh(x, 0, max_val=20), "hardtanh", [5.0, 1.0, 0.0, 20.0], 0.25),
        (lambda x: F.hardtanh(input=x, min_val=-2.0, max_val=3.0), "hardtanh", [-1.0, 1.0, -2.0, 2.0], 0.25),
    ],
)  # fmt: skip
def test_saturated_by_the_bounds_that_a_function_was_given(function, name, inputs, share):
    model = Moved(Fixed(torch.tensor([inputs])), nn.Identity(), function)
    assert summary(model, f"Moved.{name}")["saturated"] == share


class Functions(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.first = how, nn.Linear(2, 3)

    def forward(self, x):
        x = self.first(x)
        if self.how == "functional":
            return F.relu(F.relu(x) - 1)
        if self.how == "method":
            return (x.relu() - 1).relu()
        return torch.relu(torch.relu_(x.clone()) - 1)


@pytest.mark.parametrize("how", ["functional", "method", "torch"])
def test_activations_that_are_functions_are_named_after_their_module(how):
    model = nn.Sequential(Functions(how))
    seen, _ = activations(model, lambda: model(torch.randn(5, 2)))
    assert list(seen) == ["0.first", "0.relu", "0.relu-2"]
    assert (
        all(bool(summarize([seen[name]])[0, 1] >= 0) for name in ("0.relu", "0.relu-2")) and seen["0.relu"].count == 15
    )


def test_what_only_hands_on_is_no_layer():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Identity(), nn.Dropout(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2), nn.Softplus()
    )
    seen, _ = activations(model, lambda: model(torch.randn(3, 1, 4, 4)))
    assert list(seen) == ["0", "5", "6"]


def test_a_layer_that_is_called_twice_counts_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(x), self.relu(-x)

    model = Twice()
    seen, _ = activations(model, lambda: model(torch.tensor([[1.0, 2.0, 0.0]])))
    assert seen["relu"].count == 6 and summarize([seen["relu"]])[0, [2, 5]].tolist() == pytest.approx([2, 1 / 3])


def test_recurrent_and_attention_layers_and_embeddings_are_seen():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(5, 8), nn.LSTM(8, 8, batch_first=True)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.block(self.lstm(self.embedding(x))[0])

    model = Mixed().eval()
    seen, _ = activations(model, lambda: model(torch.randint(5, (3, 7))))
    assert {"embedding", "lstm", "block.linear1", "block.relu", "block.linear2", "block.norm1"} <= set(seen)
    assert seen["block.relu"].alive.shape == (16,)


class Nested(nn.Module):
    """Sequences of several lengths in one tensor, which knows no sizes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.nested.nested_tensor([x * self.scale, x[:1] * self.scale])


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_tensors_that_are_nested_are_left_out():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.nested, self.last = nn.Linear(2, 3), Nested(), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(self.nested(self.first(x)).to_padded_tensor(0.0))

    model = Model()
    seen, _ = activations(model, lambda: model(torch.rand(4, 2)))
    assert list(seen) == ["first", "last"]


def test_nothing_stays_at_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(RuntimeError):
        activations(model, lambda: model(torch.ones(1, 5)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch.overrides._get_current_function_mode_stack()


def test_entropy_of_what_is_uniform_is_the_logarithm():
    assert float(output_entropy(torch.zeros(4, 10))) == pytest.approx(math.log(10))
    assert float(output_entropy(torch.eye(3) * 1000)) == pytest.approx(0)
    masked = torch.tensor([[0.0, 0.0, -math.inf], [-1e5, 0.0, 0.0]])
    assert float(output_entropy(masked)) == pytest.approx(math.log(2))
    assert float(output_entropy(masked.half())) == pytest.approx(math.log(2))


class Outputs(nn.Module):
    def forward(self, pair):
        return pair[0]


@pytest.mark.parametrize("time", [5, 9])
def test_variation_of_sequences_with_time_first_is_from_sample_to_sample(time):
    """All samples are the same sequence, whose steps are not."""
    model = nn.Sequential(nn.GRU(2, 3), Outputs(), nn.Linear(3, 4), nn.ReLU())
    x = torch.randn(time, 1, 2, generator=torch.Generator().manual_seed(0)).expand(time, 9, 2).contiguous()
    seen, _ = activations(model, lambda: model(x), 9)
    found = {name: float(summarize([item])[0, 3]) for name, item in seen.items()}
    assert found["0"] < 1e-3
    # Beside it, with as many steps as samples, either axis may be that of the samples.
    assert all(math.isnan(found[name]) if time == 9 else found[name] < 1e-3 for name in ("2", "3")), found


def test_of_activations_that_are_not_a_number_nothing_is_known():
    values = torch.tensor([[0.0, 1.0], [0.0, math.nan]])
    found = summary(nn.Sequential(Fixed(values), nn.ReLU()), "1")
    assert all(map(math.isnan, found.values())), found


class Shared(nn.Module):
    """One activation after two layers, as a residual block has it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(2, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


def test_one_activation_after_several_layers_is_several():
    model = Shared()
    nn.init.constant_(model.first.bias, -100.0)
    nn.init.ones_(model.second.bias)
    nn.init.zeros_(model.second.weight)
    seen, _ = activations(model, lambda: model(torch.randn(8, 2)))
    assert list(seen) == ["first", "relu", "second", "relu-2"]
    assert summarize([seen["relu"], seen["relu-2"]])[:, 5].tolist() == [1.0, 0.0]


def test_one_activation_of_a_cell_that_is_called_again_and_again_is_one():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.relu = nn.Linear(2, 2, bias=False), nn.ReLU()

        def forward(self, x):
            for _ in range(3):
                x = self.relu(self.cell(x))
            return x

    model = Recurrent()
    with torch.no_grad():
        model.cell.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    seen, _ = activations(model, lambda: model(torch.tensor([[0.0, 5.0]])))
    assert list(seen) == ["cell", "relu"] and seen["relu"].count == 6
    assert summarize([seen["relu"]])[0, 5] == 0.5  # the first is alive at the first call, the second never


def test_what_is_packed_is_looked_at():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [3, 2], batch_first=True)
            return self.head(self.cell(packed)[1][0])

    seen, _ = activations(model := Packed(), lambda: model(torch.randn(2, 3, 2)), 2)
    assert list(seen) == ["cell", "head"]
