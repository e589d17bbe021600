"""Every operator against the singular values of its explicit matrix, built column by column from unit vectors."""

import math

import pytest
import torch
from torch import nn

from probes_fourier import (
    matrix_spectral_norm,
    max_norm_bound,
    module_spectral_norm,
    operator_spectral_norm,
    spectral_norm_product,
)


def explicit_norm(module: nn.Module, shape: tuple[int, ...]) -> float:
    """Largest singular value of x -> module(x) - module(0), from the images of all unit vectors."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        module = module.double()
        images = (module(units) - module(torch.zeros_like(units))).flatten(1)
        module.float()
    return torch.linalg.svdvals(images)[0].item()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(2, 3, 3), (2, 9)),
        (lambda: nn.Conv1d(2, 2, 3, padding="same", dilation=2), (2, 7)),
        (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8)),
        (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 6, 5)),
        (lambda: nn.Conv3d(1, 2, 2), (1, 4, 4, 4)),
        (lambda: nn.ConvTranspose1d(3, 2, 4, stride=2), (3, 6)),
        (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 5, 5)),
        (lambda: nn.ConvTranspose3d(1, 2, 2), (1, 3, 3, 3)),
        (lambda: nn.Linear(7, 5), (7,)),
        (lambda: nn.BatchNorm2d(3), (3, 2, 2)),
        (lambda: nn.BatchNorm1d(3, affine=False), (3,)),
    ],
)
def test_norm_of_a_module_matches_the_singular_values_of_its_matrix(layer, shape):
    torch.manual_seed(0)
    module = layer().eval()
    for name, buffer in module.named_buffers():
        if name == "running_var":
            buffer.uniform_(0.2, 3)
    result = module_spectral_norm(module, shape)["weight"]
    assert result.converged
    assert result.norm.item() == pytest.approx(explicit_norm(module, shape), rel=1e-5)


def test_norm_is_found_where_the_largest_singular_values_lie_close_together():
    # 200 values between 0.99 and 1: the plain power iteration is 1e-4 off after 1000 steps.
    scale = 0.99 + 0.01 * torch.arange(1, 201, dtype=torch.float64) / 200
    result = operator_spectral_norm(lambda x: scale * x, (200,), dtype=torch.float64)
    assert result.converged and result.iterations < 1000
    assert result.norm.item() == pytest.approx(1, rel=1e-6)


def test_norm_of_the_identity_is_one_at_once():
    result = operator_spectral_norm(lambda x: x, (3, 4))
    assert result.norm.item() == pytest.approx(1) and result.iterations == 1


def test_norm_of_the_zero_map_is_zero():
    result = operator_spectral_norm(lambda x: 0 * x, (3,))
    assert result.norm.item() == 0 and result.converged


def test_a_warm_start_takes_fewer_iterations():
    torch.manual_seed(0)
    module = nn.Conv2d(3, 8, 3, padding=1)
    cold = module_spectral_norm(module, (3, 16, 16))["weight"]
    warm = module_spectral_norm(module, (3, 16, 16), cold.vector)["weight"]
    assert warm.iterations < cold.iterations
    assert warm.norm.item() == pytest.approx(cold.norm.item(), rel=1e-5)


def test_an_iteration_that_is_cut_short_says_so():
    result = operator_spectral_norm(lambda x: torch.linspace(0.99, 1, 500) * x, (500,), max_iterations=3)
    assert not result.converged and result.iterations == 3


@pytest.mark.parametrize("module", [nn.Conv1d(1, 1, 3), nn.Linear(8, 8)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_norm_of_a_network_that_has_diverged_is_not_a_number(module, value):
    nn.init.constant_(module.weight, value)
    assert module_spectral_norm(module, (1, 8))["weight"].norm.isnan()


def test_norms_do_not_advance_the_global_random_state():
    module = nn.Conv1d(1, 1, 3)
    before = torch.get_rng_state()
    module_spectral_norm(module, (1, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_norm_of_a_vector_is_its_length():
    assert matrix_spectral_norm(torch.tensor([3.0, 4.0])).item() == 5
    assert matrix_spectral_norm(torch.tensor([[3.0], [4.0]])).item() == 5


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.LSTM(3, 4, num_layers=2), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]),
        (nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight"]),
        (nn.MultiheadAttention(4, 2, kdim=3, vdim=5), ["q_proj_weight", "k_proj_weight", "v_proj_weight"]),
        (nn.Embedding(9, 4), ["weight"]),
    ],
)
def test_every_matrix_of_a_module_has_its_norm(module, names):
    result = module_spectral_norm(module)
    assert list(result) == names
    for name in names:
        gram = getattr(module, name).detach().double()
        expected = torch.linalg.eigvalsh(gram.T @ gram)[-1].sqrt().item()
        assert result[name].norm.item() == pytest.approx(expected, rel=1e-5)


def test_modules_without_a_linear_map_have_no_norm():
    assert module_spectral_norm(nn.LayerNorm(4)) == {}


def test_matrix_norm_rejects_the_kernel_of_a_convolution():
    with pytest.raises(ValueError, match=r"`weight` must be a matrix or a vector, got shape \(1, 1, 3\)"):
        matrix_spectral_norm(torch.zeros(1, 1, 3))


def test_convolutions_need_the_size_of_their_input():
    with pytest.raises(ValueError, match="`input_shape` must be given for a Conv2d: its norm depends on the size"):
        module_spectral_norm(nn.Conv2d(1, 1, 3))


def test_operator_norm_rejects_a_bias():
    with pytest.raises(ValueError, match="`forward` must be linear, but it does not take 0 to 0"):
        operator_spectral_norm(lambda x: x + 1, (3,))


def test_operator_norm_rejects_a_start_of_another_shape():
    with pytest.raises(ValueError, match=r"`vector` must have the shape of an input, \(3,\), got \(4,\)"):
        operator_spectral_norm(lambda x: x, (3,), torch.ones(4))


def test_bounds_hold_for_the_slope_of_a_relu_network_and_in_their_order():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 1)).double()
    x = 3 * torch.randn(500, 4, dtype=torch.float64, requires_grad=True)
    steepest = torch.autograd.grad(net(x).sum(), x)[0].norm(dim=1).max()
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    product = spectral_norm_product([matrix_spectral_norm(weight) for weight in weights])
    assert steepest <= product <= max_norm_bound(weights)


def test_max_norm_bound_matches_the_formula_of_the_thesis():
    weights = [torch.full((3, 2), 0.5), torch.full((4, 3), -2.0), torch.full((1, 4), 1.0)]
    assert max_norm_bound(weights).item() == pytest.approx(2**3 * math.sqrt(2) * 3 * 4)


def test_max_norm_bound_rejects_convolutions():
    with pytest.raises(ValueError, match=r"`weights` must be one matrix for each layer, got shapes \[\(1, 1, 3\)\]"):
        max_norm_bound([torch.zeros(1, 1, 3)])


@pytest.mark.parametrize("exponent", [-30, -19, -12, 0, 9, 19, 30])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(2, 2, 3), (2, 6, 6)),
        (lambda: nn.Conv1d(3, 4, 3, padding=1, stride=2), (3, 9)),
        (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 4, 4)),
        (lambda: nn.Linear(1, 7), None),
        (lambda: nn.Linear(600, 600), None),
    ],
)
def test_norms_are_right_at_any_scale(make, shape, exponent):
    torch.manual_seed(0)
    module = make()
    right = module_spectral_norm(module, shape)["weight"].norm.double()
    with torch.no_grad():
        module.weight.copy_((module.weight.double() * 10.0**exponent).float())
    found = module_spectral_norm(module, shape)["weight"]
    assert found.converged and found.norm.double() / 10.0**exponent == pytest.approx(right.item(), rel=2e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e19, 1e30])
def test_an_operator_of_any_scale_is_right(scale):
    found = operator_spectral_norm(lambda x: scale * torch.stack([3 * x[0], x[1]]), (2,))
    assert found.converged and found.norm.item() / scale == pytest.approx(3, rel=1e-5)


def test_a_map_that_is_zero_has_norm_zero():
    found = operator_spectral_norm(lambda x: 0 * x, (4,))
    assert found.norm.item() == 0 and found.converged
