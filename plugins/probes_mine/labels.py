"""Mutual information with a class label: the sum over classes is exact, so that no independent pairs are needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .critics import StackedClassifiers
from .cross_fitting import Training, fit, split
from .features import whitened_features
from .product import tempered

__all__ = ["LabelInformation", "label_information"]

NUM_FOLDS = 5


class LabelInformation(NamedTuple):
    """What :func:`label_information` finds."""

    terms: Tensor
    """Of each held-out sample, in nats, float64; their mean is the value. Shape ``(n',)``, n' a multiple of 5."""
    training: Training
    state: dict[str, Tensor]
    """Of the classifiers, to start from when features have changed a little."""
    rows: Tensor
    """Which sample each term belongs to. Shape ``(n',)``."""


def label_information(
    features: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    groups: Tensor | None = None,
    start: dict[str, Tensor] | None = None,
    max_steps: int = 2000,
    every: int = 50,
    patience: int = 5,
    device: torch.device | None = None,
) -> LabelInformation:
    r"""A lower bound of the mutual information with a label, by five classifiers that have not seen what they are told.

    .. math:: I(X; Y) \ge \mathbb E \Big[ \log \frac{q(y | x)}{p(y)} \Big]

    At most the entropy of the labels, and at least zero: a common scale of the logits, one number for all five, is
    chosen by the value itself, so that classifiers that are of no use or too sure of themselves are held back. As all
    that follows from features by maps of each sample alone, it is about what a classifier of two hidden layers finds in
    so many samples, not about what is there in principle.

    Args:
        features: Shape ``(n, d)``, no component constant.
        labels: Codes from 0, shape ``(n,)``.
        generator: Draws folds, batches and initial weights. Folds are the same for generators of the same seed.
        groups: Which samples are copies of each other, see :func:`repeated_rows`: they stay in one fold.
        start: State of an earlier call with as many features and classes and the same seed, or else the classifiers
            would have seen what they are told of.
        max_steps: Steps of training at most.
        every: Steps between looks at the held-out value.
        patience: How many looks without a better value end it.
        device: To train on; by default that of the CPU.

    Reference:
        Barber & Agakov, "The IM algorithm", NeurIPS 2003.
    """
    folds = split(len(labels), NUM_FOLDS, generator, groups)
    x = whitened_features(features, folds.train).to(device, torch.float32)
    train, test = (rows.to(device) for rows in folds)
    prior = (labels.bincount().double() / len(labels)).log().to(device, torch.float32)
    labels = labels.to(device)
    network = StackedClassifiers(NUM_FOLDS, x.shape[2], len(prior), generator).to(device, torch.float32)
    if start is not None:
        network.load_state_dict(start)
    fold = torch.arange(NUM_FOLDS, device=device)[:, None]

    def cross_entropies(rows: Tensor) -> Tensor:
        logits = network(x[fold, rows]) + prior
        return cross_entropy(logits.flatten(0, 1), labels[rows].flatten(), reduction="none")

    def loss(rows: Tensor) -> Tensor:
        return cross_entropies(rows).mean() * NUM_FOLDS

    def held_out() -> float:
        return -float(cross_entropies(test).mean())

    training = fit(network, loss, held_out, train, generator, max_steps=max_steps, every=every, patience=patience)
    with torch.no_grad():
        logits, told = network(x[fold, test]).cpu().double().flatten(0, 1), labels[test].cpu().flatten()
    prior = prior.cpu().double()

    def terms(scale: float) -> Tensor:
        return -cross_entropy(scale * logits + prior, told, reduction="none") - prior[told]

    scale = tempered(lambda scale: float(terms(scale).mean()))
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    found = terms(scale) if scale > 0 else torch.zeros(len(told), dtype=torch.float64, device="cpu")
    return LabelInformation(found, training, state, folds.test.flatten())
