"""Where the parameters of a model are used, read off the graph of a forward pass.

The graph holds every use of a parameter, whatever module or function made it: called once or many times, tied, through
``F.linear`` or by hand. An operation known here gives its part of the kernel from its input and the gradient at its
output. A parameter with one use that is not known goes to the general method whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .operands import Columns, Direct, Operand, convolution, embedding, norm

__all__ = ["Graph", "Use", "find_uses"]

# Where rows of different examples can change places, depending on the data.
_ROUTING = ("Index", "Gather", "Scatter", "Masked", "Take", "Sort", "Topk", "Nonzero", "Unique")


@dataclass(eq=False)
class Use:
    """One operation that uses parameters of one layer: a weight, a bias, or both."""

    node: Any
    """Of the graph."""
    kind: str
    weight: str | None = None
    bias: str | None = None
    position: int = 0
    """Of an elementwise parameter among the operands."""
    index: int = 0
    """Among the uses of a graph."""
    weight_shape: tuple[int, ...] = ()
    """Of what is used: of the parameter, or of the rows looked up in it."""
    indices: Tensor | None = None
    """Of the rows of the parameter that take its place, the same for all examples."""
    transposed: bool = False
    """Whether a matrix is stored as (outputs, inputs)."""
    entry: bool = False
    """Whether no other use lies below it in the graph."""

    def rows(self, gradient: Tensor) -> Tensor:
        """The gradient at the output, ``(k, *shape)``, with its rows in dim 1; each belongs to one example."""
        if self.kind in ("matrix", "linear"):
            return gradient.flatten(1, -2)
        if self.kind == "layer_norm":
            return gradient.reshape(len(gradient), -1, _product(self.node._saved_normalized_shape))
        if self.kind == "embedding":
            return gradient.flatten(1, -2)
        if self.kind in ("add", "mul", "expand"):
            rows, columns = self._broadcast(gradient.ndim - 1)
            moved = gradient.permute(0, *(d + 1 for d in rows), *(d + 1 for d in columns))
            return moved.reshape(len(gradient), _product(gradient.shape[d + 1] for d in rows), -1)
        return gradient  # an image is a row, or a vector of channels

    @property
    def signature(self) -> tuple[str, str | None, str | None]:
        """What tells it from others in the same place of another pass."""
        return self.kind, self.weight, self.bias

    @property
    def form(self) -> tuple[Any, ...]:
        """What two uses of one weight must have in common for their rows to be rows of one matrix."""
        if self.kind != "convolution":
            return False, self.transposed
        return True, self.transposed, self.node._saved_transposed, self.node._saved_groups

    def count_rows(self, shape: torch.Size) -> int:
        """Number of rows of an output of that shape."""
        if self.kind in ("matrix", "linear", "embedding"):
            return _product(shape[:-1])
        if self.kind == "layer_norm":
            return _product(shape) // _product(self.node._saved_normalized_shape)
        if self.kind in ("add", "mul", "expand"):
            return _product(shape[d] for d in self._broadcast(len(shape))[0])
        return shape[0]

    def operand(self) -> Operand:
        """What the derivative takes besides the gradient at the output; to be read before backward frees it."""
        node = self.node
        if self.kind == "matrix":
            a = node._saved_mat1 if hasattr(node, "_saved_mat1") else node._saved_self
            return Columns(a if self.weight else None)
        if self.kind == "linear":
            return Columns(node._saved_input.flatten(0, -2) if self.weight else None)
        if self.kind == "convolution":
            return convolution(node, self.weight_shape if self.weight else None)
        if self.kind.endswith("_norm"):
            return norm(self.kind, node)
        if self.kind == "embedding":
            return embedding(node, self.weight_shape)
        if self.kind == "mul":
            factor = node._saved_self if self.position == 1 else node._saved_other
            shape = torch.broadcast_shapes(factor.shape, self.weight_shape)  # type: ignore[no-untyped-call]
            rows, columns = self._broadcast(len(shape))
            factor = factor.expand(shape).permute(*rows, *columns)
            return Direct(factor.reshape(_product(shape[d] for d in rows), -1), 1.0)
        sign = getattr(node, "_saved_alpha", 1) if self.kind == "add" and self.position == 1 else 1
        return Direct(None, -sign if "Sub" in node.name() and self.position == 1 else sign)

    def _broadcast(self, ndim: int) -> tuple[list[int], list[int]]:
        """The dims of the output that the parameter lacks, and those it has."""
        padded = (1,) * (ndim - len(self.weight_shape)) + self.weight_shape
        rows = [d for d in range(ndim) if padded[d] == 1]
        return rows, [d for d in range(ndim) if padded[d] != 1]


class Graph(NamedTuple):
    """What the graph of a forward pass says."""

    uses: list[Use]
    """Those that are known, in the order of the forward pass."""
    known: dict[str, bool]
    """Of each parameter that is used, in that order: whether all its uses are known."""
    routing: bool
    """Whether rows are moved about depending on the data."""
    cuts: dict[int, GradientEdge]
    """Places that all gradients to the first k uses go through, by k."""
    strangers: list[nn.Parameter]
    """Parameters in the graph that are none of those given."""


def find_uses(out: Tensor, parameters: Mapping[str, Tensor], shared: frozenset[str] = frozenset()) -> Graph:
    """Walk the graph of ``out``, down to the parameters.

    Args:
        shared: Tables of which all examples look up the same rows, positions say: what counts is what these do then.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    # In a copy of a scripted module the parameters are themselves results of an operation.
    made = {(p.grad_fn, p.output_nr): name for name, p in parameters.items() if p.grad_fn is not None}
    order: list[Any] = []
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(out.grad_fn, False)]
    while stack:  # post-order: inputs first
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((edge[0], False) for edge in node.next_functions if edge[0] not in seen and edge not in made)

    source: dict[Any, str] = dict(made)  # a result that is a parameter, perhaps transposed
    flipped: set[Any] = set()
    looked_up: set[Any] = set()
    below: set[Any] = set()  # nodes with a use at or below them
    uses: list[Use] = []
    known: dict[str, bool] = {}
    strangers: list[nn.Parameter] = []
    routing = False
    for node in order:
        variable = getattr(node, "variable", None)
        if variable is not None:
            if id(variable) in names:
                source[node, 0] = names[id(variable)]
            elif isinstance(variable, nn.Parameter):
                strangers.append(variable)
            continue
        name = node.name()
        routing = routing or name.startswith(_ROUTING)
        edges = [source.get(edge) for edge in node.next_functions]
        reached = any(following in below for following, _ in node.next_functions)
        if reached:
            below.add(node)
        if not any(edges):
            continue
        inner = node.next_functions[0][0]
        if edges[0] and parameters[edges[0]].ndim == 2 and _is_transpose(node) and inner not in flipped:
            source[node, 0] = edges[0]
            flipped.add(node)
            continue
        if edges[0] in shared and node.name() == "EmbeddingBackward0" and not node._saved_scale_grad_by_freq:
            source[node, 0] = edges[0]
            looked_up.add(node)
            continue
        below_it = [following for following, _ in node.next_functions]
        use = _known(node, edges, [each in flipped for each in below_it], parameters)
        if tables := [each for each in below_it if each in looked_up]:
            use = _of_rows(use, tables[0]) if use and len(tables) == 1 else None
        known |= {edge: known.get(edge, True) and use is not None for edge in edges if edge}
        if use is not None:
            use.entry, use.index = not reached, len(uses)
            below.add(node)
            uses.append(use)
    return Graph(uses, known, routing, _cuts(order, below, uses), strangers)


def _cuts(order: list[Any], below: set[Any], uses: list[Use]) -> dict[int, GradientEdge]:
    """Where one tensor separates what lies below; the smallest such tensor between two uses."""
    place = {node: index for index, node in enumerate(order)}
    last: dict[tuple[Any, int], int] = {}  # where each result is used for the last time
    for node in order:
        for following, number in node.next_functions:
            if following in below:
                last[following, number] = place[node]
    crossing = [0] * (len(order) + 1)
    for (node, _), until in last.items():
        crossing[place[node]] += 1
        crossing[until] -= 1
    numbers = {node: number for node, number in last}
    at = {use.node: use for use in uses}
    cuts: dict[int, tuple[int, GradientEdge]] = {}
    count = below_here = 0
    for index, node in enumerate(order):
        count += crossing[index]
        below_here += node in at
        if count == 1 and node in numbers and not (node in at and at[node].entry):
            size = _product(node._input_metadata[numbers[node]].shape)
            if below_here not in cuts or size < cuts[below_here][0]:
                cuts[below_here] = size, GradientEdge(node, numbers[node])
    return {count: edge for count, (_, edge) in cuts.items() if 0 < count < len(uses)}


def _is_transpose(node: Any) -> bool:
    name = node.name()
    if name == "TransposeBackward0":
        return len(node.next_functions) == 1 and {node._saved_dim0, node._saved_dim1} in ({0, 1}, {0, 2**64 - 1})
    return bool(name == "TBackward0")


def _known(node: Any, edges: list[str | None], flipped: list[bool], parameters: Mapping[str, Tensor]) -> Use | None:
    name = node.name()

    def use(kind: str, weight: str | None, bias: str | None = None, **more: Any) -> Use:
        shape = tuple(parameters[weight].shape) if weight else ()
        return Use(node, kind, weight, bias, weight_shape=shape, **more)

    if name == "AddmmBackward0":
        bias, left, weight = edges
        if left or flipped[0] or node._saved_alpha != 1 or node._saved_beta != 1:
            return None
        if bias and parameters[bias].ndim != 1:
            return None
        return use("matrix", weight, bias, transposed=flipped[2])
    if name == "MmBackward0":
        return None if edges[0] else use("matrix", edges[1], transposed=flipped[1])
    if name == "LinearBackward0":
        return None if edges[0] or any(flipped) else use("linear", edges[1], edges[2], transposed=True)
    if any(flipped):
        return None
    if name in ("ConvolutionBackward0", "MpsConvolutionBackward0") and hasattr(node, "_saved_transposed"):
        return None if edges[0] else use("convolution", edges[1], edges[2])
    if name == "NativeLayerNormBackward0":
        return None if edges[0] else use("layer_norm", edges[1], edges[2])
    if name == "NativeGroupNormBackward0":
        return None if edges[0] else use("group_norm", edges[1], edges[2])
    if name in ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0"):
        return None if edges[0] or node._saved_training else use("batch_norm", edges[1], edges[2])
    if name == "EmbeddingBackward0" and not node._saved_scale_grad_by_freq:
        return use("embedding", edges[0])
    if name == "ExpandBackward0":
        return use("expand", edges[0])
    if name in ("AddBackward0", "SubBackward0", "MulBackward0") and sum(map(bool, edges)) == 1:
        position = 0 if edges[0] else 1
        kind = "mul" if name.startswith("Mul") else "add"
        saved = ("_saved_self", "_saved_other")[1 - position]
        if kind == "mul" and getattr(node, saved, None) is None:
            return None
        return use(kind, edges[position], position=position)
    return None


def _of_rows(use: Use, table: Any) -> Use | None:
    """The use of rows of a table in the place of a parameter."""
    if use.kind not in ("add", "expand"):
        return None
    use.indices = table._saved_indices.flatten()
    use.weight_shape = tuple(table._input_metadata[0].shape)
    return use


def _product(sizes: Any) -> int:
    return torch.Size(sizes).numel()
