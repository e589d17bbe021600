"""The targets that a model is given by an argument, and compares itself: as they are, or, a language model, the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..picking import returned
from .loss_watch import is_target

__all__ = ["IGNORED", "NamedTargets", "places_moved"]

NAMES = ("labels", "label", "targets", "target")
IGNORED = -100
"""The label of what a loss leaves out, as PyTorch has it by default."""


class NamedTargets(NamedTuple):
    """The argument, and by how many places a model moves the labels of a sequence."""

    argument: str
    places: int = 0

    @classmethod
    def find(
        cls, kwargs: Mapping[str, Any], rows: int, outputs: Sequence[Tensor], result: Any
    ) -> NamedTargets | None:
        """What a model of so many samples was given, as it has compared it; None where that is not known."""
        name = next((name for name in NAMES if is_target(kwargs.get(name), rows)), "")
        places = places_moved(kwargs[name], outputs, result, kwargs.get("num_items_in_batch")) if name else None
        return None if places is None else cls(name, places)

    def of(self, kwargs: Mapping[str, Any]) -> Tensor:
        """The targets of some samples, for outputs at the same places; what is missing at the end is ignored."""
        labels: Tensor = kwargs[self.argument]
        if not self.places:
            return labels
        return torch.cat([labels[:, self.places :], torch.full_like(labels[:, : self.places], IGNORED)], 1)

    @property
    def words(self) -> str:
        """In which argument they were seen."""
        return f"the argument {self.argument!r} of the model{', moved by one place as in its loss' * self.places}"


@torch.no_grad()
def places_moved(labels: Any, outputs: Sequence[Tensor], result: Any, items: Any = None) -> int | None:
    """By how many places the model moves the labels of a sequence before it compares: 0, or 1; None if by neither.

    That one is taken with which the mean cross-entropy is the loss that the model returns. Also 0 where nothing can be
    compared: labels that are no classes of a sequence, or no loss among what the model returns.

    Args:
        labels: As the model was given them.
        outputs: What it has computed for each sample.
        result: All that it has returned.
        items: The number of labels that its loss is divided by, where it was told one.

    Cost: as the loss itself, one sample at a time.

    Example:
        >>> logits, labels = torch.randn(4, 6, 9), torch.randint(9, (4, 6))
        >>> loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        >>> places_moved(labels, [logits], (loss, logits))
        1
    """
    losses = [float(item) for item in returned(result) if item.numel() == 1 and item.is_floating_point()]
    fitting = [item for item in outputs if item.ndim == 3 and item.shape[:2] == labels.shape]
    if labels.ndim != 2 or labels.is_floating_point() or not fitting or not losses:
        return 0
    logits = fitting[0].detach()
    labels = labels.to(logits.device)
    counted = labels != IGNORED
    if bool(((labels < 0) | (labels >= logits.shape[2]))[counted].any()):
        return 0
    found: list[tuple[float, int]] = []
    for places in (0, 1):
        total, count = 0.0, int(counted[:, places:].sum())
        for row, own, there in zip(logits, labels[:, places:], counted[:, places:], strict=True):
            scores = row[: len(own)][there].float()
            total += float((scores.logsumexp(1) - scores.gather(1, own[there, None].long())[:, 0]).double().sum())
        for number in {count, *([int(items)] if items is not None else [])} - {0}:
            found += [(abs(total / number - loss) / max(abs(loss), 1e-6), places) for loss in losses]
    least, places = min(found, default=(0.0, 0))
    return places if least < (1e-4 if logits.dtype in (torch.float32, torch.float64) else 1e-2) else None
