"""Similarity of a kernel with the labels, or with another kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from probes import CannotMeasure
from probes.precision import rounding, to_float64

from .centering import Centering, as_matrix, center, center_targets, center_where

__all__ = ["alignment", "centered_alignment", "cka", "debiased_cka", "label_matrix"]

_ZERO = "The kernel is zero (once centred): it is aligned with nothing."


def label_matrix(targets: Tensor, c: int) -> Tensor:
    """Targets of any usual form as the matrix that stands beside the outputs.

    Args:
        targets: Class labels, integers of shape ``(n,)`` or ``(n, 1)``, taken one-hot; or numbers, shape ``(n, c)``,
            or ``(n,)`` where c is 1, taken as they are (labels of one output too, 0 and 1 or -1 and 1).
        c: Number of outputs.

    Returns:
        Shape ``(c, n)``, float64.

    Raises:
        CannotMeasure: A ValueError: a label is not among the c classes, or the shape does not fit.
        TypeError: If it is not a tensor.

    Example:
        >>> label_matrix(torch.tensor([0, 1, 1]), 2).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"`targets` must be a tensor of labels or numbers, got {type(targets).__name__}.")
    if not targets.ndim or not targets.numel():
        raise CannotMeasure(f"`targets` must hold one label for each example, got shape {tuple(targets.shape)}.")
    n = len(targets)
    flat = targets.detach().reshape(n, -1)
    if flat.shape[1] == c:
        return to_float64(flat).T
    if flat.shape[1] != 1 or flat.is_floating_point():
        raise CannotMeasure(
            f"`targets` must be n class labels (integers) or numbers of shape (n, {c}) for {c} outputs, got shape "
            f"{tuple(targets.shape)}, {targets.dtype}."
        )
    labels = flat[:, 0].long()
    if not (int(labels.min()) >= 0 and int(labels.max()) < c):
        raise CannotMeasure(
            f"`targets` must be class labels from 0 to {c - 1}, for {c} outputs; got labels from {int(labels.min())} "
            f"to {int(labels.max())}. Leave out samples to be ignored."
        )
    return to_float64(torch.nn.functional.one_hot(labels, c)).T


def alignment(kernel: Tensor, targets: Tensor, centering: Centering) -> Tensor:
    r"""Alignment of a tangent kernel with the labels: CKA with the rank-one kernel of the stacked one-hot labels.

    .. math:: A = \frac{\mathbf Y^\top K \mathbf Y}{\|K\|_F \, \|\mathbf Y\|^2}

    K and Y centred in the same way, Y the vector of all nc one-hot entries. High when K has a low effective rank and
    its top eigenvectors are close to the labels; 1 only for K proportional to :math:`Y Y^\top`.

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``; of all layers or of one.
        targets: As :func:`label_matrix` takes them.
        centering: ``"outputs"`` as the authors' code and figures have it, ``"all"`` as eq. 7 has it, or ``"none"``.

    Returns:
        In [0, 1], scalar, float64.

    Raises:
        ValueError: If there are not as many targets as examples, all targets are alike (once centred), or the centred
            kernel is zero; the last two are a CannotMeasure.

    Cost: a few passes over the kernel.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> y = label_matrix(labels, 2)
        >>> alignment(torch.einsum("ai,bj->aibj", y, y), labels, "outputs").round(decimals=12).item()
        1.0

    Reference:
        Baratin (2021), eq. 7 and section 4.3.3.
    """
    centered = center(kernel, centering)
    c, n = centered.shape[:2]
    if len(targets) != n:
        raise ValueError(f"`targets` must hold one target for each of the kernel's {n} examples, got {len(targets)}.")
    y = centered_labels(label_matrix(targets, c), targets.dtype, centering).to(centered.device)
    if not bool(y.isfinite().all()):
        raise ValueError("`targets` must be finite: with NaN or infinity nothing is aligned. Drop these examples.")
    if not y.any():
        raise CannotMeasure(
            f"`targets` are all alike once centred ({centering!r}): nothing can be aligned with them. Take a batch of "
            f"more than one class."
        )
    result = centered_alignment(centered, y)
    if result.isnan():
        raise CannotMeasure(_ZERO)
    return result


def centered_labels(labels: Tensor, dtype: torch.dtype, centering: Centering, where: Tensor | None = None) -> Tensor:
    """Labels centred as :func:`~probes_ntk.center` centres features; zero where only rounding is left.

    Args:
        labels: Shape ``(c, n)``, float64.
        dtype: In which the targets were given.
        centering: Of the kernel.
        where: Which of them there are, shape ``(c, n)``; all by default.
    """
    y = center_targets(labels, centering) if where is None else center_where(labels, centering, where)
    centered: Tensor = y * (y.norm() > rounding(dtype) * labels.norm())
    return centered


def centered_alignment(centered: Tensor, y: Tensor) -> Tensor:
    """Alignment of a centred kernel with centred targets; NaN where either is zero.

    Args:
        centered: From :func:`~probes_ntk.center`, shape ``(c, n, c, n)``.
        y: Shape ``(c, n)``.

    Returns:
        Scalar, float64; nothing is awaited from the device.
    """
    aligned: Tensor = torch.einsum("ai,aibj,bj->", y, centered, y) / (centered.norm() * y.square().sum())
    return aligned.clamp(0, 1)


def cka(kernel: Tensor, other: Tensor, centering: Centering) -> Tensor:
    r"""Kernel alignment of two kernels on the same examples.

    .. math:: \operatorname{CKA}(K, K') = \frac{\operatorname{Tr}[K_c K'_c]}{\|K_c\|_F \|K'_c\|_F}

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``.
        other: Of the same shape.
        centering: Of both, see :func:`~probes_ntk.center`.

    Returns:
        In [0, 1] for positive semidefinite kernels, scalar, float64.

    Raises:
        ValueError: If the shapes differ, or a centred kernel is zero.

    Example:
        >>> cka(torch.eye(3), 2 * torch.eye(3), "all").round(decimals=12).item()
        1.0

    Reference:
        Baratin (2021), eq. 7; Cortes et al. (2012).
    """
    _check_same(kernel, other)
    one, two = center(kernel, centering), center(other, centering)
    one_norm, two_norm = one.norm(), two.norm()
    if not (one_norm > 0 and two_norm > 0):
        raise CannotMeasure(_ZERO)
    aligned: Tensor = (one * two).sum() / (one_norm * two_norm)
    return aligned


def debiased_cka(kernel: Tensor, other: Tensor) -> Tensor:
    r"""Centred kernel alignment from unbiased estimates of HSIC, which few examples do not push upwards.

    .. math:: \operatorname{HSIC}_u(K, L) = \frac{1}{N (N - 3)} \Big[\operatorname{Tr} \tilde K \tilde L
              + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(N - 1)(N - 2)}
              - \frac{2}{N - 2} 1^\top \tilde K \tilde L 1 \Big]

    with diagonals set to zero, and CKA its normalised form. Centred over all N = nc rows, as in eq. 7; unbiased where
    these are independent, that is for kernels of one output.

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``.
        other: Of the same shape.

    Returns:
        About 0 for independent features (negative by chance), 1 for equal kernels; scalar, float64.

    Raises:
        ValueError: If the shapes differ, there are fewer than 4 rows, or an estimate of HSIC(K, K) is not positive.

    Example:
        >>> kernel = torch.diag(torch.arange(5.0)) + torch.ones(5).outer(torch.ones(5)) + torch.eye(5).roll(1, 0)
        >>> debiased_cka(kernel + kernel.T, kernel + kernel.T).round(decimals=12).item()
        1.0

    Reference:
        Song et al. (2012), eq. 5; normalised as in Nguyen, Raghu & Kornblith (2021).
    """
    _check_same(kernel, other)
    one, two = as_matrix(kernel), as_matrix(other)
    if len(one) < 4:
        raise ValueError(f"`kernel` must have at least 4 rows for an unbiased estimate, got {len(one)}.")
    own = [_unbiased_hsic(each, each) for each in (one, two)]
    # Of a constant kernel rounding is left.
    least = [_rounding(each, given.dtype) for each, given in ((one, kernel), (two, other))]
    if not all(value > bound for value, bound in zip(own, least, strict=True)):
        raise CannotMeasure(
            "`kernel` or `other` has an unbiased HSIC with itself that is not positive: off its diagonal it is as good "
            "as constant, or there are too few examples."
        )
    return _unbiased_hsic(one, two) / (own[0].sqrt() * own[1].sqrt())


def _rounding(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """What of its unbiased HSIC with itself rounding may be."""
    n, off = len(kernel), kernel - kernel.diag().diag()
    # Of its entries, whose centred square it is, and of its own sums in float64.
    return (rounding(dtype) ** 2 + rounding(torch.float64)) * off.square().sum() / (n * (n - 3))


def _unbiased_hsic(one: Tensor, two: Tensor) -> Tensor:
    n = len(one)
    one, two = one - one.diag().diag(), two - two.diag().diag()
    rows, other_rows = one.sum(0), two.sum(0)
    means = rows.sum() * other_rows.sum() / ((n - 1) * (n - 2))
    return ((one * two).sum() + means - 2 / (n - 2) * (rows @ other_rows)) / (n * (n - 3))


def _check_same(kernel: Tensor, other: Tensor) -> None:
    if kernel.shape != other.shape:
        raise ValueError(
            f"`other` must have the shape of `kernel`, {tuple(kernel.shape)}, on the same examples; got "
            f"{tuple(other.shape)}."
        )
