"""Summaries of the spectrum of a tangent kernel that is never formed, with what they are known to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from probes import CannotMeasure
from probes.batches import seeded
from probes.precision import UNITS

from .alignment import centered_labels, label_matrix
from .centering import Centering
from .density import Estimate, SpectralDensity, spread
from .engine import diagonal_of
from .lanczos import EPSILON, bracket, entropic, gauss, krylov, lanczos, moments, tridiagonal
from .layer_estimate import FOUND, RANDOM, LayerEstimate, layer_alignments, layer_norms
from .product import KernelOperator

__all__ = ["LEAST", "SpectrumEstimate", "estimate_spectrum"]

STEPS = 6
"""Lanczos steps from a random vector."""
LEAST = 4 * STEPS
"""Of products, in all."""
TOP = 0.5
"""Share of the products that the largest eigenvalues are looked for with."""
SETTLED = 1e-4
"""From this relative residual down, a Ritz vector is kept out of every product with what is orthogonal to it."""
CONVERGED = 0.05
"""A Ritz vector is taken for an eigenvector from this relative residual down; what that leaves out is bracketed."""

UNKNOWN = 0.25
"""Of the distance of the two quadratures: how far off a place between them is taken to be, and so at most."""
KNOWN = 0.05
"""The same, at least, where one vector of many steps says where."""
LEFT = 1e-3
"""Of the trace: where centring leaves less, products are taken in double precision."""
SHOWS = {20_000: 1e-3, math.inf: 0.1}
"""Of the rank, up to so many rows: where rounding makes it err by more, and most of its error, the same. Of many rows
double precision takes hours."""


class SpectrumEstimate(NamedTuple):
    """What sums up a spectrum, from products with vectors alone."""

    trace: Estimate
    """Exact but for rounding, which its error is. In the squared unit of the features."""
    effective_rank: Estimate
    participation_ratio: Estimate
    """:math:`(\\sum_j \\lambda_j)^2 / \\sum_j \\lambda_j^2`."""
    alignment: Estimate | None
    """With the labels, as :func:`~probes_ntk.alignment` says it; None without targets."""
    eigenvalues: Tensor
    """The largest, as far as they have been found, descending, float64; of equal ones one. Shape ``(k,)``."""
    residuals: Tensor
    """Of each :math:`\\|K q - \\lambda q\\|`: an eigenvalue is within it, but for rounding. Shape ``(k,)``."""
    layers: dict[str, LayerEstimate]
    """Trace and alignment of the kernel of each layer, in order of registration. Empty if not asked for."""
    density: SpectralDensity
    """How all are spread: the trace ratios, and how many are above a value."""
    products: int
    """How many products with the kernel were taken."""


def estimate_spectrum(
    model: nn.Module,
    inputs: Any,
    *,
    centering: Centering,
    products: int = 100,
    generator: torch.Generator | None = None,
    targets: Tensor | None = None,
    layers: bool = False,
    output: Callable[[Any], Tensor] | None = None,
    outputs: Sequence[int] | Literal["sum"] | None = None,
    memory: float = 1e9,
) -> SpectrumEstimate:
    r"""What sums up the spectrum of a tangent kernel of any number of examples, and its alignment with the labels.

    The trace is exact but for rounding. Half of the products find the largest eigenvalues, by Lanczos with full
    orthogonalisation. For the rest, with Q their eigenvectors and g random signs, z = (I - Q Q^T) g,

    .. math:: \operatorname{Tr} f(K) = \sum_{q \in Q} q^\top f(K) q + \mathbb{E}_g\, z^\top f(K) z,
              \qquad f(\lambda) = \lambda \log \lambda, \; \lambda^2

    Six Lanczos steps from z give :math:`z^\top K^2 z` exactly and put :math:`z^\top (K \log K) z` between two
    quadratures, since all even derivatives of f are positive and all odd ones from the third on negative: Gauss' lies
    below, that of Radau with a node at 0 above. In between it is put where the last step says, from how fast either
    moves. What the vectors leave of the exact trace is a control variate. Rounding is told from how far the products
    are from symmetric. Where it is most of the error, and more than a thousandth of the rank (a tenth, of more than
    20,000 rows), all is done again in double precision.

    The alignment needs :math:`\|K\|_F^2 = \operatorname{Tr} K^2` beside :math:`Y^\top K Y =
    \|J^\top Y\|^2`, which is one backward pass and exact. That of each layer is in ``layer_estimate.py``.

    The standard error has the spread over the vectors, by Student's t; how far from there the many steps of the first
    half put it, or a quarter of the distance of the brackets where that vector is not like the others; and what
    rounding does: :math:`\pm 1.96` of it is meant to cover the exact value in 95 % of all cases.
    ``benchmarks/spectrum_estimate.py`` counts how often it does.

    Args:
        model: As for :func:`tangent_kernel`.
        inputs: As for :func:`tangent_kernel`; of n examples.
        centering: ``"none"``, ``"outputs"`` or ``"all"``, as :func:`~probes_ntk.center` says.
        products: With the kernel, in all; from 24 on.
        generator: Of the random vectors, on the CPU; seeded with 0 by default.
        targets: As for :func:`~probes_ntk.label_matrix`, for the alignment.
        layers: Whether to tell the trace and, with targets, the alignment of each layer.
        output: As for :func:`tangent_kernel`.
        outputs: As for :func:`tangent_kernel`.
        memory: Bytes for a pass over some of the examples.

    Raises:
        ValueError: If there are too few products, or not one target for each example.
        CannotMeasure: If the kernel is zero or not finite, the targets are all alike, or as :func:`tangent_kernel`.

    Cost: the products (:class:`KernelOperator`), and the exact diagonal (:func:`tangent_diagonal`); linear in n. With
    ``layers`` some fifty backward passes more, or several times that where the parameters are many for ``memory``.
    Memory: ``products / 2`` vectors of nc numbers. The kernel itself would be (nc)^2 numbers, its eigenvalues (nc)^3
    operations.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = estimate_spectrum(nn.Linear(3, 1), torch.randn(40, 3), centering="none")
        >>> found.eigenvalues.shape, found.effective_rank.standard_error < 1e-3
        (torch.Size([4]), True)

    References:
        Ubaru, Chen & Saad (2017), Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature.
        Golub & Meurant (2010), Matrices, Moments and Quadrature, chapter 6: the signs of the errors.
        Meyer, Musco, Musco & Woodruff (2021), Hutch++: the large eigenvalues apart.
    """
    if not isinstance(products, int) or products < LEAST:
        raise ValueError(f"`products` must be an integer from {LEAST} on, got {products!r}.")
    made = partial(KernelOperator, model, inputs, centering, output=output, outputs=outputs, memory=memory)
    given = made, centering, products, seeded(generator), targets, layers, memory
    found, rounded = _estimate(torch.float32, *given)
    if rounded:
        with suppress(Exception):  # a model that knows single precision alone: its error is larger
            found, _ = _estimate(torch.float64, *given)
    return found


def _estimate(
    precision: torch.dtype,
    made: Callable[..., KernelOperator],
    centering: Centering,
    products: int,
    generator: torch.Generator,
    targets: Tensor | None,
    layers: bool,
    memory: float,
) -> tuple[SpectrumEstimate, bool]:
    """The estimate from products of at least this precision, and whether rounding is what it errs by."""
    kernel = made(precision=precision)
    whole, traces = _traces(kernel, centering, memory, layers)
    trace = sum(traces.values())
    if trace < LEFT * whole:  # single precision would leave little of what centring leaves, as of inputs far from 0
        kernel = made(precision=torch.float64)
        whole, traces = _traces(kernel, centering, memory, layers)
        trace = sum(traces.values())
    trace_error = torch.finfo(kernel.precision).eps * whole
    if trace <= UNITS * trace_error < math.inf:
        trace = 0.0
    size = kernel.shape[0]
    if not (math.isfinite(trace) and trace > 0):
        raise CannotMeasure(
            f"The trace of the centred tangent kernel is {trace:g}: it must be finite and not zero for its spectrum to "
            f"mean something. Are all examples alike, or has training diverged?"
        )
    labels = None if targets is None else _labels(targets, kernel, centering)
    scale = trace / size  # so that the mean eigenvalue is 1

    def times(vector: Tensor) -> Tensor:
        product = kernel.matvec(vector) / scale
        if not torch.isfinite(product).all():
            raise CannotMeasure("A product with the tangent kernel is not finite: the model's gradients are not.")
        return product

    def drawn(signs: bool) -> Tensor:
        vector = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
        vector = vector if signs else torch.randn(size, generator=generator, dtype=torch.float64)
        return kernel.center(vector.to(kernel.device).reshape(kernel.c, kernel.n)).reshape(size)

    top = _largest(times, drawn(signs=False), min(int(TOP * products), size))
    sampled = _sample(times, top, (drawn(signs=True) for _ in range(max(2, (products - top.products) // STEPS))))
    rest, noise = size - top.values.sum(), max(top.noise, EPSILON)
    usual = bool(sampled.points) and _is_usual(*top.left, float(rest) / size, 1 - len(top.values) / size)
    entropy, entropy_error, square, square_error = _rest(sampled, rest, top.left if usual else None)
    # q^T f(K) q of one step from q: Gauss' rule has the node lambda, Radau's the nodes 0 and (lambda^2 + r^2) / lambda.
    squares = top.values.square() + top.residuals.square()
    below, above = entropic(top.values).sum(), (top.values * (squares / top.values).log()).sum()
    entropy_error = math.hypot(entropy_error, float(above - below) / 4)
    rounding = size * noise * (1 + abs(math.log(noise)))
    cautious = _rest(sampled, rest, None)[1]  # double precision costs three times as much and more memory
    shows = next(share for rows, share in SHOWS.items() if size <= rows)
    rounded = kernel.precision != torch.float64 and rounding > max(cautious, entropy_error, shows * size)
    entropy_error = math.hypot(entropy_error, rounding)
    rank = math.exp(math.log(size) - (float(above + below) / 2 + entropy) / size)
    total = max(float(squares.sum()) + square, size)  # that of equal eigenvalues
    square_error = math.hypot(square_error, noise * total)
    ratio = size**2 / total
    aligned = None
    if labels is not None:  # Y^T K Y / (|K| |Y|^2) <= 1, and the same for what is estimated
        value = float(kernel.features_norm(labels)) / scale / math.sqrt(total) / float(labels.square().sum())
        aligned = Estimate(min(value, 1.0), value * square_error / total / 2)
    slack = top.slack + trace_error / trace * top.values
    density = _density(top.values, sampled.points, float(rest), size, scale)._replace(slack=slack.cpu() * scale)
    if usual:
        refined = _density(top.values, [top.left, _fewer(*top.left)], float(rest), size, scale)
        density = density._replace(refined=refined)
    parts: dict[str, Estimate] = {}
    if layers and labels is not None:
        random = torch.stack([drawn(signs=True) for _ in range(RANDOM)])
        some = top.vectors.flip(0)[:FOUND]
        parts = layer_alignments(kernel, some, random - random @ some.T @ some, labels, memory / 4)
    estimate = SpectrumEstimate(
        Estimate(trace, trace_error),
        Estimate(rank, rank * entropy_error / size),
        Estimate(ratio, ratio * square_error / total),
        aligned,
        top.values * scale,
        top.residuals * scale,
        {name: LayerEstimate(Estimate(part, trace_error), parts.get(name)) for name, part in traces.items() if layers},
        density,
        top.products + sampled.products,
    )
    return estimate, rounded


class _Largest(NamedTuple):
    """The largest eigenvalues, as far as they have been found."""

    values: Tensor
    """Descending. Shape ``(k,)``."""
    residuals: Tensor
    """Shape ``(k,)``."""
    vectors: Tensor
    """Rows, ascending. Shape ``(k, nc)``."""
    slack: Tensor
    """How far the values may be off: r^2 / gap, or r where others are nearer than r (Parlett, theorem 11.7.1)."""
    settled: Tensor
    """Those of the vectors that are known well."""
    left: tuple[Tensor, Tensor]
    """Nodes and weights of the vector that it began with, without the eigenvalues found."""
    noise: float
    products: int


def _largest(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> _Largest:
    """By Lanczos from one vector."""
    basis, diagonal, beside, noise = krylov(times, start, steps)
    values, vectors = torch.linalg.eigh(tridiagonal(diagonal, beside[:-1]))
    residuals = (beside[-1] * vectors[-1]).abs()
    kept = (residuals <= CONVERGED * values) & (values > EPSILON)
    found = vectors[:, kept].T @ basis
    settled = found[(residuals <= SETTLED * values)[kept]]
    left = values[~kept].clamp_min(0), vectors[0, ~kept].square()
    apart = torch.cat([values.diff(), values.new_full((1,), torch.inf)])
    gaps = torch.minimum(apart, apart.roll(1))
    slack = torch.minimum(residuals, residuals.square() / gaps)[kept].flip(0)
    return _Largest(values[kept].flip(0), residuals[kept].flip(0), found, slack, settled, left, noise, len(diagonal))


class _Sampled(NamedTuple):
    """What random vectors say of the eigenvalues that are left, one entry a vector."""

    brackets: list[Tensor]
    """Of z^T K log K z, from below and from above. Shape ``(2,)``."""
    before: list[Tensor]
    """The same, one step earlier."""
    sums: list[Tensor]
    """Moments of its measure, see :func:`~probes_ntk.lanczos.moments`."""
    points: list[tuple[Tensor, Tensor]]
    """Nodes and weights."""
    products: int


def _sample(times: Callable[[Tensor], Tensor], top: _Largest, vectors: Iterable[Tensor]) -> _Sampled:
    """By a few steps from each vector, without what it has of the eigenvectors found."""

    def beside_them(vector: Tensor) -> Tensor:  # what rounding lets in of the largest would grow with every step
        product = times(vector)
        product -= top.settled.T @ (top.settled @ product)
        return product

    brackets, before, sums, points, products = [], [], [], [], 0
    for vector in vectors:
        vector = vector - top.vectors.T @ (top.vectors @ vector)
        norm = vector.square().sum()
        if norm <= EPSILON * len(vector):  # the largest eigenvalues are all that there are
            continue
        _, diagonal, beside = lanczos(beside_them, vector, STEPS)
        products += len(diagonal)
        last = len(diagonal) - 1
        brackets.append(norm * bracket(diagonal, beside))
        before.append(norm * bracket(diagonal[:last], beside[:last]) if last else brackets[-1])
        nodes, weights = gauss(diagonal, beside)
        sums.append(norm * moments(nodes, weights))
        points.append((nodes, weights))
    return _Sampled(brackets, before, sums, points, products)


def _rest(sampled: _Sampled, rest: Tensor, long: tuple[Tensor, Tensor] | None) -> tuple[float, float, float, float]:
    """What the random vectors say of Tr K log K and Tr K^2 without the largest eigenvalues, with their errors.

    Args:
        sampled: By a few steps from each.
        rest: The exact trace without the largest.
        long: Nodes and weights of one vector by many steps, if it is like the others.
    """
    if not sampled.brackets:
        return 0.0, 0.0, 0.0, 0.0
    (below, above), (below_before, above_before) = torch.stack(sampled.brackets).T, torch.stack(sampled.before).T
    first, second, mixed = torch.stack(sampled.sums).T
    rising, falling = (below - below_before).sum(), (above_before - above).sum()
    share = (rising / (rising + falling)).nan_to_num(0.5).clamp(0, 1)
    values = below + share * (above - below)
    # Least squares over the eigenvalues, not over the vectors, which are few.
    values = values - mixed.sum() / second.sum() * (first - rest)
    squares = second - second.sum() / first.sum() * (first - rest)
    off = UNKNOWN if long is None else min(UNKNOWN, max(KNOWN, float((share - _place(*long)).abs())))
    gap = float((above - below).mean()) * off
    return float(values.mean()), math.hypot(spread(values), gap), float(squares.mean()), spread(squares)


def _place(nodes: Tensor, weights: Tensor) -> Tensor:
    """Where between the two quadratures of a few steps that of many lies. Scalar."""
    _, diagonal, beside = lanczos(lambda vector: nodes * vector, weights.sqrt(), STEPS)
    below, above = weights.sum() * bracket(diagonal, beside)
    place: Tensor = (weights @ entropic(nodes) - below) / (above - below)
    return place.nan_to_num(0.5).clamp(0, 1)


def _traces(
    kernel: KernelOperator, centering: Centering, memory: float, layers: bool
) -> tuple[float, dict[str, float]]:
    """The exact trace before centring, and of each layer after it: without what the means of the features hold."""
    diagonal, parts = diagonal_of(kernel.call, memory, layers)
    traces = {name: float(part.double().sum()) for name, part in (parts or {"": diagonal}).items()}
    whole = sum(traces.values())
    if centering != "none":
        c, n = kernel.c, kernel.n
        same = torch.eye(c).repeat_interleave(n, 1) if centering == "outputs" else torch.ones(1, c * n)
        for vector in same:
            norms = layer_norms(kernel, vector) if layers else {"": kernel.features_norm(vector)}
            for name, norm in norms.items():
                traces[name] -= float(norm) / float(vector.sum())
    return whole, traces


def _is_usual(nodes: Tensor, weights: Tensor, trace: float, count: float) -> bool:
    """Whether what is left of one vector stands for the eigenvalues that are left: of many equal ones it sees one.

    Args:
        nodes: Shape ``(m,)``.
        weights: Shape ``(m,)``.
        trace: Of those that are left, as a share of all.
        count: How many they are, as a share of all.
    """
    own = float(weights.sum()), float(weights @ nodes)
    return all(one / 2 < other < 2 * one for one, other in zip((count, trace), own, strict=True))


def _fewer(nodes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What of a measure of many points the quadrature of a few steps makes."""
    _, diagonal, beside = lanczos(lambda vector: nodes * vector, weights.sqrt(), STEPS)
    return gauss(diagonal, beside)


def _density(top: Tensor, points: list[tuple[Tensor, Tensor]], rest: float, size: int, scale: float) -> SpectralDensity:
    """The eigenvalues found, and beside them each vector's quadrature, in all of the right number and sum."""
    left = size - len(top)
    if not points:
        points = [(top.new_zeros(1), top.new_ones(1))]
    most = len(top) + max(len(nodes) for nodes, _ in points)
    eigenvalues, counts = (top.new_zeros(len(points), most) for _ in range(2))
    for row, count, (nodes, weights) in zip(eigenvalues, counts, points, strict=True):
        nodes, weights = nodes.clamp_min(0), weights * left / weights.sum()
        total = float((nodes * weights).sum())
        nodes = nodes * max(rest, 0.0) / total if total > 0 else nodes
        end = len(top) + len(nodes)
        row[:end], order = torch.cat([top, nodes]).sort(descending=True)
        count[:end] = torch.cat([torch.ones_like(top), weights])[order]
    return SpectralDensity((eigenvalues * scale).cpu(), counts.cpu())


def _labels(targets: Tensor, kernel: KernelOperator, centering: Centering) -> Tensor:
    """The centred labels as a vector. Shape ``(nc,)``."""
    if len(targets) != kernel.n:
        raise ValueError(f"`targets` must hold one target for each of the {kernel.n} examples, got {len(targets)}.")
    y = centered_labels(label_matrix(targets, kernel.c), targets.dtype, centering)
    if not y.any():
        raise CannotMeasure(
            f"`targets` are all alike once centred ({centering!r}): nothing can be aligned with them. Take a batch of "
            f"more than one class."
        )
    return y.reshape(-1).to(kernel.device)
