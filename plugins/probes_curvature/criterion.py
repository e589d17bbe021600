"""The loss that curvature is taken of: the given one, that of the loop where it was seen, or the usual one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from probes import CannotMeasure
from probes.batches import IGNORED, Batch
from probes.measurement import first_line
from probes.run import Run

from .objective import Loss

__all__ = ["criterion_of", "without_ignored"]


def criterion_of(run: Run, batch: Batch, outputs: Tensor, given: Loss | None) -> tuple[Loss, str]:
    """The loss of a batch, and in words which one it is.

    Args:
        run: Whose loop may have shown its loss.
        batch: With targets.
        outputs: Of the batch, as the model returns them.
        given: By the user; taken as it is.

    Raises:
        CannotMeasure: If no loss is known.
    """
    if given is not None:
        return given, "the loss that was given"
    if batch.targets is None:
        raise CannotMeasure("The batch has no targets. Pass batches={'train': (inputs, targets)}, or loss=.")
    why = "that of the loop was not seen"
    if run.criterion is not None:
        try:
            with torch.no_grad():
                value = run.criterion(outputs, batch.targets)
            if value.numel() == 1:
                return run.criterion, f"{run.criterion}, the loop's"
        except Exception as error:
            why = f"that of the loop does not go with this batch: {type(error).__name__}: {first_line(error)}"
    classes = not batch.targets.is_floating_point() and batch.targets.dtype != torch.bool
    if classes and outputs.ndim == 2 and outputs.shape[1] > 1 and batch.targets.shape == outputs.shape[:1]:
        return F.cross_entropy, f"cross_entropy; {why}"
    if batch.targets.shape == outputs.shape or (not classes and batch.targets.numel() == outputs.numel()):
        return _square, f"mean squared error; {why}"
    raise CannotMeasure(
        f"No loss is known for outputs of shape {tuple(outputs.shape)} and targets {tuple(batch.targets.shape)} of "
        f"{batch.targets.dtype} ({why}). Pass loss=, a function of both."
    )


def without_ignored(batch: Batch, outputs: Tensor, loss: Loss) -> Batch:
    """The examples whose label the loss does not ignore: over these it is a mean, over all it is none.

    Args:
        batch: The examples.
        outputs: Of the batch, as the model returns them.
        loss: Of outputs and targets. Where it does not ignore -100, or examples have several labels, the batch stays.

    Raises:
        CannotMeasure: If all are ignored.
    """
    targets = batch.targets
    if targets is None or targets.is_floating_point() or targets.numel() != len(targets):
        return batch
    known = targets.flatten() != IGNORED
    if bool(known.all()):
        return batch
    if not bool(known.any()):
        raise CannotMeasure(f"All labels of the batch are {IGNORED}, which losses ignore. Pass batches= with labels.")
    with torch.no_grad():
        whole, part = loss(outputs, targets), loss(outputs[known.to(outputs.device)], targets[known])
    return batch.select(known.nonzero()[:, 0]) if torch.allclose(whole, part, rtol=1e-4) else batch


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.reshape(outputs.shape).to(outputs)).square().mean()
