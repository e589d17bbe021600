"""The tangent kernel of a model on a batch, exact, layer by layer.

All examples go forward once, and one backward pass a class suffices, for examples do not interact. The gradients stop
at the operations that use parameters; from their products with the inputs of those operations comes the kernel, and
nothing of the size of a Jacobian is ever formed. Every use of every parameter is found in the graph (``uses.py``);
which row belongs to which example is found by experiment (``layout.py``); each weight is evaluated in the cheapest of
three ways (``gram.py``). Parameters with a use that is not known go one example at a time (``per_example.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from probes import CannotMeasure
from probes.batches import seeded
from probes.measurement import first_line
from probes.precision import to_float64

from .call import Call
from .plan import Plan, make_plan, purpose
from .sweep import diagonal_sweep, kernel_sweep

__all__ = [
    "TangentDiagonal",
    "TangentGram",
    "TraceEstimate",
    "estimate_trace",
    "tangent_diagonal",
    "tangent_kernel",
]

MEMORY = 4 << 30
LEFT = 1e-3
"""Of a float32 kernel: when centring leaves less than this of it, as of inputs with a large mean, rounding shows."""


class TangentGram(NamedTuple):
    """A tangent kernel and its parts."""

    kernel: Tensor
    """K[a, i, b, j], shape ``(c, n, c, n')``."""
    layers: dict[str, Tensor]
    """The part of each layer, of the same shape, in order of depth; they sum to ``kernel``. Empty if not asked for."""


class TangentDiagonal(NamedTuple):
    """The diagonal of a tangent kernel and of its parts."""

    diagonal: Tensor
    """Squared norm of the tangent features of each output and sample, shape ``(c, n)``; its sum is the trace."""
    layers: dict[str, Tensor]
    """The part of each layer, of the same shape, in order of depth. Empty if not asked for."""
    plan: Plan
    """How it was evaluated; the next call goes faster with it."""


class TraceEstimate(NamedTuple):
    """An estimate of the trace of a tangent kernel."""

    trace: Tensor
    """Scalar."""
    standard_error: Tensor
    """Of ``trace``; scalar."""
    layers: dict[str, Tensor]
    """The estimated part of each layer, scalars, in order of depth. Empty if not asked for."""
    layer_errors: dict[str, Tensor]
    """Standard errors of ``layers``."""
    plan: Plan
    """How it was evaluated; the next call goes faster with it."""
    repeats: int
    """How many examples appeared twice: the degrees of freedom of the standard errors."""


@torch.enable_grad()  # whatever the caller has: without gradients there are no features
def tangent_kernel(
    model: nn.Module,
    inputs: Any,
    other: Any = None,
    *,
    output: Callable[[Any], Tensor] | None = None,
    outputs: Sequence[int] | Literal["sum"] | None = None,
    layers: bool = False,
    memory: float = MEMORY,
) -> TangentGram:
    r"""The exact tangent kernel of a model on a batch, or between two batches.

    .. math:: K[a, i, b, j] = \sum_p \frac{\partial f_a(x_i)}{\partial w_p} \frac{\partial f_b(x_j)}{\partial w_p}

    over all trainable parameters, as they are used: tied or repeated parameters count as one. The layers' parts, one
    for each module that holds parameters of its own, sum to the kernel. The model must be in eval mode where that
    matters, and is left as it was; nothing is drawn, no ``.grad`` and no buffer is touched.

    Args:
        model: Any eager model whose examples do not interact.
        inputs: Of n examples: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a
            :class:`probes.batches.Batch`; on the model's device.
        other: Of n' further examples, for K(x, x'), with rows of the same shapes.
        output: Picks the output tensor, ``(n, c)`` or ``(n,)``, from what the model returns; by default the tensor
            itself, its ``logits``, or the first of a tuple.
        outputs: Indices of the outputs wanted, or ``"sum"`` for the kernel of the sum of all outputs (c = 1). With
            either the outputs may have any shape ``(n, ...)``; indices are those of the flattened outputs of a sample.
        layers: Whether to keep the parts of the layers, each as large as the kernel.
        memory: Bytes that may be used besides the model, the results included. Examples whose graphs do not fit at
            once go forward again for each part of the graph, or are taken in pairs of blocks, whichever takes fewer
            passes.

    Returns:
        In the dtype of the model, or float32 where that is a half precision, on its device. Where centring would leave
        less than 0.1 % of the float32 kernel of a batch, as for inputs whose mean is far larger than their spread, it
        is evaluated with a copy of the parameters in float64 and returned in float64: rounding would show.

    Raises:
        CannotMeasure: A ValueError: the kernel would be meaningless (batch normalisation or dropout in training mode,
            random or coupled examples, no trainable parameter, a parameter that the model does not name, outputs of
            the wrong shape or dtype), or does not fit ``memory``.
        ValueError: If an argument is none of those above.

    Warns:
        UserWarning: If float64 is needed and the model cannot be evaluated in it.

    Cost: two forward passes without a graph, to see that examples do not interact; one forward pass, c backward passes
    to the layers' outputs and, for each weight, the least of three counts of operations (see ``gram.py``); for
    parameters used in unknown ways, n forward and n c backward passes of one example. Three times that where float64
    is needed.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> tangent_kernel(model, x).kernel[0, :, 0, :].tolist()
        [[1.0, 1.0], [1.0, 5.0]]

    Reference:
        Baratin (2021), appendix B.1.2 and eq. 22. The kernel of a linear layer from its inputs and gradients: Jacot et
        al. (2018); evaluation orders: Novak et al. (2022), *Fast finite width neural tangent kernel*.
    """
    call = Call.of(model, inputs, output, outputs, other=other)
    return _precise(call, _evaluate(call, memory, layers), memory, layers)


def _evaluate(call: Call, memory: float, layers: bool) -> TangentGram:
    plan = make_plan(call, memory, kernel=True, layers=layers)
    return TangentGram(*_by_layer(plan, kernel_sweep(call, plan), layers))


def _precise(call: Call, gram: TangentGram, memory: float, layers: bool) -> TangentGram:
    """The kernel, or the same in float64 where float32 is not enough for what centring leaves."""
    kernel = gram.kernel
    if kernel.dtype != torch.float32 or kernel.device.type == "mps" or call.rows < max(2, call.batch.n):
        return gram
    blocks = kernel.diagonal(dim1=0, dim2=2).double()  # (n, n, c): of each output
    trace, mean = blocks.diagonal().sum(), blocks.sum() / call.rows
    if not trace - mean < LEFT * trace:
        return gram
    try:
        return _evaluate(call.at_least(torch.float64), memory, layers)
    except CannotMeasure:
        raise
    except Exception as error:
        warnings.warn(
            f"Centring leaves {max(0.0, float(1 - mean / trace)):.1g} of the tangent kernel, of which rounding in "
            f"float32 is a part that shows, and `model` cannot be evaluated in float64 ({type(error).__name__}: "
            f"{first_line(error)}). Give inputs of mean zero, or let forward take its dtype from its arguments.",
            stacklevel=3,
        )
        return gram


@torch.enable_grad()  # whatever the caller has: without gradients there are no features
def tangent_diagonal(
    model: nn.Module,
    inputs: Any,
    *,
    output: Callable[[Any], Tensor] | None = None,
    outputs: Sequence[int] | Literal["sum"] | None = None,
    layers: bool = False,
    memory: float = MEMORY,
    plan: Plan | None = None,
) -> TangentDiagonal:
    r"""The exact diagonal of the tangent kernel: the squared norms of the tangent features.

    .. math:: K[a, i, a, i] = \|\Phi(x_i)[a]\|^2, \qquad \operatorname{Tr} K = \|\Phi\|_F^2 = \sum_{a, i} K[a, i, a, i]

    Args:
        plan: Of an earlier result. Where the model has still the same trainable parameters, and the inputs the same
            shapes, it need not be tried on a few examples again.

    Other arguments, errors: as :func:`tangent_kernel`.

    Returns:
        Shape ``(c, n)``.

    Cost: one forward pass, c backward passes, and one product of inputs and gradients for each layer.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> tangent_diagonal(model, torch.tensor([[1.0, 0.0], [1.0, 2.0]])).diagonal.tolist()
        [[1.0, 5.0]]

    Reference:
        Baratin (2021), eq. 18, where its square root is a factor of the path complexity.
    """
    call = Call.of(model, inputs, output, outputs)
    plan = _planned(call, memory, layers, plan)
    return TangentDiagonal(*_by_layer(plan, diagonal_sweep(call, plan), layers), plan)


@torch.enable_grad()
def diagonal_of(call: Call, memory: float, layers: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of a call, and its parts."""
    plan = _planned(call, memory, layers, None)
    return _by_layer(plan, diagonal_sweep(call, plan), layers)


@torch.enable_grad()  # whatever the caller has: without gradients there are no features
def estimate_trace(
    model: nn.Module,
    inputs: Any,
    *,
    generator: torch.Generator | None = None,
    repeats: int | None = None,
    output: Callable[[Any], Tensor] | None = None,
    layers: bool = False,
    memory: float = MEMORY,
    plan: Plan | None = None,
) -> TraceEstimate:
    r"""Estimate the trace of the tangent kernel by random class signs, from one backward pass.

    .. math:: \operatorname{Tr} K = \sum_i \mathbb{E}_s \Big\| \sum_a s_{ia} \Phi(x_i)[a] \Big\|^2,
              \qquad s_{ia} = \pm 1

    The norm is taken example by example, so that examples add no noise to one another, only the classes of one example
    do. Some examples appear a second time with other signs. What differs between the two, as a share of their squares,
    is taken for the same share of the squares of all examples, and gives the standard error: the differences alone
    would be too small most often, for a few of the examples differ most. With one output the trace is exact.

    Args:
        generator: Of the signs and of the examples that appear twice, on the CPU; seeded with 0 by default.
        repeats: How many examples appear twice; by default a quarter, at least 32. The standard error is itself known
            to one part in ``sqrt(2 * repeats)``: of few, +-1.96 of it times :func:`widening` of their number covers.
            Few are enough where estimates of many steps are added.
        plan: As in :func:`tangent_diagonal`.

    Other arguments, errors: as :func:`tangent_kernel`.

    Raises:
        ValueError: If ``repeats`` is below 2, too.

    Cost: one forward and one backward pass of the examples and their repetitions, and the norms.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> estimate_trace(model, torch.tensor([[1.0, 0.0], [1.0, 2.0]])).trace.item()
        6.0
    """
    if repeats is not None and repeats < 2:
        raise ValueError(f"`repeats` must be at least 2, got {repeats}: there is no standard error of fewer.")
    generator = seeded(generator)
    call = Call.of(model, inputs, output)
    n = call.batch.n
    twice = torch.randperm(n, generator=generator)[: max(32, n // 4) if repeats is None else repeats].sort().values
    m = len(twice)
    index = torch.cat([torch.arange(n), twice])
    both = replace(call, batch=call.batch.select(index), rows=n + m, signs=twice)  # which are drawn below
    if plan is not None and plan.purpose != purpose(both, memory, kernel=False, layers=layers):
        plan = None  # another head may have another width
    c = plan.width if plan is not None else _width(call)
    signs = torch.randint(0, 2, (n + m, c), generator=generator) * 2.0 - 1.0
    call = replace(both, signs=signs)
    plan = _planned(call, memory, layers, plan)
    total, parts = _by_layer(plan, diagonal_sweep(call, plan), layers)
    norms = torch.stack([total, *parts.values()])[:, 0]
    first, second = norms[:, twice.to(norms.device)], norms[:, n:]
    differences = second - first
    # Squares of what fits into float32 do not.
    sizes = (to_float64(first).square() + to_float64(second).square()).sqrt()
    sizes = sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    # Large examples count for more, or else the error would be too small where a few are much larger than the others;
    # but not as their squares do, or chance would decide whether one of these few is here.
    squares = to_float64(differences).square()
    shares = (squares / sizes).sum(1) / sizes.sum(1)
    once = torch.ones(n, dtype=torch.bool).index_fill(0, twice, False).to(norms.device)
    others = to_float64(norms[:, :n][:, once]).square().sum(1)
    # Of the mean of two, the variance is a half of that of one, and that a half of the square of their difference.
    errors = (squares.sum(1) / 4 + shares * others).sqrt().to(norms)
    # The second time counts as a half of its example's mean.
    values = norms[:, :n].sum(1) + differences.sum(1) / 2
    return TraceEstimate(
        values[0],
        errors[0],
        dict(zip(parts, values[1:], strict=True)),
        dict(zip(parts, errors[1:], strict=True)),
        plan,
        m,
    )


def _width(call: Call) -> int:
    with torch.no_grad():
        return call.forward(call.batch.select(torch.tensor([0]))).shape[1]


def _planned(call: Call, memory: float, layers: bool, plan: Plan | None) -> Plan:
    """The given plan for this call, or a new one where it does not fit."""
    if plan is not None and plan.purpose == purpose(call, memory, kernel=False, layers=layers):
        return plan
    return make_plan(call, memory, kernel=False, layers=layers)


def _by_layer(plan: Plan, parts: dict[str, Tensor], layers: bool) -> tuple[Tensor, dict[str, Tensor]]:
    if not layers:
        return parts[""], {}
    ordered = {layer: parts[layer] for layer in plan.layers if layer in parts}
    total = torch.zeros_like(next(iter(ordered.values())))
    for part in ordered.values():
        total += part
    return total, ordered
