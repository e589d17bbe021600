"""The output of a model: whether it has a row for each example, and is a function of it alone.

A function of one example is neither random, nor does it depend on the batch around the example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch, tensors
from .measurement import CannotMeasure, first_line
from .names import hookable_modules

__all__ = ["ExampleAxis", "check_rows", "differ", "why_not_a_function"]

Forward = Callable[[Batch], Tensor]

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""What rounding may change, relative to the largest output. Another number of rows is summed up in another order: up to
1e-6 was seen in float32, 4e-15 in float64, where a model may still compute a part in float32."""

ONE, HALF = 3e-3, 1e-3
"""By how much one number, and half of the numbers, may differ besides, relative to the spread of the outputs: what a
model rounds inside, to 8 bits say, falls to the other side for a few. A scale of the whole batch in place of its own
changes nearly all numbers, by 1e-3 in 8 bits."""


class ExampleAxis:
    """Along which axis the modules of a model have the examples.

    The first; but the second of those that are given sequences with time first (``batch_first=False``), of what is in
    them, and of what gives sequences of as many examples after them.

    Args:
        model: The model.
        n: Number of examples.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4))
        >>> axis, output = ExampleAxis(model, 5), torch.zeros(7, 5, 4)
        >>> axis.of(model[1], output), axis.of(model[0], output), axis.of(model[0], torch.zeros(5, 5, 4))
        (1, 1, None)
    """

    def __init__(self, model: nn.Module, n: int) -> None:
        self.n = n
        self._inside = {inner for module in model.modules() if _is_time_first(module) for inner in module.modules()}

    def of(self, module: nn.Module, output: Tensor) -> int | None:
        """None where no axis has the examples, or either of two may have them."""
        first, second = (output.ndim > axis and output.shape[axis] == self.n for axis in (0, 1))
        sequence = output.ndim == 3 and second
        if module in self._inside:
            return 1 if sequence else None
        if self._inside and sequence:
            return None if first else 1
        return 0 if first else None

    def rows(self, module: nn.Module, output: Any) -> Tensor | None:
        """The output with a row for each example; None where it has none, is no tensor of real numbers, or nested."""
        output = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(output, Tensor) or output.is_nested or not output.is_floating_point():
            return None
        axis = self.of(module, output)
        return None if axis is None else output.detach().movedim(axis, 0)


def _is_time_first(module: nn.Module) -> bool:
    """Whether a recurrent or attention module, or a transformer of these, is given sequences with time first."""
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        return any(_is_time_first(layer) for layer in module.layers)
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return _is_time_first(module.self_attn)
    known = isinstance(module, nn.RNNBase | nn.MultiheadAttention | nn.Transformer)
    return known and not module.batch_first


def why_not_a_function(
    forward: Forward, batch: Batch, outputs: Tensor | None = None, model: nn.Module | None = None
) -> str:
    """Why the output for an example is not a function of it alone; empty if it is one, as far as can be seen.

    The examples are evaluated again in random order, first a half of them, then a half of the others, and so on, in
    the end a single one; eight or fewer one by one. Outputs of examples that look at their neighbours, at their place,
    at the largest of them or at how many there are then differ. A few are evaluated twice.

    Args:
        forward: The model's output on a batch, one row for each sample.
        batch: The examples.
        outputs: Of them all together, if they are there already.
        model: Where to look for the module that mixes examples, to name it.

    Returns:
        The reason, in a sentence or two that also say what to do.

    Cost: one forward pass of the examples, in five pieces, and an eighth of one; another pass where ``outputs`` are not
    given.

    Example:
        >>> batch = Batch((torch.tensor([[1.0], [2.0], [4.0]]),))
        >>> why_not_a_function(lambda batch: batch.args[0] ** 2, batch)
        ''
        >>> why_not_a_function(lambda batch: batch.args[0] - batch.args[0].mean(), batch)[:51]
        'Examples interact: the output for an example is ano'
    """
    with torch.no_grad():
        together = forward(batch) if outputs is None else outputs.detach()
        limits = _limits(together)
        pieces = _pieces(batch.n)
        for number, piece in enumerate(pieces):
            try:
                some = batch.select(piece)
                apart = forward(some)
            except Exception as error:
                return (
                    f"Examples cannot be told apart: the model takes all {batch.n} together, but not {len(piece)} of "
                    f"them ({type(error).__name__}: {first_line(error)}). Either another argument is about all of them "
                    f"(edges, an adjacency matrix), or they interact."
                )
            if _differ(apart, together[piece.to(together.device)], limits):
                if _random(forward(batch), together):
                    return _RANDOM
                where = "" if model is None else _first_mixing(model, forward, batch, piece)
                return (
                    f"Examples interact: the output for an example is another among other examples, "
                    f"{where or 'by batch statistics, attention or routing over the batch, or a scale of the batch'}. "
                    f"What would be measured is no function of one example. Measure a part of the model that treats "
                    f"examples alone."
                )
            # What is random may be too small to look like coupling.
            if number == min(2, len(pieces) - 1) and _random(forward(some), apart):
                return _RANDOM
    return ""


_RANDOM = (
    "The output is random: the same examples evaluated twice give two outputs (the model samples in forward, drops out "
    "functionally, or keeps a state outside of its modules, which a probe's forward changes as the loop's does). What "
    "would be measured is the noise. Let forward do so only `if self.training`, or pass output=, a function that picks "
    "what is not random."
)


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two evaluations of the same examples differ by more than rounding, where both are finite."""
    return _differ(one, other, _limits(other))


def _random(one: Tensor, other: Tensor) -> bool:
    """Whether two evaluations of the same rows differ by more than another order of summation makes them."""
    rounding = ROUNDING.get(other.dtype, 1e-5) * other.where(other.isfinite(), 0).abs().max()
    return _differ(one, other, (rounding, rounding))


def _pieces(n: int) -> list[Tensor]:
    """All examples in random order: a half, a half of the rest, a half of that, all others but one, and that one.

    Of few examples, each alone.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    if n <= 8:
        return list(order[:, None])
    sizes = [n // 2, n // 4, n // 8]
    return list(torch.split(order, [*sizes, n - sum(sizes) - 1, 1]))


def _limits(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """How far one number, and half of the numbers, may be from these outputs."""
    finite = outputs.detach().where(outputs.isfinite(), 0)
    rounding = ROUNDING.get(outputs.dtype, 1e-5) * finite.abs().max()
    spread = (finite - finite.mean(0)).abs().max()
    return rounding + ONE * spread, rounding + HALF * spread


def _differ(one: Tensor, other: Tensor, limits: tuple[Tensor, Tensor]) -> bool:
    if one.shape != other.shape:
        return True
    differences = (one - other).abs()
    if not differences.numel() or differences.max() <= limits[1]:  # neither, then; without a number in it, look closer
        return False
    differences = differences.where(one.isfinite() & other.isfinite(), 0)
    return bool((differences.max() > limits[0]) | (differences.median() > limits[1]))


def _first_mixing(model: nn.Module, forward: Forward, batch: Batch, piece: Tensor) -> str:
    """The first module, in the order of the calls, whose outputs for the same examples differ."""
    seen: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            first = next((leaf for leaf in tensors(result) if leaf.ndim and leaf.is_floating_point()), None)
            if first is not None:
                seen.append((name, first.detach()))

        return hook

    names = {module: f"{name or 'the model'} ({type(module).__name__})" for name, module in hookable_modules(model)}
    sequence_first = {
        name: type(part).__name__
        for module, name in names.items()
        for part in module.modules()
        if getattr(part, "batch_first", None) is False
    }
    handles = [module.register_forward_hook(keep(name)) for module, name in names.items()]
    try:
        forward(batch)
        together, seen = seen, []
        forward(batch.select(piece))
    finally:
        for handle in handles:
            handle.remove()
    for (name, whole), (same, apart) in zip(together, seen, strict=False):
        if name != same:
            break
        of_examples = len(whole) == batch.n and len(apart) == len(piece)
        if of_examples and _differ(apart, whole[piece.to(whole.device)], _limits(whole)):
            seen_in = f"first seen in the output of {name}"
            if first := sequence_first.get(name):
                seen_in += f", which takes the steps of a sequence first: build {first} with batch_first=True"
            return seen_in
    return ""


def check_rows(output: Tensor, n: int, model: nn.Module | None = None, trained: str = "") -> None:
    """Refuse an output that has not one row for each sample; nor, if ``trained`` says what it is, a gradient.

    Raises:
        CannotMeasure: If so, with what to pass.
    """
    if trained and not output.requires_grad:
        raise CannotMeasure(
            f"{trained} something that has no gradient. Pass output=, a function that returns a tensor that the model "
            f"computed, as it is: not detached, rounded, or an argmax."
        )
    if output.shape[:1] == (n,):
        return
    if output.ndim == 0:
        parts = (
            []
            if model is None
            else [name for name, part in model.named_children() if next(iter(part.parameters()), None) is not None]
        )
        part = f"model.{parts[0]}" if parts and parts[0].isidentifier() else "model.network"
        raise CannotMeasure(
            f"The model returns one number for {n} samples, as one does that computes its loss inside. Watch the part "
            f"that computes the outputs, e.g. ProbeManager({part}), with batches={{'train': (inputs, targets)}} as "
            f"that part takes them; or let the model return its outputs too, and pick them with output=."
        )
    raise CannotMeasure(
        f"The model's output must have one row for each of the {n} samples, got shape {tuple(output.shape)}. Pass "
        f"output=, a function that picks such a tensor, or batches={{'train': (inputs, targets)}} whose tensors all "
        f"have one row for each sample."
    )
