"""Trains a small transformer on the bytes of Python's own help texts, in the manner of nanoGPT.

Of nanoGPT (Karpathy, 2022): pre-norm blocks with causal attention, tied embeddings, scaled initial weights, decay of
matrices only, linear warm-up and cosine decay, gradient accumulation, clipping, estimates of the loss on held-out text
and a checkpoint of the best one.
"""

import argparse
import math
import pydoc_data.topics

import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--out", required=True)
args = parser.parse_args()

context, width, heads, depth, vocabulary, batch_size, accumulation = 16, 32, 4, 2, 128, 6, 2

torch.manual_seed(1337)
text = "".join(topic for _, topic in sorted(pydoc_data.topics.topics.items())).encode("ascii", "ignore")
tokens = torch.tensor(list(text[:100_000]))
train_tokens, held_out = tokens[:90_000], tokens[90_000:]


def get_batch(source):
    starts = torch.randint(len(source) - context, (batch_size,))
    x = torch.stack([source[start : start + context] for start in starts])
    y = torch.stack([source[start + 1 : start + 1 + context] for start in starts])
    return x, y


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, heads, -1).transpose(1, 2) for part in self.attention(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        x = x + self.projection(attended.transpose(1, 2).reshape(n, t, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(depth)), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.tokens.weight = self.head.weight
        for name, parameter in self.named_parameters():
            if name.endswith("projection.weight"):
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * depth))

    def forward(self, x, targets=None):
        hidden = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        if targets is None:
            return self.head(self.norm(hidden[:, [-1]])), None
        logits = self.head(self.norm(hidden))
        return logits, F.cross_entropy(logits.view(-1, vocabulary), targets.view(-1))


model = GPT()
groups = [
    {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
# HERE


def learning_rate(step):
    if step < 4:
        return 1e-3 * (step + 1) / 4
    return 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * (step - 4) / (args.steps - 4)))


@torch.no_grad()
def estimate_loss():
    model.eval()
    losses = [model(*get_batch(source))[1].item() for source in (train_tokens, held_out) for _ in range(2)]
    model.train()
    return sum(losses[2:]) / 2


best, x, y = math.inf, *get_batch(train_tokens)
for step in range(args.steps):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    if step % 5 == 0 and (loss := estimate_loss()) < best:
        best = loss
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, args.out)
    for _ in range(accumulation):
        logits, loss = model(x, y)
        x, y = get_batch(train_tokens)
        (loss / accumulation).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
torch.save(
    {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}, args.out
)
