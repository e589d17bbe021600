"""The norms of all layers that the spectral bounds are made of, of matrices or of a model."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.precision import to_float64
from probes_fourier import matrix_spectral_norm, operator_spectral_norm

from .chain import Affine, affine_layers

__all__ = ["LayerNorms", "matrix_norms", "operator_norms"]


class LayerNorms(NamedTuple):
    """Norms of the matrices A_i of all layers, in order, and of their distances from reference matrices M_i.

    All of shape ``(L,)`` but for the last; float64, on the CPU.
    """

    spectral: Tensor
    r"""Largest singular values, :math:`\|A_i\|_\sigma`."""
    frobenius: Tensor
    r""":math:`\|A_i\|_F`."""
    group: Tensor
    r""":math:`\|A_i^\top\|_{2,1}`: the norms of the rows, one for each output, summed."""
    distance: Tensor
    r""":math:`\|A_i - M_i\|_F`."""
    group_distance: Tensor
    r""":math:`\|A_i^\top - M_i^\top\|_{2,1}`."""
    shapes: Tensor
    """Numbers of rows and columns, outputs and inputs of a layer. Shape ``(L, 2)``."""

    @property
    def width(self) -> int:
        """The largest dimension of the input or of any layer's output, W."""
        return int(self.shapes.max())

    @property
    def units(self) -> int:
        """The largest number of outputs of any layer, h."""
        return int(self.shapes[:, 0].max())


def matrix_norms(weights: Sequence[Tensor], references: Sequence[Tensor] | None = None) -> LayerNorms:
    r"""Norms of the matrices of a fully connected network.

    .. math:: \|A\|_{p,q} = \big\| (\|A_{:,1}\|_p, \dots, \|A_{:,m}\|_p) \big\|_q

    so that the (2, 1) norm of a transpose sums over the rows of the matrix.

    Args:
        weights: A_i, the first applied first. Shapes ``(d_i, d_{i-1})``.
        references: M_i, of the same shapes; zero by default.

    Raises:
        ValueError: If there is none, one is no matrix, or the references have other shapes.

    Cost: the singular values of every matrix.

    Example:
        >>> norms = matrix_norms([torch.tensor([[3.0, 4.0], [0.0, 2.0]])])
        >>> norms.group.tolist(), norms.shapes.tolist()
        ([7.0], [[2, 2]])

    Reference:
        Bartlett, Foster & Telgarsky, "Spectrally-normalized margin bounds for neural networks", NeurIPS 2017, section
        1.1, before eq. 1.2.
    """
    shapes = [tuple(weight.shape) for weight in weights]
    if not weights or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"`weights` must be one matrix for each layer, got shapes {shapes}.")
    starts = [torch.zeros_like(weight) for weight in weights] if references is None else list(references)
    if [tuple(start.shape) for start in starts] != shapes:
        raise ValueError(
            f"`references` must have the shapes of the weights, {shapes}, got {[tuple(s.shape) for s in starts]}."
        )
    rows = []
    for weight, start in zip(weights, starts, strict=True):
        matrix = to_float64(weight.detach())
        difference = matrix - to_float64(start.detach().to(weight.device))
        whole, apart = matrix.norm(dim=1), difference.norm(dim=1)
        rows.append([matrix_spectral_norm(matrix), whole.norm(), whole.sum(), apart.norm(), apart.sum()])
    return _stack(rows, shapes)


def operator_norms(
    model: nn.Module,
    inputs: Any,
    initial: Mapping[str, Tensor] | None = None,
    *,
    chain: bool | None = None,
    vectors: MutableMapping[str, Tensor] | None = None,
    tol: float = 1e-5,
) -> LayerNorms:
    r"""Norms of the layers of a chain, each as the linear operator it is on inputs of their actual size.

    The references state their theorems for weight matrices and say nothing of convolutions in their main text. A
    convolution is the matrix from all numbers of its input image to all of its output image, for which the theorems
    hold as they are; they do not profit from weights being shared. Its row of an output number has the squared norm

    .. math:: \sum_j A_{ij}^2 = (W^{\odot 2} * 1)_i

    that is, the convolution of an image of ones with the squared weights, with the same stride, padding, dilation and
    groups; its spectral norm is that of the operator. A batch norm in eval mode scales the rows of the layer that it
    directly follows, as in the code of Neyshabur et al. (2017). Biases are left out: the theorems have none.

    Args:
        model: A chain in eval mode: affine layers, activations and poolings in an ``nn.Sequential``.
        inputs: As the model takes them; the first sample is sent through it once, for the sizes.
        initial: Parameters before training, by name, from which the distances are measured; from zero by default. With
            batch norms, also their ``running_var`` then; where missing it is one, as in a new batch norm.
        chain: Whether the model is a chain; by default what :func:`~probes_fourier.is_chain` is certain of.
        vectors: Where the searches for the norms of convolutions start, by layer; taken and replaced.
        tol: Of :func:`~probes_fourier.operator_spectral_norm`.

    Returns:
        In the precision of the weights, at least float32, stored as float64.

    Raises:
        ValueError: If the model is no chain or not in eval mode; if a layer has no matrix (parametrized weights, a
            module called twice), or one whose rows are not known (padding by reflection); if ``initial`` lacks a
            parameter.

    Cost: one forward pass of a sample; for each matrix its singular values, for each convolution two applications to
    one image and :func:`~probes_fourier.operator_spectral_norm`.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.fill_(2.0)
        >>> operator_norms(model, torch.zeros(1, 1, 9)).frobenius.item()  # 9 rows of norm 2
        6.0

    Reference:
        Bartlett, Foster & Telgarsky (2017). Convolutions by their matrices: Graf et al., "On measuring excess capacity
        in neural networks", NeurIPS 2022, where this bound is compared.
    """
    rows, shapes = [], []
    for layer in affine_layers(model, inputs, initial, chain=chain):
        whole = to_float64(layer.row_norms(layer.weight))
        apart = to_float64(layer.row_norms(layer.weight - layer.reference))
        rows.append([_spectral_norm(layer, vectors, tol), whole.norm(), whole.sum(), apart.norm(), apart.sum()])
        shapes.append((whole.numel(), torch.Size(layer.input_shape).numel()))
    return _stack(rows, shapes)


def _spectral_norm(layer: Affine, vectors: MutableMapping[str, Tensor] | None, tol: float) -> Tensor:
    weight = layer.weight
    if weight.ndim == 2:
        return matrix_spectral_norm(weight)
    start = None if vectors is None else vectors.get(layer.name)
    if start is not None and start.shape != layer.input_shape:
        start = None
    found = operator_spectral_norm(
        lambda x: layer(weight, x), layer.input_shape, start, tol=tol, dtype=weight.dtype, device=weight.device,
        blocks=getattr(layer.module, "groups", 1),
    )  # fmt: skip
    if vectors is not None and found.vector is not None:
        vectors[layer.name] = found.vector
    return found.norm


def _stack(rows: list[list[Tensor]], shapes: Sequence[tuple[int, ...]]) -> LayerNorms:
    table = torch.stack([torch.stack([to_float64(number).cpu() for number in row]) for row in rows])
    spectral, frobenius, group, distance, group_distance = table.T
    return LayerNorms(spectral, frobenius, group, distance, group_distance, torch.tensor(shapes))
