"""Critics of all folds as one network, so that a step of all costs hardly more than a step of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

__all__ = ["StackedClassifiers", "StackedCritics", "StackedLinear"]


class StackedLinear(nn.Module):
    """m linear layers side by side.

    Args:
        m: How many.
        inputs: Numbers that each takes.
        outputs: Numbers that each gives.
        generator: Draws the weights.
        gain: Standard deviation of an output for inputs of deviation 1, without bias.
        bias: Biases are drawn uniformly between minus this and this.
    """

    def __init__(
        self, m: int, inputs: int, outputs: int, generator: torch.Generator, gain: float = 0.8, bias: float = 0.0
    ) -> None:
        super().__init__()
        bound = gain * math.sqrt(3 / inputs)
        self.weight = nn.Parameter((2 * torch.rand(m, inputs, outputs, generator=generator, device="cpu") - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(m, 1, outputs, generator=generator, device="cpu") - 1) * bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(m, n, inputs)`` to ``(m, n, outputs)``."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedCritics(nn.Module):
    r"""m critics: what is right for Gaussians, and a network that starts at zero.

    .. math:: T(x, y) = s \, T_\mathrm{Gauss} + w^\top \sigma(V \sigma(f(x) + g(y)))

    with f and g networks of one hidden layer and a linear bypass, :math:`\sigma` the SiLU. f and g see each sample once
    however many partners it gets.

    Args:
        m: Number of critics.
        x_size: Numbers of an x.
        y_size: Numbers of a y.
        generator: Draws the initial weights.
        width: Of all hidden layers.
        offset: What it starts at besides the Gaussian.
    """

    def __init__(
        self, m: int, x_size: int, y_size: int, generator: torch.Generator, width: int = 64, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(StackedLinear(m, size, width, generator, bias=1.0) for size in (x_size, y_size))
        self.sides = nn.ModuleList(StackedLinear(m, width, width, generator, 0.6) for _ in range(2))
        self.bypass = nn.ModuleList(
            StackedLinear(m, size, width, generator, 0.6, bias) for size, bias in ((x_size, 1.0), (y_size, 0.0))
        )
        self.joint = StackedLinear(m, width, width, generator)
        self.output = StackedLinear(m, width, 1, generator, 0.0)
        self.scale = nn.Parameter(torch.ones(m, 1, 1, device="cpu"))
        with torch.no_grad():
            self.output.bias.fill_(offset)

    def forward(
        self, x: Tensor, y: Tensor, gaussian: tuple[Tensor, Tensor, Tensor, Tensor], shifts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Values on pairs, and on each x with the y that many rows before.

        Args:
            x: Shape ``(m, n, x_size)``.
            y: Shape ``(m, n, y_size)``.
            gaussian: a and b, shape ``(m, n)``, c and v, shape ``(m, n, k)``: the Gaussian critic is a + b + c v.
            shifts: s of them.

        Returns:
            Shapes ``(m, n)`` and ``(m, s, n)``.
        """
        (m, n), shifts = x.shape[:2], [0, *shifts]
        f, g = (
            bypass(side) + linear(silu(hidden(side)))
            for side, hidden, linear, bypass in zip((x, y), self.hidden, self.sides, self.bypass, strict=True)
        )
        both = (f[:, None] + torch.stack([g.roll(shift, 1) for shift in shifts], 1)).reshape(m, len(shifts) * n, -1)
        network = self.output(silu(self.joint(silu(both)))).view(m, len(shifts), n)
        a, b, c, v = gaussian
        normal = torch.stack([a + b.roll(shift, 1) + (c * v.roll(shift, 1)).sum(2) for shift in shifts], 1)
        values = network + self.scale * normal
        return values[:, 0], values[:, 1:]


class StackedClassifiers(nn.Module):
    """m networks of two hidden layers that give a logit for each class, zero at first.

    Args:
        m: Number of classifiers.
        x_size: Numbers of an x.
        num_classes: Logits.
        generator: Draws the initial weights.
        width: Of the hidden layers.
    """

    def __init__(self, m: int, x_size: int, num_classes: int, generator: torch.Generator, width: int = 64) -> None:
        super().__init__()
        self.first = StackedLinear(m, x_size, width, generator, bias=1.0)
        self.second = StackedLinear(m, width, width, generator)
        self.bypass = StackedLinear(m, x_size, num_classes, generator, 0.0)
        self.output = StackedLinear(m, width, num_classes, generator, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """``(m, n, x_size)`` to ``(m, n, num_classes)``."""
        logits: Tensor = self.bypass(x) + self.output(silu(self.second(silu(self.first(x)))))
        return logits
