"""MINE as it was proposed: gradient ascent of a bound of the mutual information over a statistics network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from probes.guard.process import random_states_kept
from probes.precision import to_float64

from .bounds import donsker_varadhan_bound, f_divergence_bound
from .moving_average import LogMovingAverage, mine_surrogate
from .product import Product, bound_terms

__all__ = ["Bound", "Mine", "MineEstimate", "partners"]

Bound = Literal["donsker_varadhan", "f_divergence"]


class MineEstimate(NamedTuple):
    """The value of a bound on given samples."""

    value: float
    """In nats. At least 0, which a constant critic has, and at most the logarithm of ``num_samples``, which is about
    what so many can certify: the partition function is at least what the pairs drawn together add in their share."""
    standard_error: float
    """Of ``value`` over the samples, for this critic: how far the bound is from the mutual information it does not
    say."""
    num_samples: int
    flags: tuple[Literal["saturated", "useless"], ...] = ()
    """``"saturated"``: above half the logarithm of ``num_samples``, where no lower bound can be trusted and the value
    may exceed the truth. ``"useless"``: the critic is worse than a constant one (it is new, or knows other samples by
    heart), and the value is that one's."""


class Mine:
    r"""Mutual information neural estimation.

    .. math:: \sup_\theta \; \mathbb E_{P_{XZ}}[T_\theta] - \log \mathbb E_{P_X \otimes P_Z}[e^{T_\theta}]

    :meth:`update` makes one step of ascent on a batch, :meth:`estimate` tells the value of the bound: on samples that
    were not trained on, or else it means little. What is ascended is never what is reported. Nothing global is drawn
    from or changed; inputs get no gradients.

    Args:
        network: The statistics network T: called with x and z, it returns one number for each pair, ``(n,)`` or
            ``(n, 1)``.
        bound: ``"donsker_varadhan"``, or ``"f_divergence"`` for MINE-f.
        rate: Weight of a batch in the moving average that corrects the bias of the gradient, for Donsker-Varadhan;
            None for the biased gradient of eq. 12.
        optimizer: Makes the optimizer from the parameters; Adam with learning rate 1e-3 by default.
        seed: Of shuffles, and of whatever the network draws.

    Raises:
        ValueError: If ``bound`` is unknown or ``rate`` not in (0, 1].

    Example:
        >>> from probes_mine import DenseStatistics
        >>> mine = Mine(DenseStatistics(1, 1, (8,), input_noise=0, hidden_noise=0))
        >>> x = torch.randn(64, 1)
        >>> mine.update(x, x)
        >>> mine.estimate(x, x).num_samples
        64

    Reference:
        Belghazi et al., "Mutual information neural estimation", ICML 2018; Baratin (2021), chapter 5, algorithm 1 and
        eq. 6, 8, 10 and 12.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        bound: Bound = "donsker_varadhan",
        rate: float | None = 0.01,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        if bound not in get_args(Bound):
            raise ValueError(f"`bound` must be one of {', '.join(map(repr, get_args(Bound)))}, got {bound!r}.")
        self.network, self.bound, self.seed = network, bound, seed
        self.average = LogMovingAverage(rate) if rate is not None and bound == "donsker_varadhan" else None
        make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
        self.optimizer = make(network.parameters())
        self.steps = 0

    def update(self, x: Tensor, z: Tensor) -> None:
        """One step of ascent on a batch of pairs drawn together.

        Args:
            x: Shape ``(n, ...)``.
            z: Shape ``(n, ...)``.

        Raises:
            ValueError: If they differ in length, there are fewer than 2 pairs, or the network returns another shape.
        """
        x, z = _pairs(x, z)
        self.network.train()
        with torch.enable_grad(), self._private_randomness():
            joint, marginal = self._scores(x, z), self._scores(x, z[partners(len(x)).to(z.device)])
            if self.average is not None:
                objective = mine_surrogate(joint, marginal, self.average)
            else:
                objective = self._value(joint, marginal)
            parameters = [p for p in self.network.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(-objective, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    @torch.no_grad()
    def estimate(self, x: Tensor, z: Tensor, shuffles: int = 10, batch_size: int = 10_000) -> MineEstimate:
        """The value of the bound on samples, in float64, with the network in eval mode.

        Args:
            x: Shape ``(n, ...)``.
            z: Shape ``(n, ...)``.
            shuffles: How many partners of each x make up the independent pairs.
            batch_size: Pairs that go through the network at once.

        Raises:
            ValueError: As :meth:`update`, or if ``shuffles`` is not from 1 to n - 1.
        """
        x, z = _pairs(x, z)
        n = len(x)
        if not 1 <= shuffles < n:
            raise ValueError(f"`shuffles` must be from 1 to n - 1 = {n - 1}, got {shuffles}.")
        training = self.network.training
        self.network.eval()
        try:
            # Shifted by different numbers, no pair appears twice, nor with itself.
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(n, generator=generator)
            shifts = [0, *(1 + torch.randperm(n - 1, generator=generator)[:shuffles]).tolist()]
            x, z = x[order.to(x.device)], z[order.to(z.device)]
            rows = torch.stack([self._in_batches(x, z.roll(shift, 0), batch_size) for shift in shifts])
        finally:
            self.network.train(training)
        joint, marginal = rows[0], rows[1:]
        product, reference = Product(shifts[1:], None, 1 / n), None
        if self.bound == "f_divergence":
            reference = joint.new_ones(1, 1)
        terms = bound_terms(joint[None], marginal[None], product, reference)
        value = float(terms.mean())
        flags: tuple[Literal["saturated", "useless"], ...] = ()
        if value < 0:
            flags = ("useless",)
        elif value > math.log(n) / 2:
            flags = ("saturated",)
        return MineEstimate(max(value, 0.0), float(terms.std()) / math.sqrt(n), n, flags)

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, moving average and count of steps, for a resume that goes on to the last bit."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.steps = state["steps"]

    def _in_batches(self, x: Tensor, z: Tensor, size: int) -> Tensor:
        n = len(x)
        scores = [self._scores(x[start : start + size], z[start : start + size]) for start in range(0, n, size)]
        return to_float64(torch.cat(scores))

    def _value(self, joint: Tensor, marginal: Tensor) -> Tensor:
        bound = donsker_varadhan_bound if self.bound == "donsker_varadhan" else f_divergence_bound
        return bound(joint, marginal)

    def _scores(self, x: Tensor, z: Tensor) -> Tensor:
        scores: Tensor = self.network(x, z)
        if scores.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"`network` must return one number for each of {len(x)} pairs, shape (n,) or (n, 1), got "
                f"{tuple(scores.shape)}."
            )
        return scores.flatten()

    @contextmanager
    def _private_randomness(self) -> Iterator[None]:
        """Whatever is drawn from the global generators follows from the seed and the step, and is undone."""
        with random_states_kept():
            seed = (self.seed * 1_000_003 + self.steps) % 2**63
            # Not torch.manual_seed: before CUDA is initialised, that would seed it for later.
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed_all(seed)
            if torch.backends.mps.is_available():
                torch.mps.manual_seed(seed)
            yield


def _pairs(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == 0 or z.ndim == 0 or len(x) != len(z) or len(x) < 2:
        raise ValueError(
            f"`x` and `z` must be at least 2 pairs, shapes (n, ...), got {tuple(x.shape)} and {tuple(z.shape)}."
        )
    return x.detach(), z.detach()


def partners(n: int, generator: torch.Generator | None = None) -> Tensor:
    """For each of n another that is not itself: the next in a random order that closes to a ring."""
    order = torch.randperm(n, generator=generator)
    following = torch.empty_like(order)
    following[order] = order.roll(1)
    return following
