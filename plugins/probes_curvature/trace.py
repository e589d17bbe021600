"""The trace of the Hessian, the sum of all curvatures, from products with random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from probes.batches import seeded
from probes.precision import full_precision
from probes_ntk import Estimate, spread

from .objective import MEMORY, Loss, Objective

__all__ = ["hessian_trace", "trace_of"]

LEAST = 9
"""Products: three vectors for each part, from which there is a standard error."""


def hessian_trace(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    output: Callable[[Any], Tensor] | None = None,
    parameters: Iterable[str] | None = None,
    products: int = 60,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Estimate:
    r"""The trace of the Hessian of the loss by Hutch++, with its standard error.

    With Q a basis of H S, for a third of the products from random signs S, and g random signs,

    .. math:: \operatorname{Tr} H = \operatorname{Tr} Q^\top H Q
              + \mathbb{E}_g\, g^\top (I - Q Q^\top) H (I - Q Q^\top)\, g

    The first part, of the large eigenvalues, is exact; what is left has a small variance. With at most a third as many
    parameters as products all of it is exact.

    Args:
        model: As for :func:`hessian_eigenvalues`, and all others.
        loss: Of the outputs and the targets, a scalar.
        inputs: As the model takes them.
        targets: As ``loss`` takes them.
        output: Picks the output tensor from what the model returns.
        parameters: Names of some parameters, for their block of H; by default all that are trainable.
        products: With H, in all; from 9 on.
        generator: Of the random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the graphs of a product, and as much for the basis.

    Returns:
        The value and its standard error, which is Student's, so that +-1.96 of it covers 95 %. In the unit of the
        loss, over the squared unit of the parameters.

    Raises:
        ValueError: If there are too few products, or as :class:`Objective`.
        CannotMeasure: As :class:`Objective`.

    Cost: the products, each about two forward and two backward passes; ``products / 3`` vectors of P numbers.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> round(hessian_trace(line, nn.functional.mse_loss, x, y).value, 5)  # of x^T x
        5.0

    References:
        Meyer, Musco, Musco & Woodruff (2021), Hutch++: Optimal stochastic trace estimation, algorithm 1.
        Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.
    """
    objective = Objective(model, loss, inputs, targets, output=output, parameters=parameters, memory=memory)
    return trace_of(objective, objective.hessian_product, products=products, generator=generator, memory=memory)


@full_precision()
def trace_of(
    objective: Objective,
    product: Callable[[Tensor], Tensor],
    *,
    products: int = 60,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Estimate:
    """The trace of a symmetric operator on the parameters of an objective, as :func:`hessian_trace` says it.

    Args:
        objective: Whose parameters the vectors are of.
        product: A v of v. Shape ``(P,)``.
        products: In all.
        generator: Of the random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the basis.

    Raises:
        ValueError: If there are too few products.
        CannotMeasure: If a product is not finite.
    """
    if not isinstance(products, int) or products < LEAST:
        raise ValueError(f"`products` must be an integer from {LEAST} on, got {products!r}.")
    generator = seeded(generator)
    size, like = objective.size, torch.zeros((), dtype=objective.dtype, device=objective.device)

    def signs() -> Tensor:
        return (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(like)

    def times(vector: Tensor) -> Tensor:
        return objective.finite(product(vector))

    room = max(1, int(min(size, memory / (2 * size * like.element_size()))))
    sketch = min(products // 3, size, room)
    basis = torch.linalg.qr(torch.stack([times(signs()) for _ in range(sketch)], 1)).Q
    parts = [float(torch.dot(column.double(), times(column).double())) for column in basis.T]
    exact, rounding = sum(parts), 4 * torch.finfo(like.dtype).eps * sum(map(abs, parts))
    if sketch == size:
        return Estimate(exact, rounding)
    found = []
    for _ in range(products - 2 * sketch):
        vector = signs()
        vector = vector - basis @ (basis.T @ vector)
        found.append(float(torch.dot(vector.double(), times(vector).double())))
    return Estimate(exact + sum(found) / len(found), math.hypot(spread(found), rounding))
