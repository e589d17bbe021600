"""Path norms, against the enumeration of every single path."""

import itertools
import math

import pytest
import torch
from torch import nn

from probes_complexity.chain import NotDefined
from probes_complexity.path_norm import path_norm


def matrix_of(module, shape):
    """The matrix and the bias of an affine module, by pushing unit vectors through it."""
    size = math.prod(shape)
    with torch.no_grad():
        bias = module(torch.zeros(1, *shape, dtype=torch.float64))[0]
        units = torch.eye(size, dtype=torch.float64).reshape(size, 1, *shape)
        columns = [(module(unit)[0] - bias).flatten() for unit in units]
    return torch.stack(columns, 1), bias.flatten(), tuple(bias.shape)


def walk(layers, k, unit):
    """The products of all paths from an output of layer k, back to an input or to a constant unit."""
    if k < 0:
        yield 1.0
        return
    matrix, bias = layers[k]
    if bias[unit]:
        yield abs(bias[unit])
    for j, weight in enumerate(matrix[unit]):
        if weight:
            for product in walk(layers, k - 1, j):
                yield abs(weight) * product


def enumerated(layers, p):
    """Path norm of affine layers, given as pairs of matrix and bias, lists of numbers."""
    layers = [(matrix.tolist(), bias.tolist()) for matrix, bias in layers]
    paths = itertools.chain.from_iterable(walk(layers, len(layers) - 1, i) for i in range(len(layers[-1][0])))
    return math.fsum(product**p for product in paths) ** (1 / p)


def affine_layers(model, shape):
    """Of an nn.Sequential without max pooling: pairs of matrix and bias."""
    layers = []
    for module in model:
        if isinstance(module, nn.ReLU | nn.Flatten | nn.Dropout):
            shape = (math.prod(shape),) if isinstance(module, nn.Flatten) else shape
            continue
        matrix, bias, shape = matrix_of(module, shape)
        layers.append((matrix, bias))
    return layers


@pytest.mark.parametrize("p", [1, 1.5, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_path_norm_of_a_fully_connected_network_sums_over_all_paths(p, bias):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4, bias), nn.ReLU(), nn.Dropout(), nn.Linear(4, 5, bias), nn.LeakyReLU(0.2), nn.Linear(5, 2, bias)
    )
    model = model.double().eval()
    layers = [
        (layer.weight.detach(), layer.bias.detach() if bias else torch.zeros(len(layer.weight)))
        for layer in model
        if isinstance(layer, nn.Linear)
    ]
    found = path_norm(model, torch.randn(4, 3, dtype=torch.float64), p)
    assert float(found) == pytest.approx(enumerated(layers, p), rel=1e-12) and found.dtype == torch.float64


@pytest.mark.parametrize("p", [1, 2])
def test_path_norm_of_a_convolutional_network_counts_each_use_of_a_weight(p):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.AvgPool1d(2, padding=1),
        nn.ConvTranspose1d(4, 1, 2),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    model = model.double().eval()
    x = torch.zeros(1, 2, 9, dtype=torch.float64)
    assert float(path_norm(model, x, p)) == pytest.approx(enumerated(affine_layers(model, (2, 9)), p), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_all_paths_through_a_max_pooling_count_or_the_largest_alone(p):
    torch.manual_seed(0)
    pool = nn.MaxPool2d((2, 3), stride=(2, 1), padding=(0, 1), dilation=1)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), pool, nn.Flatten(), nn.Linear(16, 2)).double().eval()
    x = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    conv, bias, shape = matrix_of(model[0], (1, 5, 5))
    assert shape == (2, 4, 4)
    windows = torch.zeros(2, 2, 4, 2, 4, 4, dtype=torch.float64)
    for c, i, j in itertools.product(range(2), range(2), range(4)):
        windows[c, i, j, c, 2 * i : 2 * i + 2, max(j - 1, 0) : j + 2] = 1
    windows = windows.reshape(16, 32)
    last = (model[3].weight.detach(), model[3].bias.detach())
    layers = [(conv, bias), (windows, torch.zeros(16)), last]
    assert float(path_norm(model, x, p)) == pytest.approx(enumerated(layers, p), rel=1e-12)
    # The maximum of what comes from each of the window, written as a loop.
    values = conv.abs().pow(p).sum(1) + bias.abs().pow(p)
    largest = torch.stack([max(value for value, inside in zip(values, row, strict=True) if inside) for row in windows])
    expected = float((last[0].abs().pow(p) @ largest + last[1].abs().pow(p)).sum()) ** (1 / p)
    assert float(path_norm(model, x, p, max_pool="max")) == pytest.approx(expected, rel=1e-12)
    assert expected < float(path_norm(model, x, p))


def trained_batch_norms(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            with torch.no_grad():
                for tensor in (module.running_mean, *module.parameters()):
                    tensor.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.double().eval()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_is_folded_into_the_layer_before(p, bias):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4, bias), nn.BatchNorm1d(4))
    model = trained_batch_norms(nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2)))
    matrix, shift, _ = matrix_of(first, (3,))
    layers = [(matrix, shift), (model[2].weight.detach(), model[2].bias.detach())]
    found = path_norm(model, torch.zeros(1, 3, dtype=torch.float64), p)
    assert float(found) == pytest.approx(enumerated(layers, p), rel=1e-12)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_elsewhere_is_a_layer_of_its_own(affine):
    torch.manual_seed(0)
    model = trained_batch_norms(nn.Sequential(nn.BatchNorm1d(3, affine=affine), nn.Linear(3, 2), nn.ReLU()))
    layers = [matrix_of(model[0], (3,))[:2], (model[1].weight.detach(), model[1].bias.detach())]
    found = path_norm(model, torch.zeros(1, 3, dtype=torch.float64))
    assert float(found) == pytest.approx(enumerated(layers, 2), rel=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.second(x + self.first(x).relu())


def test_branches_add_their_paths_when_it_is_said_that_nothing_else_happens():
    torch.manual_seed(0)
    model = Residual().double()
    x = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(NotDefined, match=r"'the whole', Residual.*Pass feedforward=True"):
        path_norm(model, x)
    a, b = model.first.weight.detach().square(), model.second.weight.detach().square()
    expected = math.sqrt(sum(float(b[i, j] * (1 + a[j].sum())) for i in range(2) for j in range(3)))
    assert float(path_norm(model, x, feedforward=True)) == pytest.approx(expected, rel=1e-12)


def test_path_norm_is_invariant_to_rescaling_of_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.zeros(1, 3, dtype=torch.float64)
    before = float(path_norm(model, x))
    with torch.no_grad():
        scale = torch.tensor([0.1, 2.0, 3.0, 5.0])
        model[0].weight.mul_(scale[:, None]), model[0].bias.mul_(scale), model[2].weight.div_(scale)
    assert float(path_norm(model, x)) == pytest.approx(before, rel=1e-7)


def test_the_1_norm_bounds_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 2)).eval()
    x = torch.rand(200, 1, 8) * 2 - 1
    with torch.no_grad():
        largest = model(x).abs().sum(1).max()
    assert largest <= path_norm(model, x, 1, max_pool="sum")


def test_path_norm_does_not_overflow_where_float32_does():
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e15)
    # 10 x 10 x 10 paths from the inputs and 10 x 10 from the first biases, all of three edges; the others do not show.
    expected = math.sqrt(1100 * 1e90)
    assert float(path_norm(model, torch.zeros(1, 10))) == pytest.approx(expected, rel=1e-6)


def test_tied_layers_share_their_edges():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 3))
    model[4].weight = shared.weight
    model.double()
    own = (shared.weight.detach(), shared.bias.detach())
    layers = [own, own, (shared.weight.detach(), model[4].bias.detach())]
    found = path_norm(model, torch.zeros(1, 3, dtype=torch.float64))
    assert float(found) == pytest.approx(enumerated(layers, 2), rel=1e-12)


def test_path_norm_changes_nothing_and_leaves_no_forward_hook_behind():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.MaxPool1d(2)).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path_norm(model, torch.zeros(1, 1, 9))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(NotDefined, match=r"\('1'\) with ceil_mode"):
        path_norm(nn.Sequential(model, nn.MaxPool1d(2, ceil_mode=True)), torch.zeros(1, 1, 9))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(1)), nn.Linear(3, 3)

    def forward(self, x):
        return self.scale * self.inner(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), "'1', Sigmoid. whose paths are not known"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "'1', LayerNorm"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU6()), "'1', ReLU6"),
        (nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(1.5)), "'1', LeakyReLU"),
        (nn.Sequential(nn.AdaptiveMaxPool1d(1)), "'0', AdaptiveMaxPool1d"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), "'0', ParametrizedLinear.*computed"),
        (nn.Sequential(nn.LSTM(3, 3)), "'0', LSTM"),
        (Scaled(), "'the whole', Scaled. whose paths"),
    ],
)
def test_modules_whose_paths_are_not_known_are_refused_by_name(model, message):
    with pytest.raises(NotDefined, match=message):
        path_norm(model, torch.zeros(1, 3), feedforward=True)


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool1d(2, ceil_mode=True), nn.AvgPool1d(2, padding=1, count_include_pad=False), nn.AdaptiveAvgPool1d(2)],
)
def test_uneven_average_poolings_are_known_for_p_1_only(pool):
    model = nn.Sequential(pool)
    assert float(path_norm(model, torch.zeros(1, 1, 5), 1)) == pytest.approx(float(pool(torch.ones(1, 1, 5)).sum()))
    with pytest.raises(NotDefined, match=r"\('0'\) whose windows differ in size"):
        path_norm(model, torch.zeros(1, 1, 5), 2)


def test_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    with pytest.raises(ValueError, match="dropout in training mode"):
        path_norm(model, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        path_norm(model.eval(), torch.zeros(1, 3), 0.5)
    with pytest.raises(ValueError, match="'sum' or 'max', got 'mean'"):
        path_norm(model, torch.zeros(1, 3), max_pool="mean")
    with pytest.raises(NotDefined, match="no paths from token ids"):
        path_norm(model, torch.zeros(1, 3, dtype=torch.int64))


def test_a_layer_with_a_forward_of_its_own_has_no_known_paths():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="forward of its own"):
        path_norm(nn.Sequential(Twice(2, 2)), torch.zeros(1, 2))
