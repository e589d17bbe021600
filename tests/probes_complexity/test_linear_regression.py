"""SuperNat and gradient descent mode by mode, against both with explicit weights and matrices."""

import math

import pytest
import torch

from probes_complexity import gradient_descent, gradient_descent_closed_form, supernat, time_constants


def problem(n=6, p=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, more = torch.randn(2, max(n, 4), p, dtype=torch.float64, generator=generator)
    return features[:n], torch.randn(n, dtype=torch.float64, generator=generator), more


def naive_supernat(features, targets, rate, steps, test, kappa):
    """As figure 4.5 has it: weights, a P x P matrix, features that move; test features move with them."""
    u, _, vh = torch.linalg.svd(features, full_matrices=False)
    phi, phi_test, w = features.clone(), test.clone(), torch.zeros(features.shape[1], dtype=torch.float64)
    train, held, traces = [phi @ w], [phi_test @ w], [phi.square().sum()]
    for _ in range(steps):
        gradient = phi @ w - targets
        w = w - rate * phi.T @ gradient
        g = (u.T @ gradient).abs()
        nu = kappa(g, (phi @ phi.T)) / g
        a = torch.eye(len(w), dtype=torch.float64) + vh.T @ torch.diag(nu.sqrt() - 1) @ vh
        w, inverse = a.T @ w, torch.linalg.inv(a)
        phi, phi_test = phi @ inverse.T, phi_test @ inverse.T
        train.append(phi @ w)
        held.append(phi_test @ w)
        traces.append(phi.square().sum())
    return torch.stack(train), torch.stack(held), torch.stack(traces)


KAPPAS = {
    "max": lambda g, kernel: g.max(),
    "norm": lambda g, kernel: g.norm(),
    "one": lambda g, kernel: torch.ones((), dtype=torch.float64),
}


@pytest.mark.parametrize("normalization", KAPPAS)
def test_supernat_is_that_of_explicit_reparametrizations(normalization):
    features, targets, test = problem()
    path = supernat(features, targets, 0.01, 8, normalization)
    train, held, traces = naive_supernat(features, targets, 0.01, 8, test, KAPPAS[normalization])
    torch.testing.assert_close(path.outputs(features), train, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(path.outputs(test), held, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(path.eigenvalues.sum(1), traces, rtol=1e-9, atol=1e-12)


def test_trace_normalization_keeps_the_trace():
    features, targets, _ = problem()
    values = supernat(features, targets, 0.01, 20, "trace").eigenvalues.sum(1)
    torch.testing.assert_close(values, values[0].expand_as(values))


def test_max_normalization_never_lets_an_eigenvalue_grow():
    features, targets, _ = problem()
    values = supernat(features, targets, 0.01, 50, "max").eigenvalues
    assert bool((values.diff(dim=0) <= 1e-12).all())


@pytest.mark.parametrize(("n", "p"), [(6, 9), (9, 4)])
def test_gradient_descent_is_that_of_the_weights_and_its_closed_form(n, p):
    features, targets, test = problem(n, p)
    w = torch.zeros(p, dtype=torch.float64, requires_grad=True)
    outputs = [(test @ w).detach()]
    for _ in range(30):
        loss = (features @ w - targets).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - 0.02 * gradient).detach().requires_grad_()
        outputs.append((test @ w).detach())
    path = gradient_descent(features, targets, 0.02, 30)
    torch.testing.assert_close(path.outputs(test), torch.stack(outputs), rtol=1e-9, atol=1e-12)
    closed = gradient_descent_closed_form(features, targets, 0.02, torch.arange(31))
    torch.testing.assert_close(path.coefficients, closed, rtol=1e-10, atol=1e-13)


def test_residuals_shrink_by_e_in_a_time_constant():
    features, targets, _ = problem()
    path = gradient_descent(features, targets, 0.01, 1)
    tau = time_constants(path.eigenvalues[0], 0.01)
    at_tau = torch.stack(
        [gradient_descent_closed_form(features, targets, 0.01, t[None])[0, j] for j, t in enumerate(tau)]
    )
    goal = path.modes.T @ targets
    torch.testing.assert_close((goal - at_tau) / goal, torch.full_like(goal, torch.e**-1))


def test_a_feature_matrix_of_low_rank():
    features, targets, _ = problem()
    features[:, 3:] = 0
    path = supernat(features, targets, 0.01, 5, "max")
    assert path.coefficients.shape == (6, 3)
    assert bool(path.outputs(features).isfinite().all())


def test_nothing_left_to_learn():
    path = supernat(torch.eye(2), torch.zeros(2), 0.5, 3, "max")
    assert path.eigenvalues[-1].tolist() == [1, 1]


def test_refused():
    features, targets, _ = problem()
    with pytest.raises(ValueError, match="'max', 'norm', 'trace', 'one'"):
        supernat(features, targets, 0.1, 1, "mean")
    with pytest.raises(ValueError, match=r"\(n, P\).*\(n,\)"):
        gradient_descent(features, targets[:3], 0.1, 1)
    with pytest.raises(ValueError, match="learning_rate"):
        gradient_descent(features, targets, 0, 1)
    with pytest.raises(ValueError, match="steps"):
        gradient_descent(features, targets, 0.1, -1)


def test_time_constants_of_modes_that_stay_hardly_move_or_grow():
    found = time_constants(torch.tensor([0.0, 1e-9, 1e-6, 2.0, 3.0], dtype=torch.float64), 1.0)
    assert found.tolist() == pytest.approx([math.inf, 1e9, 1e6, math.inf, -1 / math.log(2)], rel=1e-6)
    assert time_constants(torch.tensor([1e-6]), 1.0).item() == pytest.approx(1e6, rel=1e-5)
