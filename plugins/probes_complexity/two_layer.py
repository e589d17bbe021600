"""The capacity of two-layer ReLU networks, unit by unit: it falls where wider networks generalize better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.batches import Batch
from probes.precision import to_float64
from probes_fourier import is_chain

from .chain import NotDefined, Use, as_call, check_eval, initial_tensor, parameter_names, recorded

__all__ = ["TwoLayer", "two_layer_bound", "two_layer_capacity", "two_layer_matrices", "unit_wise_capacity"]

_PASSES = (nn.Flatten, nn.Identity, nn.Dropout)


class TwoLayer(NamedTuple):
    """A two-layer network V [U x]_+ of h units, what U was before training, and the inputs it is measured on."""

    outer: Tensor
    """V, shape ``(c, h)``."""
    inner: Tensor
    """U, shape ``(h, d)``."""
    initial: Tensor
    """U before training, shape ``(h, d)``."""
    inputs: Tensor
    """X, a row for each sample, shape ``(n, d)``."""


def two_layer_capacity(network: TwoLayer) -> Tensor:
    r"""Capacity of a two-layer ReLU network from the norms of its layers and the distance from initialization.

    .. math:: \sqrt c \, \|V\|_F \Big( \|U - U^0\|_F \sqrt{\tfrac 1 n \textstyle\sum_i \|x_i\|^2}
              + \sqrt{\tfrac 1 n \textstyle\sum_i \|U^0 x_i\|^2} \Big)

    Over the margin and :math:`\sqrt n` it is the first term of :func:`two_layer_bound`.

    Args:
        network: As :func:`two_layer_matrices` reads it off a model, or made of matrices. Biases are no part of it but
            as columns, see there.

    Returns:
        In the unit of the outputs, float64. Shape ``()``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> one = torch.eye(1)
        >>> two_layer_capacity(TwoLayer(3 * one, 4 * one, one, 2 * one)).item()  # 3 (3 x 2 + 2)
        24.0

    Reference:
        Neyshabur, Li, Bhojanapalli, LeCun & Srebro, "The role of over-parametrization in generalization of neural
        networks", ICLR 2019 (arXiv:1805.12076), theorem 2, in the normalization of eq. 7; numbers as in the submission.
    """
    v, u, start, x = _checked(network)
    size, response = x.square().sum(1).mean().sqrt(), (x @ start.T).square().sum(1).mean().sqrt()
    capacity: Tensor = math.sqrt(len(v)) * v.norm() * ((u - start).norm() * size + response)
    return capacity


def unit_wise_capacity(network: TwoLayer) -> Tensor:
    r"""The same unit by unit, which is never more: each unit's impact times its own capacity.

    .. math:: \sum_j \alpha_j \Big( \beta_j \sqrt{\tfrac 1 n \textstyle\sum_i \|x_i\|^2}
              + \sqrt{\tfrac 1 n \textstyle\sum_i \langle u_j^0, x_i \rangle^2} \Big), \qquad
              \alpha_j = \|v_j\|, \quad \beta_j = \|u_j - u_j^0\|

    Times :math:`(2 \sqrt{2 c} + 2) / (\gamma \sqrt n)` it bounds the empirical Rademacher complexity of the ramp loss
    of margin :math:`\gamma`, of all networks whose units are bounded by these :math:`\alpha` and :math:`\beta`.

    Args, errors: as :func:`two_layer_capacity`, which is at least :math:`\sqrt c` times as much.

    Returns:
        In the unit of the outputs, float64. Shape ``()``.

    Example:
        >>> one = torch.eye(1)
        >>> unit_wise_capacity(TwoLayer(3 * one, 4 * one, one, 2 * one)).item()
        24.0

    Reference:
        Neyshabur et al. (2019), theorem 1, eq. 6; unit capacity and impact are defined in section 2.1.
    """
    v, u, start, x = _checked(network)
    impact, capacity = v.norm(dim=0), (u - start).norm(dim=1)
    size, response = x.square().sum(1).mean().sqrt(), (x @ start.T).square().mean(0).sqrt()
    total: Tensor = (impact * (capacity * size + response)).sum()
    return total


def two_layer_bound(capacity: Tensor | float, margin: float, n: int, units: int) -> Tensor:
    r"""The bound of the generalization gap, without what its O hides.

    .. math:: L_0(f) \le \widehat L_\gamma(f) + \tilde O \Big( \frac{\text{capacity}}{\gamma \sqrt n}
              + \sqrt{\frac h n} \Big)

    Args:
        capacity: As :func:`two_layer_capacity` gives it.
        margin: :math:`\gamma`, in the unit of the outputs.
        n: Number of training samples.
        units: h, the number of hidden units.

    Returns:
        Dimensionless, float64; constants and logarithms are left out. Shape ``()``.

    Raises:
        ValueError: If ``margin``, ``n`` or ``units`` is not positive.

    Example:
        >>> two_layer_bound(24.0, margin=4.0, n=4, units=1).item()  # 3 + 1/2
        3.5

    Reference:
        Neyshabur et al. (2019), theorem 2.
    """
    if not margin > 0 or n < 1 or units < 1:
        raise ValueError(f"`margin`, `n` and `units` must be positive, got {margin}, {n} and {units}.")
    return torch.as_tensor(capacity, dtype=torch.float64) / (margin * math.sqrt(n)) + math.sqrt(units / n)


def two_layer_matrices(
    model: nn.Module, inputs: Any, initial: Mapping[str, Tensor], *, chain: bool | None = None
) -> TwoLayer:
    r"""Read V, U, U before training and the inputs off a model of two linear layers with a ReLU between them.

    The source has no biases. A network with biases is one without, exactly, and is read as that: the inputs get one
    more number, always 1, whose column of U is the bias of the first layer; the bias of the second layer is the column
    of V of one more unit, which is always 1, before training and after.

    Args:
        model: In eval mode: an ``nn.Sequential`` of a linear layer, a ReLU and a linear layer; flattening may come
            first, dropout anywhere.
        inputs: As the model takes them, all that are to count.
        initial: Parameters before training, by name; those of the first layer are needed.
        chain: Of a module with a ``forward`` of its own, whether it is such a network; what lies between its two
            linear layers is not seen then.

    Returns:
        float64. Inputs have a column more, if the first layer has a bias; units are one more, if the second has.

    Raises:
        ValueError: If the model is another, or not in eval mode, or ``initial`` lacks a parameter.

    Cost: one forward pass, and one of a sample.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
        >>> two_layer_matrices(model, torch.zeros(5, 4), dict(model.named_parameters())).inner.shape
        torch.Size([4, 5])
    """
    check_eval(model)
    certain = is_chain(model)
    if not certain and not chain:
        raise NotDefined(_refusal(model, "other layers, or a forward of its own; of that say chain=True if it is one"))
    batch = as_call(inputs)
    uses = _uses(model, batch.first(1))
    counted = [use for use in uses if not isinstance(use.module, _PASSES)]
    found = [type(use.module).__name__ for use in counted]
    linear = [use for use in counted if isinstance(use.module, nn.Linear)]
    others = [use for use in counted if not isinstance(use.module, nn.Linear | nn.ReLU)]
    if len(linear) != 2 or others or (certain and found != ["Linear", "ReLU", "Linear"]):
        raise NotDefined(_refusal(model, ", ".join(found) or "no layers"))
    first, second = (use.module for use in linear)
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    if (
        linear[0].input.ndim != 2
        or first is second
        or any("weight" not in layer._parameters for layer in (first, second))
    ):
        raise NotDefined(_refusal(model, "layers whose inputs or weights are no matrices of their own"))
    names = parameter_names(model)
    before = {key: initial_tensor(initial, names[id(own)], own) for key, own in first.named_parameters()}
    constant = first.bias is not None or second.bias is not None
    inner = _with_bias(first.weight, first.bias, constant)
    start = _with_bias(before["weight"], before.get("bias"), constant).to(inner.device)
    outer = to_float64(second.weight.detach())
    x = next(to_float64(use.input) for use in _uses(model, batch) if use.module is first)
    if constant:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    if second.bias is not None:
        unit = torch.zeros_like(inner[:1])
        unit[0, -1] = 1
        inner, start = torch.cat([inner, unit]), torch.cat([start, unit])
        outer = torch.cat([outer, to_float64(second.bias.detach())[:, None]], 1)
    return TwoLayer(outer, inner, start, x)


def _uses(model: nn.Module, batch: Batch) -> list[Use]:
    with torch.no_grad(), recorded(model) as uses:
        model(*batch.args, **batch.kwargs)
    return uses


def _with_bias(weight: Tensor, bias: Tensor | None, constant: bool) -> Tensor:
    matrix = to_float64(weight.detach())
    if not constant:
        return matrix
    column = torch.zeros_like(matrix[:, :1]) if bias is None else to_float64(bias.detach())[:, None].to(matrix.device)
    return torch.cat([matrix, column], 1)


def _refusal(model: nn.Module, found: str) -> str:
    return (
        f"`model` ({type(model).__name__}) must be two linear layers with a ReLU between them, for which alone this "
        f"capacity is known; it has {found}."
    )


def _checked(network: TwoLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    v, u, start, x = (to_float64(matrix.detach()) for matrix in network)
    fits = all(matrix.ndim == 2 for matrix in (v, u, start, x)) and u.shape == start.shape
    if not fits or v.shape[1] != u.shape[0] or x.shape[1] != u.shape[1] or not len(x):
        raise ValueError(
            f"`network` must have V, U, U^0 and X of shapes (c, h), (h, d), (h, d) and (n, d), got "
            f"{', '.join(str(tuple(matrix.shape)) for matrix in network)}."
        )
    return v, u, start, x
