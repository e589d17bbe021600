"""By how much the output of the right class exceeds the others, and the same in units that can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.precision import to_float64

from .chain import NotDefined

__all__ = ["margins", "normalized_margins", "signs"]


def signs(targets: Tensor) -> Tensor:
    """Labels of two classes as -1 and 1.

    Args:
        targets: All in {-1, 1}, or all in {0, 1}, of any dtype. Shape ``(n,)`` or ``(n, 1)``.

    Returns:
        float64. Shape ``(n,)``.

    Raises:
        ValueError: If there are other values, or the shape is another.

    Example:
        >>> signs(torch.tensor([0, 1, 1])).tolist()
        [-1.0, 1.0, 1.0]
    """
    if targets.ndim not in (1, 2) or targets.numel() != len(targets):
        raise NotDefined(f"`targets` of two classes must have shape (n,) or (n, 1), got {tuple(targets.shape)}.")
    values = to_float64(targets.detach()).flatten()
    if bool((values.abs() == 1).all()):
        return values
    if bool(((values == 0) | (values == 1)).all()):
        return 2 * values - 1
    raise NotDefined(
        f"`targets` of a model of one output must be -1 and 1, or 0 and 1, to have a margin; got values from "
        f"{values.min():g} to {values.max():g}."
    )


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""By how much the output of its own class exceeds the largest other, of each sample.

    .. math:: \mu(f(x), y) = \begin{cases} y f(x) & \text{one output}, \ y = \pm 1 \\
              f(x)[y] - \max_{y' \ne y} f(x)[y'] & \text{c outputs} \end{cases}

    Positive for samples that are classified correctly.

    Args:
        outputs: Scores such as logits, shape ``(n, c)``; ``(n,)`` or ``(n, 1)`` of a model of one output.
        targets: Classes from 0 to c - 1, integers of shape ``(n,)``; of a model of one output as :func:`signs` takes
            them.

    Returns:
        In the unit of the outputs, float64. Shape ``(n,)``.

    Raises:
        ValueError: If outputs and targets are not those of a classification.

    Example:
        >>> margins(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([1])).item()
        2.0

    Reference:
        Baratin (2021), eq. 36; Bartlett, Foster & Telgarsky, "Spectrally-normalized margin bounds for neural networks",
        NeurIPS 2017, section 3.1, the margin operator.
    """
    if outputs.ndim not in (1, 2) or len(outputs) != len(targets):
        raise NotDefined(
            f"`outputs` must have shape (n, c) or (n,) with one target for each of the n, got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}."
        )
    values = to_float64(outputs.detach())
    if values.ndim == 1 or values.shape[1] == 1:
        return values.flatten() * signs(targets).to(values.device)
    c = values.shape[1]
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if targets.ndim != 1 or not whole or bool(((targets < 0) | (targets >= c)).any()):
        raise NotDefined(
            f"`targets` must be classes from 0 to {c - 1}, integers of shape (n,), to have a margin; got "
            f"{targets.dtype} of shape {tuple(targets.shape)}."
        )
    index = targets.to(values.device).long()[:, None]
    own = values.gather(1, index)
    others = values.scatter(1, index, -torch.inf)
    return (own - others.max(1, keepdim=True).values)[:, 0]


def normalized_margins(margins: Tensor, spectral_complexity: Tensor | float, norm_x: Tensor | float, n: int) -> Tensor:
    r"""Margins in units of the spectral complexity of the network and the size of its inputs.

    .. math:: \frac{\mu(F_A(x), y)}{R_A \|X\|_2 / n}

    The distributions of these, unlike those of the margins, tell hard data sets from easy ones: the one that lies
    further to the right has the lesser bound (:func:`margin_bound` without its logarithms).

    Args:
        margins: As :func:`margins` gives them, shape ``(n,)``, or quantiles of them, any shape.
        spectral_complexity: R_A, as :func:`spectral_complexity` gives it.
        norm_x: Euclidean norm of all n inputs together.
        n: Number of samples that ``norm_x`` is of.

    Returns:
        Dimensionless, float64; infinite or NaN where R_A or the inputs are zero. Shape of ``margins``.

    Raises:
        ValueError: If ``n`` is below 1.

    Example:
        >>> normalized_margins(torch.tensor([6.0]), 3.0, 2.0, 4).item()
        4.0

    Reference:
        Bartlett, Foster & Telgarsky (2017), section 2, the normalized margin distribution of figures 2 to 4.
    """
    if n < 1:
        raise ValueError(f"`n` must be the number of samples, at least 1, got {n}.")
    values = to_float64(margins)
    scale = torch.as_tensor(spectral_complexity, dtype=torch.float64) * torch.as_tensor(norm_x, dtype=torch.float64)
    return values * n / scale.to(values.device)
