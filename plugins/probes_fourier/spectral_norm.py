"""The largest factor by which a layer, as the linear map it is, stretches any input."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probes import CannotMeasure
from probes.names import call_at, own_parameters
from probes.precision import PIECE, to_float64

from .lipschitz import is_torchs

__all__ = [
    "OperatorNorm", "matrix_spectral_norm", "module_spectral_norm", "operator_spectral_norm", "own_matrices",
]  # fmt: skip

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MATRICES = (nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# The Krylov space of one round: more vectors cost memory, fewer cost rounds.
_KRYLOV = 12
DIRECT = 512
"""Lesser side of a matrix, up to which all its singular values are computed; of larger ones the largest is searched."""


class OperatorNorm(NamedTuple):
    """The spectral norm of one linear map."""

    norm: Tensor
    """Dimensionless. Shape ``()``."""
    vector: Tensor | None
    """The unit input that is stretched most, of each block where there are several, to start from the next time; None
    where the norm is found directly."""
    converged: bool
    """Whether the tolerance was reached."""
    iterations: int
    """Number of times the map and its transpose were applied."""


_META = "The matrix is on the meta device: it holds no numbers."


def matrix_spectral_norm(weight: Tensor) -> Tensor:
    r"""Largest singular value of a matrix.

    .. math:: \|W\| = \max_{\|h\| = 1} \|W h\|

    Args:
        weight: Shape ``(I, J)``, or ``(J,)``: the norm of a vector is its length.

    Returns:
        Dimensionless, in the precision of the weight, at least float32; NaN if an entry is not finite, 0 if there is
        none. Shape ``()``.

    Raises:
        ValueError: If ``weight`` has more than two dimensions; it is no matrix then.

    Cost: I J min(I, J) operations.

    Example:
        >>> matrix_spectral_norm(torch.diag(torch.tensor([1.0, -3.0])))
        tensor(3.)

    Reference:
        Baratin (2021), appendix A.3.6, eq. 31.
    """
    if weight.ndim not in (1, 2):
        raise ValueError(
            f"`weight` must be a matrix or a vector, got shape {tuple(weight.shape)}; use module_spectral_norm for a "
            f"convolution."
        )
    matrix = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if matrix.is_meta:
        raise CannotMeasure(_META)
    if not matrix.numel():
        return matrix.new_zeros(()).abs()
    if not bool(matrix.isfinite().all()):  # a training that has diverged
        return matrix.new_tensor(torch.nan).abs()
    if matrix.ndim == 1 or 1 in matrix.shape:
        scale = _scale(matrix)  # the squares would overflow from 1e19 on
        length: Tensor = torch.linalg.vector_norm(matrix / scale) * scale
        return length
    singular_values: Tensor = torch.linalg.svdvals(matrix)
    return singular_values[0]


def operator_spectral_norm(
    forward: Callable[[Tensor], Tensor],
    input_shape: Sequence[int],
    vector: Tensor | None = None,
    *,
    tol: float = 1e-6,
    max_iterations: int = 1000,
    seconds: float = math.inf,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    blocks: int = 1,
) -> OperatorNorm:
    r"""Spectral norm of a linear map that is given as a function.

    .. math:: v \leftarrow \arg\max_{u \in \mathcal K} \|A u\| / \|u\|, \qquad
        \mathcal K = \text{span} \{ v, A^\top A v, (A^\top A)^2 v, \dots \}

    Power iteration with memory: the best vector among all powers of a round of 12 is the next start. Convolutions have
    many singular values close to the largest, where the last power alone would take thousands of iterations. The
    transpose comes from automatic differentiation.

    Args:
        forward: A, linear (no bias), of a tensor of ``input_shape``.
        input_shape: Shape of its argument.
        vector: Where to start, such as the vector of the last time; by default one drawn from a fixed seed.
        tol: Stops when :math:`\|A^\top A v - \sigma^2 v\| \le \text{tol} \, \sigma^2`, which puts a singular value
            within tol / 2 of the norm, relatively; usually it is far closer. Not below 40 times the rounding.
        max_iterations: Number of times the map and its transpose are applied at most.
        seconds: After which no more begin; they go on from the vector that is returned.
        dtype: Of the input; that of ``vector`` by default.
        device: Of the input; that of ``vector`` by default.
        blocks: Equal parts of the input, one after another, that the map does not mix, such as the channels of the
            groups of a convolution. Each is searched, from its own part of the vector: together they would stay where
            the largest norm was the last time.

    Returns:
        The norm is never too large but for rounding, whatever the scale of the map; NaN if it gives NaN or infinity.

    Raises:
        ValueError: If the map does not take 0 to 0, or ``vector`` has another shape.

    Cost: one forward and one backward pass of the map an iteration; memory for 24 inputs.

    Example:
        >>> operator_spectral_norm(lambda x: torch.stack([3 * x[0], x[1]]), (2,)).norm.round(decimals=4)
        tensor(3.)

    Reference:
        Baratin (2021), eq. 7 and appendix A.3.6; Golub & Van Loan, "Matrix Computations", 4th ed., section 10.1.
    """
    shape = tuple(input_shape)
    if vector is None:
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        v = start.to(device=device, dtype=dtype or torch.get_default_dtype())
    elif vector.shape != shape:
        raise ValueError(f"`vector` must have the shape of an input, {shape}, got {tuple(vector.shape)}.")
    else:
        v = vector.detach().to(device=device or vector.device, dtype=dtype or vector.dtype)
    with torch.no_grad():
        if bool((forward(torch.zeros_like(v)).abs() > 0).any()):
            raise ValueError("`forward` must be linear, but it does not take 0 to 0; leave out its bias.")

    end = time.perf_counter() + seconds
    tolerance = max(tol, 40 * torch.finfo(v.dtype).eps)
    v = v.reshape(blocks, -1)
    if blocks > 1:  # parts that the last search has left at 0
        again = torch.randn(v.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(v)
        v = torch.where(_lengths(v) > 0, v, again)
    v = v / _lengths(v)
    with torch.no_grad():
        image = forward(v.reshape(shape))
    if not bool(image.isfinite().all()):  # a training that has diverged
        return OperatorNorm(v.new_tensor(torch.nan), None, False, 1)
    # The squares below would underflow for a map that shrinks by 1e-19, and overflow for one that stretches by 1e19.
    scale = _scale(image)

    def gram(u: Tensor) -> Tensor:
        """A'A u / scale^2, the gradient of |A u / scale|^2 / 2."""
        with torch.enable_grad():
            u = u.reshape(shape).detach().requires_grad_()
            (gradient,) = torch.autograd.grad((forward(u) / scale).square().sum() / 2, u)
        return gradient.reshape(blocks, -1)

    iterations, converged = 0, False
    square = v.new_zeros(())
    while iterations < max_iterations and not converged and (not iterations or time.perf_counter() < end):
        span, image = _krylov_space(gram, v, min(_KRYLOV, v.shape[1], max_iterations - iterations), end)
        iterations += len(span)
        projected = _products(span, image)
        if not bool(projected.isfinite().all()):
            return OperatorNorm(square * torch.nan, None, False, iterations)
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        squares, best = values[:, -1].clamp_min(0), vectors[:, :, -1]
        v, image = (torch.einsum("bk,kbm->bm", best, each) for each in (span, image))
        square = squares.max()
        # The sharper r^2 / gap is not safe here: the gap to values not yet found is too large by far.
        converged = bool((_lengths(image - squares[:, None] * v) <= tolerance * square).all())
        v = v / _lengths(v)
    return OperatorNorm(square.sqrt() * scale, v.reshape(shape), converged, iterations)


def _krylov_space(gram: Callable[[Tensor], Tensor], v: Tensor, size: int, end: float) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of v, A'A v, (A'A)^2 v and so on, and its image: ``size`` of them until ``end``.

    Shapes ``(k, blocks, m)``; zero from where the space of a block is closed under the map.
    """
    basis, images = [v], [gram(v)]
    while len(basis) < size and (len(basis) < 2 or time.perf_counter() < end):  # of one vector nothing better comes
        new, span = images[-1], torch.stack(basis)
        for _ in range(2):  # twice is enough
            new = new - torch.einsum("kbm,bkl->bm", span, _products(span, new[None]))
        lengths = _lengths(new)
        on = lengths > torch.finfo(v.dtype).eps * _lengths(images[-1])
        if not bool(on.any()):
            break
        basis.append(torch.where(on, new / lengths, 0))
        images.append(gram(basis[-1]))
    return torch.stack(basis), torch.stack(images)


def _products(some: Tensor, others: Tensor) -> Tensor:
    """Inner products within blocks, shape ``(blocks, k, l)``; of millions of numbers single precision adds up too
    little."""
    count = some.shape[2] // PIECE
    size = count * PIECE
    pieces = (each[:, :, :size].reshape(*each.shape[:2], count, PIECE) for each in (some, others))
    whole = to_float64(torch.einsum("kbpc,lbpc->bklp", *pieces)).sum(3)
    rest = torch.einsum("kbm,lbm->bkl", some[:, :, size:], others[:, :, size:])
    return (whole + to_float64(rest)).to(some)


def _lengths(rows: Tensor) -> Tensor:
    """Shape ``(blocks, 1)``."""
    lengths: Tensor = _products(rows[None], rows[None])[:, :, 0].sqrt()
    return lengths


def module_spectral_norm(
    module: nn.Module,
    input_shape: Sequence[int] | None = None,
    vector: Tensor | Mapping[str, Tensor] | None = None,
    *,
    tol: float = 1e-5,
    seconds: float = math.inf,
) -> dict[str, OperatorNorm]:
    """Spectral norm of each linear map of a module, as the operator it is on inputs of their actual size.

    Args:
        module: A linear layer, an embedding, a recurrent layer or cell, or an attention layer: each of its own weight
            matrices, as it is stored (a recurrent layer stacks the matrices of its gates, attention those of queries,
            keys and values). A convolution or transposed convolution, with its padding, stride, groups and dilation. A
            batch norm in eval mode: the largest factor of a channel. A module that is not of :mod:`torch.nn`: each of
            its own matrices as it is stored, and a stack of them, of experts say, as the map of all its blocks: the
            largest of their norms.
        input_shape: Of one input of a convolution, ``(channels, *size)``.
        vector: Where the search starts, from the last time, of a convolution or by name of the weight; ignored where
            the size has changed.
        tol: Of :func:`operator_spectral_norm`, for a convolution and for matrices both of whose sides are above 512.
        seconds: After which a search is given up; see there.

    Returns:
        By name of the weight; empty for a module without such.

    Raises:
        ValueError: If the input shape of a convolution is missing.

    Cost: :func:`matrix_spectral_norm` or :func:`operator_spectral_norm`.

    Example:
        >>> layer = nn.Conv1d(1, 1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, -2.0)
        >>> round(float(module_spectral_norm(layer, (1, 5))["weight"].norm), 4)
        2.0
    """
    starts = {"weight": vector} if isinstance(vector, Tensor) else dict(vector or {})
    if isinstance(module, _CONVOLUTIONS):
        return {"weight": _convolution_norm(module, input_shape, starts.get("weight"), tol, seconds)}
    if isinstance(module, _MATRICES):
        matrices = {"weight": module.weight} if hasattr(module, "weight") else own_parameters(module)
        return {
            name: _matrix_norm(matrix, starts.get(name), tol, seconds)
            for name, matrix in matrices.items()
            if isinstance(matrix, Tensor) and matrix.ndim == 2
        }
    if isinstance(module, _NORMALISATIONS) and module.running_var is not None:
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight.detach()
        return {"weight": OperatorNorm(scale.abs().max(), None, True, 0)}
    return {name: _matrix_norm(matrix, starts.get(name), tol, seconds) for name, matrix in own_matrices(module).items()}


def own_matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Its own parameters that are matrices or stacks of them, by name, of a module that is not of torch's."""
    if type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.ParameterDict | nn.ParameterList):
        return {}
    return {
        name: parameter
        for name, parameter in own_parameters(module).items()
        if not is_lazy(parameter)
        and (parameter.is_floating_point() or parameter.is_complex())
        and parameter.ndim in (2, 3)
    }


def _matrix_norm(weight: Tensor, vector: Tensor | None, tol: float, seconds: float) -> OperatorNorm:
    """Of a matrix, or of the map of all blocks that a stack of matrices is."""
    if weight.is_meta:
        raise CannotMeasure(_META)
    matrix = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if not weight.numel():
        return OperatorNorm(matrix_spectral_norm(weight.flatten()), None, True, 0)
    if weight.ndim == 2 and (min(weight.shape) <= DIRECT or not bool(weight.isfinite().all())):
        return OperatorNorm(matrix_spectral_norm(weight), None, True, 0)
    if not bool(matrix.isfinite().all()):
        return OperatorNorm(matrix.new_tensor(torch.nan), None, False, 0)
    if min(matrix.shape[-2:]) <= DIRECT:
        return OperatorNorm(torch.linalg.svdvals(matrix).max(), None, True, 0)
    scale = _scale(matrix)
    matrix = matrix / scale
    if matrix.is_complex():  # the search is in real numbers: of the same norm, and twice the size
        matrix = torch.cat([torch.cat([matrix.real, -matrix.imag], -1), torch.cat([matrix.imag, matrix.real], -1)], -2)
    shape = matrix.shape[:-2] + matrix.shape[-1:]
    if vector is not None and vector.shape != shape:
        vector = None
    found = operator_spectral_norm(
        lambda x: (matrix @ x[..., None])[..., 0], shape, vector, tol=tol, seconds=seconds, dtype=matrix.dtype,
        device=matrix.device, blocks=math.prod(shape[:-1]),
    )  # fmt: skip
    return found._replace(norm=found.norm * scale)


def _convolution_norm(
    module: nn.Module, input_shape: Sequence[int] | None, vector: Tensor | None, tol: float, seconds: float
) -> OperatorNorm:
    if input_shape is None:
        raise ValueError(f"`input_shape` must be given for a {type(module).__name__}: its norm depends on the size.")
    weight = next(iter(module.parameters()))
    if weight.is_meta or weight.is_complex():
        raise CannotMeasure(_META if weight.is_meta else "The norm of a complex convolution is not searched for.")
    dtype = torch.promote_types(weight.dtype, torch.float32)
    state = {name: parameter.detach().to(dtype) for name, parameter in module.named_parameters()}
    if "bias" in state:
        state["bias"] = torch.zeros_like(state["bias"])
    scale = weight.new_ones((), dtype=dtype)
    if is_torchs(module) and "weight" in state and bool(state["weight"].isfinite().all()):
        scale = _scale(state["weight"])  # so that no product with an input underflows or overflows
        state["weight"] = state["weight"] / scale

    def forward(x: Tensor) -> Tensor:
        output: Tensor = call_at(module, state, (x[None],))
        return output

    if vector is not None and vector.shape != tuple(input_shape):
        vector = None
    found = operator_spectral_norm(
        forward, input_shape, vector, tol=tol, seconds=seconds, dtype=dtype, device=weight.device,
        blocks=int(module.groups) if isinstance(module.groups, int) else 1,
    )  # fmt: skip
    return found._replace(norm=found.norm * scale)


def _scale(tensor: Tensor) -> Tensor:
    """Its largest magnitude; 1 of zeros. In the dtype of the tensor, scalar."""
    largest = tensor.detach().abs().max()
    return torch.where(largest > 0, largest, 1.0)
