"""Linear classifiers with eq. 60 (Thm B.2), and the complexity of their margin loss by random signs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes_complexity import multiclass_bound

from ..frame.classification import Samples, random_labels
from ..frame.data import mnist_subset
from .flows import Learned, ramp

__all__ = ["classifier", "digits", "loss_class_estimate", "margins", "unit"]


def digits(n: int, share: float, seed: int, classes: int) -> tuple[Samples, Samples]:
    """Digits modulo a number of classes, to train on, of which a share has random labels, and to test on."""
    images, labels = mnist_subset()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    x, y = images[order].flatten(1), labels[order] % classes
    return Samples(x[:n], random_labels(y[:n], share, seed, classes)), Samples(x[n:], y[n:])


def unit(samples: Samples, mean: Tensor) -> Samples:
    """Images less a mean one, of length 1."""
    return samples._replace(images=nn.functional.normalize(samples.images - mean, dim=1))


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Score of the label less the highest other (eq. 36). Shapes ``(..., n, c)`` and ``(n,)``."""
    index = labels.expand(outputs.shape[:-1])[..., None]
    return outputs.gather(-1, index)[..., 0] - outputs.scatter(-1, index, -torch.inf).amax(-1)


def loss_class_estimate(samples: Samples, classes: int, norm: float, sigma: Tensor, steps: int) -> Tensor:
    r"""The complexity of the margin loss of linear classifiers whose weights have a norm at most, from below.

    For each draw of signs, the weights climb towards the supremum of :math:`\frac1n \sum_i \sigma_i \ell(x_i, y_i)`;
    the loss enters less 1, which leaves the mean over signs as it is and has less variance.

    Returns:
        Of each draw, shape ``(draws,)``.
    """
    x, labels = samples
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(len(sigma), classes, x.shape[1], generator=generator)
    weights = (norm * weights / weights.flatten(1).norm(dim=1)[:, None, None]).requires_grad_()
    best = torch.full((len(sigma),), -torch.inf)
    for step in range(steps):
        margin = margins(torch.einsum("nd,scd->snc", x, weights), labels)
        best = torch.maximum(best, (sigma * (ramp(margin) - 1)).mean(1).detach())
        hinges = torch.where(sigma > 0, margin.relu(), (1 - margin).relu()).sum()  # slopes where the ramp is flat
        (slope,) = torch.autograd.grad(hinges, weights)
        with torch.no_grad():
            length = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
            weights -= slope * (0.3 * (1 - step / steps) * norm / length)[:, None, None]
            weights *= (norm / weights.flatten(1).norm(dim=1)).clamp_max(1)[:, None, None]
    return best


def classifier(
    train: Samples, test: Samples, classes: int, goal: float, most: int, records: int, sigma: Tensor
) -> Learned:
    """A linear classifier by gradient descent of the cross-entropy, with eq. 60 for the norm of its weights."""
    mean = train.images.mean(0)
    train, test = unit(train, mean), unit(test, mean)
    weights = torch.zeros(classes, train.images.shape[1], requires_grad=True)
    n, trace = len(train.labels), classes * train.images.square().sum()  # of the nc by nc kernel
    at, rows = {round(most ** (k / (records - 1))) for k in range(records)}, []
    for step in range(1, most + 1):
        outputs = train.images @ weights.T
        loss = nn.functional.cross_entropy(outputs, train.labels)
        (slope,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= slope
        if step in at or loss <= goal:
            held = weights.detach()
            norm = float(held.norm())
            pair = [ramp(margins(part.images @ held.T, part.labels)).mean() for part in (test, train)]
            bound = multiclass_bound(norm, trace, n, classes, margin=1.0)
            estimate = loss_class_estimate(train, classes, norm, sigma, 60)
            rows.append([bound, estimate.mean(), pair[0] - pair[1], norm])
        if loss <= goal:
            break
    return Learned(*torch.tensor(rows, dtype=torch.float64).T)
