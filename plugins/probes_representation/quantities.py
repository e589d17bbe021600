"""All that is measured of one layer, and of the last hidden one with its classifier."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.batches import IGNORED, Batch
from probes_ntk import effective_rank

from .cka import similarity_matrix
from .class_means import class_means
from .classifier import Share, nearest_mean_agreement, self_duality_distance
from .features import as_features
from .frame import distance_from_maximal_angle, equiangularity, equinormness
from .layers import Head
from .ranks import covariance_eigenvalues, participation_ratio, rankme, stable_rank
from .ridge import ridge_accuracy
from .variability import within_class_variability

__all__ = ["COLLAPSE", "RANKS", "Labels", "Layer", "collapse", "look", "usable_labels"]

LEAST_LABELLED = 4
RANKS = {
    "effective_rank": "exp of the entropy of a layer's covariance spectrum",
    "rankme": "exp of the entropy of a layer's singular values (RankMe)",
    "participation_ratio": "participation ratio of a layer's covariance spectrum",
    "stable_rank": "stable rank of a layer's centred features",
}
COLLAPSE = {
    "nc1": "variability within classes / between them",
    "nc2_equinorm_means": "coefficient of variation of the lengths of class means",
    "nc2_equinorm_weights": "coefficient of variation of the lengths of the classifier's weights",
    "nc2_equiangular_means": "standard deviation of the cosines of class means",
    "nc2_equiangular_weights": "standard deviation of the cosines of the classifier's weights",
    "nc2_angle_means": "mean distance of class means from the maximal angle",
    "nc2_angle_weights": "mean distance of the classifier's weights from the maximal angle",
    "nc3": "distance of the classifier from its dual, the class means",
    "nc4": "share of samples classified as the nearest class mean would",
}
UNDEFINED = Share(math.nan, math.nan)


class Labels(NamedTuple):
    """The examples that have a class."""

    rows: Tensor
    """Which these are, shape ``(m,)``."""
    values: Tensor
    """Their classes, shape ``(m,)``."""

    @property
    def why_not(self) -> str:
        """Why nothing is defined by them; empty when they do."""
        if len(self.values) < LEAST_LABELLED:
            return f"what needs classes is NaN: {len(self.values)} samples have one, {LEAST_LABELLED} are needed"
        if bool((self.values == self.values[0]).all()):
            return "what needs classes is NaN: all samples are of one class"
        return ""


class Layer(NamedTuple):
    """What is measured of one layer."""

    ranks: tuple[float, ...]
    """In the order of :data:`RANKS`."""
    similarity: Tensor
    """From :func:`similarity_matrix`, NaN where it is not defined. Shape ``(n, n)``."""
    accuracy: Share

    @classmethod
    def undefined(cls, n: int, device: torch.device) -> Layer:
        """A layer of which nothing is known."""
        nothing = torch.full((n, n), torch.nan, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        return cls((math.nan,) * len(RANKS), nothing, UNDEFINED)


def usable_labels(batch: Batch) -> tuple[Labels | None, str]:
    """The classes of a batch, or None where its targets are none; and in words what is not measured for it.

    Example:
        >>> labels, why = usable_labels(Batch((torch.ones(5, 1),), targets=torch.tensor([0, 1, -100, 1, 0])))
        >>> labels.rows.tolist(), labels.values.tolist(), why
        ([0, 1, 3, 4], [0, 1, 1, 0], '')
        >>> usable_labels(Batch((torch.ones(5, 1),), targets=torch.ones(5)))
        (None, 'no accuracies and no neural collapse: the targets are not one class for each sample')
    """
    targets, n = batch.targets, batch.n
    if targets is None or targets.is_floating_point() or targets.is_complex() or targets.numel() != n:
        what = "there are no targets" if targets is None else "the targets are not one class for each sample"
        return None, f"no accuracies and no neural collapse: {what}"
    values = targets.detach().reshape(n).long()
    rows = (values != IGNORED).nonzero()[:, 0]
    labels = Labels(rows, values[rows])
    return labels, labels.why_not


def look(rows: Tensor, labels: Labels | None, folds: Tensor | None, penalty: float) -> Layer:
    """Measure a layer.

    Args:
        rows: Its output, shape ``(n, d)``.
        labels: Of the batch, where it has any.
        folds: Of the examples that have a class.
        penalty: Of the ridge classifier.
    """
    features = as_features(rows)
    centred, n = features.centred, len(rows)
    if not bool(centred.isfinite().all()):
        return Layer.undefined(n, centred.device)
    values = covariance_eigenvalues(centred)
    ranks = [math.nan] * len(RANKS)
    if float(values.sum()) > 0:
        spectral = (effective_rank(values), rankme(features.raw), participation_ratio(values), stable_rank(values))
        ranks = torch.stack(spectral).tolist()
    elif float(features.mean.norm()) > 0:
        ranks[1] = float(rankme(features.raw))
    similarity = similarity_matrix(centred) if n >= 4 else torch.full_like(centred @ centred.T, torch.nan)
    accuracy = UNDEFINED
    if labels is not None and folds is not None and not labels.why_not:
        chosen = labels.rows.to(centred.device)
        accuracy = ridge_accuracy(centred[chosen], labels.values.to(centred.device), folds, penalty)
    return Layer(tuple(ranks), similarity, accuracy)


def collapse(head: Head, labels: Labels) -> tuple[dict[str, tuple[float, float]], str]:
    """Neural collapse, by the names of :data:`COLLAPSE`: values and standard errors; and in words what it lacks.

    Args:
        head: The classifier and its inputs, of all examples of the batch.
        labels: Of the batch.
    """
    nothing = {name: (math.nan, math.nan) for name in COLLAPSE}
    number = len(head.weight)
    finite = all(bool(part.isfinite().all()) for part in head if part is not None)
    if labels.why_not or not finite:
        return nothing, ""
    if not (int(labels.values.min()) >= 0 and int(labels.values.max()) < number):
        return nothing, f"neural collapse is NaN: labels are not among the {number} classes of the classifier"
    device = head.features.device
    features = head.features[labels.rows.to(device)]
    found = class_means(features, labels.values)
    weight = head.weight[found.classes]
    bias = None if head.bias is None else head.bias[found.classes]
    values = {"nc1": within_class_variability(found), "nc3": self_duality_distance(weight, found)}
    for what, vectors in (("means", found.centred), ("weights", weight)):
        values[f"nc2_equinorm_{what}"] = equinormness(vectors)
        values[f"nc2_equiangular_{what}"] = equiangularity(vectors)
        values[f"nc2_angle_{what}"] = distance_from_maximal_angle(vectors)
    agreement = nearest_mean_agreement(features, weight, bias, found)
    lacking = (
        f"neural collapse of {len(weight)} of {number} classes, those in the batch" if len(weight) < number else ""
    )
    return {**{name: (float(value), math.nan) for name, value in values.items()}, "nc4": agreement}, lacking
