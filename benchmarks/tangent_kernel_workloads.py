"""The workloads of ``tangent_kernel.py`` and the fewest operations that their exact kernel needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class Projected(nn.Module):
    """Logits of a language model, averaged over tokens, in ten fixed random directions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("directions", torch.randn(model.config.vocab_size, C) / model.config.vocab_size**0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.model.base_model(x, use_cache=False).last_hidden_state
        out: Tensor = self.model.lm_head(hidden.mean(1)) @ self.directions
        return out


def _vision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)(num_classes=C)
    if name == "vit_b_16":  # of zeros at first: the kernel would be that of the head alone
        nn.init.normal_(model.get_parameter("heads.head.weight"), std=0.02)
    return model


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return Projected(GPT2LMHeadModel(GPT2Config()))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 10_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    return Projected(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=12)))


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
    "resnet50": (lambda: _vision("resnet50"), lambda n: torch.randn(n, 3, 224, 224)),
    "convnext": (lambda: _vision("convnext_tiny"), lambda n: torch.randn(n, 3, 224, 224)),
    "vit": (lambda: _vision("vit_b_16"), lambda n: torch.randn(n, 3, 224, 224)),
    "gpt2": (_gpt2, lambda n: torch.randint(0, 50_257, (n, 128))),
    "llama": (_llama, lambda n: torch.randint(0, 10_000, (n, 128))),
}
REAL = ("resnet50", "convnext", "vit", "gpt2", "llama")
"""Models of torchvision and transformers, of 26, 28, 86, 124 and 100 million parameters."""


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
    few = 2
    model, inputs = workload(name, few)
    model.requires_grad_(False)
    first = next(module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
    if name in ("transformer", "vit"):
        first = model.get_submodule({"transformer": "token", "vit": "conv_proj"}[name])
    shapes: list[tuple[int, int, int, int]] = []
    entry: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], out: Any) -> Any:
        if module is first:
            entry.append(out.requires_grad_())
            out = out.clone()  # a ReLU may change it in place
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":  # transformers' linear layer
            size = args[0].shape[-1]
            shapes.append((args[0].numel() // few // size, size, size, out.shape[-1]))
        elif isinstance(module, nn.MultiheadAttention):  # its two layers are called as functions
            size = module.embed_dim
            shapes.extend((out[0].numel() // few // size, size, size, o) for o in (3 * size, size))
        elif isinstance(module, nn.Conv2d):
            size, groups = module.weight[0].numel(), module.groups
            pixels = module.in_channels // groups if module.stride == (1, 1) else size
            shapes.extend([(out[0, 0].numel(), size, pixels, module.out_channels // groups)] * groups)
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
    return float((forward.get_total_flops() + C * backward.get_total_flops()) * n / few + 2 * gram)
