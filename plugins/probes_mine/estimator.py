"""Mutual information of samples: one call, the best estimate there is, on samples its critics have not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from .categorical import categorical_information
from .coordinates import noise_edge
from .critic_terms import critic_terms
from .cross_fitting import Training
from .gaussian import gaussian_anchor, gaussian_mutual_information, normal_scores
from .labels import NUM_FOLDS, label_information
from .mixed import mixture_terms
from .nearest_neighbors import ksg_terms
from .repeats import clustered_standard_error, repeated_rows
from .sides import Side, numbered_groups, side_of

__all__ = ["Flag", "Method", "MutualInformationResult", "mutual_information"]

Method = Literal["mine", "nwj", "smile", "info_nce", "jensen_shannon", "ksg"]
Flag = Literal["saturated", "not_converged", "few_samples", "repeated_rows", "sparse"]

MIN_SAMPLES = 20
NEIGHBORS = 5
"""Of ``"ksg"``."""


@dataclass(frozen=True)
class MutualInformationResult:
    """An estimate of mutual information, and what to make of it."""

    value: float
    """In nats: a lower bound evaluated on samples the critic has not seen, except for ``"ksg"`` and ``"smile"``, which
    bound nothing. Never above the logarithm of the number of different samples and never below 0: a critic that
    held-out samples do not support is replaced by the constant one, whose value is exactly 0, and ``"ksg"`` is cut off
    there."""
    standard_error: float
    """Of ``value`` over the different samples. How far the bound is below the mutual information it does not say."""
    interval: tuple[float, float]
    """95 % confidence interval of the bound, not of the mutual information, which may lie above. Its upper end is at
    least what the samples do not exclude: the upper end of ``gaussian``; the dependence that so many independent
    samples seem to have; infinity where the value is saturated."""
    gaussian: float | None
    """What :func:`gaussian_anchor` says: near ``value`` where the dependence is that of a Gaussian, and to be trusted
    instead of it where that is so and ``value`` is saturated. Infinite where a component follows from the other side
    without noise. None where a side is discrete."""
    flags: tuple[Flag, ...]
    """``"saturated"``: above half the logarithm of the number of held-out samples, where no lower bound can be trusted
    and the value may exceed the truth. ``"not_converged"``: training ended while the value still rose.
    ``"few_samples"``: below 1,000, or 20 for each component, copies counted once. ``"repeated_rows"``: some samples are
    copies of others, see :func:`repeated_rows`; they are kept together. If they are no copies but values of classes,
    pass ``discrete_x=True, discrete_y=True``; if there are fewer than ten different ones, that is assumed.
    ``"sparse"``: a few of many components show a dependence, and the critic sees little but these. What the others add,
    by faint dependences or three of them together, is missed, and what these say is found in part: some tenths of a
    nat may be missing, more than the interval says. Call it with these components alone to compare."""
    method: Method
    held_out: bool
    """Whether every sample was evaluated by a critic that had not seen it; ``"ksg"`` has no critic."""
    num_samples: int
    """As given, with copies."""
    steps: int
    """Steps of training."""

    def __str__(self) -> str:
        low, high = self.interval
        anchor = "" if self.gaussian is None else f"; Gaussian {self.gaussian:.3f}"
        flags = "".join(f"; {flag.replace('_', ' ')}" for flag in self.flags)
        held_out = "held out, " if self.held_out else ""
        return (
            f"{self.value:.3f} +- {self.standard_error:.3f} nats ({self.method}; 95 % of the bound {low:.3f} to "
            f"{high:.3f}, {held_out}n = {self.num_samples}{anchor}{flags})"
        )


def mutual_information(
    x: Any,
    y: Any,
    *,
    seed: int = 0,
    method: Method = "mine",
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    groups: Any | None = None,
    max_steps: int = 2000,
) -> MutualInformationResult:
    r"""Mutual information of two variables from samples, in nats.

    .. math:: I(X; Y) \ge \mathbb E_{P_{XY}}[T] - \log \mathbb E_{P_X \otimes P_Y}[e^T]

    The bound of Donsker and Varadhan that MINE maximizes, by cross-fitting: five critics are trained, each on four
    fifths of the samples, and each sample is evaluated by the one that has not seen it. Both sides are first mapped,
    each by itself, to coordinates that keep the information: normal scores of the ranks (of the components, or of
    independent components), whitened, and the distance from the middle. A critic is the closed form for Gaussians, in
    canonical variates (whose coefficients may depend on that distance), plus a network that starts at zero. So for
    dependences near a Gaussian one it is right from the start; independent samples leave it at zero; tails and scales
    do not matter. In many dimensions all pairs of components are screened for dependence of whatever kind, and those
    that show some are what the critic sees large; what only three components together show may be missed. Between
    coordinates, how far to shrink correlations, when to stop, and by what to scale the critic down, the held-out value
    itself decides, once for all five: a choice among a few, which is worth far less than the standard error. One choice
    is the constant critic, so the value is not negative.

    A discrete side is told by its distribution given the other: :math:`\mathbb E[\log q(y | x) / p(y)]`, with q a
    cross-fitted classifier, or, if both are, the table of counts without the sample in question, shrunk to that of
    independent classes as far as the value says. The sum over classes is exact, so the value never exceeds their
    entropy.

    Args:
        x: Samples: a tensor or an array, shape ``(n, ...)``, of any dtype but complex. All dimensions but the first are
            flattened.
        y: Shape ``(n, ...)``. Row i of x and of y belong together; rows are taken to be independent.
        seed: Of folds, batches and initial weights. The same seed gives the same value.
        method: ``"mine"``, the best; for comparison the bound ``"nwj"`` (which MINE-f also maximizes), ``"smile"``
            (no bound; critic trained by the Jensen-Shannon bound), ``"info_nce"`` (at most 4.2 nats),
            ``"jensen_shannon"`` (its critic, told by Donsker-Varadhan), and ``"ksg"`` (nearest neighbours, no bound).
        discrete_x: Whether x is a class; by default if it is one column of booleans, strings, or integers with at most
            n / 20 different values.
        discrete_y: Whether y is.
        groups: Numbers or names, shape ``(n,)``: samples of one group are not independent (copies, several of one
            subject), and stay on one side of training and evaluation. By default found by :func:`repeated_rows`.
        max_steps: Steps of training at most.

    Returns:
        Value, standard error, interval, flags. Look at the flags. From n samples no method can certify much more than
        log n nats.

    Raises:
        ValueError: If lengths differ, there are fewer than 20 samples, a value is not finite, ``method`` is unknown,
            or is ``"ksg"`` with a discrete side, or ``groups`` has another length.
        TypeError: If a dtype is complex or not numeric.

    Cost: about 5 s of one CPU thread for 10,000 samples in few dimensions; beyond a hundred dimensions eigenvalue
    decompositions of each side, d^3, for each fold.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 1000, 1, generator=generator)
        >>> result = mutual_information(x, x + noise, seed=0)
        >>> abs(result.value - math.log(2) / 2) < 0.1, result.flags
        (True, ())

    Reference:
        Donsker & Varadhan (1983); Belghazi et al., "Mutual information neural estimation", ICML 2018; Baratin (2021),
        chapter 5, eq. 6. What can be certified: McAllester & Stratos, "Formal limitations on the measurement of mutual
        information", AISTATS 2020. The other methods: see the functions of their bounds, and :func:`ksg`.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}.")
    if not hasattr(seed, "__index__"):
        raise TypeError(f"`seed` must be an integer, got {seed!r}.")
    if max_steps < 1:
        raise ValueError(f"`max_steps` must be at least 1, got {max_steps}.")
    device = x.device if isinstance(x, Tensor) else torch.device("cpu")
    # Whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad():
        first, second = side_of(x, "x", discrete_x), side_of(y, "y", discrete_y)
        n = len(first.values)
        if len(second.values) != n:
            raise ValueError(
                f"`x` and `y` must be pairs, of the same length, got {n} and {len(second.values)} samples."
            )
        if n < MIN_SAMPLES:
            raise ValueError(f"At least {MIN_SAMPLES} samples are needed to hold some out, got {n}.")
        groups, flags = _groups_and_flags(first, second, groups)
        num_groups = int(groups.max()) + 1
        discrete = first.discrete or second.discrete
        gaussian, gaussian_error = None, 0.0
        if not discrete:
            anchor = gaussian_anchor(first.values, second.values, num_groups)
            gaussian = float(anchor.value)
            gaussian_error = math.sqrt(float(anchor.correlations.square().sum()) / num_groups)
        found = _found(first, second, groups, method, seed, max_steps, device)
        if found.screened:
            flags.append("sparse")
        if found.training is not None and not found.training.converged:
            flags.append("not_converged")
        value, error = float(found.terms.mean()), clustered_standard_error(found.terms, found.groups)
        if method == "ksg":
            value = min(max(value, 0.0), math.log(num_groups))
    width = 1.96 * error
    low, high = value - width, value + width
    # What hides in so many independent samples, and so in these.
    edge = noise_edge(first.size, second.size, num_groups)
    high = max(high, float(gaussian_mutual_information(min(edge, 1.0))))
    if gaussian is not None:
        # Nothing that was seen speaks against it, and it may be all there is.
        high = max(high, gaussian + 1.96 * gaussian_error)
    if not discrete and value > math.log(num_groups / NUM_FOLDS) / 2:
        flags.append("saturated")
        high = math.inf
    steps = 0 if found.training is None else found.training.steps
    interval, held_out = (low, high), method != "ksg"
    return MutualInformationResult(value, error, interval, gaussian, tuple(flags), method, held_out, n, steps)


class _Found(NamedTuple):
    """What the samples say."""

    terms: Tensor
    """What each sample adds; their mean is the value."""
    groups: Tensor
    """Of these samples."""
    training: Training | None = None
    screened: bool = False
    """Whether a few of many components are what the critic sees."""


def _groups_and_flags(first: Side, second: Side, given: Any | None) -> tuple[Tensor, list[Flag]]:
    """The group of each sample, and what is to be said of their number."""
    n = len(first.values)
    if given is not None:
        groups = numbered_groups(given, n)
    elif first.discrete and second.discrete:
        groups = torch.arange(n, device="cpu")
    else:
        groups = repeated_rows(first.values, second.values)
    num_groups = int(groups.max()) + 1
    flags: list[Flag] = []
    if num_groups < max(1000, 20 * (first.size + second.size)):
        flags.append("few_samples")
    if num_groups < n:
        flags.append("repeated_rows")
    if num_groups < 2 * NUM_FOLDS:  # too few to hold some out: what repeats must be classes
        groups = torch.arange(n, device="cpu")
    return groups, flags


def _found(
    first: Side, second: Side, groups: Tensor, method: Method, seed: int, max_steps: int, device: torch.device
) -> _Found:
    """Ask the samples, in the way that suits the sides and the method."""
    n, num_groups = len(groups), int(groups.max()) + 1
    discrete = first.discrete or second.discrete
    if method == "ksg" and discrete:
        raise ValueError("`method` 'ksg' needs continuous sides, got a discrete one. Use 'mine'.")
    if min(first.size, second.size) == 0:
        return _Found(torch.zeros(n, dtype=torch.float64, device="cpu"), groups)  # one of them is constant
    if method == "ksg":
        kept = torch.from_numpy(np.unique(groups.numpy(), return_index=True)[1])
        x, y = first.values[kept], second.values[kept]
        tied = any(len(torch.unique(column)) < len(kept) for side in (x, y) for column in side.T)
        terms = mixture_terms(x, y, NEIGHBORS) if tied else ksg_terms(normal_scores(x), normal_scores(y), NEIGHBORS)
        return _Found(terms, groups[kept])
    if first.discrete and second.discrete and method == "mine":
        codes = first.values[:, 0].long(), second.values[:, 0].long()
        return _Found(categorical_information(*codes, groups=groups if num_groups < n else None), groups)
    generator = torch.Generator().manual_seed(seed)
    if discrete and method == "mine":
        features, classes = (second, first) if first.discrete else (first, second)
        labels = classes.values[:, 0].long()
        found = label_information(features.values, labels, generator, groups=groups, max_steps=max_steps, device=device)
        return _Found(found.terms, groups[found.rows], found.training)
    x, y = first.numeric(), second.numeric()
    return _Found(*critic_terms(x, y, groups, method, generator, max_steps, device))
