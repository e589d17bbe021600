"""The largest factor by which a module stretches, whatever it consists of, where it is a linear map and a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probes.names import call_at

from .spectral_norm import OperatorNorm, operator_spectral_norm, own_matrices

__all__ = ["affine_spectral_norm", "may_be_affine"]


def may_be_affine(module: nn.Module) -> bool:
    """Whether it is worth a try: it has matrices of its own beside others, or is a layer with low-rank updates."""
    if isinstance(module, torch.jit.ScriptModule):
        return False  # cannot be called with other parameters
    matrices = own_matrices(module)
    return hasattr(module, "lora_A") or bool(matrices and (len(matrices) > 1 or next(module.children(), None)))


def affine_spectral_norm(
    module: nn.Module,
    input_shape: Sequence[int],
    vector: Tensor | None = None,
    *,
    tol: float = 1e-5,
    seconds: float = math.inf,
) -> OperatorNorm | None:
    r"""Spectral norm of what a module does to one input, whatever it consists of; None if that is not affine.

    .. math:: A x = f(x) - f(0)

    Such as a linear layer with a low-rank update beside it, :math:`W + B A`. Whether it is affine is seen on two random
    inputs and their sum.

    Args:
        module: In eval mode, a function of one tensor.
        input_shape: Of one input, without the batch.
        vector: Where the search starts.
        tol: Of :func:`operator_spectral_norm`.
        seconds: After which the search is given up; see there.

    Cost: four forward passes of the module on one input, and :func:`operator_spectral_norm`.

    Example:
        >>> halves = nn.Sequential(nn.Linear(2, 2), nn.AvgPool1d(2))
        >>> affine_spectral_norm(halves, (2,)) is not None, affine_spectral_norm(nn.Tanh(), (2,)) is None
        (True, True)
    """
    own = next(iter(module.parameters()), torch.zeros(()))
    dtype = torch.promote_types(own.dtype, torch.float32)
    state = {name: p.detach().to(dtype) for name, p in module.named_parameters() if p.is_floating_point()}

    def function(x: Tensor) -> Tensor:
        output: Tensor = call_at(module, state, (x,))
        return output

    shape = tuple(input_shape)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, *shape, generator=generator).to(own.device, dtype) for _ in range(2))
    with torch.no_grad():
        at_zero = function(torch.zeros_like(one))
        if not isinstance(at_zero, Tensor):
            return None
        parts = [function(x) - at_zero for x in (one, other, one + other)]
    size = max(part.abs().max() for part in parts[:2])
    if not bool((parts[2] - parts[0] - parts[1]).abs().max() <= 1e-4 * size):
        return None  # NaN too
    if vector is not None and vector.shape != shape:
        vector = None
    return operator_spectral_norm(
        lambda x: function(x[None]) - at_zero, shape, vector, tol=tol, seconds=seconds, dtype=dtype, device=own.device
    )
