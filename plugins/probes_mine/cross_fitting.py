"""Networks of all folds trained as one, each told of the samples it has not seen, stopped where that is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Folds", "Training", "WeightAverage", "fit", "split"]


class Folds(NamedTuple):
    """Rows of the samples, ``m`` folds."""

    train: Tensor
    """Shape ``(m, n_train)``."""
    test: Tensor
    """No row twice; what does not divide by m is in no test. Shape ``(m, n // m)``."""


def split(n: int, m: int, generator: torch.Generator, groups: Tensor | None = None) -> Folds:
    """A random partition of n rows into m folds, none of which shares a group with another.

    Args:
        n: Number of rows.
        m: Number of folds.
        generator: Draws it.
        groups: Number of the group of each row, from 0 without gaps, shape ``(n,)``; by default each is its own. Folds
            are then as large as the smallest of m parts of whole groups, and rows beyond that are in no test.

    Example:
        >>> folds = split(10, 5, torch.Generator().manual_seed(0))
        >>> folds.train.shape, folds.test.shape, folds.test.flatten().unique().numel()
        (torch.Size([5, 8]), torch.Size([5, 2]), 10)
    """
    order = torch.randperm(n, generator=generator, device="cpu")
    if groups is not None and int(groups.max()) + 1 < n:
        return _split_groups(order, m, groups)
    size = n // m
    test = order[: m * size].view(m, size)
    train = torch.stack([torch.cat([order[: i * size], order[(i + 1) * size :]]) for i in range(m)])
    return Folds(train, test)


def _split_groups(order: Tensor, m: int, groups: Tensor) -> Folds:
    sizes = groups.bincount()
    # Groups in random order, larger ones first: each goes to the part that has fewest rows.
    ranked = torch.unique(groups[order], return_inverse=True)[1].new_zeros(len(sizes))
    ranked[groups[order.flip(0)]] = torch.arange(len(order) - 1, -1, -1, device="cpu")
    rows, part = [0] * m, torch.zeros(len(sizes), dtype=torch.long, device="cpu")
    for group in sorted(range(len(sizes)), key=lambda g: (-int(sizes[g]), int(ranked[g]))):
        part[group] = least = rows.index(min(rows))
        rows[least] += int(sizes[group])
    of_row = part[groups[order]]
    test = torch.stack([order[of_row == i][: min(rows)] for i in range(m)])
    train = torch.stack([order[of_row != i][: len(order) - max(rows)] for i in range(m)])
    return Folds(train, test)


class Training(NamedTuple):
    """How a training went."""

    steps: int
    best_step: int
    converged: bool
    """Whether it was stopped since nothing improved any more."""


class WeightAverage:
    """Exponential moving average of the parameters of a network; its first steps count less.

    Args:
        network: What to average.
        decay: Weight of the past.
    """

    def __init__(self, network: nn.Module, decay: float = 0.98) -> None:
        self.parameters = [parameter.detach() for parameter in network.parameters()]
        self.values = [parameter.clone() for parameter in self.parameters]
        self.decay, self.steps = decay, 0

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in the network."""
        kept = [parameter.clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, kept)


def fit(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    held_out: Callable[[], float],
    train: Tensor,
    generator: torch.Generator,
    *,
    learning_rate: float = 5e-3,
    batch_size: int = 256,
    max_steps: int = 2000,
    every: int = 50,
    patience: int = 5,
) -> Training:
    """Train on the rows of each fold; leave in the network the averaged weights that were best on held-out samples.

    One step is chosen for all folds, so that the choice is made on all samples and biases the value little. Adam with
    decoupled weight decay 1e-3, a warm-up of 50 steps, gradients clipped at norm 1 for each fold.

    Args:
        network: Its parameters are stacked: their first dimension is that of the folds.
        loss: From the rows of a batch, shape ``(m, batch)``, the sum of the losses.
        held_out: The value to maximize, on the test rows.
        train: Shape ``(m, n)``.
        generator: Draws the batches.
        learning_rate: Of Adam.
        batch_size: Rows of each fold; at most all.
        max_steps: Where it ends at the latest.
        every: Steps between looks at the held-out value.
        patience: How many looks without a better value end it.
    """
    m, n = train.shape
    batch = min(batch_size, n)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=1e-3, fused=parameters[0].device.type in ("cpu", "cuda")
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    average = WeightAverage(network)
    look = torch.no_grad()(held_out)

    best_value, best_step, best = look(), 0, [value.clone() for value in average.values]
    step, position = 0, n
    while step < max_steps and step < best_step + every * patience:
        if position + batch > n:
            order = torch.stack([torch.randperm(n, generator=generator, device="cpu") for _ in range(m)]).to(
                train.device
            )
            position = 0
        rows = train.gather(1, order[:, position : position + batch])
        position += batch
        optimizer.zero_grad()
        with torch.enable_grad():
            torch.autograd.backward(loss(rows), inputs=parameters)  # whatever the loss is made from, only these
        torch.nn.utils.clip_grad_norm_(parameters, math.sqrt(m))
        optimizer.step()
        warm_up.step()
        average.update()
        step += 1
        if step % every == 0:
            with average.applied():
                value = look()
            if not math.isfinite(value):
                break
            if value > best_value + 1e-4:
                best_value, best_step, best = value, step, [one.clone() for one in average.values]
    with torch.no_grad():
        torch._foreach_copy_(average.parameters, best)
    return Training(step, best_step, step >= best_step + every * patience)
