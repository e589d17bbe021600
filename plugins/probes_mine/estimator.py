"""Mutual information of samples: one call, the best estimate there is, on samples its critics have not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .bounds import (
    donsker_varadhan_bound,
    f_divergence_bound,
    info_nce_bound,
    jensen_shannon_bound,
    log_mean_exp,
    smile_estimate,
)
from .categorical import categorical_information
from .coordinates import coordinates, gaussian_terms
from .critics import StackedCritics
from .cross_fitting import Training, fit, split
from .gaussian import gaussian_anchor, normal_scores
from .labels import NUM_FOLDS, label_information
from .nearest_neighbors import ksg_terms

__all__ = ["Flag", "Method", "MutualInformationResult", "mutual_information"]

Method = Literal["mine", "nwj", "smile", "info_nce", "jensen_shannon", "ksg"]
Flag = Literal["saturated", "not_converged", "few_samples"]

MIN_SAMPLES = 20
SMILE_CLIP = 5.0

Bound = Callable[[Tensor, Tensor], Tensor]
BOUNDS: dict[Method, tuple[Bound, Bound]] = {
    "mine": (donsker_varadhan_bound, donsker_varadhan_bound),
    "nwj": (f_divergence_bound, f_divergence_bound),
    "smile": (jensen_shannon_bound, smile_estimate),
    "info_nce": (info_nce_bound, info_nce_bound),
    "jensen_shannon": (jensen_shannon_bound, donsker_varadhan_bound),
}
"""What a critic maximizes, and what it is told by."""


@dataclass(frozen=True)
class MutualInformationResult:
    """An estimate of mutual information, and what to make of it."""

    value: float
    """In nats: a lower bound evaluated on samples the critic has not seen, except for ``"ksg"`` and ``"smile"``, which
    bound nothing. Sampling alone can make it slightly negative."""
    standard_error: float
    """Of ``value`` over the samples. How far the bound is below the mutual information it does not say."""
    interval: tuple[float, float]
    """95 % confidence interval of the bound, not of the mutual information, which may lie above."""
    gaussian: float | None
    """What :func:`gaussian_anchor` says: near ``value`` where the dependence is that of a Gaussian, and to be trusted
    instead of it where that is so and ``value`` is saturated. None where a side is discrete."""
    flags: tuple[Flag, ...]
    """``"saturated"``: above half the logarithm of the number of held-out samples, where no lower bound can be trusted
    and the value may exceed the truth. ``"not_converged"``: training ended while the value still rose.
    ``"few_samples"``: below 1,000, or 20 for each component."""
    method: Method
    held_out: bool
    """Whether every sample was evaluated by a critic that had not seen it; ``"ksg"`` has no critic."""
    num_samples: int
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
    do not matter. Between coordinates, and when to stop, the held-out value itself decides, once for all five: a choice
    among a few, which is worth far less than the standard error.

    A discrete side is told by its distribution given the other: :math:`\mathbb E[\log q(y | x) / p(y)]`, with q a
    cross-fitted classifier, or, if both are, the table of counts without the sample in question. The sum over classes
    is exact, so the value never exceeds their entropy.

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
        max_steps: Steps of training at most.

    Returns:
        Value, standard error, interval, flags. Look at the flags: from n samples no method can certify much more than
        log n nats.

    Raises:
        ValueError: If lengths differ, there are fewer than 20 samples, a value is not finite, ``method`` is unknown,
            or is ``"ksg"`` with a discrete side.
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
    if max_steps < 1:
        raise ValueError(f"`max_steps` must be at least 1, got {max_steps}.")
    device = x.device if isinstance(x, Tensor) else torch.device("cpu")
    # Whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad():
        first, second = _side(x, "x", discrete_x), _side(y, "y", discrete_y)
        n = len(first.values)
        if len(second.values) != n:
            raise ValueError(
                f"`x` and `y` must be pairs, of the same length, got {n} and {len(second.values)} samples."
            )
        if n < MIN_SAMPLES:
            raise ValueError(f"At least {MIN_SAMPLES} samples are needed to hold some out, got {n}.")
        flags: list[Flag] = []
        if n < max(1000, 20 * (first.size + second.size)):
            flags.append("few_samples")

        discrete = first.discrete or second.discrete
        gaussian = None if discrete else float(gaussian_anchor(first.values, second.values).value)
        steps, held_out = 0, True
        if method == "ksg":
            if discrete:
                raise ValueError("`method` 'ksg' needs continuous sides, got a discrete one. Use 'mine'.")
            terms = ksg_terms(normal_scores(first.values), normal_scores(second.values))
            held_out = False
        elif min(first.size, second.size) == 0:
            terms = first.values.new_zeros(n)  # one of them is constant
        elif first.discrete and second.discrete and method == "mine":
            terms = categorical_information(first.values[:, 0].long(), second.values[:, 0].long())
        else:
            generator = torch.Generator().manual_seed(seed)
            if discrete and method == "mine":
                features, classes = (second, first) if first.discrete else (first, second)
                labels = classes.values[:, 0].long()
                terms, training, _ = label_information(
                    features.values, labels, generator, max_steps=max_steps, device=device
                )
            else:
                terms, training = _by_critic(first.numeric(), second.numeric(), method, generator, max_steps, device)
            steps = training.steps
            if not training.converged:
                flags.append("not_converged")
        value = float(terms.mean())
        error = float(terms.std()) / math.sqrt(len(terms))
    if held_out and not discrete and value > math.log(n / NUM_FOLDS) / 2:
        flags.append("saturated")
    interval = (value - 1.96 * error, value + 1.96 * error)
    return MutualInformationResult(value, error, interval, gaussian, tuple(flags), method, held_out, n, steps)


@dataclass(frozen=True)
class _Side:
    """One variable: numbers, or codes of classes."""

    values: Tensor
    """float64 ``(n, d)`` without constant components; codes of classes ``(n, 1)``."""
    size: int
    """Components, or classes less one."""
    discrete: bool

    def numeric(self) -> Tensor:
        """Classes as indicators."""
        return one_hot(self.values[:, 0].long()).double() if self.discrete else self.values


def _side(samples: Any, name: str, discrete: bool | None) -> _Side:
    array = samples if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim == 0:
        raise ValueError(f"`{name}` must be samples, shape (n, ...), got a single number.")
    column = math.prod(array.shape[1:]) == 1
    if not isinstance(array, Tensor):
        if array.dtype.kind in "OUS":
            if not column:
                raise TypeError(f"`{name}` must be numbers, or one column of classes, got {array.dtype} {array.shape}.")
            array = np.unique(array.reshape(-1), return_inverse=True)[1].astype(np.int64)
            discrete = True if discrete is None else discrete
        elif array.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` must be real numbers or classes, got {array.dtype}.")
        array = torch.from_numpy(np.ascontiguousarray(array.astype(np.float64)))
        integral = np.asarray(samples).dtype.kind in "biuOUS"
    else:
        if array.is_complex():
            raise TypeError(
                f"`{name}` must be real numbers or classes, got {array.dtype}. Pass real and imaginary part."
            )
        integral = not array.is_floating_point()
        array = array.detach().cpu().double()
    values = array.reshape(len(array), -1) if array.numel() else array.reshape(len(array), 0)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in {bad} of {len(values)} samples. Drop them.")
    if discrete is None:
        discrete = column and integral and len(values) > 0 and len(torch.unique(values)) <= max(2, len(values) / 20)
    if discrete:
        if not column:
            raise ValueError(f"`{name}` must be one column to be discrete, got shape {tuple(array.shape)}.")
        classes, codes = torch.unique(values[:, 0], return_inverse=True)
        return _Side(codes[:, None].double(), len(classes) - 1, True)
    varies = (values != values[:1]).any(0)
    return _Side(values[:, varies], int(varies.sum()), False)


def _by_critic(
    x: Tensor, y: Tensor, method: Method, generator: torch.Generator, max_steps: int, device: torch.device
) -> tuple[Tensor, Training]:
    """Terms whose mean is the value of the bound, and whose deviation is that of the value times the root of n."""
    folds = split(len(x), NUM_FOLDS, generator)
    size = folds.test.shape[1]
    # Shifted by different numbers, no pair of test rows appears twice, nor with itself.
    frame = coordinates(x, y, *folds, _shifts(size, 8, generator))
    a, b, c = gaussian_terms(frame.pairs_x, frame.pairs_y, frame.correlations)
    critics = StackedCritics(
        NUM_FOLDS, frame.x.shape[2], frame.y.shape[2], generator, offset=1.0 if method == "nwj" else 0.0
    ).to(device, torch.float32)
    parts = (frame.x, frame.y, a.sum(2), b.sum(2), c, frame.pairs_y)
    sides = [part.to(device, torch.float32) for part in parts]
    train, test = (rows.to(device) for rows in folds)
    maximized, told = (torch.vmap(bound) for bound in BOUNDS[method])

    def values(rows: Tensor, shifts: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y, *gaussian = (_take(side, rows) for side in sides)
        return critics(x, y, gaussian, shifts)  # type: ignore[no-any-return]

    def loss(rows: Tensor) -> Tensor:
        return -maximized(*values(rows, _shifts(rows.shape[1], 4, generator))).sum()

    def held_out() -> float:
        return float(told(*values(test, _shifts(size, 4, generator))).mean())

    training = fit(critics, loss, held_out, train, generator, max_steps=max_steps)
    shifts = _shifts(size, 64, generator)
    scores = [values(test, shifts[start : start + 8]) for start in range(0, len(shifts), 8)]
    joint, marginal = scores[0][0].cpu().double(), torch.cat([part[1] for part in scores], 1).cpu().double()
    terms = [_terms(one, other, shifts, method) for one, other in zip(joint, marginal, strict=True)]
    return torch.cat(terms), training


def _terms(joint: Tensor, marginal: Tensor, shifts: Sequence[int], method: Method) -> Tensor:
    """What each test sample adds to the value: through its pair, and through all pairs with its x or its y.

    Args:
        joint: Shape ``(n,)``.
        marginal: The value for x_i and the y shift rows before, shape ``(s, n)``.
        shifts: s of them.
        method: Whose value.
    """
    if method == "info_nce":
        return joint - torch.logsumexp(torch.cat([joint[None], marginal]), 0) + math.log(len(marginal) + 1)
    if method == "smile":
        marginal = marginal.clamp(-SMILE_CLIP, SMILE_CLIP)
    if method == "nwj":
        subtracted, weights = (marginal - 1).exp().mean(), (marginal - 1).exp()
    else:
        subtracted, weights = log_mean_exp(marginal), (marginal - log_mean_exp(marginal)).exp()
    by_y = torch.stack([row.roll(-shift) for row, shift in zip(weights, shifts, strict=True)])
    return joint - subtracted - (weights.mean(0) - weights.mean()) - (by_y.mean(0) - weights.mean())


def _shifts(n: int, number: int, generator: torch.Generator) -> list[int]:
    return [1 + int(shift) for shift in torch.randperm(n - 1, generator=generator, device="cpu")[:number]]


def _take(side: Tensor, rows: Tensor) -> Tensor:
    """Rows ``(m, b)`` of ``(m, n, ...)``, of each fold its own."""
    return side[torch.arange(len(rows), device=rows.device)[:, None], rows]
