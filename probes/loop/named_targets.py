"""The targets that a model is given by an argument and compares itself: as they are, or, a language model, the next."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..batches import Batch, tensors
from ..picking import returned
from .loss_watch import is_target
from .wrappers import unwrap_model

__all__ = ["IGNORED", "NamedTargets", "places_moved"]

NAMES = ("labels", "label", "targets", "target")
IGNORED = -100
"""The label of what a loss leaves out, as PyTorch has it by default."""


class NamedTargets(NamedTuple):
    """The argument, and by how many places a model moves the labels of a sequence."""

    name: str
    path: tuple[Any, ...]
    """The name or the position of the argument; then, if that is a dict of several, the name in it."""
    places: int = 0
    classes: bool = True
    """Whether they are classes at the places of sequences, of which those below zero count for nothing."""

    @classmethod
    def find(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        rows: int,
        outputs: Sequence[Tensor],
        result: Any,
    ) -> NamedTargets | None:
        """What a model of so many samples was given, as it has compared it; None where that is not known."""
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        paths: dict[Any, tuple[Any, ...]]
        paths = {name: (key, name) for key, item in given.items() if isinstance(item, Mapping) for name in item}
        paths |= {name: (key,) for key, name in enumerate(_names(model)[: len(args)])} | {key: (key,) for key in kwargs}
        named = {name: _at(given, path) for name, path in paths.items()}
        fit = (name for name in NAMES if is_target(named.get(name), rows) and named[name].dtype is not torch.bool)
        name = next(fit, "")
        if not name:
            return None
        others = [leaf for leaf in tensors((args, kwargs)) if leaf is not named[name]]
        places = places_moved(named[name], outputs, result, named.get("num_items_in_batch"), others)
        return None if places is None else cls(name, paths[name], places, any(item.ndim == 3 for item in outputs))

    def of(self, batch: Batch) -> Tensor:
        """The targets of some samples, for outputs at the same places; what is missing at the end is ignored."""
        labels: Tensor = _at({**dict(enumerate(batch.args)), **batch.kwargs}, self.path)
        if self.classes and labels.ndim == 2 and labels.dtype.is_signed and not labels.is_floating_point():
            labels = labels.long().masked_fill(labels < 0, IGNORED)
        if not self.places:
            return labels
        labels = labels.long()
        return torch.cat([labels[:, self.places :], torch.full_like(labels[:, : self.places], IGNORED)], 1)

    @property
    def words(self) -> str:
        """In which argument they were seen."""
        return f"the argument {self.name!r} of the model{', moved by one place as in its loss' * self.places}"


def _at(given: Any, path: tuple[Any, ...]) -> Any:
    """What lies in nested dicts."""
    return functools.reduce(lambda item, key: item[key], path, given)


def _names(model: nn.Module) -> list[str]:
    """The names of a model's arguments that can be given by position, as far as it names them."""
    try:
        arguments = inspect.signature(unwrap_model(model).forward).parameters.values()
    except (TypeError, ValueError):  # what has no signature
        return []
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [argument.name for argument in arguments if argument.kind in kinds]


@torch.no_grad()
def places_moved(
    labels: Any, outputs: Sequence[Tensor], result: Any, items: Any = None, inputs: Sequence[Tensor] = ()
) -> int | None:
    """By how many places the model moves the labels of a sequence before it compares: 0, or 1; None if by neither.

    That one is taken with which alone the mean cross-entropy is the loss that the model returns. It may be both, of a
    head of zeros or in half precision: then 0, where the labels are the inputs moved by one place already. Also 0 of
    labels that are no classes of a sequence. None where no loss is among what the model returns: what is called a label
    may be a condition, as of a generator. Labels that are no classes are ignored.

    Args:
        labels: As the model was given them.
        outputs: What it has computed for each sample.
        result: All that it has returned.
        items: The number of labels that its loss is divided by, where it was told one.
        inputs: The other tensors that it was given.

    Cost: as the loss itself, one sample at a time.

    Example:
        >>> logits, labels = torch.randn(4, 6, 9, requires_grad=True), torch.randint(9, (4, 6))
        >>> loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        >>> places_moved(labels, [logits], (loss, logits))
        1
    """
    # DataParallel returns the losses of its parts.
    scalars = [item for item in returned(result) if item.numel() == 1 or (item.ndim == 1 and len(item) != len(labels))]
    outputs_of = [id(item) for item in outputs]
    losses = [item.mean() for item in scalars if item.grad_fn is not None and id(item) not in outputs_of]
    if not losses:
        return None
    rows = [item for item in outputs if item.ndim == 3 and len(item) == len(labels)]
    if labels.ndim != 2 or labels.is_floating_point() or not rows:
        return 0
    fitting = [item.detach() for item in rows if item.shape[:2] == labels.shape]
    if not fitting:  # fewer outputs than labels
        return None
    logits, given = fitting[0], labels
    labels = labels.to(rows[0].device).long()
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
    if len(found) == 2 and any(item.shape == given.shape and given[:, :-1].equal(item[:, 1:]) for item in inputs):
        return 0
    return found.pop() if len(found) == 1 else None
