"""The four workloads of ``tangent_kernel.py`` and the fewest operations that their exact kernel needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.frame.models import VGG, ResNet18

C = 10


class Attention(nn.Module):
    """Self-attention of four heads."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(d), Attention(d), nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Four blocks of size 128 on 64 tokens of a vocabulary of 1000; the mean over tokens is classified."""

    def __init__(self, d: int = 128, tokens: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(1000, d), nn.Parameter(0.02 * torch.randn(tokens, d))
        self.blocks = nn.Sequential(*(Block(d) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, C)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.token(x) + self.position)).mean(1))
        return out


def _mlp() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(784, 256), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, C))


WORKLOADS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (_mlp, lambda n: torch.randn(n, 784)),
    "vgg19": (lambda: VGG(19, 64), lambda n: torch.randn(n, 3, 32, 32)),
    "resnet18": (lambda: ResNet18(64), lambda n: torch.randn(n, 3, 32, 32)),
    "transformer": (Transformer, lambda n: torch.randint(0, 1000, (n, 64))),
}


def workload(name: str, n: int) -> tuple[nn.Module, Tensor]:
    """The model in eval mode and n inputs, the same in every process."""
    torch.manual_seed(0)
    model, inputs = WORKLOADS[name]
    return model().eval(), inputs(n)


def floor(name: str, n: int) -> float:
    """Operations (2 a multiply-add) that an exact kernel needs with the best method known for each weight.

    One forward pass, c backward passes to the output of the first layer, and for each weight the least of the three
    counts, with symmetry: by pairs of positions, in a chain, or from gradients formed example by example. Products of
    the inputs of a convolution of stride 1 are counted as sums of products of pixels, which no method here makes use
    of. Biases, norms, embeddings and additions are left out.
    """
    model, inputs = workload(name, n)
    model.requires_grad_(False)
    first = next(module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
    if name == "transformer":
        first = model.token
    shapes: list[tuple[int, int, int, int]] = []
    entry: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if module is first:
            entry.append(out.requires_grad_())
            out = out.clone()  # a ReLU may change it in place
        if isinstance(module, nn.Linear):
            size = module.in_features
            shapes.append((args[0].numel() // n // size, size, size, module.out_features))
        elif isinstance(module, nn.Conv2d):
            size = module.weight[0].numel()
            pixels = module.in_channels if module.stride == (1, 1) else size
            shapes.append((out[0, 0].numel(), size, pixels, module.out_channels))
        return out

    handles = [module.register_forward_hook(record) for module in model.modules()]
    with FlopCounterMode(display=False) as forward:
        out = model(inputs)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out.sum(), entry)
    for handle in handles:
        handle.remove()
    big = n * C
    gram = 0.0
    for t, i, pixels, o in shapes:
        gram += min(
            n * n * t * t * pixels / 2 + big * big * t * t * o / 2,
            n * n * t * t * (pixels + C * o) / 2 + big * big * t * o / 2,
            big * t * o * i + big * big * o * i / 2,
        )
    return float(forward.get_total_flops() + C * backward.get_total_flops() + 2 * gram)
