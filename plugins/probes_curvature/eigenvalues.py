"""The largest eigenvalues of a symmetric operator, and those of the Hessian and the Gauss-Newton matrix of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.batches import seeded
from probes.precision import full_precision, inner_products

from .objective import MEMORY, Loss, Objective

__all__ = ["Eigenvalues", "ggn_eigenvalues", "hessian_eigenvalues", "largest_eigenvalues", "least_vectors"]

FRESH = 8
"""Products from a random vector after which an eigenvalue that was missed, as one of several equal ones, has shown."""
LONG = 48
"""The same at most, where the next eigenvalue does not come to rest below those that are looked for."""
BETWEEN = 4
"""Products from one look at the residuals to the next, which takes as long as some of the orthogonalisations."""
BASIS = 30
"""Vectors that are held at most, beside what is asked for; from then on the search starts again from the best."""


class Eigenvalues(NamedTuple):
    """The largest eigenvalues of a matrix, algebraically, and how well they are known."""

    values: Tensor
    """Descending, float64. In the unit of the loss, over the squared unit of the parameters. Shape ``(k,)``."""
    residuals: Tensor
    r"""Of each :math:`\\|A v - \\lambda v\\|`, computed: an eigenvalue of A is within it. Float64. Shape ``(k,)``."""
    vectors: Tensor
    """Orthonormal, in rows; entries as in ``Objective.parameters``. Shape ``(k, P)``."""
    products: int
    """How many products with the matrix were taken."""


def hessian_eigenvalues(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    k: int = 5,
    *,
    output: Callable[[Any], Tensor] | None = None,
    parameters: Iterable[str] | None = None,
    tolerance: float | None = None,
    products: int = 300,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Eigenvalues:
    r"""The k largest eigenvalues of the Hessian of the loss; the first is its sharpness.

    .. math:: H v_j = \lambda_j v_j, \qquad \lambda_1 \ge \dots \ge \lambda_k, \qquad
              H = \nabla_w^2 \, \ell(f_w(x), y)

    Largest are those that limit the step of gradient descent, not those of largest magnitude. Of a loss with kinks
    (ReLU) H is that of the smooth piece that w is on.

    Args:
        model: In eval mode.
        loss: Of the outputs and the targets, a scalar.
        inputs: As the model takes them: a tensor, a tuple of arguments, or a dict of keyword arguments.
        targets: As ``loss`` takes them.
        k: How many; all if there are fewer parameters.
        output: Picks the output tensor from what the model returns.
        parameters: Names of some parameters, for their block of H; by default all that are trainable.
        tolerance: Of the residuals, relative to the largest eigenvalue in magnitude; by default 1e-4, and 1e-9 for a
            model in float64. The error of an eigenvalue is at most its residual, and mostly its square over the
            distance to the next.
        products: At most. What has not converged by then has a residual that says so.
        start: Vectors near the eigenvectors, as those of an earlier model, in rows. Shape ``(., P)``.
        generator: Of random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the graphs of a product, and as much for the vectors that are held.

    Raises:
        ValueError: If ``k``, ``tolerance`` or ``products`` is not positive, or as :class:`Objective`.
        CannotMeasure: As :class:`Objective`; or if the loss is not finite.

    Cost: some 30 to 60 products for k = 5, each about two forward and two backward passes; and twice as many vectors
    of P numbers.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> [round(value, 4) for value in hessian_eigenvalues(line, nn.functional.mse_loss, x, y, k=2).values.tolist()]
        [4.0, 1.0]

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, theorem 4.5.1 (residuals) and chapter 13 (Lanczos).
        Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """
    objective = Objective(model, loss, inputs, targets, output=output, parameters=parameters, memory=memory)
    return largest_eigenvalues(
        objective, objective.hessian_product, k, tolerance=tolerance, products=products, start=start,
        generator=generator, memory=memory,
    )  # fmt: skip


def ggn_eigenvalues(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    k: int = 5,
    *,
    output: Callable[[Any], Tensor] | None = None,
    parameters: Iterable[str] | None = None,
    tolerance: float | None = None,
    products: int = 300,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Eigenvalues:
    r"""The k largest eigenvalues of the generalized Gauss-Newton matrix of the loss.

    .. math:: G = J^\top \big(\nabla_f^2 \ell(f, y)\big) J, \qquad J = \partial f / \partial w

    The Hessian without the curvature of the model itself; positive semi-definite where the loss is convex in the
    outputs, and for the cross-entropy of a softmax the Fisher information.

    Args:
        model: As for :func:`hessian_eigenvalues`, and all others.
        loss: Of the outputs and the targets, a scalar.
        inputs: As the model takes them.
        targets: As ``loss`` takes them.
        k: How many; all if there are fewer parameters.
        output: Picks the output tensor from what the model returns.
        parameters: Names of some parameters, for their block of G.
        tolerance: Of the residuals, relative to the largest eigenvalue.
        products: At most.
        start: Vectors near the eigenvectors, in rows. Shape ``(., P)``.
        generator: Of random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the graphs of a product, and as much for the vectors that are held.

    Raises:
        ValueError: As :func:`hessian_eigenvalues`.
        CannotMeasure: As :func:`hessian_eigenvalues`.

    Cost: as :func:`hessian_eigenvalues`, a third less for each product.

    Example:
        >>> line = nn.Linear(1, 2, bias=False)
        >>> x, y = torch.ones(1, 1), torch.zeros(1, 2)
        >>> [round(value, 4) for value in ggn_eigenvalues(line, nn.functional.mse_loss, x, y, k=2).values.tolist()]
        [1.0, 1.0]

    Reference:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.
    """
    objective = Objective(model, loss, inputs, targets, output=output, parameters=parameters, memory=memory)
    return largest_eigenvalues(
        objective, objective.ggn_product, k, tolerance=tolerance, products=products, start=start,
        generator=generator, memory=memory,
    )  # fmt: skip


@full_precision()
def largest_eigenvalues(
    objective: Objective,
    product: Callable[[Tensor], Tensor],
    k: int = 5,
    *,
    tolerance: float | None = None,
    products: int = 300,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Eigenvalues:
    """The k largest eigenvalues of a symmetric operator on the parameters of an objective.

    A Rayleigh-Ritz search: the space grows as Lanczos' does, each vector orthogonalised against all others; every few
    steps by the residual of the eigenvector that is known least, which is the same as long as the space is of Krylov's
    kind. When all k have converged, a random vector is let in, and the space grows towards the next eigenvalue until
    that has come to rest below the k: so that what could not be seen before comes in, one of several equal eigenvalues,
    or a larger one to which given vectors were orthogonal.

    Args:
        objective: Whose parameters the vectors are of.
        product: A v of v. Shape ``(P,)``.
        k: As for :func:`hessian_eigenvalues`, and all others.
        tolerance: Of the residuals, relative to the largest eigenvalue in magnitude.
        products: At most.
        start: Vectors near the eigenvectors, in rows.
        generator: Of random vectors, on the CPU; seeded with 0 by default.
        memory: Bytes for the vectors that are held.

    Raises:
        ValueError: If ``k``, ``tolerance`` or ``products`` is not positive, or ``start`` not finite or of another size.
        TypeError: If ``start`` is no tensor.
        CannotMeasure: If a product is not finite.
    """
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise ValueError(f"`k` must be a positive integer, got {k!r}.")
    if not isinstance(products, int) or products < 1:
        raise ValueError(f"`products` must be a positive integer, got {products!r}.")
    if products < min(k, objective.size):
        raise ValueError(f"`products` must be at least `k`, {min(k, objective.size)}, got {products}.")
    if tolerance is not None and not (hasattr(tolerance, "__float__") and tolerance > 0):
        raise ValueError(f"`tolerance` must be positive, got {tolerance!r}.")
    double = objective.dtype == torch.float64
    tolerance = tolerance if tolerance is not None else 1e-9 if double else 1e-4
    generator = seeded(generator)
    size, k = objective.size, min(int(k), objective.size)
    room = int(min(size, memory / (2 * size * (8 if double else 4))))
    room = min(size, max(least_vectors(k), min(k + BASIS, room)))
    space = _Space(objective, product, room)
    if start is not None:
        if not isinstance(start, Tensor):
            raise TypeError(f"`start` must be a tensor of vectors in rows, shape (., {size}), got {start!r}.")
        if start.ndim != 2 or start.shape[1] != size:
            raise ValueError(f"`start` must have shape (., {size}), got {tuple(start.shape)}.")
        if not start.is_floating_point():
            raise TypeError(f"`start` must be of floating point numbers, got {start.dtype}.")
        start = start.detach().to(objective.device, objective.dtype)
        if not bool(torch.isfinite(start).all()):
            raise ValueError(f"`start` must be finite in {objective.dtype}, got vectors that are not.")
        for vector in start[: min(k, products)]:
            space.add(vector)

    def random() -> Tensor:
        return torch.randn(size, generator=generator).to(objective.device, objective.dtype)

    if not space.count:
        space.add(random())
    fresh = 0  # products from a random vector since all had converged
    while True:
        values, coordinates = torch.linalg.eigh(space.matrix())
        values, coordinates = values.flip(0), coordinates.flip(1)
        top, next_ = min(k, space.count), min(k + 1, space.count)
        residuals = space.residuals(values[:next_], coordinates[:, :next_])
        every_norm = residuals.double().norm(dim=1)
        norms = every_norm[:top]
        enough = norms <= tolerance * values.abs().max()
        # Whether the next one has come to rest below them.
        below = next_ == top or values[top] + every_norm[top] < values[top - 1]
        converged = top == k and bool(enough.all())
        done = converged and fresh >= FRESH and (below or fresh >= LONG)
        if space.products >= products or space.count == size or done:
            break
        fresh = fresh if converged else 0
        if not bool(enough.all()):
            direction = residuals[int(norms.argmax())]
        else:  # towards the next one, once a random vector has brought something of it in
            direction = residuals[top] if fresh and next_ > top else random()
        if space.count == room:
            space.shrink(coordinates[:, : min(room - 1, k + (room - k) // 2)])
        if not (space.add(direction) or space.add(random())):  # but for rounding the space is all there is
            break
        for _ in range(min(BETWEEN - 1, products - space.products, room - space.count)):
            space.extend()
        fresh += BETWEEN * converged
    vectors = coordinates[:, :top].T.to(space.basis) @ space.basis[: space.count]
    return Eigenvalues(values[:top].cpu(), norms.cpu(), vectors, space.products)


def least_vectors(k: int) -> int:
    """How many vectors a search for k eigenvalues holds at least, and as many products with them."""
    return 2 * k + 2


class _Space:
    """A space of vectors, and what the operator makes of them."""

    def __init__(self, objective: Objective, product: Callable[[Tensor], Tensor], room: int) -> None:
        self._objective, self._product = objective, product
        self.basis = torch.empty(room, objective.size, dtype=objective.dtype, device=objective.device)
        self.images = torch.empty_like(self.basis)
        self.count = self.products = 0
        self._matrix = torch.zeros(room, room, dtype=torch.float64)

    def add(self, vector: Tensor) -> bool:
        """Widen the space, unless the vector is in it."""
        norm = torch.linalg.vector_norm(vector, dtype=torch.float64)  # squares may leave single's range
        if not norm > 0:
            return False
        vector = vector.to(self.basis) / norm
        span = self.basis[: self.count]
        for _ in range(3):  # until nothing of the others is left
            vector = vector - inner_products(span, vector).to(span) @ span
            left = torch.linalg.vector_norm(vector, dtype=torch.float64)
            if left < 100 * torch.finfo(vector.dtype).eps:
                return False
            vector = vector / left
            if left > 0.7:
                break
        image = self._objective.finite(self._product(vector)).detach()
        self.products += 1
        self.basis[self.count], self.images[self.count] = vector, image
        self.count += 1
        entries = inner_products(self.basis[: self.count], image).cpu()
        self._matrix[self.count - 1, : self.count] = self._matrix[: self.count, self.count - 1] = entries
        return True

    def matrix(self) -> Tensor:
        """The operator on the space, float64. Shape ``(count, count)``."""
        return self._matrix[: self.count, : self.count]

    def residuals(self, values: Tensor, coordinates: Tensor) -> Tensor:
        """A v - lambda v of some vectors of the space, in rows."""
        turned, scaled = coordinates.T.to(self.basis), (coordinates * values).T.to(self.basis)
        return turned @ self.images[: self.count] - scaled @ self.basis[: self.count]

    def extend(self) -> bool:
        """Widen the space by what the operator makes of its last vector, as Krylov's is."""
        span, image = self.basis[: self.count], self.images[self.count - 1]
        # What lies in the space is known already; for rounding it is taken off once more.
        known = self._matrix[: self.count, self.count - 1].to(span)
        return self.add(image - known @ span)

    def shrink(self, coordinates: Tensor) -> None:
        """Keep some orthonormal vectors of the space."""
        turned, kept = coordinates.T.to(self.basis), coordinates.shape[1]
        for held in (self.basis, self.images):
            held[:kept] = turned @ held[: self.count]
        self._matrix[:kept, :kept] = coordinates.T @ self.matrix() @ coordinates
        self.count = kept
