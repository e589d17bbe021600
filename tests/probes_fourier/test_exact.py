"""Networks whose breakpoints are known by hand, and dense grids that see every bend."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes_fourier import (
    breakpoints,
    double,
    fourier_coefficients,
    grid,
    linear_regions,
    piecewise_linear_coefficients,
)

f64 = torch.float64


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=f64)


def bends_on_a_grid(function, start, end, n=20011):
    """Intervals of a fine grid inside which the function bends: where second differences do not vanish."""
    t = torch.arange(n + 1, dtype=f64) / n
    with torch.no_grad():
        values = function(start + t.reshape(-1, *[1] * start.ndim) * (end - start)).reshape(n + 1, -1)
    bent = (values.diff(n=2, dim=0).abs() > 1e-10 * values.abs().max()).any(1)
    return t, values, bent


def assert_exact(function, start, end, least=3):
    """The broken line agrees with the function on a grid it has never seen, and bends wherever the function does."""
    t, values = breakpoints(function, start, end)
    z, expected, bent = bends_on_a_grid(function, start, end)
    i = torch.searchsorted(t, z, right=True).clamp(1, len(t) - 1)
    share = ((z - t[i - 1]) / (t[i] - t[i - 1]))[:, None]
    torch.testing.assert_close((1 - share) * values[i - 1] + share * values[i], expected, rtol=1e-9, atol=1e-10)
    assert bent.sum() >= least, "the example must bend for the test to mean something"
    return t, values


class Residual(nn.Module):
    """Convolutions, batch norm, max pooling, a residual sum and activations in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.pool, self.head = nn.MaxPool2d(3, stride=2, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.conv1(x))))
        x = self.act(x + self.norm(self.conv2(x)))
        return self.head(x.flatten(1))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    model = Residual()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


def test_breakpoints_of_a_network_set_by_hand_are_where_its_units_switch():
    # f(x) = relu(x - 1) - 2 relu(x - 2) + relu(3 - x), on x = 4 t
    weight, bias, out = line(1, 1, -1)[:, None], line(-1, -2, 3), line(1, -2, 1)
    t, values = breakpoints(lambda x: (x @ weight.T + bias).relu() @ out, line(0), line(4))
    torch.testing.assert_close(t, line(0, 0.25, 0.5, 0.75, 1))
    torch.testing.assert_close(values, line(3, 2, 2, 0, -1)[:, None])


def test_coefficients_of_a_network_set_by_hand_are_those_of_the_triangle_wave():
    def triangle(x):  # 2 t up to 1/2, then down
        return 2 * x - 4 * F.relu(x - 0.5)

    t, values = breakpoints(triangle, line(0), line(1))
    measured = piecewise_linear_coefficients(t, values, [1, 2, 3])[:, 0]
    expected = torch.tensor([-2 / math.pi**2, 0, -2 / (3 * math.pi) ** 2], dtype=torch.complex128)
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=1e-16)


def test_breakpoints_behind_breakpoints_are_found():
    # Folding [0, 1] three times: a zigzag of 8 pieces.
    def fold(x):
        return 1 - (2 * x - 1).abs()

    t, values = breakpoints(lambda x: fold(fold(fold(x))), line(0), line(1))
    torch.testing.assert_close(t, torch.arange(9, dtype=f64) / 8)
    torch.testing.assert_close(values[:, 0], line(0, 1, 0, 1, 0, 1, 0, 1, 0))
    assert linear_regions(t, values) == 8


def test_mlp_is_its_broken_line(mlp):
    assert_exact(double(mlp), line(-3, -1, 2), line(4, 2, -5), least=8)


def test_residual_convolutional_network_is_its_broken_line(residual):
    torch.manual_seed(1)
    a, b = torch.randn(2, 2, 8, 8, dtype=f64)
    assert_exact(double(residual), a, b, least=50)


def test_exact_spectrum_is_the_limit_of_the_grid(residual, mlp):
    torch.manual_seed(1)
    a, b = torch.randn(2, 2, 8, 8, dtype=f64)
    for function, start, end in ((double(residual), a, b), (double(mlp), line(-3, -1, 2), line(4, 2, -5))):
        k = [1, 3, 10]
        exact = piecewise_linear_coefficients(*breakpoints(function, start, end), k, detrend=True, window="hann")
        errors = []
        for n in (2**10, 2**14):
            z = grid(n, f64).reshape(-1, *[1] * start.ndim)
            with torch.no_grad():
                values = torch.cat([function(start + part * (end - start)) for part in z.split(2048)])
            coarse = fourier_coefficients(values.T, k, detrend=True, window="hann").T
            errors.append(((coarse - exact).abs().max() / exact.abs().max()).item())
        # The grid converges at first order (its least-squares line is off by 1/N), to the exact value.
        assert errors[1] < 2e-4 and errors[1] < errors[0] / 10, errors


@pytest.mark.parametrize(
    "operation",
    [
        F.relu,
        lambda x: F.relu_(x.clone()),
        torch.Tensor.relu,
        F.leaky_relu,
        lambda x: F.relu6(9 * x),
        lambda x: F.hardtanh(x, -0.5, 0.7),
        lambda x: F.hardtanh_(1 * x, max_val=0.2),
        F.hardsigmoid,
        lambda x: F.prelu(x, line(0.1)),
        lambda x: F.rrelu(x, training=False),
        lambda x: F.threshold(x, 0.5, 0.5),
        abs,
        lambda x: x.clamp(min=0.1),
        lambda x: torch.clamp(x, -0.3, 0.3),
        lambda x: x.clamp_max(line(0.1, 0.2, 0.3, 0.4)),
        lambda x: torch.maximum(x, x.flip(1)),
        lambda x: torch.minimum(x[:, :2], x[:, 2:]),
        lambda x: torch.max(x, 0.5 * x + 0.1),
        lambda x: x.amax(1),
        lambda x: x.amin(-1, keepdim=True),
        lambda x: x.max(dim=1).values,
        lambda x: torch.min(x, 1)[0],
        lambda x: x.reshape(-1, 2, 2).amax((1, 2)),
        lambda x: x * (x > 0),
        lambda x: torch.where(x < 0.2, 0.2 + 0 * x, x),
        lambda x: (x > 0).to(x.dtype) * x,
        lambda x: torch.ge(x, 0).double().mul(x),
    ],
)
def test_every_piecewise_linear_operation_is_followed(operation):
    torch.manual_seed(0)
    weight, out = torch.randn(4, 4, dtype=f64), torch.randn(4, dtype=f64)

    def function(x):
        return 2 * operation(x @ weight) + out.abs().sum()

    assert_exact(function, line(-2, 1, 0.5, -1), line(1, -2, 1, 2), least=1)


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool1d(3, 2), (2, 9)),
        (nn.MaxPool1d(2, padding=1, ceil_mode=True), (2, 8)),
        (nn.MaxPool1d(2, 3, padding=1, ceil_mode=True), (4, 5)),
        (nn.MaxPool2d(2), (2, 6, 6)),
        (nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1), ceil_mode=True), (2, 7, 7)),
        (lambda x: F.max_pool2d(x, 3, return_indices=True)[0], (1, 6, 6)),
        (nn.MaxPool3d(2), (1, 4, 4, 4)),
        (nn.AdaptiveMaxPool1d(3), (2, 7)),
        (nn.AdaptiveMaxPool2d((2, None)), (2, 5, 3)),
        (nn.AdaptiveMaxPool3d(1), (2, 3, 3, 2)),
    ],
)
def test_every_max_pooling_is_followed(pool, shape):
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=f64)
    t, values = assert_exact(lambda x: pool(x).flatten(1), a, b, least=2)
    # Only crossings that change a maximum are kept: every point is a bend of the output.
    assert linear_regions(t, values) == len(t) - 1


def test_breakpoints_do_not_depend_on_the_chunk_size(mlp):
    whole, _ = breakpoints(double(mlp), line(-3, -1, 2), line(4, 2, -5))
    parts, _ = breakpoints(double(mlp), line(-3, -1, 2), line(4, 2, -5), chunk_size=5)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-13)


def test_a_tensor_filled_through_its_views_is_followed():
    def function(x):
        out = torch.zeros(len(x), 2, dtype=f64)
        out[:, :1].copy_(x)
        out[:, 1:].copy_(1 - x)
        return out.relu()

    t, _ = breakpoints(function, line(-1), line(3))
    torch.testing.assert_close(t, line(0, 0.25, 0.5, 1))


def test_smooth_functions_of_the_parameters_alone_are_no_obstacle():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 8)).double()
    assert_exact(lambda x: layer(x).relu(), line(-1, 2, 0), line(3, -1, 1))


def test_the_model_is_left_as_it_is(residual):
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    torch.manual_seed(1)
    breakpoints(double(residual), *torch.randn(2, 2, 8, 8))
    after = residual.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert all(parameter.requires_grad for parameter in residual.parameters())
