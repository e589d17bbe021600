"""How the eigenvalues of the Hessian are spread, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.batches import seeded
from probes.precision import full_precision
from probes_ntk import Estimate, gauss, lanczos, spread

from .objective import MEMORY, Loss, Objective

__all__ = ["HessianDensity", "density_of", "spectral_density"]


class HessianDensity(NamedTuple):
    r"""For each random vector a measure of a few points in place of that of all eigenvalues.

    The integral of a polynomial of degree 2 m - 1 at most, of m points, is exactly :math:`g^\top p(H) g / |g|^2` for
    the vector g that the points are of; its mean over g is :math:`\operatorname{Tr} p(H) / P`.
    """

    nodes: Tensor
    """In the unit of the eigenvalues, ascending, float64. Shape ``(vectors, m)``; NaN after the last where fewer are
    all."""
    weights: Tensor
    """Shares of the eigenvalues, with a sum of 1 for each vector, float64; 0 beside NaN. Shape ``(vectors, m)``."""
    size: int
    """P, the number of eigenvalues."""

    def density(self, points: Tensor, width: float) -> tuple[Tensor, Tensor]:
        r"""The density of the eigenvalues, smoothed, and its standard error over the random vectors.

        .. math:: \phi(x) = \frac 1 P \sum_j N(x;\, \lambda_j, \sigma^2)

        The error is the larger of two: over the vectors, and what it is for vectors that lie at random to the
        eigenvectors, :math:`\tfrac{2}{V P} (\langle N^2 \rangle - \langle N \rangle^2)`, which few vectors do not
        underestimate by chance. What few nodes miss is small where the width is above their distance.

        Args:
            points: x. Shape ``(x,)``.
            width: :math:`\sigma`, in the unit of the eigenvalues.

        Returns:
            Both in 1 / eigenvalue, float64. Shape ``(x,)``.

        Raises:
            ValueError: If the width is not positive.
        """
        if not (hasattr(width, "__float__") and 0 < width < math.inf):
            raise ValueError(f"`width` must be a positive number, got {width!r}.")
        points = torch.as_tensor(points)
        distance = (points.double()[:, None, None] - self.nodes.nan_to_num(0)) / width
        bells = torch.exp(-distance.square() / 2) / (width * math.sqrt(2 * math.pi))
        each = (bells * self.weights).sum(2)
        mean = each.mean(1)
        scatter = (bells.square() * self.weights).sum(2).mean(1) - mean.square()
        known = (2 * scatter.clamp_min(0) / (len(self.nodes) * self.size)).sqrt()
        return mean, torch.tensor([spread(row) for row in each], dtype=torch.float64).maximum(known)

    def above(self, value: float) -> Estimate:
        r"""The share of the eigenvalues that are larger: :math:`\#\{j : \lambda_j > value\} / P`.

        As the nodes have it: where the value lies within the bulk, each node stands for many eigenvalues on both
        sides of it, which the standard error over the vectors does not hold.

        Args:
            value: In the unit of the eigenvalues.
        """
        return self._mean((self.nodes.nan_to_num(-math.inf) > value).double())

    def moment(self, power: int) -> Estimate:
        r"""The mean of a power of the eigenvalues, :math:`\frac 1 P \sum_j \lambda_j^p`.

        Unbiased, the vectors being random signs, for powers below twice the number of nodes.

        Args:
            power: From 0 on.

        Raises:
            ValueError: If it is no such integer.
        """
        if not isinstance(power, int) or power < 0:
            raise ValueError(f"`power` must be an integer from 0 on, got {power!r}.")
        return self._mean(self.nodes.nan_to_num(0) ** power)

    def _mean(self, values: Tensor) -> Estimate:
        """Of something at the nodes; few vectors do not underestimate the error by chance, as for the density."""
        each = (self.weights * values).sum(1)
        scatter = float((self.weights * values.square()).sum(1).mean() - each.mean().square())
        known = math.sqrt(2 * max(scatter, 0.0) / (len(self.nodes) * self.size))
        return Estimate(float(each.mean()), max(spread(each), known))


def spectral_density(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    output: Callable[[Any], Tensor] | None = None,
    parameters: Iterable[str] | None = None,
    vectors: int = 5,
    steps: int = 30,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> HessianDensity:
    r"""How the eigenvalues of the Hessian of the loss are spread: Gauss quadratures of a few random vectors.

    .. math:: \phi(x) = \frac 1 P \sum_j \delta(x - \lambda_j) \approx
              \frac 1 V \sum_{v=1}^{V} \sum_{i=1}^{m} \omega_{vi}\, \delta(x - \theta_{vi})

    The nodes are the eigenvalues of Lanczos' tridiagonal matrix, the weights the squares of the first entries of its
    eigenvectors.

    Args:
        model: As for :func:`hessian_eigenvalues`, and all others.
        loss: Of the outputs and the targets, a scalar.
        inputs: As the model takes them.
        targets: As ``loss`` takes them.
        output: Picks the output tensor from what the model returns.
        parameters: Names of some parameters, for their block of H; by default all that are trainable.
        vectors: V, from 2 on.
        steps: m, nodes for each.
        generator: Of the random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the graphs of a product.

    Raises:
        ValueError: If there are fewer than two vectors or steps, or as :class:`Objective`.
        CannotMeasure: As :class:`Objective`.

    Cost: ``vectors * steps`` products, each about two forward and two backward passes; ``steps`` vectors of P numbers.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> found = spectral_density(line, nn.functional.mse_loss, x, y)  # of x^T x, with eigenvalues 1 and 4
        >>> [round(share, 3) for share in found.above(2.0)]
        [0.5, 0.224]

    References:
        Ghorbani, Krishnan & Xiao (2019), An investigation into neural net optimization via Hessian eigenvalue density.
        Golub & Welsch (1969), Calculation of Gauss quadrature rules.
    """
    objective = Objective(model, loss, inputs, targets, output=output, parameters=parameters, memory=memory)
    return density_of(objective, objective.hessian_product, vectors=vectors, steps=steps, generator=generator)


@full_precision()
def density_of(
    objective: Objective,
    product: Callable[[Tensor], Tensor],
    *,
    vectors: int = 5,
    steps: int = 30,
    generator: torch.Generator | None = None,
) -> HessianDensity:
    """The same for a symmetric operator on the parameters of an objective.

    Args:
        objective: Whose parameters the vectors are of.
        product: A v of v. Shape ``(P,)``.
        vectors: From 2 on.
        steps: From 2 on.
        generator: Of the random vectors, on the CPU; seeded with 0 by default.

    Raises:
        ValueError: If there are fewer than two vectors or steps.
        CannotMeasure: If a product is not finite.
    """
    if not (isinstance(vectors, int) and isinstance(steps, int) and vectors >= 2 and steps >= 2):
        raise ValueError(f"`vectors` and `steps` must be integers from 2 on, got {vectors!r} and {steps!r}.")
    generator = seeded(generator)
    size = objective.size
    steps = min(steps, size)
    nodes = torch.full((vectors, steps), torch.nan, dtype=torch.float64)
    weights = torch.zeros(vectors, steps, dtype=torch.float64)
    for row, weight in zip(nodes, weights, strict=True):
        start = (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(objective.device, objective.dtype)
        image = objective.finite(product(start / math.sqrt(size)))
        scale = float(torch.linalg.vector_norm(image, dtype=torch.float64))  # squares may leave single's range
        if scale == 0:
            row[0], weight[0] = 0.0, 1.0
            continue

        def times(vector: Tensor, scale: float = scale) -> Tensor:
            return objective.finite(product(vector)) / scale

        _, diagonal, beside = lanczos(times, start, steps)
        found, shares = gauss(diagonal, beside)
        row[: len(found)], weight[: len(found)] = found.cpu() * scale, shares.cpu()
    return HessianDensity(nodes, weights, size)
