"""Products of the tangent kernel with vectors, without the kernel: passes through the model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probes import CannotMeasure
from probes.batches import Batch
from probes.measurement import first_line

from .call import Call
from .centering import Centering, center_targets
from .second_derivatives import no_second_derivative

__all__ = ["KernelOperator"]

Parameters = dict[str, Tensor]
_REFUSED = (
    "A product with the tangent kernel needs second derivatives, and the model has an operation without ({}). "
    "tangent_kernel forms the kernel without them."
)


class KernelOperator:
    r"""The tangent kernel of a model on a batch as a linear operator that is never formed.

    .. math:: K v = C J (J^\top (C v)), \qquad J = \partial f / \partial w

    C is the centring, a projection. ``shape``, ``dtype``, ``matvec`` and ``matmat`` are those of scipy's
    ``LinearOperator``; rows are by output first: entry ``a * n + i`` is output a of example i.

    Args:
        model: In eval mode, as :func:`tangent_kernel` wants it.
        inputs: Of n examples.
        centering: As :func:`~probes_ntk.center` names it.
        output: As for :func:`tangent_kernel`.
        outputs: As for :func:`tangent_kernel`.
        memory: Bytes for what the graph of some examples holds; n examples take several passes where it is less.
        precision: At least this one, whatever the model's; its weights stay as they are.
        at: Values by name that take the place of the model's parameters, such as those before an update.

    Raises:
        CannotMeasure: If the model has no tangent features, as :func:`tangent_kernel` says it.

    Cost: a product is two backward passes through a graph that is kept, where ``memory`` holds that of all examples,
    and else two forward and three backward passes through those of some. Beside it, four times the parameters.

    Example:
        >>> kernel = KernelOperator(nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [1.0, 2.0]]), "none")
        >>> kernel.matvec(torch.tensor([1.0, 0.0])).tolist()
        [1.0, 1.0]
    """

    dtype = torch.float64

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        centering: Centering,
        *,
        output: Callable[[Any], Tensor] | None = None,
        outputs: Sequence[int] | Literal["sum"] | None = None,
        memory: float = 1e9,
        precision: torch.dtype = torch.float32,
        at: Mapping[str, Tensor] | None = None,
    ) -> None:
        call = Call.of(model, inputs, output, outputs)
        if at is not None:
            given = call.tensors or dict(model.named_parameters())
            held = {name: value.detach().to(given[name], copy=True).requires_grad_() for name, value in at.items()}
            call = replace(call, tensors={**given, **held})
        self.call = call.at_least(precision) if precision == torch.float64 else call
        center_targets(torch.zeros(1, 1), centering)  # what it does not know is named
        self._centering = centering
        self.n, self.c = self.call.batch.n, self.call.evaluate(self.call.batch.first(1)).shape[1]
        self._chunk = self.call.at_a_time(memory)
        self._whole = self._chunk == self.n
        self._out: Tensor | None = None
        self._kept: tuple[Tensor, Parameters] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns, nc both."""
        return self.n * self.c, self.n * self.c

    @property
    def precision(self) -> torch.dtype:
        """In which the products are computed."""
        return next(iter(self.call.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the model is, and where vectors are taken and given."""
        return self.call.device

    def matvec(self, vector: Tensor) -> Tensor:
        """K v, in float64. Shape ``(nc,)`` or ``(nc, 1)``, as the vector's."""
        rows = self.center(vector.reshape(self.c, self.n).to(self.device, torch.float64))
        products = self._forward(self._backward(rows))
        return self.center(products).reshape(vector.shape)

    def matmat(self, matrix: Tensor) -> Tensor:
        """K V, column by column. Shape ``(nc, k)``."""
        return torch.stack([self.matvec(column) for column in matrix.T], 1)

    def features_norm(self, vector: Tensor) -> Tensor:
        r""":math:`\|J^\top v\|^2`, of the features before centring, from a backward pass alone. Shape ``()``."""
        parts = self.features(vector).values()
        return sum((part.double().square().sum() for part in parts), torch.zeros(()).double().to(self.device))

    def features(self, vector: Tensor) -> Parameters:
        """J^T v by parameter, of the features before centring, in the precision of the products."""
        return self._backward(vector.reshape(self.c, self.n).to(self.device, torch.float64))

    def push(self, direction: Mapping[str, Tensor]) -> Tensor:
        """J d of a direction d of the parameters by name, before centring: to first order what an update makes of the
        outputs. Float64. Shape ``(c, n)``."""
        return self._forward({name: direction[name].to(leaf) for name, leaf in self.call.parameters.items()})

    def center(self, rows: Tensor) -> Tensor:
        """Vectors of shape ``(c, n)`` as the centring projects them."""
        return center_targets(rows, self._centering)

    # Both passes go through the examples in the same chunks.

    def _chunks(self) -> Iterator[tuple[slice, Batch]]:
        for start in range(0, self.n, self._chunk):
            end = min(start + self._chunk, self.n)
            whole = end - start == self.n
            yield slice(start, end), self.call.batch if whole else self.call.batch.select(torch.arange(start, end))

    def _graph(self, place: slice, batch: Batch) -> tuple[Tensor, Parameters]:
        """A cotangent u of the outputs of some examples, and J^T u by parameter, which is linear in u and knows it."""
        if self._kept is not None:
            return self._kept
        out = self.call.forward(batch)
        cotangent = torch.ones_like(out, requires_grad=True)  # any that is not 0, whose gradient may be undefined
        parameters = self.call.parameters
        parts = torch.autograd.grad(out, list(parameters.values()), cotangent, create_graph=True, allow_unused=True)
        if why := no_second_derivative((part for part in parts if part is not None), linear=True):
            raise CannotMeasure(_REFUSED.format(why))
        graph = (
            cotangent,
            {
                name: part
                for name, part in zip(parameters, parts, strict=True)
                if part is not None and part.requires_grad
            },
        )
        if self._whole:
            self._kept, self._out = graph, out
        return graph

    @torch.enable_grad()
    def _backward(self, rows: Tensor) -> Parameters:
        """J^T v by parameter, of a vector of shape ``(c, n)``."""
        parameters = self.call.parameters
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for place, batch in self._chunks():
            if self._whole:
                self._graph(place, batch)
            out = self._out if self._out is not None else self.call.forward(batch)
            cotangent = rows[:, place].T.to(out)
            parts = torch.autograd.grad(
                out, list(parameters.values()), cotangent, allow_unused=True, retain_graph=self._whole
            )
            for name, part in zip(parameters, parts, strict=True):
                if part is not None:
                    total[name] += part
        return total

    @torch.enable_grad()
    def _forward(self, direction: Parameters) -> Tensor:
        """J w for a direction of the parameters: the derivative by u of (J^T u) w. Shape ``(c, n)``, float64."""
        found = []
        for place, batch in self._chunks():
            cotangent, pulled = self._graph(place, batch)
            pairs = [(part, direction[name]) for name, part in pulled.items()]
            try:
                parts = torch.autograd.grad(
                    [part for part, _ in pairs], cotangent, [way for _, way in pairs], retain_graph=self._whole
                )
            except (NotImplementedError, RuntimeError) as error:
                raise CannotMeasure(_REFUSED.format(first_line(error))) from error
            found.append(parts[0])
        return torch.cat(found).T.double()
