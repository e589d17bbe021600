"""Mutual information of samples: one call, the best estimate there is, on samples its critics have not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .bounds import jensen_shannon_bound
from .categorical import categorical_information
from .coordinates import coordinates, gaussian_terms, noise_edge
from .critics import StackedCritics
from .cross_fitting import Training, fit, split
from .gaussian import gaussian_anchor, gaussian_mutual_information, normal_scores
from .labels import NUM_FOLDS, label_information
from .nearest_neighbors import ksg_terms
from .product import Product, bound_terms, draw_product, log_partition, tempered
from .repeats import clustered_standard_error, repeated_rows

__all__ = ["Flag", "Method", "MutualInformationResult", "mutual_information"]

Method = Literal["mine", "nwj", "smile", "info_nce", "jensen_shannon", "ksg"]
Flag = Literal["saturated", "not_converged", "few_samples", "repeated_rows", "sparse"]

MIN_SAMPLES = 20
SMILE_CLIP = 5.0


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
        Value, standard error, interval, flags. Look at the flags: from n samples no method can certify much more than
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
        first, second = _side(x, "x", discrete_x), _side(y, "y", discrete_y)
        n = len(first.values)
        if len(second.values) != n:
            raise ValueError(
                f"`x` and `y` must be pairs, of the same length, got {n} and {len(second.values)} samples."
            )
        if n < MIN_SAMPLES:
            raise ValueError(f"At least {MIN_SAMPLES} samples are needed to hold some out, got {n}.")
        both = first.discrete and second.discrete
        if groups is None:
            groups = torch.arange(n, device="cpu") if both else repeated_rows(first.values, second.values)
        else:
            groups = _groups(groups, n)
        num_groups = int(groups.max()) + 1
        flags: list[Flag] = []
        if num_groups < max(1000, 20 * (first.size + second.size)):
            flags.append("few_samples")
        if num_groups < n:
            flags.append("repeated_rows")
        if num_groups < 2 * NUM_FOLDS:  # too few to hold some out: what repeats must be classes
            groups, num_groups = torch.arange(n, device="cpu"), n

        discrete = first.discrete or second.discrete
        gaussian, gaussian_error = None, 0.0
        if not discrete:
            anchor = gaussian_anchor(first.values, second.values, num_groups)
            gaussian = float(anchor.value)
            gaussian_error = math.sqrt(float(anchor.correlations.square().sum()) / num_groups)
        steps, held_out, rows = 0, True, groups
        if method == "ksg":
            if discrete:
                raise ValueError("`method` 'ksg' needs continuous sides, got a discrete one. Use 'mine'.")
            kept = torch.from_numpy(np.unique(groups.numpy(), return_index=True)[1])
            terms = ksg_terms(normal_scores(first.values[kept]), normal_scores(second.values[kept]))
            held_out, rows = False, groups[kept]
        elif min(first.size, second.size) == 0:
            terms = torch.zeros(n, dtype=torch.float64, device="cpu")  # one of them is constant
        elif both and method == "mine":
            terms = categorical_information(
                first.values[:, 0].long(), second.values[:, 0].long(), groups=groups if num_groups < n else None
            )
        else:
            generator = torch.Generator().manual_seed(seed)
            if discrete and method == "mine":
                features, classes = (second, first) if first.discrete else (first, second)
                labels = classes.values[:, 0].long()
                found = label_information(
                    features.values, labels, generator, groups=groups, max_steps=max_steps, device=device
                )
                terms, training, rows = found.terms, found.training, groups[found.rows]
            else:
                terms, rows, training, screened = _by_critic(
                    first.numeric(), second.numeric(), groups, method, generator, max_steps, device
                )
                if screened:
                    flags.append("sparse")
            steps = training.steps
            if not training.converged:
                flags.append("not_converged")
        value, error = float(terms.mean()), clustered_standard_error(terms, rows)
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
    return MutualInformationResult(value, error, (low, high), gaussian, tuple(flags), method, held_out, n, steps)


def _groups(given: Any, n: int) -> Tensor:
    groups = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if groups.shape != (n,):
        raise ValueError(f"`groups` must hold one number or name for each of the {n} samples, got {groups.shape}.")
    return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))


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
    x: Tensor,
    y: Tensor,
    groups: Tensor,
    method: Method,
    generator: torch.Generator,
    max_steps: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Training, bool]:
    """Terms whose mean is the value of the bound, and whose deviation is that of the value times the root of n; the
    groups of their samples; how training went; and whether few of many components were picked."""
    folds = split(len(x), NUM_FOLDS, generator, groups)
    size, num_groups = folds.test.shape[1], int(groups.max()) + 1
    partners = groups[folds.test]

    def product(number: int) -> Product:
        return draw_product(partners, number, num_groups, generator)

    few = max(4, min(64, 4000 // size))  # partners at a look: enough that no near pair is missed in few samples
    frame = coordinates(x, y, *folds, product(max(8, few)), num_groups / len(x))
    a, b, c = gaussian_terms(frame.pairs_x, frame.pairs_y, frame.correlations)
    critics = StackedCritics(
        NUM_FOLDS, frame.x.shape[2], frame.y.shape[2], generator, offset=1.0 if method == "nwj" else 0.0
    ).to(device, torch.float32)
    parts = (frame.x, frame.y, a.sum(2), b.sum(2), c, frame.pairs_y)
    sides = [part.to(device, torch.float32) for part in parts]
    train, test = (rows.to(device) for rows in folds)
    js = torch.vmap(jensen_shannon_bound)

    def values(rows: Tensor, shifts: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y, *gaussian = (_take(side, rows) for side in sides)
        return critics(x, y, gaussian, shifts)  # type: ignore[no-any-return]

    def loss(rows: Tensor) -> Tensor:
        shifts = _shifts(rows.shape[1], 4, generator)
        joint, marginal = values(rows, shifts)
        if method in ("smile", "jensen_shannon"):
            return -js(joint, marginal).sum()
        return -_bounds(joint, marginal, Product(shifts, None, 1 / num_groups), method).sum()

    def held_out() -> float:
        pairs = product(few)
        return float(_bounds(*values(test, pairs.shifts), pairs.to(device), method).mean())

    training = fit(critics, loss, held_out, train, generator, max_steps=max_steps)
    pairs = product(64)
    scores = [values(test, pairs.shifts[start : start + 8]) for start in range(0, len(pairs.shifts), 8)]
    joint, marginal = scores[0][0].cpu().double(), torch.cat([part[1] for part in scores], 1).cpu().double()
    start = 1.0 if method == "nwj" else 0.0  # the trivial critic

    def scaled(scale: float) -> tuple[Tensor, Tensor]:
        return start + scale * (joint - start), start + scale * (marginal - start)

    scale = tempered(lambda scale: float(_bounds(*scaled(scale), pairs, method).mean()))
    terms = _terms(*scaled(scale), pairs, method) if scale > 0 else torch.zeros_like(joint)
    return terms.flatten(), partners.flatten(), training, frame.screened


def _bounds(joint: Tensor, marginal: Tensor, product: Product, method: Method) -> Tensor:
    """Value of the bound for each critic, shape ``(m,)``, from what :class:`StackedCritics` returns."""
    if method == "info_nce":
        return _contrasts(joint, marginal, product).mean(1)
    if method == "smile":
        marginal = marginal.clamp(-SMILE_CLIP, SMILE_CLIP)
    log_mean = log_partition(joint, marginal, product)
    return joint.mean(1) - ((log_mean - 1).exp() if method == "nwj" else log_mean)


def _contrasts(joint: Tensor, marginal: Tensor, product: Product) -> Tensor:
    count: Tensor | float = float(marginal.shape[1] + 1)
    if product.copies is not None:
        marginal = marginal.masked_fill(product.copies, -math.inf)
        count = 1.0 + (~product.copies).sum(1)
    log_count = count.log() if isinstance(count, Tensor) else math.log(count)
    return joint - torch.logsumexp(torch.cat([joint[:, None], marginal], 1), 1) + log_count


def _terms(joint: Tensor, marginal: Tensor, product: Product, method: Method) -> Tensor:
    """What each test sample adds to the value: through its pair, and through all pairs with its x or its y.

    Args:
        joint: Shape ``(m, n)``.
        marginal: The value for x_i and the y shift rows before, shape ``(m, s, n)``.
        product: Which pairs these are.
        method: Whose value.

    Returns:
        Shape ``(m, n)``; the mean of each row is that of :func:`_bounds`.
    """
    if method == "info_nce":
        return _contrasts(joint, marginal, product)
    if method == "smile":
        marginal = marginal.clamp(-SMILE_CLIP, SMILE_CLIP)
    return bound_terms(joint, marginal, product, joint.new_ones(len(joint), 1) if method == "nwj" else None)


def _shifts(n: int, number: int, generator: torch.Generator) -> list[int]:
    return [1 + int(shift) for shift in torch.randperm(n - 1, generator=generator, device="cpu")[:number]]


def _take(side: Tensor, rows: Tensor) -> Tensor:
    """Rows ``(m, b)`` of ``(m, n, ...)``, of each fold its own."""
    return side[torch.arange(len(rows), device=rows.device)[:, None], rows]
