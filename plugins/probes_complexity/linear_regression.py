"""Linear regression by gradient descent and by SuperNat, mode by mode of the feature matrix."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = [
    "LinearPath",
    "Normalization",
    "gradient_descent",
    "gradient_descent_closed_form",
    "supernat",
    "time_constants",
]

Normalization = Literal["max", "norm", "trace", "one"]


class LinearPath(NamedTuple):
    """A linear model along its training, in the basis of the singular vectors of its feature matrix (rank r)."""

    coefficients: Tensor
    """Of the function along each mode, before the first step and after each. Shape ``(steps + 1, r)``."""
    eigenvalues: Tensor
    """Squared singular values of the features at each of these times. Shape ``(steps + 1, r)``."""
    modes: Tensor
    """Left singular vectors u_j, unit vectors over the training samples. Shape ``(n, r)``."""
    directions: Tensor
    """Right singular vectors v_j, over the square roots of the eigenvalues at the start. Shape ``(P, r)``."""

    def outputs(self, features: Tensor) -> Tensor:
        """The function at each time on samples with these features, as they were at the start.

        Args:
            features: Shape ``(m, P)``; they are carried along with the training features.

        Returns:
            Shape ``(steps + 1, m)``.
        """
        return self.coefficients @ (to_float64(features).to(self.directions.device) @ self.directions).T


def gradient_descent(features: Tensor, targets: Tensor, learning_rate: float, steps: int) -> LinearPath:
    r"""Gradient descent of :math:`L = \frac12 \|\mathbf f - \mathbf y\|^2` for a linear model, from zero.

    .. math:: \delta f_j = -\eta \lambda_j \, \mathbf u_j^\top (\mathbf f - \mathbf y)

    Args:
        features: Of the training samples, shape ``(n, P)``.
        targets: Shape ``(n,)``.
        learning_rate: :math:`\eta`; it converges below :math:`2 / \lambda_1`.
        steps: Number of updates.

    Returns:
        In float64.

    Raises:
        ValueError: If shapes do not fit, the learning rate is not positive or ``steps`` is negative.

    Cost: one singular value decomposition, n P min(n, P) operations, and r operations a step.

    Example:
        >>> path = gradient_descent(torch.eye(2), torch.tensor([1.0, 2.0]), 0.5, 1)
        >>> path.outputs(torch.eye(2))[-1].tolist()
        [0.5, 1.0]

    Reference:
        Baratin (2021), propositions B.3 and B.4.
    """
    return _descend(features, targets, learning_rate, steps, None)


def supernat(
    features: Tensor, targets: Tensor, learning_rate: float, steps: int, normalization: Normalization
) -> LinearPath:
    r"""SuperNat: gradient descent of :math:`L = \frac12 \|\mathbf f - \mathbf y\|^2` that rescales its features.

    .. math:: \delta f_j = -\eta \lambda_{jt} g_{jt}, \qquad
              \lambda_{j(t+1)} = \frac{|g_{jt}|}{\kappa_t} \lambda_{jt}, \qquad
              g_{jt} = \mathbf u_j^\top \nabla_{\mathbf f} L

    After each step the singular values are rescaled as minimizes that step's share of the bound of the Rademacher
    complexity, up to a constant :math:`\kappa_t`, of which the source says nothing and on which the outcome depends.

    Args:
        normalization: What :math:`\kappa_t` is. ``"max"``: the largest :math:`|g_j|`, so that the dominant mode keeps
            its speed and no eigenvalue grows. ``"norm"``: :math:`\|g\|`, so that all decrease. With these two the
            noise is frozen. ``"trace"``: what keeps the sum of the eigenvalues; once the signal is learned, the noise
            is stretched instead, and the path ends where gradient descent does. ``"one"``: 1, as equation 17 reads;
            grows without bound where residuals are larger than 1.

    Other arguments, returns, errors, cost: as :func:`gradient_descent`.

    Raises:
        ValueError: If ``normalization`` is unknown, too.

    Example:
        >>> path = supernat(torch.diag(torch.tensor([2.0, 1.0])), torch.tensor([1.0, 2.0]), 0.1, 1, "max")
        >>> path.eigenvalues.tolist()
        [[4.0, 1.0], [2.0, 1.0]]

    Reference:
        Baratin (2021), figure 4.5, proposition 4.3 (eq. 16 and 17), and B.2.6.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(
            f"`normalization` must be one of {', '.join(map(repr, get_args(Normalization)))}, got {normalization!r}."
        )
    return _descend(features, targets, learning_rate, steps, normalization)


def gradient_descent_closed_form(features: Tensor, targets: Tensor, learning_rate: float, times: Tensor) -> Tensor:
    r"""The coefficients of :func:`gradient_descent` at any step, without taking the steps before.

    .. math:: f_{jt} = f_j^* + (1 - \eta \lambda_j)^t (f_{j0} - f_j^*), \qquad f_j^* = \mathbf u_j^\top \mathbf y,
              \quad f_{j0} = 0

    Args:
        times: Numbers of steps, shape ``(k,)``.

    Other arguments, errors: as :func:`gradient_descent`.

    Returns:
        Shape ``(k, r)``, float64.

    Example:
        >>> gradient_descent_closed_form(torch.eye(1), torch.ones(1), 0.5, torch.arange(3)).flatten().tolist()
        [0.0, 0.5, 0.75]

    Reference:
        Baratin (2021), proposition B.5, eq. 33.
    """
    u, s, _ = _modes(features, targets, learning_rate)
    goal = u.T @ to_float64(targets).to(u.device)
    return goal * (1 - (1 - learning_rate * s.square()) ** to_float64(times).to(u.device)[:, None])


def time_constants(eigenvalues: Tensor, learning_rate: float) -> Tensor:
    r"""Steps after which the residual of each mode has shrunk by a factor e.

    .. math:: \tau_j = -1 / \log |1 - \eta \lambda_j|

    The source prints the inverse of this. Infinite where the residual stays; negative where it grows.

    Args:
        eigenvalues: Any shape.

    Returns:
        Of the same shape, in steps.

    Example:
        >>> time_constants(torch.tensor([0.0, 0.1, 2.0]), 1.0).round(decimals=3).tolist()
        [inf, 9.491..., inf]

    Reference:
        Baratin (2021), B.1.5.2, with eq. 33.
    """
    rates = learning_rate * to_float64(eigenvalues)
    logarithm = torch.where(rates < 1, torch.log1p(-rates.clamp(max=1)), (rates - 1).log())
    stays = logarithm == 0
    constants = torch.where(stays, torch.inf, -1 / logarithm.masked_fill(stays, 1.0))
    return constants.to(eigenvalues.dtype if eigenvalues.is_floating_point() else torch.float64)


def _modes(features: Tensor, targets: Tensor, learning_rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values of the features, of those that are not zero."""
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"`features` must have shape (n, P) and `targets` (n,), got {tuple(features.shape)} and "
            f"{tuple(targets.shape)}."
        )
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate!r}.")
    u, s, vh = torch.linalg.svd(to_float64(features.detach()), full_matrices=False)
    rank = int((s > s.max() * max(features.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vh[:rank].T


def _descend(
    features: Tensor, targets: Tensor, learning_rate: float, steps: int, normalization: Normalization | None
) -> LinearPath:
    if steps < 0:
        raise ValueError(f"`steps` must be a number of updates, got {steps}.")
    u, s, v = _modes(features, targets, learning_rate)
    goal = u.T @ to_float64(targets.detach()).to(u.device)
    f, values = torch.zeros_like(goal), s.square()
    coefficients, eigenvalues = [f], [values]
    for _ in range(steps):
        g = f - goal
        f = f - learning_rate * values * g
        if normalization is not None:
            values = _rescaled(values, g.abs(), normalization)
        coefficients.append(f)
        eigenvalues.append(values)
    return LinearPath(torch.stack(coefficients), torch.stack(eigenvalues), u, v / s)


def _rescaled(values: Tensor, g: Tensor, normalization: Normalization) -> Tensor:
    if normalization == "one" or not len(g):
        return values * g
    if normalization == "trace":
        kappa = (values * g).sum() / values.sum()
    else:
        kappa = g.max() if normalization == "max" else g.norm()
    return values * (g / kappa) if kappa > 0 else values  # nothing is left to learn
