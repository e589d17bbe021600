"""Norms of layers, against the matrix of each, made by pushing unit vectors through it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from probes_complexity.chain import NotDefined
from probes_complexity.layer_norms import matrix_norms, operator_norms


def matrix_of(modules, shape):
    """The matrix of some modules, one after another, column by column."""
    chain = nn.Sequential(*modules)
    size = int(np.prod(shape))
    with torch.no_grad():
        zero = chain(torch.zeros(1, *shape, dtype=torch.float64))
        columns = [(chain(unit.reshape(1, *shape)) - zero).flatten() for unit in torch.eye(size, dtype=torch.float64)]
    return torch.stack(columns, 1).numpy()


def check(norms, matrices, references, rtol=1e-9):
    for i, (matrix, reference) in enumerate(zip(matrices, references, strict=True)):
        apart = matrix - reference
        np.testing.assert_allclose(norms.spectral[i], np.linalg.svd(matrix)[1][0], rtol=rtol)
        np.testing.assert_allclose(norms.frobenius[i], np.sqrt((matrix**2).sum()), rtol=rtol)
        np.testing.assert_allclose(norms.distance[i], np.sqrt((apart**2).sum()), rtol=rtol)
        for found, rows in ((norms.group, matrix), (norms.group_distance, apart)):
            expected = sum(np.sqrt(sum(entry**2 for entry in row)) for row in rows)
            np.testing.assert_allclose(found[i], expected, rtol=rtol)
        assert norms.shapes[i].tolist() == list(matrix.shape)
    assert len(norms.spectral) == len(matrices)


def test_norms_of_matrices_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in [(5, 3), (2, 5)]]
    references = [torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights]
    norms = matrix_norms(weights, references)
    check(norms, [w.numpy() for w in weights], [m.numpy() for m in references], 1e-12)
    assert norms.width == 5 and norms.units == 5 and matrix_norms([weights[0].T]).units == 3
    check(matrix_norms(weights), [w.numpy() for w in weights], [0 * w.numpy() for w in weights], 1e-12)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear_at_each_place": (lambda: nn.Linear(3, 4), (5, 3)),
    "strided": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "grouped_dilated": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 1), groups=2), (4, 6, 5)),
    "depthwise_same": (lambda: nn.Conv2d(3, 6, 3, padding="same", groups=3, bias=False), (3, 4, 5)),
    "circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 3, 4)),
    "three_dimensional": (lambda: nn.Conv3d(1, 2, 2, padding=(0, 1, 0)), (1, 3, 3, 2)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 2)),
    "transposed_1d": (lambda: nn.ConvTranspose1d(2, 3, 4, stride=2, dilation=2, bias=False), (2, 4)),
}


@pytest.mark.parametrize(
    ("name", "normed"),
    # A batch norm over places and not over outputs is refused, see below.
    [(name, normed) for name in LAYERS for normed in (False, True) if not (normed and name == "linear_at_each_place")],
)
def test_norms_of_a_layer_are_those_of_its_matrix(name, normed):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    modules = [make()]
    if normed:
        channels = modules[0](torch.zeros(1, *shape)).shape[1]
        kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape) + 1]
        modules.append(kind(channels))
    before = nn.Sequential(*modules).double().eval()
    model = copy.deepcopy(before)
    with torch.no_grad():
        for chain in (before, model):
            for parameter in chain.parameters():
                parameter.normal_()
            for buffer in chain.buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 2)
    initial = {key: value.clone() for key, value in before.state_dict().items()}
    norms = operator_norms(model, torch.zeros(2, *shape, dtype=torch.float64), initial, tol=1e-13)
    check(norms, [matrix_of(model, shape)], [matrix_of(before, shape)])


def test_norms_of_a_chain_are_those_of_its_layers_in_order():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Conv2d(4, 3, 2, bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 5),
    )
    model.double().train()
    x = torch.randn(6, 1, 6, 6, dtype=torch.float64)
    model(x)
    model.eval()
    norms = operator_norms(model, x, tol=1e-13)
    matrices = [matrix_of(model[0][:2], (1, 6, 6)), matrix_of([model[1]], (4, 3, 3)), matrix_of([model[5]], (12,))]
    check(norms, matrices, [0 * matrix for matrix in matrices])
    assert norms.width == 144 and norms.units == 144
    # The batch norm's variance before training is 1 where it is not given.
    initial = {key: value.clone() for key, value in model.named_parameters()}
    fresh = copy.deepcopy(model)
    fresh[0][1].reset_running_stats()
    references = [matrix_of(fresh[0][:2], (1, 6, 6)), *matrices[1:]]
    check(operator_norms(model, x, initial, tol=1e-13), matrices, references)
    assert not any(module._forward_hooks for module in model.modules())


def test_tied_weights_are_found_under_their_first_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    initial = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    norms = operator_norms(model, torch.zeros(1, 3, dtype=torch.float64), initial)
    check(norms, [model[0].weight.detach().numpy()] * 2, [initial["0.weight"].numpy()] * 2)


def test_vectors_of_the_last_time_are_started_from_and_replaced(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    vectors = {}
    first = operator_norms(model, torch.zeros(1, 1, 5, 5), vectors=vectors)
    assert set(vectors) == {"0"} and vectors["0"].shape == (1, 5, 5)
    started = []
    import probes_complexity.layer_norms as layer_norms

    real = layer_norms.operator_spectral_norm
    monkeypatch.setattr(
        layer_norms, "operator_spectral_norm", lambda f, s, v, **k: started.append(v) or real(f, s, v, **k)
    )
    last = vectors["0"]
    again = operator_norms(model, torch.zeros(1, 1, 5, 5), vectors=vectors)
    assert started[0] is last and vectors["0"] is not last
    torch.testing.assert_close(first.spectral, again.spectral, rtol=1e-5, atol=0)


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_a_forward_of_its_own_is_taken_for_a_chain_only_when_said():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    model, x = Block(inner), torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(NotDefined, match=r"`model` \(Block\) must be a chain .* Pass chain=True"):
        operator_norms(model, x)
    torch.testing.assert_close(operator_norms(model, x, chain=True), operator_norms(inner, x))
    with pytest.raises(NotDefined, match="must be a chain"):
        operator_norms(inner, x, chain=False)


def test_a_batch_norm_after_a_function_is_not_taken_for_part_of_the_layer_before():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(self.linear(x).relu())

    with pytest.raises(NotDefined, match="does not directly follow an affine layer"):
        operator_norms(Between().eval(), torch.zeros(1, 3), chain=True)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.ReLU()), (3,), "has no affine layer"),
        (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), (3,), "batch norm .'inner.0'. that does not directly"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.BatchNorm1d(3)),
            (3,),
            "batch norm .'inner.2'. that does not directly",
        ),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), (3, 3), "over something else than rows"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
            (3,),
            "without running statistics",
        ),
        (nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect")), (1, 5), "padding_mode='reflect'"),
        (nn.Sequential(nn.Conv1d(1, 1, 5, padding=2, padding_mode="circular")), (1, 4), "where the kernel fits in"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), (3,), "computed from others"),
        (nn.Sequential(*[nn.Linear(3, 3)] * 2), (3,), "calls one module several times"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), (3,), "'inner.1', LayerNorm"),
    ],
)
def test_layers_without_a_known_matrix_are_refused(model, shape, message):
    with pytest.raises(NotDefined, match=message):
        operator_norms(Block(model.eval()), torch.zeros(2, *shape), chain=True)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_part_that_torchscript_has_compiled_is_refused():
    chain = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Linear(3, 3))).eval()
    with pytest.raises(NotDefined, match=r"TorchScript has compiled \('1'\)"):
        operator_norms(chain, torch.zeros(2, 3), chain=True)
    assert not chain[0]._forward_hooks


def test_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    with pytest.raises(ValueError, match=r"batch normalisation in training mode \('1'\)"):
        operator_norms(model, torch.zeros(1, 3))
    model[1].eval()
    with pytest.raises(ValueError, match=r"dropout in training mode \('2'\)"):
        operator_norms(model, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"for '0.weight', of shape \(3, 3\), it holds nothing"):
        operator_norms(model.eval(), torch.zeros(1, 3), {})
    with pytest.raises(ValueError, match=r"one matrix for each layer, got shapes \[\(3,\)\]"):
        matrix_norms([torch.ones(3)])
    with pytest.raises(ValueError, match="shapes of the weights"):
        matrix_norms([torch.ones(3, 2)], [torch.ones(2, 3)])
