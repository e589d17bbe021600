"""All points where a piecewise-linear network bends on a segment: on the segment it is then a known broken line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probes.measurement import CannotMeasure
from probes.names import call_at
from probes.precision import to_float64

from .linearity import KinkFound, Observer

__all__ = ["breakpoints", "double", "double_state", "float64_or_reason"]

# Breakpoints closer than this to one another, in segments, are one: what is left out is below the rounding of float64.
_CLOSEST = 2.0**-46


def double(model: nn.Module) -> Callable[..., Tensor]:
    """The function that a model computes, with parameters and buffers in float64; the model itself is left as it is.

    Args:
        model: Any module, in the mode (``model.eval()``) in which it is meant.

    Returns:
        A function of the model's own arguments. It raises a ValueError if a module in it insists on another precision.

    Example:
        >>> double(nn.Linear(2, 1))(torch.zeros(3, 2, dtype=torch.float64)).dtype
        torch.float64
    """
    state = double_state(model)

    def function(*args: object, **kwargs: object) -> Tensor:
        with float64_or_reason():
            output: Tensor = call_at(model, state, args, kwargs)
        return output

    return function


def double_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers in float64, by name; integers as they are."""
    return {
        name: to_float64(tensor.detach()) if tensor.is_floating_point() else tensor
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


@contextmanager
def float64_or_reason() -> Iterator[None]:
    """Turn torch's complaint about mixed precisions into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "dtype" not in str(error) and "Double" not in str(error) and "scalar type" not in str(error):
            raise
        raise CannotMeasure(
            f"The model cannot be evaluated in float64, for a module in it insists on another precision ({error}); "
            f"measure it on a grid instead."
        ) from error


def breakpoints(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    *,
    max_breakpoints: int = 100_000,
    chunk_size: int = 1024,
) -> tuple[Tensor, Tensor]:
    r"""All points where a piecewise-linear function bends on a segment, found without a grid.

    .. math:: g(t) = f((1 - t) \, a + t \, b), \qquad 0 = t_1 < \dots < t_m = 1, \qquad
        g \text{ linear on each } [t_i, t_{i+1}]

    The operations are taken one by one in the order in which they run. Where the first one bends the function follows
    from its input at the two ends alone; once those points are known the input of the second one is linear between
    them, and so on. Known are rectifiers (relu, leaky_relu, prelu, hardtanh, clamp, abs, ...), max pooling, maxima and
    minima, and comparisons; in residual, convolutional and normalised (eval mode) networks, in place or not. In the end
    the result is proven: at three points inside the 1000 widest pieces the function must lie on the line to 1e-9 of its
    range.

    Args:
        function: Of rows ``(n, *shape)`` in float64, giving ``(n, c)`` or ``(n,)`` in float64, each row by itself; see
            :func:`double`. It is called without gradients.
        start: The point a, shape ``(*shape,)``; turned into float64.
        end: The point b, shape ``(*shape,)``; turned into float64.
        max_breakpoints: How many there may be at most.
        chunk_size: Rows of one call of the function at most.

    Returns:
        Positions t, in segments, shape ``(m,)``, and the values of the function there, in its unit, shape ``(m, c)``;
        both float64. Neighbouring pieces may be collinear, see :func:`linear_regions`.

    Raises:
        ValueError: If the function is not piecewise linear, with the operation that makes it so; if it leaves float64;
            or if there are more than ``max_breakpoints``.

    Cost: for L bending operations and m points, about L m / 2 rows forward; far less in early layers.

    Example:
        >>> t, values = breakpoints(lambda x: x.relu(), torch.tensor([-1.0]), torch.tensor([3.0]))
        >>> t.tolist(), values.flatten().tolist()
        ([0.0, 0.25, 1.0], [0.0, 0.0, 3.0])

    Reference:
        Baratin (2021), eq. 2 and lemma 3.1, on a segment.
    """
    if start.shape != end.shape:
        raise ValueError(f"`end` must have the shape of `start`, {tuple(start.shape)}, got {tuple(end.shape)}.")
    start, end = to_float64(start.detach()), to_float64(end.detach())
    if torch.equal(start, end):
        raise ValueError("`start` and `end` must differ: on a point there is nothing to measure.")
    # lerp is not exact at both ends in every version; the weighted sum is.
    shape = [-1] + [1] * start.ndim

    def points(t: Tensor) -> Tensor:
        return (1 - t.reshape(shape)) * start + t.reshape(shape) * end

    t = start.new_tensor([0.0, 1.0])
    with torch.no_grad():
        call = 0
        while (kinks := _kinks_of_call(function, points, t, call, chunk_size)) is not None:
            t = _merged(t, kinks)
            if len(t) > max_breakpoints:
                raise CannotMeasure(
                    f"The function has more than `max_breakpoints`, {max_breakpoints}, breakpoints on the segment; "
                    f"pass a larger max_breakpoints, a shorter segment, or measure it on a grid instead."
                )
            call += 1
        unknown: set[str] = set()
        values = _evaluated(function, points, t, chunk_size, unknown)
        _certify(function, points, t, values, chunk_size, unknown)
    return t, values


Function = Callable[[Tensor], Tensor]


def _kinks_of_call(function: Function, points: Function, t: Tensor, call: int, chunk_size: int) -> Tensor | None:
    """Where the operation of that number bends between the points t; None when there is no such operation."""
    found = []
    for first in range(0, len(t) - 1, chunk_size - 1):  # chunks share a point, so that no interval is lost
        observer = Observer(t[first : first + chunk_size], call)
        rows = observer.watch(points(observer.positions))
        try:
            with observer:
                function(rows)
        except KinkFound:
            found.append(observer.kinks)
    return torch.cat(found) if found else None


def _merged(t: Tensor, kinks: Tensor) -> Tensor:
    inner = kinks[(kinks > _CLOSEST) & (kinks < 1 - _CLOSEST)]
    both = torch.cat([t, inner]).sort().values
    return torch.cat([both[:1], both[1:][both.diff() > _CLOSEST]])


def _evaluated(function: Function, points: Function, t: Tensor, chunk_size: int, unknown: set[str]) -> Tensor:
    values = []
    for part in torch.split(t, chunk_size):
        observer = Observer(part)
        rows = observer.watch(points(part))
        with observer:
            output = function(rows)
        unknown.update(observer.unknown)
        if output.dtype != torch.float64 or output.ndim not in (1, 2) or len(output) != len(part):
            raise ValueError(
                f"`function` must give float64 of shape ({len(part)}, c) or ({len(part)},) for {len(part)} rows, got "
                f"{output.dtype} of shape {tuple(output.shape)}."
            )
        values.append(output.reshape(len(part), -1).clone())
    return torch.cat(values)


def _certify(
    function: Function, points: Function, t: Tensor, values: Tensor, chunk_size: int, unknown: set[str]
) -> None:
    """Refuse unless the function lies on the lines between its breakpoints, also at odd places."""
    widest = t.diff().argsort(descending=True, stable=True)[:1000]
    # The middle, and two fractions that no regular structure shares.
    fractions = t.new_tensor([0.5, (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1])[:, None]
    inside = ((1 - fractions) * t[widest] + fractions * t[widest + 1]).flatten()
    left, right = values[widest], values[widest + 1]
    expected = ((1 - fractions[..., None]) * left + fractions[..., None] * right).flatten(0, 1)
    error = (_evaluated(function, points, inside, chunk_size, unknown) - expected).abs()
    tolerance = 1e-9 * (values.amax(0) - values.amin(0)) + 1e-12 * values.abs().max()
    # Not `error > tolerance`: a NaN must not pass.
    if bool((error <= tolerance).all()):
        return
    worst = int(error.amax(1).nan_to_num(nan=math.inf).argmax())
    met = f"operations not known to be: {', '.join(sorted(unknown))}" if unknown else "a compiled part, or a jump"
    raise CannotMeasure(
        f"The network is not piecewise linear: at {inside[worst]:.6f} of the segment it lies {error[worst].max():.3g} "
        f"off the line between its breakpoints ({met}); measure it on a grid instead."
    )
