"""Tokens as points of a space: what the model embeds them as, and the model's call on other points of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.batches import Batch, tensors
from probes.measurement import CannotMeasure
from probes.names import hookable_modules, named_modules

__all__ = ["Embeddings"]


class Embeddings:
    """The modules of a model that embed the tokens of a batch, found in a call of the model.

    An embedding is ``nn.Embedding``, ``nn.EmbeddingBag``, or a module like them: without children, with one parameter,
    a vector for each token. It is called with an integer tensor of the batch, consecutive columns of it, or its
    transpose. Embeddings of positions that the model numbers itself are none: they stay as they are.

    Args:
        model: The model.
        batch: Its call, with at least one integer tensor of a row for each sample.

    Attributes:
        points: What the tokens of each sample are embedded as, of all embeddings one after another, in float32 at
            least. Shape ``(n, d)``.

    Raises:
        CannotMeasure: If no module embeds an integer tensor of the batch.

    Cost: one forward pass of the batch.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 1))
        >>> Embeddings(model, Batch((torch.tensor([[0, 1, 2], [4, 4, 4]]),))).points.shape
        torch.Size([2, 6])
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._model = model
        self._found: dict[tuple[nn.Module, int], bool] = {}
        """The calls with tokens of the batch, in their order: the module, which of its calls, and whether samples are
        in the second dimension of what it gave."""
        parts, others, tokens, calls = [], dict[str, None](), _tokens(batch), Counter[nn.Module]()
        names = {module: name or type(module).__name__ for name, module in named_modules(model)}

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[module] += 1
            if not _embeds(module, args, kwargs, output):
                return
            samples = _samples(module, args, kwargs, output, tokens)
            if samples is None:
                others[names[module]] = None
                return
            self._found[module, calls[module]] = bool(samples)
            part = output.detach().movedim(samples, 0).reshape(batch.n, -1)
            parts.append(part.to(torch.promote_types(part.dtype, torch.float32)))

        handles = [module.register_forward_hook(note, with_kwargs=True) for _, module in hookable_modules(model)]
        try:
            with torch.no_grad():
                model(*batch.args, **batch.kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if not parts:
            what = (
                f"what {', '.join(others)} embeds is neither an integer tensor of the batch, of a row for each sample, "
                f"nor consecutive columns of one"
                if others
                else "no module of the model embeds its integers as nn.Embedding does"
            )
            raise CannotMeasure(
                f"The batch has no dense floating-point input, and {what}: between samples there is no path to measure "
                f"the function on."
            )
        self._widths = [part.shape[1] for part in parts]
        self.points = torch.cat(parts, 1)

    @contextmanager
    def at(self, points: Tensor, batch: Batch) -> Iterator[None]:
        """While it lasts, the embeddings give these points for the tokens of the batch.

        Args:
            points: Shape ``(rows, d)``.
            batch: The call, of as many rows.
        """
        tokens, calls = _tokens(batch), Counter[nn.Module]()
        parts = dict(zip(self._found, torch.split(points, self._widths, 1), strict=True))

        def replace(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
            calls[module] += 1
            part = parts.pop((module, calls[module]), None)
            if part is None:
                return None
            if (
                not _embeds(module, args, kwargs, output)
                or _samples(module, args, kwargs, output, tokens) is None
                or part.numel() != output.numel()
            ):
                raise CannotMeasure(_OTHERWISE)
            samples = int(self._found[module, calls[module]])
            instead: Tensor = part.reshape(output.movedim(samples, 0).shape).movedim(0, samples).to(output)
            return instead

        handles = [module.register_forward_hook(replace, with_kwargs=True) for module in {m for m, _ in self._found}]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if parts:
            raise CannotMeasure(_OTHERWISE)


_OTHERWISE = (
    "The embeddings are called otherwise when the batch has another number of rows: there is no path between samples."
)


def _tokens(batch: Batch) -> list[Tensor]:
    leaves = tensors((batch.args, batch.kwargs))
    return [leaf for leaf in leaves if leaf.ndim and len(leaf) == batch.n and _is_integer(leaf)]


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _embeds(module: nn.Module, args: Any, kwargs: Any, output: Any) -> bool:
    """Whether it was called with integers, and has given a vector for each of them, or for each bag."""
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        return False
    given = next(iter(tensors((args, kwargs))), None)
    own = list(module.parameters())
    alone = all(isinstance(child, nn.ParameterDict | nn.ParameterList) for child in module.children())
    if given is None or not given.ndim or not _is_integer(given) or len(own) != 1 or not alone or own[0].ndim != 2:
        return False
    expected = output.shape[:1] if isinstance(module, nn.EmbeddingBag) else given.shape
    return tuple(output.shape) == (*expected, own[0].shape[1])


def _samples(module: nn.Module, args: Any, kwargs: Any, output: Tensor, tokens: list[Tensor]) -> int | None:
    """The dimension of samples in what is embedded, if it is tokens of the batch, or consecutive columns of them."""
    given = next(iter(tensors((args, kwargs))))
    bags = isinstance(module, nn.EmbeddingBag)
    for leaf in tokens:
        n = len(leaf)
        whole = leaf.reshape(n, -1)
        # In one row, all tokens of all samples: reshaped by the model, or in bags that begin at offsets.
        flat = given.numel() == leaf.numel()
        if (flat or len(given) == n) and output.numel() % n == 0 and _are_columns(given.reshape(n, -1), whole):
            return 0
        if (
            given.ndim > 1
            and given.shape[1] == n
            and not bags
            and _are_columns(given.transpose(0, 1).reshape(n, -1), whole)
        ):
            return 1
    return None


def _are_columns(given: Tensor, whole: Tensor) -> bool:
    """Whether these are consecutive columns of a matrix of as many rows."""
    given, width = given.to(whole), given.shape[1]
    starts = (whole[:, : whole.shape[1] - width + 1] == given[:, :1]).all(0).nonzero()[:, 0] if width else ()
    return any(torch.equal(whole[:, start : start + width], given) for start in map(int, starts))
