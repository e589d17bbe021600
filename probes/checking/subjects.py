"""The small models on which probes are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sinks.recorder import Recorder as Recorder

__all__ = ["SUBJECTS", "Subject"]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


class _Text(nn.Module):
    """Takes token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.embedding(tokens)).mean(1))
        return logits


def _points(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2), torch.randint(3, (n,))


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


def _squares(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(model(inputs), targets)


def _of_outputs(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    output: Tensor = model(inputs)
    return output.square().mean()


def _of_parameters(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()


@dataclass(frozen=True)
class Subject:
    """A model and data on which a probe is tried.

    Args:
        name: What it is, in messages.
        model: Makes it, from the global random state.
        data: So many inputs, and targets for them, from the global random state.
        loss: Of a model, inputs and targets.
        dtype: Of parameters and floating-point inputs.
        lacks: What probes are not given of its batch: ``"targets"``, ``"batch"`` when there is none; ``"inputs"`` when
            they are integers.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = _cross_entropy
    dtype: torch.dtype = torch.float32
    lacks: str = ""


SUBJECTS = (
    Subject("an MLP", _mlp, _points),
    Subject("convolutions with batch norm", _convolutions, lambda n: (torch.randn(n, 1, 8, 8), torch.randint(3, (n,)))),
    Subject("a text model (integer inputs)", _Text,
            lambda n: (torch.randint(20, (n, 6)), torch.randint(3, (n,))), lacks="inputs"),
    Subject("a model of one output", lambda: nn.Sequential(_mlp(), nn.Linear(3, 1), nn.Flatten(0)),
            lambda n: (torch.randn(n, 2), torch.randn(n)), _squares),
    Subject("float64 parameters", _mlp, _points, dtype=torch.float64),
    Subject("bfloat16 parameters", _mlp, _points, dtype=torch.bfloat16),
    Subject("a batch without targets", _mlp, _points, _of_outputs, lacks="targets"),
    Subject("no batch", _mlp, _points, _of_parameters, lacks="batch"),
)  # fmt: skip
"""One for each thing that authors forget."""
