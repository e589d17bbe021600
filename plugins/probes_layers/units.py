"""Which axis of an activation its units lie along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Units"]

F = nn.functional
SECOND = {
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.batch_norm,
    F.group_norm, F.instance_norm,
}  # fmt: skip
"""Functions whose outputs have their units along axis 1."""
LAST = {
    F.linear, F.bilinear, F.embedding, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm,
    Tensor.mm, torch.bmm, Tensor.bmm, torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm,
}  # fmt: skip
"""Those whose outputs have them along the last axis."""
NORMS = {F.layer_norm, F.rms_norm}
"""Those too, where they normalize one axis; over several the units stay where they are."""
MOVING = {
    getattr(of, name)
    for of in (torch, Tensor)
    for name in (
        "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "adjoint", "rot90", "einsum",
        "tensordot", "view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "as_strided", "transpose_",
        "swapaxes_", "swapdims_", "t_", "permute_copy", "transpose_copy", "t_copy", "view_copy",
    )
    if hasattr(of, name)
} | {getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH")}  # fmt: skip
"""After these, an axis is where another was, or may be."""


class Units:
    """Where the units of the last layer are, while a model runs; fed with the functions that are called.

    Example:
        >>> units = Units()
        >>> units.set(1, torch.zeros(5, 4, 7))  # of a convolution: 4 channels
        >>> units.of(torch.zeros(5, 4, 7))
        1
        >>> units.moved = True
        >>> units.of(torch.zeros(5, 7, 4)), units.of(torch.zeros(5, 4, 4))
        (2, None)
    """

    def __init__(self) -> None:
        self.count = 0
        """How often a layer has said where they are."""
        self.moved = False
        """Whether axes may have been moved since."""
        self._axis = self._size = self._ndim = 0

    def set(self, axis: int, output: Any) -> None:
        """A layer has given an output with its units along this axis."""
        if isinstance(output, Tensor) and not output.is_nested and output.ndim > 1:
            self._axis, self._size, self._ndim = axis % output.ndim, output.shape[axis], output.ndim
            self.count, self.moved = self.count + 1, False

    def see(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """A function was called."""
        if function in SECOND:
            self.set(1, result)
        elif function in LAST or (function in NORMS and len(kwargs.get("normalized_shape") or args[1]) == 1):
            self.set(-1, result)
        elif function in MOVING:
            self.moved = True

    def of(self, output: Tensor) -> int | None:
        """The axis of the units of what an activation gives; None where it cannot be told.

        It is that of the layer before, unless axes were moved in between: then the one axis that has the size.
        """
        if output.ndim == 2:
            return 1
        if not self.count:
            return None
        if not self.moved and output.ndim == self._ndim:
            return self._axis
        same = [axis for axis in range(1, output.ndim) if output.shape[axis] == self._size]
        return same[0] if len(same) == 1 else None
