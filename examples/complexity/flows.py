"""Learning flows, the bound of their class (Thm 4.2), and its complexity by random signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from probes_complexity import LinearPath, flow_bound, gradient_descent, supernat
from probes_ntk import tangent_kernel

from ..frame.classification import Samples
from ..frame.criteria import Array
from ..frame.models import MLP
from .supernat import Settings, problem

__all__ = ["METHODS", "Learned", "network_flow", "padded", "ramp", "regressions", "signs"]

METHODS = ("gradient descent", "max", "norm", "trace")
"""Ways to rescale features: not at all, and SuperNat's constants kappa."""


class Learned(NamedTuple):
    """Along a training, shape ``(T,)`` each."""

    bound: Tensor
    estimate: Tensor
    """Of the empirical Rademacher complexity, by random signs."""
    gap: Tensor
    """What generalization costs: the error on test samples less that on the samples trained on."""
    size: Tensor
    """Length of the path, or norm of the weights."""


def signs(draws: int, n: int, seed: int) -> Tensor:
    """Rademacher variables, shape ``(draws, n)``, independent of what else is drawn with the seed."""
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    return 2.0 * torch.randint(2, (draws, n), generator=generator) - 1


def padded(trainings: Sequence[Learned]) -> Array:
    """Trainings of different length, each kept at its last value. Shape ``(trainings, fields, T)``."""
    longest = max(len(one.bound) for one in trainings)
    return np.stack([np.pad(np.stack(one), ((0, 0), (0, longest - len(one.bound))), "edge") for one in trainings])


def regressions(draws: int, steps: int, seed: int) -> Array:
    """Of one problem, shape ``(methods, fields, T)``."""
    features, targets, test = problem(Settings(), seed)
    rate = 0.5 / float(torch.linalg.matrix_norm(features, 2) ** 2)
    sigma, found = signs(draws, len(targets), seed), []
    for method in METHODS:
        if method == METHODS[0]:
            path = gradient_descent(features, targets, rate, steps)
        else:
            path = supernat(features, targets, rate, steps, method)  # type: ignore[arg-type]
        found.append(np.stack([part.numpy() for part in linear_flow(path, targets, rate, sigma, test, test[:, 0])]))
    return np.stack(found)


def linear_flow(path: LinearPath, targets: Tensor, rate: float, sigma: Tensor, test: Tensor, truth: Tensor) -> Learned:
    r"""The flow of a linear model that rescales its features at each step: the setting of Thm 4.2 itself.

    The supremum of the class is known (eq. 47), :math:`\sum_t m_t \sqrt{\sigma^\top K_t \sigma}`, so that the estimate
    is exact but for the draw of the signs.

    Args:
        rate: Learning rate.
        sigma: Signs, shape ``(draws, n)``.
        test: Features of test samples, and ``truth``, their targets.
    """
    n, eigenvalues = len(targets), path.eigenvalues[:-1]
    residuals = path.coefficients - path.modes.T @ targets
    updates = rate * (eigenvalues * residuals[:-1].square()).sum(1).sqrt()
    features = eigenvalues.sum(1).sqrt()
    along = (sigma.double() @ path.modes).square()  # (draws, r)
    suprema = (along @ eigenvalues.T).sqrt() * updates  # (draws, T)
    bounds = torch.stack([flow_bound(updates[:t], features[:t], n) for t in range(1, len(updates) + 1)])
    error = (path.coefficients @ path.modes.T - targets).square().mean(1)
    gap = (path.outputs(test) - truth).square().mean(1) - error
    return Learned(bounds, suprema.mean(0).cumsum(0) / n, gap[1:], updates.cumsum(0))


def standardized(samples: Samples) -> Samples:
    """Pixels of mean 0 and standard deviation 1, taken together."""
    return samples._replace(images=(samples.images - samples.images.mean()) / samples.images.std())


def network_flow(
    train: Samples, test: Samples, width: int, rate: float, goal: float, most: int, every: int, sigma: Tensor, seed: int
) -> Learned:
    """A network of one output, less what it starts from, by gradient descent of the logistic loss down to a goal.

    The tangent kernel is computed at every so many steps, and kept in between.
    """
    train, test = standardized(train), standardized(test)
    torch.manual_seed(seed)
    model, n = MLP(train.images.shape[1], width, 3, 1), len(train.labels)
    parameters = list(model.parameters())
    side, side_of_test = (2.0 * samples.labels - 1 for samples in (train, test))
    with torch.no_grad():
        start, start_of_test = model(train.images)[:, 0], model(test.images)[:, 0]
    updates: list[float] = []
    norms: list[float] = []
    suprema, rows = torch.zeros(len(sigma), dtype=torch.float64), []
    for step in range(most + 1):
        margin = side * (model(train.images)[:, 0] - start)
        loss = nn.functional.softplus(-margin).mean()
        last = step == most or bool(loss <= goal)
        if step % every == 0 or last:
            with torch.no_grad():
                margin_of_test = side_of_test * (model(test.images)[:, 0] - start_of_test)
                gap = ramp(margin_of_test).mean() - ramp(margin).mean()
            if step:
                bound = flow_bound(torch.tensor(updates), torch.tensor(norms), n)
                rows.append([bound, suprema.mean() / n, gap, sum(updates)])
            kernel = tangent_kernel(model, train.images).kernel.reshape(n, n).double()
            norm = float(kernel.trace().sqrt())
            supremum = torch.einsum("si,ij,sj->s", sigma.double(), kernel, sigma.double()).clamp_min(0).sqrt()
        if last:
            break
        gradients = torch.autograd.grad(loss, parameters)
        update = rate * float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * gradient)
        updates.append(update)
        norms.append(norm)
        suprema += update * supremum
    return Learned(*torch.tensor(rows, dtype=torch.float64).T)


def ramp(margin: Tensor) -> Tensor:
    """The margin loss for a margin of 1 (eq. 37): 1 below 0, 0 above 1, a line in between."""
    return (1 - margin).clamp(0, 1)
