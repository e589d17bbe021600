"""Tiny classifiers of two numbers, one for each way in which a model can be more than a function of its inputs.

All take ``(n, 2)`` and return ``(n, 3)``, so that every probe can measure every one of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(2, 8)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(8, 3))
    )


def spectral_norm() -> nn.Module:
    # Its power iteration changes buffers in every forward in train mode.
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(2, 8)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 3))
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.rnn = nn.Linear(2, 12), nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.lift(x).unflatten(1, (3, 4)))[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.norm = nn.Linear(2, 24), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.lift(x).unflatten(1, (3, 8)))
        return self.head((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x).relu()).relu()).relu())


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


def in_place() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Dropout(0.1, inplace=True),
        nn.LeakyReLU(inplace=True), nn.Linear(8, 3),
    )  # fmt: skip


class Checkpointed(nn.Module):
    """Computes its middle, which draws, twice; with ``statistics`` also the batch norm in it."""

    def __init__(self, reentrant: bool, statistics: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(2, 8)
        norm = nn.BatchNorm1d(8) if statistics else nn.LayerNorm(8)
        self.middle = nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Dropout(0.2))
        self.head, self.reentrant = nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))


class Memory(nn.Module):
    """Keeps things that are no buffers: counts its calls, remembers its activations, draws by its own count."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(2, 8), nn.Linear(8, 3)
        self.calls, self.seen, self.scales = 0, [], {"last": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.first(x).relu() * (1 + 0.1 * (self.calls % 3)) * self.scales["last"]
        self.seen.append(hidden.detach().mean())
        self.scales["last"] = 1 / (1 + len(self.seen) % 5)
        return self.head(hidden)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "dropout": dropout,
    "batch norm": batch_norm,
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "recurrent": Recurrent,
    "attention": Attention,
    "tied weights": Tied,
    "lazy": lazy,
    "in-place": in_place,
    "checkpoint, reentrant": lambda: Checkpointed(True),
    "checkpoint": lambda: Checkpointed(False),
}
"""The models of the matrix. ``Memory`` is tested by itself: it is not what torch.compile is made for."""


def is_lazy(model: nn.Module) -> bool:
    return any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters())


def data(n: int = 72) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 2, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
