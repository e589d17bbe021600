"""The targets that a model is given by an argument and compares itself: as they are, or, a language model, the next."""

from __future__ import annotations

import math
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
    def find(cls, kwargs: Mapping[str, Any], rows: int, outputs: Sequence[Tensor], result: Any) -> NamedTargets | None:
        """What a model of so many samples was given, as it has compared it; None where that is not known."""
        name = next((name for name in NAMES if is_target(kwargs.get(name), rows)), "")
        places = places_moved(kwargs[name], outputs, result, kwargs.get("num_items_in_batch")) if name else None
        return None if places is None else cls(name, places)

    def of(self, kwargs: Mapping[str, Any]) -> Tensor:
        """The targets of some samples, for outputs at the same places; what is missing at the end is ignored."""
        labels: Tensor = kwargs[self.argument]
        if not self.places:
            return labels
        labels = labels.long()
        return torch.cat([labels[:, self.places :], torch.full_like(labels[:, : self.places], IGNORED)], 1)

    @property
    def words(self) -> str:
        """In which argument they were seen."""
        return f"the argument {self.argument!r} of the model{', moved by one place as in its loss' * self.places}"


@torch.no_grad()
def places_moved(labels: Any, outputs: Sequence[Tensor], result: Any, items: Any = None) -> int | None:
    """By how many places the model moves the labels of a sequence before it compares: 0, or 1; None if by neither.

    That one is taken with which alone the mean cross-entropy is the loss that the model returns: it may be both, of a
    head of zeros or in half precision. Also 0 where nothing can be compared: labels that are no classes of a sequence,
    or no loss among what the model returns. Labels that are no classes are ignored.

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
    losses = [item for item in returned(result) if item.numel() == 1 and item.is_floating_point()]
    rows = [item for item in outputs if item.ndim == 3 and len(item) == len(labels)]
    if labels.ndim != 2 or labels.is_floating_point() or not rows or not losses:
        return 0
    fitting = [item.detach() for item in rows if item.shape[:2] == labels.shape]
    if not fitting:  # fewer outputs than labels
        return None
    logits, labels = fitting[0], labels.to(rows[0].device).long()
    counted, known = (labels >= 0) & (labels < logits.shape[2]), labels.clamp(0, logits.shape[2] - 1)
    scale = torch.stack([row.float().logsumexp(1) for row in logits])
    number = int(items) if isinstance(items, int) or (isinstance(items, Tensor) and items.numel() == 1) else 0
    found = set()
    for places in (0, 1):
        scores = logits[:, : labels.shape[1] - places].gather(2, known[:, places:, None])[:, :, 0].float()
        each = (scale[:, : labels.shape[1] - places] - scores)[counted[:, places:]].double()
        for loss in losses:
            digits = 1e-5 if loss.dtype in (torch.float32, torch.float64) else 4 * torch.finfo(loss.dtype).eps
            means = [float(each.sum()) / count for count in (len(each), number) if count]
            if any(math.isclose(mean, float(loss), rel_tol=digits) for mean in means):
                found.add(places)
    return found.pop() if len(found) == 1 else None
