"""How many parameters a model has, how long they are as one vector, and how far they have come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probes.names import plain_name
from probes.precision import to_float64

from .chain import initial_tensor

__all__ = ["held", "without_numbers", "distance_from_initialization", "frobenius_norm", "parameter_count"]


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters; tied ones count once.

    Frozen parameters do not count: they are no capacity. Neither do buffers.

    Example:
        >>> parameter_count(nn.Linear(3, 2))
        8

    Reference:
        Jiang et al., "Fantastic generalization measures and where to find them", ICLR 2020, where it enters the first
        measure (eq. 20, as numbered in the code of Dziugaite et al. 2020).
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def frobenius_norm(model: nn.Module) -> Tensor:
    r"""Euclidean length of all trainable parameters.

    .. math:: \|\theta\|_2 = \sqrt{\sum_i \|W_i\|_F^2}

    Biases, and whatever else is trained, are included; tied parameters count once.

    Returns:
        In the unit of the parameters, float64. Shape ``()``.

    Raises:
        ValueError: If nothing is trainable.

    Cost: one pass over the parameters.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> frobenius_norm(model).item()
        5.0

    Reference:
        Jiang et al. (2020), the square root of "param-norm" (eq. 42, as numbered in the code of Dziugaite et al. 2020),
        which leaves biases out.
    """
    return _length(parameter.detach() for _, parameter in _trainable(model))


def distance_from_initialization(model: nn.Module, initial: Mapping[str, Tensor]) -> Tensor:
    r"""Euclidean distance of all trainable parameters from where they were before training.

    .. math:: \|\theta - \theta^0\|_2 = \sqrt{\sum_i \|W_i - W_i^0\|_F^2}

    Args:
        initial: By name of the parameter, as ``{name: p.detach().clone() for name, p in model.named_parameters()}``
            gives it before training; on any device.

    Returns:
        In the unit of the parameters, float64. Shape ``()``.

    Raises:
        ValueError: If nothing is trainable, or ``initial`` lacks a parameter or has it in another shape.

    Cost: one pass over the parameters.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> initial = {"weight": model.weight.detach() - torch.tensor([[3.0, 4.0]])}
        >>> round(distance_from_initialization(model, initial).item(), 5)
        5.0

    Reference:
        Jiang et al. (2020), the square root of "frobenius-distance" (eq. 40, as numbered in the code of Dziugaite et
        al. 2020), which leaves biases out.
    """
    differences = []
    for name, parameter in _trainable(model):
        start = initial_tensor(initial, name, parameter).to(parameter.device)
        differences.append(to_float64(parameter.detach()) - to_float64(start))
    return _length(differences)


def held(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that hold numbers: those that are neither lazy nor on the meta device.

    Example:
        >>> list(held(nn.Linear(2, 1))), list(held(nn.Linear(2, 1, device="meta")))
        (['weight', 'bias'], [])
    """
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if not is_lazy(parameter) and not parameter.is_meta}


def without_numbers(model: nn.Module) -> str:
    """The parameters on the meta device, named in a sentence; empty where there is none."""
    meta = [plain_name(name) for name, parameter in model.named_parameters() if parameter.device.type == "meta"]
    return f"On the meta device, without numbers, and not measured: {', '.join(meta)}." if meta else ""


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    found = [(name, parameter) for name, parameter in held(model).items() if parameter.requires_grad]
    if not found:
        raise ValueError("`model` has no trainable parameter. Set requires_grad of those that are trained.")
    return found


def _length(tensors: Iterable[Tensor]) -> Tensor:
    parts = [torch.linalg.vector_norm(to_float64(tensor)) for tensor in tensors]
    length: Tensor = torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]))
    return length
