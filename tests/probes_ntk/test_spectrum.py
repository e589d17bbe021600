import math

import pytest
import torch

from probes_ntk import (
    effective_rank,
    eigenfunctions,
    eigenvalues,
    extend_eigenfunctions,
    tangent_kernel,
    trace_ratio,
)


def test_eigenvalues_are_squared_singular_values_of_the_features(features):
    phi, kernel = features
    expected = torch.linalg.svdvals(phi.reshape(21, 30)) ** 2
    torch.testing.assert_close(eigenvalues(kernel), expected, rtol=1e-11, atol=1e-11)


def test_eigenvalues_of_a_kernel_of_low_rank_are_never_negative():
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    values = eigenvalues(vector.outer(vector))
    assert (values >= 0).all() and values[0] == pytest.approx(vector.square().sum().item(), rel=1e-6)


def test_eigenfunctions_rebuild_the_kernel(features):
    _, kernel = features
    values, functions = eigenfunctions(kernel)
    assert functions.shape == (21, 3, 7) and (values.diff() <= 0).all()
    rebuilt = torch.einsum("j,jai,jbk->aibk", values, functions, functions)
    torch.testing.assert_close(rebuilt, kernel, rtol=1e-11, atol=1e-11)
    flat = functions.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(21, dtype=torch.float64), rtol=0, atol=1e-12)


def test_signs_of_eigenfunctions_do_not_depend_on_rounding(features):
    _, kernel = features
    one, two = eigenfunctions(kernel), eigenfunctions(kernel * (1 + 1e-12))
    torch.testing.assert_close(one.functions, two.functions, rtol=0, atol=1e-6)
    leading = one.functions.flatten(1)
    for row in leading:
        first = next(entry for entry in row if abs(entry) >= row.abs().max() / 2)
        assert first > 0


def test_extended_eigenfunctions_are_projections_of_the_features(small):
    model, inputs, phi = small
    other = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    eigen = eigenfunctions(tangent_kernel(model, inputs).kernel)
    extended = extend_eigenfunctions(eigen, tangent_kernel(model, other, inputs).kernel, 4)
    # Eq. 29 by the singular value decomposition of the Jacobian; its signs are arbitrary.
    _, singular, right = torch.linalg.svd(phi, full_matrices=False)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(model(x[None])[0, a], list(model.parameters()))])
        for a in range(3)
        for x in other
    ]
    expected = (torch.stack(rows) @ right[:4].T / singular[:4]).T.reshape(4, 3, 5)
    sign = (expected * extended).sum((1, 2), keepdim=True).sign()
    torch.testing.assert_close(extended, sign * expected, rtol=1e-8, atol=1e-10)


def test_extension_refuses_what_does_not_fit():
    eigen = eigenfunctions(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"must have shape \(1, n', 1, 3\), got \(1, 2, 1, 4\)"):
        extend_eigenfunctions(eigen, torch.ones(1, 2, 1, 4))
    with pytest.raises(ValueError, match="between 1 and 1, the number of eigenvalues above rounding, got 2"):
        extend_eigenfunctions(eigen, torch.ones(1, 2, 1, 3), 2)


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.full((7,), 3.0)).item() == pytest.approx(7)
    assert effective_rank(torch.tensor([5.0, 0.0, -1e-9])).item() == pytest.approx(1)
    # Geometric with ratio 1/2: entropy 2 log 2.
    assert effective_rank(0.5 ** torch.arange(200, dtype=torch.float64)).item() == pytest.approx(4)
    mu = [0.5, 0.3, 0.2]
    expected = math.exp(-sum(m * math.log(m) for m in mu))
    assert effective_rank(10 * torch.tensor(mu)).item() == pytest.approx(expected, rel=1e-6)


def test_trace_ratio_counts_k_eigenvalues():
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert trace_ratio(values, 2).tolist() == pytest.approx([0.7, 0.5])
    assert trace_ratio(values, 4).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("values", [torch.zeros(3), torch.tensor([torch.nan, 1.0]), torch.tensor([torch.inf, 1.0])])
def test_a_spectrum_that_cannot_be_normalised_is_refused(values):
    with pytest.raises(ValueError, match="finite and not all zero"):
        effective_rank(values)
    with pytest.raises(ValueError, match="finite and not all zero"):
        trace_ratio(values, 1)


@pytest.mark.parametrize("k", [0, 4])
def test_trace_ratio_refuses_a_k_outside(k):
    with pytest.raises(ValueError, match=f"between 1 and the number of eigenvalues, 3, got {k}"):
        trace_ratio(torch.ones(3), k)
