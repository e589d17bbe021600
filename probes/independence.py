"""Whether a model's output for an example is a function of that example: neither random, nor of the batch around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .batches import Batch

__all__ = ["why_not_a_function"]

Forward = Callable[[Batch], Tensor]

TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far outputs may differ from rounding alone, relative to the largest of them: another number of rows is summed up
in another order, and what a model computes in a lower precision inside is rounded to that."""


def why_not_a_function(forward: Forward, batch: Batch, outputs: Tensor | None = None) -> str:
    """Why the output for an example is not a function of it alone; empty if it is one, as far as can be seen.

    The examples are evaluated again in two halves, in random order: of examples that look at their neighbours, at
    their place, at the largest of them or at how many there are, the outputs then differ.

    Args:
        forward: The model's output on a batch, one row for each sample.
        batch: The examples.
        outputs: Of them all together, if they are there already.

    Returns:
        The reason, in a sentence or two that also say what to do.

    Cost: one forward pass of the examples; two where ``outputs`` are not given.

    Example:
        >>> batch = Batch((torch.tensor([[1.0], [2.0], [4.0]]),))
        >>> why_not_a_function(lambda batch: batch.args[0] ** 2, batch)
        ''
        >>> why_not_a_function(lambda batch: batch.args[0] - batch.args[0].mean(), batch)[:51]
        'Examples interact: the output for an example is ano'
    """
    with torch.no_grad():
        together = forward(batch) if outputs is None else outputs.detach()
        order = torch.randperm(batch.n, generator=torch.Generator().manual_seed(0))
        for half in (order[: batch.n // 2], order[batch.n // 2 :]):
            if not len(half):
                continue
            try:
                apart = forward(batch.select(half))
            except Exception as error:
                return (
                    f"Examples cannot be told apart: the model takes all {batch.n} together, but not {len(half)} of "
                    f"them ({type(error).__name__}: {first_line(error)}). Either another argument is about all of them "
                    f"(edges, an adjacency matrix), or they interact."
                )
            if apart.shape[1:] != together.shape[1:] or _differ(apart, together[half.to(together.device)], together):
                if _differ(forward(batch), together, together):
                    return (
                        "The output is random: the same examples evaluated twice give two outputs (the model samples "
                        "in forward, or drops out functionally). What would be measured is the noise. Let forward "
                        "sample only `if self.training`, or pass output=, a function that picks what is not random."
                    )
                return (
                    "Examples interact: the output for an example is another among other examples (batch statistics, "
                    "attention or routing over the batch, a scale of the whole batch). What would be measured is no "
                    "function of one example. Measure a part of the model that treats examples alone."
                )
    return ""


def first_line(error: BaseException) -> str:
    """Of its message, at most 200 letters."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if len(text) <= 200 else f"{text[:200]}..."


def _differ(one: Tensor, other: Tensor, together: Tensor) -> bool:
    finite = together.isfinite()
    scale = together.abs().where(finite, 0).max()
    both = one.isfinite() & other.isfinite()
    differences = (one - other).abs().where(both, 0)
    return bool((differences > TOLERANCES.get(together.dtype, 1e-3) * scale).any())
