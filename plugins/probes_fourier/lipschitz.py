"""Two bounds of the Lipschitz constant of a network, from its weights alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from probes.precision import to_float64

__all__ = ["is_chain", "is_torchs", "max_norm_bound", "spectral_norm_product"]


AFFINE = (nn.Linear, nn.modules.conv._ConvNd, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_STRETCH_NOTHING = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.Dropout, nn.modules.dropout._DropoutNd,
)  # fmt: skip


def is_chain(model: nn.Module) -> bool:
    """Whether a model is certainly a chain of affine maps and functions that stretch nothing, in eval mode.

    Only ``nn.Sequential`` says in which order its modules run: a module with a ``forward`` of its own may add branches,
    so it is not taken for a chain. Each module must occur once, or its norm would have to be counted twice, and
    do what torch's does.

    Example:
        >>> is_chain(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        True
        >>> is_chain(nn.TransformerEncoderLayer(4, 2))
        False
    """
    leaves = list(_leaves(model))
    return len(set(map(id, leaves))) == len(leaves) and all(
        is_torchs(leaf)
        and (_is_affine(leaf) or isinstance(leaf, _STRETCH_NOTHING) or _pools(leaf) or _leaks_at_most_one(leaf))
        for leaf in leaves
    )


def is_torchs(module: nn.Module) -> bool:
    """Whether a module does what its class in torch does: a subclass may do something else in its own ``forward``.

    Example:
        >>> class Twice(nn.Linear):
        ...     def forward(self, x): return 2 * super().forward(x)
        >>> is_torchs(nn.Linear(2, 3)), is_torchs(Twice(2, 3))
        (True, False)
    """
    methods = [getattr(type(module), name, None) for name in ("forward", "_conv_forward")]
    return all((getattr(method, "__module__", None) or "torch.").startswith("torch.") for method in methods)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _is_affine(module: nn.Module) -> bool:
    """A batch norm without running statistics divides by those of its batch."""
    return isinstance(module, AFFINE) and getattr(module, "running_var", module) is not None


def _pools(module: nn.Module) -> bool:
    """Whether it certainly stretches nothing: no input counts more than once, or as more than its share."""
    if isinstance(module, nn.modules.pooling._AdaptiveAvgPoolNd):  # to more than one, windows may overlap
        size = module.output_size
        return all(each == 1 for each in (size if isinstance(size, tuple) else (size,)))
    pads = isinstance(module, nn.modules.pooling._AvgPoolNd) and not getattr(module, "count_include_pad", True)
    if not isinstance(module, nn.modules.pooling._AvgPoolNd | nn.modules.pooling._MaxPoolNd):
        return False
    sizes: list[tuple[int, ...]] = [
        value if isinstance(value, tuple) else (value,) * 3
        for value in (module.kernel_size, module.stride, getattr(module, "dilation", 1), getattr(module, "padding", 0))
    ]
    apart = all(step >= width and dilation == 1 for width, step, dilation, _ in zip(*sizes, strict=False))
    whole = getattr(module, "divisor_override", None) is None and not (pads and any(sizes[3]))
    shared = isinstance(module, nn.modules.pooling._AvgPoolNd) and not module.ceil_mode
    return whole and (apart or shared)


def _leaks_at_most_one(module: nn.Module) -> bool:
    return isinstance(module, nn.LeakyReLU) and abs(module.negative_slope) <= 1


def spectral_norm_product(norms: Tensor | Sequence[float]) -> Tensor:
    r"""Product of the spectral norms of all layers.

    .. math:: L_f \le \prod_{k=1}^{L+1} \|W^{(k)}\|

    It bounds the Lipschitz constant of a chain of affine maps with activations and poolings between them that stretch
    nothing (ReLU, tanh, max pooling without overlap). It does not bound that of a network whose branches are added
    (residual networks), nor with layer norm or attention.

    Args:
        norms: Of every affine map of the chain, none left out. Shape ``(L + 1,)``.

    Returns:
        In units of output per unit of input, float64; infinite on overflow. Shape ``()``.

    Example:
        >>> spectral_norm_product([2.0, 3.0]).item()
        6.0

    Reference:
        Baratin (2021), eq. 7, the first bound.
    """
    return torch.as_tensor(norms, dtype=torch.float64).prod()


def max_norm_bound(weights: Sequence[Tensor]) -> Tensor:
    r"""Bound from the largest weight and the widths alone.

    .. math:: L_f \le \|\theta\|_\infty^{L+1} \sqrt{d \, d_{L+1}} \prod_{k=1}^{L} d_k

    for the same networks as :func:`spectral_norm_product`, which it is never less than. Biases shift the output and
    do not enter. The reference has one output, :math:`d_{L+1} = 1`.

    Args:
        weights: Matrices of all layers. Shapes ``(d_k, d_{k-1})``.

    Returns:
        In units of output per unit of input, float64; infinite on overflow. Shape ``()``.

    Raises:
        ValueError: If a weight is not a matrix.

    Example:
        >>> max_norm_bound([torch.ones(4, 1), -3 * torch.ones(1, 4)]).item()
        36.0

    Reference:
        Baratin (2021), eq. 7, the second bound, and appendix A.3.6, eq. 32.
    """
    shapes = [tuple(weight.shape) for weight in weights]
    if not weights or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"`weights` must be one matrix for each layer, got shapes {shapes}.")
    largest = torch.stack([to_float64(weight.detach().abs().max()) for weight in weights]).max()
    # Layer by layer, as in eq. 32: the square root of the product of all widths may overflow earlier than the bound.
    return torch.stack([largest * math.sqrt(rows * columns) for rows, columns in shapes]).prod()
