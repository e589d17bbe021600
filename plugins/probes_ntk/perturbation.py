"""How far the function moves when the parameters do, along singular directions and along random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from probes.precision import to_float64

from .call import Call
from .spectrum import Eigenfunctions

__all__ = ["perturbation_effects", "random_directions", "right_singular_vectors"]


def right_singular_vectors(
    model: nn.Module,
    inputs: Any,
    eigen: Eigenfunctions,
    count: int,
    *,
    output: Callable[[Any], Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    r"""The first right singular vectors of the tangent features: the directions that move the function most.

    .. math:: \mathbf v_j = \Phi^\top \mathbf u_j / \sqrt{\lambda_j}

    One backward pass for each; the Jacobian is never formed.

    Args:
        model: As :func:`~probes_ntk.tangent_kernel` takes it.
        inputs: The examples of the kernel.
        eigen: Of the kernel of all outputs on these examples, not centred.
        count: How many.
        output: Picks the output tensor.

    Yields:
        By parameter name, of unit length over all parameters together; one at a time, for each is as large as the
        model.

    Raises:
        ValueError: If the eigenfunctions are not of these examples and outputs, or fewer than ``count`` eigenvalues
            are above rounding.

    Example:
        >>> from probes_ntk import eigenfunctions, tangent_kernel
        >>> model, x = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0]])
        >>> (direction,) = right_singular_vectors(model, x, eigenfunctions(tangent_kernel(model, x).kernel), 1)
        >>> [round(entry, 6) for entry in direction["weight"][0].tolist()]
        [0.6, 0.8]

    Reference:
        Baratin (2021), eq. 23 and figure B.1.
    """
    rounding = len(eigen.eigenvalues) * torch.finfo(torch.float32).eps * eigen.eigenvalues[0]
    rank = int((eigen.eigenvalues > rounding).sum())
    if not 1 <= count <= rank:
        raise ValueError(
            f"`count` must be between 1 and {rank}, the number of eigenvalues above rounding, got {count}."
        )
    call = Call.of(model, inputs, output)
    parameters = call.parameters
    with torch.enable_grad():
        out = call.forward(call.batch)
    if eigen.functions.shape[1:] != out.T.shape:
        raise ValueError(
            f"`eigen` must be of the kernel of these {out.shape[0]} examples and {out.shape[1]} outputs, got functions "
            f"of shape {tuple(eigen.functions.shape[1:])}."
        )
    for function in eigen.functions[:count]:
        vector = torch.autograd.grad(
            out, list(parameters.values()), function.T.to(out), retain_graph=True, materialize_grads=True
        )
        yield _unit(dict(zip(parameters, vector, strict=True)))


def random_directions(
    parameters: Mapping[str, Tensor], count: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Directions drawn uniformly from the unit sphere of all parameters together.

    Args:
        parameters: By name; give those that are trained.
        count: How many.
        generator: On the CPU.

    Yields:
        By parameter name, one at a time.

    Example:
        >>> (direction,) = random_directions({"w": torch.zeros(3)}, 1, torch.Generator().manual_seed(0))
        >>> round(direction["w"].norm().item(), 6)
        1.0
    """
    for _ in range(count):
        yield _unit(
            {
                name: torch.randn(parameter.shape, generator=generator).to(parameter)
                for name, parameter in parameters.items()
            }
        )


def perturbation_effects(
    model: nn.Module,
    inputs: Any,
    directions: Iterable[Mapping[str, Tensor]],
    size: float,
    *,
    output: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    r"""How far the outputs move when the parameters are moved along each direction.

    .. math:: e_j = \| f_{w + s v_j}(X) - f_w(X) \|_F

    The parameters themselves are not touched.

    Args:
        model: As :func:`~probes_ntk.tangent_kernel` takes it.
        inputs: Any examples.
        directions: By parameter name; parameters not named stay where they are.
        size: s, in the unit of the parameters.
        output: Picks the output tensor.

    Returns:
        In the unit of the outputs, one for each direction, in the dtype of the outputs. Shape ``(k,)``.

    Raises:
        ValueError: If a direction names a parameter that the model has not.

    Cost: a forward pass for each direction, and one more.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> direction = {"weight": torch.tensor([[0.6, 0.8]])}
        >>> effects = perturbation_effects(model, torch.tensor([[3.0, 4.0]]), [direction], 2)
        >>> round(effects.item(), 5)
        10.0

    Reference:
        Baratin (2021), figure B.1; the size is not stated there.
    """
    call = Call.of(model, inputs, output)
    tensors = dict(call.tensors) or dict(model.named_parameters())
    before = call.evaluate(call.batch)
    effects = []
    for direction in directions:
        unknown = direction.keys() - tensors.keys()
        if unknown:
            raise ValueError(f"`directions` name parameters that the model has not: {', '.join(sorted(unknown))}.")
        moved = {
            name: tensor + size * direction[name].to(tensor) if name in direction else tensor
            for name, tensor in tensors.items()
        }
        effects.append(to_float64(replace(call, tensors=moved).evaluate(call.batch) - before).norm().to(before))
    if not effects:
        raise ValueError("`directions` must hold at least one direction, got none.")
    return torch.stack(effects)


def _unit(direction: dict[str, Tensor]) -> dict[str, Tensor]:
    length = torch.stack([to_float64(tensor).norm() for tensor in direction.values()]).norm()
    return {name: tensor / length.to(tensor) for name, tensor in direction.items()}
