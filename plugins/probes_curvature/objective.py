"""The loss of a fixed batch as a function of the parameters: its value, gradient and products with its curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from probes import CannotMeasure
from probes.batches import Batch
from probes.measurement import first_line
from probes.names import COMPILED
from probes.precision import full_precision
from probes_ntk import Call, no_second_derivative

__all__ = ["Loss", "Objective"]

Loss = Callable[[Tensor, Any], Tensor]
_REFUSED = "Curvature needs second derivatives, and the model or its loss has an operation without ({})."
MEMORY = 1e9
"""Bytes for the graphs of a product, by default."""


class Objective:
    r"""The loss of a fixed batch as a function of the trainable parameters w, all in one vector.

    .. math:: L(w) = \ell(f_w(x), y), \qquad H = \nabla^2 L, \qquad
              G = J^\top (\nabla_f^2 \ell) J, \quad J = \partial f / \partial w

    H is the Hessian, G the generalized Gauss-Newton matrix. Products with them are those of autograd and exact but for
    rounding; neither matrix is formed. The model is called as it is, and nothing of it is changed.

    Args:
        model: In eval mode: batch normalisation and dropout would make L a function of chance and of the batch.
        loss: Of the outputs, in the shape in which the model returns them, and the targets; a scalar.
        inputs: As the model takes them: a tensor, a tuple of arguments, a dict of keyword arguments, or a ``Batch``.
        targets: As ``loss`` takes them: a tensor, None, or tensors in tuples, lists and dicts.
        output: Picks the output tensor from what the model returns, with one row for each example.
        parameters: Names of the trainable parameters that w holds, as of one layer; all by default.
        memory: Bytes for the graphs of a product. Where they would hold more, products go through some examples at a
            time, which costs three times as much.
        precision: At least this one, whatever the model's; its weights stay as they are. Half precisions are computed
            in float32.

    Raises:
        ValueError: If ``loss`` gives no finite scalar, or ``parameters`` names none that is trainable.
        CannotMeasure: If the model is in training mode, has nothing trainable, or an operation without second
            derivatives.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> objective = Objective(line, nn.functional.mse_loss, x, y)  # H = x^T x
        >>> objective.hessian_product(torch.tensor([1.0, 1.0])).tolist()
        [1.0, 4.0]
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Any,
        targets: Any,
        *,
        output: Callable[[Any], Tensor] | None = None,
        parameters: Iterable[str] | None = None,
        memory: float = MEMORY,
        precision: torch.dtype = torch.float32,
    ) -> None:
        inside = model._modules[COMPILED] if COMPILED in getattr(model, "_modules", ()) else None
        call = Call.of(model if inside is None else inside, inputs, output)
        hooks = [hook for leaf in model.parameters() for hook in (leaf._backward_hooks or {}).values()]
        # Hooks of the user's may change gradients: other tensors with the same numbers have none.
        hooked = any(not type(hook).__module__.startswith("probes.") for hook in hooks)
        self.call = call.at_least(precision) if hooked or precision == torch.float64 else call
        check_loss(loss)
        self._loss, self._targets = loss, targets
        trained = self.call.parameters
        if isinstance(parameters, str) or not (parameters is None or isinstance(parameters, Iterable)):
            raise TypeError(f"`parameters` must be a list of names of parameters, got {parameters!r}.")
        chosen = list(trained) if parameters is None else list(parameters)
        if not chosen or any(name not in trained for name in chosen):
            raise ValueError(
                f"`parameters` must be names of trainable parameters, at least one, got {chosen}; there are: "
                f"{', '.join(trained)}."
            )
        self.parameters = {name: trained[name] for name in chosen}
        """Those that w holds, by name, in order."""
        self._leaves = list(self.parameters.values())
        if not (hasattr(memory, "__float__") and memory > 0):
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
        self._chunk = self.call.at_a_time(memory)
        self._places = self._pieces(self.call.batch.n)
        self._kept: list[tuple[Tensor, Tensor, list[Tensor]]] = []
        self._pulled: tuple[Tensor, list[tuple[int, Tensor]]] | None = None
        self._out: Tensor | None = None

    @property
    def size(self) -> int:
        """How many numbers w holds."""
        return sum(leaf.numel() for leaf in self._leaves)

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors: the highest precision of a parameter."""
        return reduce(torch.promote_types, (leaf.dtype for leaf in self._leaves))

    @property
    def device(self) -> torch.device:
        """Where vectors are taken and given."""
        return self._leaves[0].device

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.call.batch.n

    @full_precision()
    def value(self) -> float:
        """L at w, from a forward pass."""
        return self._value(self.call)

    @full_precision()
    def value_at(self, direction: Tensor, distance: float) -> float:
        """L at w + distance * direction, from a forward pass alone; infinite or NaN where it is."""
        moved = {
            name: leaf.detach() + distance * part
            for (name, leaf), part in zip(self.parameters.items(), self.split(direction), strict=True)
        }
        given = self.call.tensors or dict(self.call.model.named_parameters())
        return self._value(replace(self.call, tensors={**given, **moved}))

    def point(self) -> Tensor:
        """w itself, a copy. Shape ``(P,)``."""
        return self.join([leaf.detach() for leaf in self._leaves])

    @full_precision()
    @torch.enable_grad()
    def gradient(self) -> Tensor:
        """The gradient of L, which needs no second derivatives. Shape ``(P,)``."""
        if self._kept:
            return self.join([part.detach() for part in self._kept[0][2]])
        if len(self._places) == 1:
            _, value = self._forward()
            return self.join(_grad([value], self._leaves))
        outputs = self._outputs()
        return self._summed(lambda place, out: _grad([out], self._leaves, [self._slope(outputs)[0][place]]))

    @full_precision()
    def hessian_product(self, vector: Tensor) -> Tensor:
        """H v. Shape ``(P,)``, of v too."""
        parts = self.split(vector)
        if len(self._places) == 1:
            _, _, gradient = self._graph()
            return self.join(self._again(gradient, parts))
        outputs = self._outputs()
        slope, curved = self._slope(outputs, self._pushed(parts))
        assert curved is not None

        def one(place: slice, out: Tensor) -> list[Tensor]:
            gradient = _differentiable(_grad([out], self._leaves, [slope[place]], create_graph=True))
            second = self._again(gradient, parts)
            first = _grad([out], self._leaves, [curved[place]])
            return [a + b for a, b in zip(second, first, strict=True)]

        return self._summed(one)

    @full_precision()
    def ggn_product(self, vector: Tensor) -> Tensor:
        """G v. Shape ``(P,)``, of v too."""
        parts = self.split(vector)
        _, curved = self._slope(self._outputs(), self._pushed(parts))
        assert curved is not None
        given = curved
        return self._summed(lambda place, out: _grad([out], self._leaves, [given[place]]))

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector by parameter, in their shapes."""
        sizes = [leaf.numel() for leaf in self._leaves]
        pieces = torch.split(vector.to(self.device, self.dtype), sizes)
        return [piece.view_as(leaf).to(leaf.dtype) for piece, leaf in zip(pieces, self._leaves, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """What :meth:`split` undoes. Shape ``(P,)``."""
        dense = [part.to_dense() if part.layout is torch.sparse_coo else part for part in parts]
        return torch.cat([part.to(self.device, self.dtype).reshape(-1) for part in dense])

    def subset(self, index: Tensor) -> Objective:
        """The same loss of some of the examples."""
        other = object.__new__(Objective)
        other.__dict__.update(self.__dict__)
        other.call = replace(self.call, batch=self.call.batch.select(index), rows=len(index))
        other._targets = tree_map_only(Tensor, lambda target: target[index.to(target.device)], self._targets)
        other._places = self._pieces(len(index))
        other._kept, other._pulled, other._out = [], None, None
        return other

    def _pieces(self, n: int) -> list[slice]:
        """The places of as many examples as graphs are held of at a time."""
        return [slice(start, min(start + self._chunk, n)) for start in range(0, n, self._chunk)]

    # L from the outputs.

    def _of(self, outputs: Tensor) -> Tensor:
        def there(target: Tensor) -> Tensor:
            return target.to(outputs) if target.is_floating_point() else target.to(outputs.device)

        try:
            value = self._loss(outputs, tree_map_only(Tensor, there, self._targets))
        except RuntimeError as error:
            if "scalar type" not in str(error) and "dtype" not in str(error):
                raise
            raise CannotMeasure(
                f"The loss does not take outputs of {outputs.dtype}, in which this is computed: {first_line(error)}. "
                f"Pass loss=, with tensors of its own, as weights of classes, in that precision."
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"`loss` must give a scalar, such as the mean over the examples, got {got}.")
        return value.reshape(())

    def _value(self, call: Call) -> float:
        with torch.no_grad():
            try:
                outputs = [call.result(self._part(place), graph=False) for place in self._places]
            except RuntimeError as error:  # of a model that differentiates in its own forward
                if "does not require grad" not in str(error):
                    raise
                outputs = [call.result(self._part(place)).detach() for place in self._places]
            return float(self._of(self._rows(torch.cat(outputs))).double())

    def _rows(self, outputs: Tensor) -> Tensor:
        if outputs.shape[:1] != (self.n,):
            raise CannotMeasure(
                f"`model` must return one row for each of the {self.n} examples, got shape {tuple(outputs.shape)}. "
                f"Pass output=, a function that picks such a tensor."
            )
        return outputs

    def _part(self, place: slice) -> Batch:
        if len(self._places) == 1:
            return self.call.batch
        return self.call.batch.select(torch.arange(place.start, place.stop))

    @torch.enable_grad()
    def _slope(self, outputs: Tensor, moved: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The gradient of the loss by the outputs, and its derivative in the direction ``moved``."""
        leaf = outputs.detach().requires_grad_()
        slope = _grad([self._of(leaf)], [leaf], create_graph=moved is not None)[0]
        if moved is None:
            return slope.detach(), None
        return slope.detach(), self._again([slope], [moved], [leaf])[0]

    # Graphs: of all examples one that is kept, or of some examples one after the other.

    @torch.enable_grad()
    def _graph(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The outputs, the loss, and its gradient, which can be differentiated."""
        if not self._kept:
            out, value = self._forward()
            gradient = _grad([value], self._leaves, create_graph=True)
            self._kept.append((out, value, _differentiable(gradient)))
        return self._kept[0]

    def _forward(self) -> tuple[Tensor, Tensor]:
        """The outputs of all examples and the loss, with their graph."""
        out = self._rows(self.call.result(self.call.batch))
        value = self._finite(self._of(out))
        if not value.requires_grad:
            raise CannotMeasure("The loss depends on no trainable parameter.")
        return out, value

    def _finite(self, value: Tensor) -> Tensor:
        if not torch.isfinite(value):
            raise CannotMeasure(
                f"The loss of {self.n} examples is {value.item():g}: there is no curvature to speak of."
            )
        return value

    def _outputs(self) -> Tensor:
        if len(self._places) == 1:
            return self._graph()[0].detach()
        if self._out is None:
            parts = [self.call.result(self._part(place)).detach() for place in self._places]
            self._out = self._rows(torch.cat(parts))
            self._finite(self._of(self._out))
        return self._out

    @torch.enable_grad()
    def _pushed(self, parts: Sequence[Tensor]) -> Tensor:
        """J v: the derivative by u of (J^T u) v, which is linear in u. The shape of the outputs."""
        found = []
        for place in self._places:
            cotangent, pulled = self._pulling(place)
            if pulled:
                graph = [part for _, part in pulled]
                found.append(self._again(graph, [parts[index] for index, _ in pulled], [cotangent])[0])
            else:
                found.append(torch.zeros_like(cotangent))
        return torch.cat(found)

    def _pulling(self, place: slice) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Some u of the outputs, and J^T u by the place of its parameter, which is linear in u and knows it."""
        if self._pulled is not None:
            return self._pulled
        whole = len(self._places) == 1
        out = self._graph()[0] if whole else self.call.result(self._part(place))
        cotangent = torch.ones_like(out, requires_grad=True)  # any that is not 0, whose gradient may be undefined
        parts = _differentiable(_grad([out], self._leaves, [cotangent], create_graph=True), linear=True)
        pulled = cotangent, [(index, part) for index, part in enumerate(parts) if part.requires_grad]
        if whole:
            self._pulled = pulled
        return pulled

    def _again(
        self, gradient: Sequence[Tensor], along: Sequence[Tensor], by: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The derivative of a gradient along a direction, by the parameters, of a graph that is kept."""
        pairs = [(part, way) for part, way in zip(gradient, along, strict=True) if part.requires_grad]
        leaves = self._leaves if by is None else by
        if not pairs:  # the loss is linear
            return [torch.zeros_like(leaf) for leaf in leaves]
        try:
            return _grad([part for part, _ in pairs], leaves, [way.to(part) for part, way in pairs])
        except (NotImplementedError, RuntimeError) as error:
            if "memory" in str(error):
                raise
            raise CannotMeasure(_REFUSED.format(first_line(error))) from error

    @torch.enable_grad()
    def _summed(self, one: Callable[[slice, Tensor], list[Tensor]]) -> Tensor:
        """The sum over all examples of something by parameter, given the place of some and their outputs."""
        if len(self._places) == 1:
            return self.join(one(self._places[0], self._graph()[0]))
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for place in self._places:
            total += self.join([part.detach() for part in one(place, self.call.result(self._part(place)))])
        return total

    def finite(self, vector: Tensor) -> Tensor:
        """The vector, if all of it is finite.

        Raises:
            CannotMeasure: If it is not.
        """
        if not math.isfinite(float(vector.sum())) and not bool(torch.isfinite(vector).all()):
            raise CannotMeasure("A product with the curvature is not finite: the gradients of the loss are not.")
        return vector


def check_positive(**numbers: Any) -> None:
    """Refuse what is no positive number.

    Raises:
        TypeError, ValueError: If one is not.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not hasattr(number, "__float__"):
            raise TypeError(f"`{name}` must be a positive number, got {number!r}.")
        if not 0 < number < math.inf:
            raise ValueError(f"`{name}` must be positive and finite, got {number!r}.")


def check_loss(loss: Any) -> None:
    """Refuse what is no loss.

    Raises:
        TypeError: If it is no function of outputs and targets.
    """
    if isinstance(loss, type):
        raise TypeError(f"`loss` must be a function of outputs and targets, got a class. Pass {loss.__name__}().")
    if not callable(loss):
        raise TypeError(f"`loss` must be a function of outputs and targets, got {loss!r}.")


def _differentiable(gradient: list[Tensor], linear: bool = False) -> list[Tensor]:
    if why := no_second_derivative(gradient, linear):
        raise CannotMeasure(_REFUSED.format(why))
    return gradient


def _grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    along: Sequence[Tensor] | None = None,
    create_graph: bool = False,
) -> list[Tensor]:
    found = torch.autograd.grad(
        outputs, inputs, along, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return list(found)
