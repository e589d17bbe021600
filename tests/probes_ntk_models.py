"""Small models, each with a batch: what the tangent kernel must be exact on, whatever makes it hard."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Do(nn.Module):
    """Some modules and parameters, and what to do with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, *args, **kwargs):
        return self._forward(self, *args, **kwargs)


class Square(torch.autograd.Function):
    """A function of its own, without a rule for batches."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * x * w

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return 2 * x * w * gradient, (gradient * x * x).sum(0)


class Undefined(torch.autograd.Function):
    """The identity, whose gradient is undefined where it is zero."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient if gradient.any() else None


def head(*layers, width):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 2))


def pooled(model, **parts):
    """The mean over time of a sequence model, then a linear layer."""
    return Do(lambda m, x: m.head(m.body(x)[0].mean(1)), body=model, **parts)


def experts(m, x):
    chosen = x[:, 0] > 0
    out = x.new_zeros(len(x), 2)
    for mask, expert in ((chosen, m.a), (~chosen, m.b)):
        index = mask.nonzero()[:, 0]
        if len(index):
            out = out.index_add(0, index, expert(x[index]))
    return out


def windows(m, x):  # (n, 4, 3) as 2 n windows of 2
    n = len(x)
    return m.head(torch.tanh(m.body(x.reshape(2 * n, 2, 3))).reshape(n, -1))


def standardized(m, x):
    w = m.w - m.w.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, w, m.b).flatten(1)[:, :3]


def frozen(model, *names):
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def linear(width=3):
    return nn.Linear(width, 2)


VECTORS, IMAGES, SERIES = (5, 3), (4, 3, 6, 6), (4, 4, 3)  # sequences as long as the batch
TOKENS = torch.tensor([[1, 2, 1, 0], [0, 3, 3, 3], [4, 2, 1, 1], [4, 4, 4, 4]])
SEQUENCE = nn.Sequential


def models():
    """By name: a function that makes a model in float64, and its inputs (a shape, or a tensor)."""
    r = torch.randn
    repeated = lambda: nn.Linear(3, 3)  # noqa: E731
    return {
        "mlp": (lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), VECTORS),
        "no_bias": (lambda: nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 2)), VECTORS),
        "scalar": (lambda: Do(lambda m, x: m.l(x)[:, 0], l=nn.Linear(3, 1)), VECTORS),
        "one_example": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (1, 3)),
        "time_one_example": (lambda: pooled(nn.GRU(3, 4, batch_first=True), head=linear(4)), (1, 5, 3)),
        "frozen_weight": (lambda: frozen(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), linear(4)), "0.weight"), VECTORS),
        "frozen_layer": (
            lambda: frozen(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), linear(4)), "0.weight", "0.bias"), VECTORS,
        ),
        "conv1d": (lambda: head(nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.Tanh(), width=12), (4, 3, 6)),
        "conv2d": (lambda: head(nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU(), width=16), IMAGES),
        "conv3d": (lambda: head(nn.Conv3d(2, 4, 2, stride=2, padding=1), nn.Tanh(), width=108), (3, 2, 4, 4, 4)),
        "conv_1x1": (lambda: head(nn.Conv2d(3, 4, 1, stride=2), nn.Tanh(), width=36), IMAGES),
        "groups": (lambda: head(nn.Conv2d(3, 6, 3, groups=3), nn.Tanh(), nn.Conv2d(6, 4, 2, groups=2), width=36),
                   IMAGES),
        "depthwise": (lambda: head(nn.Conv2d(3, 3, 3, groups=3, padding="same"), nn.Tanh(), width=108), IMAGES),
        "circular": (lambda: head(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), width=72), IMAGES),
        "reflect": (lambda: head(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), width=72), IMAGES),
        "transposed1d": (
            lambda: head(nn.ConvTranspose1d(3, 4, 3, stride=2, output_padding=1), nn.Tanh(), width=56), (4, 3, 6),
        ),
        "transposed2d": (lambda: head(nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1), width=242), IMAGES),
        "transposed_groups": (
            lambda: head(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2), width=384), IMAGES,
        ),
        "transposed3d": (lambda: head(nn.ConvTranspose3d(2, 2, 2, stride=2), width=256), (3, 2, 2, 2, 4)),
        "batch_norm": (lambda: head(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), width=64), IMAGES),
        "batch_norm1d": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), linear(4)), VECTORS),
        "layer_norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), linear(4)), VECTORS),
        "layer_norm_time": (lambda: head(nn.LayerNorm((4, 3)), nn.Tanh(), width=12), SERIES),
        "layer_norm_no_bias": (lambda: head(nn.LayerNorm(3, bias=False), width=12), SERIES),
        "group_norm": (lambda: head(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), width=64), IMAGES),
        "instance_norm": (lambda: head(nn.InstanceNorm2d(3, affine=True), nn.Tanh(), width=108), IMAGES),
        "rms_norm": (lambda: head(nn.RMSNorm(3), nn.Tanh(), width=12), SERIES),
        "local_response": (lambda: head(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(2), width=64), IMAGES),
        "embedding": (lambda: head(nn.Embedding(5, 3, padding_idx=0), nn.Tanh(), width=12), TOKENS),
        "sparse_embedding": (lambda: head(nn.Embedding(5, 3, sparse=True), nn.Tanh(), width=12), TOKENS),
        "embedding_bag": (lambda: nn.Sequential(nn.EmbeddingBag(5, 3), nn.Tanh(), linear()), TOKENS),
        "attention": (
            lambda: Do(lambda m, x: m.h(m.a(x, x, x)[0].mean(1)), a=nn.MultiheadAttention(4, 2, batch_first=True),
                       h=linear(4)), (4, 4, 4),
        ),
        "attention_time_first": (
            lambda: Do(lambda m, x: m.h(m.a(*[x.transpose(0, 1)] * 3)[0].mean(0)), a=nn.MultiheadAttention(4, 2),
                       h=linear(4)), (4, 4, 4),
        ),
        "cross_attention": (
            lambda: Do(lambda m, x: m.h(m.a(x, x[..., :3], x[..., :2])[0].mean(1)), h=linear(4),
                       a=nn.MultiheadAttention(4, 2, batch_first=True, kdim=3, vdim=2)), (4, 4, 4),
        ),
        "encoder": (
            lambda: Do(lambda m, x: m.h(m.e(x).mean(1)), h=linear(4),
                       e=nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)), (4, 4, 4),
        ),
        "encoder_time_first": (
            lambda: Do(lambda m, x: m.h(m.e(x.transpose(0, 1)).mean(0)), h=linear(4),
                       e=nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)), (4, 4, 4),
        ),
        "decoder": (
            lambda: Do(lambda m, x: m.h(m.d(x, x).mean(1)), h=linear(4),
                       d=nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True)), (3, 4, 4),
        ),
        "rnn": (lambda: pooled(nn.RNN(3, 4, 2, batch_first=True), head=linear(4)), SERIES),
        "lstm": (lambda: pooled(nn.LSTM(3, 4, batch_first=True, bidirectional=True), head=linear(8)), SERIES),
        "gru_time_first": (
            lambda: Do(lambda m, x: m.h(m.g(x.transpose(0, 1))[0].mean(0)), g=nn.GRU(3, 4), h=linear(4)), SERIES,
        ),
        "lstm_cell": (
            lambda: Do(lambda m, x: m.h(m.c(x[:, 1], m.c(x[:, 0]))[0]), c=nn.LSTMCell(3, 4), h=linear(4)), SERIES,
        ),
        "repeated": (lambda: nn.Sequential(*[(shared := repeated()), nn.Tanh(), shared, nn.Tanh(), shared]), VECTORS),
        "tied_head": (
            lambda: Do(lambda m, t: (torch.tanh(m.l(m.e(t).mean(1)))) @ m.e.weight.T, e=nn.Embedding(5, 3),
                       l=nn.Linear(3, 3)), TOKENS,
        ),
        "tied_head_of_tokens": (
            lambda: Do(lambda m, t: F.linear(torch.tanh(m.l(m.e(t)) * m.s), m.e.weight, m.b).tanh().mean(1), b=r(5),
                       s=r(4, 1), e=nn.Embedding(5, 3, padding_idx=0), l=nn.Linear(3, 3)), TOKENS,
        ),
        "tied_transposed": (
            lambda: Do(lambda m, x: F.linear(torch.tanh(F.linear(x, m.w)), m.w.t()), w=r(4, 3)), VECTORS,
        ),
        "tied_convolution": (
            lambda: Do(lambda m, x: F.conv_transpose2d(F.conv2d(x, m.w).tanh(), m.w).flatten(2).amax(2),
                       w=r(3, 3, 1, 1)), IMAGES,
        ),
        "tied_convolution_of_stride": (
            lambda: Do(lambda m, x: F.conv_transpose2d(F.conv2d(x, m.w, m.b, 2).tanh(), m.w, stride=2).mean((2, 3)),
                       w=r(4, 3, 2, 2), b=r(4)), IMAGES,
        ),
        "tied_groups": (
            lambda: Do(lambda m, x: F.conv2d(F.conv2d(x[:, [0, 1, 2, 0]], m.w, groups=2).tanh()[:, :2], m.w)
                       .mean((2, 3)), w=r(4, 2, 2, 2)), IMAGES,
        ),
        "tied_strides": (
            lambda: Do(lambda m, x: F.conv2d(F.conv2d(x, m.w, padding=1).tanh(), m.w, stride=2, dilation=2)
                       .mean((2, 3)), w=r(3, 3, 2, 2)), IMAGES,
        ),
        "class_token": (
            lambda: Do(lambda m, x: m.h(torch.tanh(m.b(torch.cat([m.t.expand(len(x), -1, -1), x], 1)))[:, 0]
                                        + x.mean(1)), t=r(1, 1, 3), b=nn.Linear(3, 3), h=linear()), SERIES,
        ),
        "positions": (lambda: Do(lambda m, x: m.h(torch.tanh(m.p + m.b(x)).mean(1)), p=r(1, 4, 3), b=nn.Linear(3, 3),
                                 h=linear()), SERIES),
        "position_table": (
            lambda: Do(lambda m, t: m.h(torch.tanh(m.e(t) + m.p(torch.arange(4))).mean(1)), e=nn.Embedding(5, 3),
                       p=nn.Embedding(4, 3), h=linear()), TOKENS,
        ),
        "positions_looked_up_twice": (
            lambda: Do(lambda m, t: m.h(torch.tanh(m.e(t) + m.p(torch.tensor([[5, 1, 1, 0]]))).mean(1)),
                       e=nn.Embedding(5, 3), p=nn.Embedding(6, 3), h=linear()), TOKENS,
        ),
        "layer_scale": (
            lambda: Do(lambda m, x: m.h(torch.tanh(x - m.s * m.c(x)).flatten(1)), s=r(3, 1, 1), h=linear(108),
                       c=nn.Conv2d(3, 3, 3, padding=1)), IMAGES,
        ),
        "temperature": (lambda: Do(lambda m, x: m.l(x) * m.t.exp() - m.s, l=linear(), t=r(()), s=r(())), VECTORS),
        "subtracted": (lambda: Do(lambda m, x: torch.tanh(m.a - x) * m.a, a=r(3)), VECTORS),
        "matmul": (lambda: Do(lambda m, x: torch.tanh(x @ m.w) @ m.v, w=r(3, 4), v=r(4, 2)), VECTORS),
        "einsum": (lambda: Do(lambda m, x: torch.einsum("nti,io->nto", x, m.w).tanh().sum(1), w=r(3, 2)), SERIES),
        "low_rank": (lambda: Do(lambda m, x: F.linear(x, m.a @ m.b).tanh(), a=r(2, 1), b=r(1, 3)), VECTORS),
        "functional_conv": (lambda: Do(lambda m, x: F.conv2d(x, m.w).tanh().mean((2, 3)), w=r(2, 3, 3, 3)), IMAGES),
        "standardized": (lambda: Do(standardized, w=r(2, 3, 3, 3), b=r(2)), IMAGES),
        "module_and_by_hand": (lambda: Do(lambda m, x: m.l(x).tanh() + x @ m.l.weight.T, l=linear()), VECTORS),
        "bilinear": (lambda: Do(lambda m, x: m.b(x, x.flip(1)), b=nn.Bilinear(3, 3, 2)), VECTORS),
        "prelu": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 4), nn.PReLU(), linear(4)), VECTORS),
        "in_place_add": (lambda: Do(lambda m, x: m.h(m.l(x).add_(m.s).tanh()), l=nn.Linear(3, 3), s=r(3), h=linear()),
                         VECTORS),
        "weight_norm": (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), linear(4)),
            VECTORS,
        ),
        "spectral_norm": (
            lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), linear(4)),
            VECTORS,
        ),
        "checkpoint": (
            lambda: Do(lambda m, x: m.h(checkpoint(m.b, x, use_reentrant=False)), h=linear(4),
                       b=nn.Sequential(nn.Linear(3, 4), nn.Tanh())), VECTORS,
        ),
        "reentrant_checkpoint": (
            lambda: Do(lambda m, x: m.h(checkpoint(m.b, m.a(x), use_reentrant=True)), a=nn.Linear(3, 3), h=linear(4),
                       b=nn.Sequential(nn.Linear(3, 4), nn.Tanh())), VECTORS,
        ),
        "undefined": (lambda: Do(lambda m, x: torch.cat([Undefined.apply(m.a(x)), m.b(Undefined.apply(m.c(x)))], 1),
                                 a=nn.Linear(3, 1), b=linear(3), c=nn.Linear(3, 3)), VECTORS),
        "own_function": (lambda: Do(lambda m, x: m.h(Square.apply(m.l(x), m.w)), l=nn.Linear(3, 3), w=r(3), h=linear()),
                         VECTORS),
        "merged_time": (lambda: Do(lambda m, x: m.h(m.b(x.flatten(0, 1)).tanh().view(len(x), -1)), b=nn.Linear(3, 3),
                                   h=linear(12)), SERIES),
        "merged_time_first": (
            lambda: Do(lambda m, x: m.h(m.b(x.transpose(0, 1).reshape(-1, 3)).tanh().view(-1, len(x), 3).mean(0)),
                       b=nn.Linear(3, 3), h=linear()), SERIES,
        ),
        "windows": (lambda: Do(windows, body=nn.Linear(3, 3), head=linear(12)), SERIES),
        "frames": (lambda: Do(lambda m, x: m.h(m.c(x.flatten(0, 1)).tanh().view(len(x), -1)), h=linear(36),
                              c=nn.Conv1d(2, 3, 3, padding=1)), (4, 3, 2, 4)),
        "unused": (lambda: Do(lambda m, x: m.l(x), l=linear(), idle=nn.Linear(3, 3)), VECTORS),
        "experts": (lambda: Do(experts, a=linear(), b=linear()), (7, 3)),
        "squeeze_excite": (
            lambda: Do(lambda m, x: m.h((x * m.e(x.mean((2, 3)))[..., None, None].sigmoid()).flatten(1)),
                       e=nn.Linear(3, 3), h=linear(108)), IMAGES,
        ),
        "skip": (lambda: Do(lambda m, x: m.h(torch.cat([m.a(x), m.b(m.a(x).relu())], 1).flatten(1)), h=linear(144),
                            a=nn.Conv2d(3, 2, 3, padding=1), b=nn.Conv2d(2, 2, 3, padding=1)), IMAGES),
        "pooling": (lambda: head(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.PixelShuffle(2), width=36), IMAGES),
        "token_of_many": (lambda: Do(lambda m, x: m.h(m.b(x).tanh()[:, 0]), b=nn.Linear(3, 3), h=linear()), (4, 61, 3)),
        "fourier_mixing": (lambda: Do(lambda m, x: m.h(torch.fft.fft(m.b(x), dim=1).real.mean(2)), b=nn.Linear(3, 3),
                                      h=linear(4)), SERIES),
    }  # fmt: skip
