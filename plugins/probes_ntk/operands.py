"""What an operation contributes to the derivative of the outputs with respect to its parameters.

Everything is brought to one form: with rows t of example i, inputs A (n, T, I) and gradients D (c, n, T, O),
the derivative with respect to the weight is the sum over t of the outer products of D and A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Columns", "Convolution", "Direct", "Embedding", "Operand", "convolution", "embedding", "norm"]


@dataclass
class Columns:
    """A matrix product: rows of inputs. Shape ``(rows, I)``; None when only the bias is trained."""

    a: Tensor | None


@dataclass
class Direct:
    """An elementwise operation: the gradient, times ``factor`` (rows, P) and ``scale``, is that of the parameter."""

    factor: Tensor | None
    scale: float


@dataclass
class Embedding:
    """Table look-ups."""

    indices: Tensor
    rows: int
    padding: int


@dataclass
class Convolution:
    """A convolution, or a transposed one, in any number of dimensions."""

    x: Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def overlapping(self) -> bool:
        """Whether patches are pixels and their neighbours, each pixel at every place of a patch."""
        return not self.transposed and set(self.stride) == {1} and torch.Size(self.kernel).numel() > 1

    def unfold(self, x: Tensor) -> Tensor:
        """Patches of ``(n, C, *size)``, as ``(n, C * k, T)``; T follows the output."""
        dims = x.ndim - 2
        if any(self.padding):
            x = F.pad(x, [p for size in reversed(self.padding) for p in (size, size)])
        # A view, copied as a whole: on a CPU several times faster than im2col.
        for d in range(dims):
            k, dilation = self.kernel[d], self.dilation[d]
            x = x.unfold(2 + d, (k - 1) * dilation + 1, self.stride[d])[..., ::dilation]
        x = x.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
        return x.flatten(1, 1 + dims).flatten(2)


Operand = Columns | Direct | Embedding | Convolution


def convolution(node: Any, weight_shape: tuple[int, ...] | None) -> Operand:
    if weight_shape is None:
        return Columns(None)
    return Convolution(
        node._saved_input,
        tuple(weight_shape[2:]),
        tuple(node._saved_stride),
        tuple(node._saved_padding),
        tuple(node._saved_dilation),
        node._saved_groups,
        node._saved_transposed,
    )


def norm(kind: str, node: Any) -> Operand:
    """The normalised input, in rows: the derivative with respect to the weight is it times the gradient."""
    x = node._saved_input
    if kind == "batch_norm":
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, variance = node._saved_running_mean, node._saved_running_var
        x = (x - mean.view(shape)) * (variance + node._saved_eps).rsqrt().view(shape)
        return Direct(x.flatten(2) if x.ndim > 2 else x, 1.0)
    mean, rstd = node._saved_result1, node._saved_result2
    if kind == "group_norm":
        groups = x.reshape(*mean.shape, -1)
        x = ((groups - mean[..., None]) * rstd[..., None]).reshape(x.shape)
        return Direct(x.flatten(2) if x.ndim > 2 else x, 1.0)
    size = torch.Size(node._saved_normalized_shape).numel()
    return Direct(((x - mean) * rstd).reshape(-1, size), 1.0)


def embedding(node: Any, weight_shape: tuple[int, ...]) -> Operand:
    padding = node._saved_padding_idx
    if padding >= 2**63:  # unsigned in the graph
        padding -= 2**64
    return Embedding(node._saved_indices.flatten(), weight_shape[0], padding)
