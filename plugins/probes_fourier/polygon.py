"""The Fourier transform of a polygon, and of an affine function on it, in closed form: no grid, no aliasing.

Lemma 3.2 in two dimensions. What holds in one dimension for broken lines (``broken_line.py``) holds here for functions
that are affine on polygons, such as a ReLU network of two inputs (``planar.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.precision import to_float64

from .broken_line import _j1

__all__ = ["affine_transform", "area", "indicator_transform"]

# Below this number of radians over the polygon the closed form cancels, and quadrature is exact.
_SMALL = 1.0
_NODES = 10


def area(vertices: Tensor) -> Tensor:
    r"""Area of a simple polygon.

    .. math:: \tfrac12 \sum_j (x_j y_{j+1} - x_{j+1} y_j)

    Args:
        vertices: Counter-clockwise. Shape ``(m, 2)``.

    Returns:
        In the square of the vertices' unit, negative when they run clockwise. Shape ``()``.

    Example:
        >>> area(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).item()
        1.0
    """
    x, y = _checked(vertices).unbind(1)
    twice: Tensor = (x * y.roll(-1) - x.roll(-1) * y).sum()
    return twice / 2


def indicator_transform(vertices: Tensor, wave_vectors: Tensor) -> Tensor:
    r"""Fourier transform of the indicator function of a polygon.

    .. math:: \tilde 1_P(\mathbf k) = \int_P e^{-i \mathbf k \cdot \mathbf x} d\mathbf x
        = \frac{i}{k^2} \sum_G (\mathbf k \cdot \mathbf N_G) \, |G| \, e^{-i \mathbf k \cdot \mathbf m_G}
          \, j_0(\mathbf k \cdot \mathbf t_G / 2)

    over the edges G, with outward normal N, length, middle m and edge vector t; :math:`j_0(x) = \sin x / x`. An edge to
    which k is orthogonal ends the recursion: its term falls as :math:`k^{-1}` (eq. 16). The term of any other edge is
    one of its two vertices and falls as :math:`k^{-2}` (eq. 17).

    Args:
        vertices: Of a simple polygon, counter-clockwise. Shape ``(m, 2)``.
        wave_vectors: k, in radians per unit of the vertices. Shape ``(K, 2)``.

    Returns:
        Complex128, in the square of the vertices' unit. Shape ``(K,)``.

    Raises:
        ValueError: If a shape does not fit.

    Cost: m K complex exponentials.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> whole_period = torch.tensor([[2 * torch.pi, 0.0]])
        >>> round(abs(indicator_transform(square, whole_period).item()), 6)
        0.0

    Reference:
        Diaz, Le & Robins, "Fourier transforms of polytopes, solid angle sums, and discrete volume", 2016, theorem 1;
        Baratin (2021), lemma 3.2 and appendix A, eq. 16-21. The phase after eq. 19 there lacks its sign: it is that of
        eq. 16.
    """
    return affine_transform(vertices, torch.zeros(2), torch.ones(()), wave_vectors)


def affine_transform(vertices: Tensor, gradient: Tensor, offset: Tensor, wave_vectors: Tensor) -> Tensor:
    r"""Fourier transform of an affine function on a polygon, zero elsewhere.

    .. math:: \int_P a \, e^{-i \mathbf k \cdot \mathbf x} d\mathbf x = \frac{-i}{k^2} \Big( (\mathbf k \cdot \mathbf g)
        \, \tilde 1_P(\mathbf k) - \sum_G (\mathbf k \cdot \mathbf N_G) \int_G a \, e^{-i \mathbf k \cdot \mathbf x}
        \Big), \qquad a(\mathbf x) = \mathbf g \cdot \mathbf x + c

    by Stokes' theorem, with the integral over an edge as in :func:`piecewise_linear_coefficients`. Summed over all
    pieces of a continuous function of compact support the edges cancel, and lemma 3.1 is left.

    Args:
        vertices: Of a simple polygon, counter-clockwise. Shape ``(m, 2)``.
        gradient: The vector g, shape ``(2,)``.
        offset: The number c, shape ``()``.
        wave_vectors: k, in radians per unit of the vertices. Shape ``(K, 2)``.

    Returns:
        Complex128, in the unit of the function times the square of the vertices' unit. Shape ``(K,)``.

    Raises:
        ValueError: As :func:`indicator_transform`.

    Cost: m K complex exponentials.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> mean = affine_transform(square, torch.tensor([0.0, 2.0]), torch.tensor(3.0), torch.zeros(1, 2))
        >>> round(mean.real.item(), 12)
        4.0

    Reference:
        Baratin (2021), appendix A, eq. 9 and 10 on one polygon; the factor before the integral there should be
        :math:`1 / (i k^2)`, so that eq. 4 has the sign of -i.
    """
    vertices = _checked(vertices)
    g, c = to_float64(gradient).to(vertices.device), to_float64(offset).to(vertices.device)
    k = to_float64(wave_vectors).to(vertices.device)
    if k.ndim != 2 or k.shape[1] != 2:
        raise ValueError(f"`wave_vectors` must have shape (K, 2), got {tuple(k.shape)}.")
    radius = (vertices - vertices.mean(0)).norm(dim=1).max()
    small = k.norm(dim=1) * radius < _SMALL
    result = k.new_zeros(len(k), dtype=torch.complex128)
    if bool(small.any()):
        result[small] = _by_quadrature(vertices, g, c, k[small])
    result[~small] = _by_edges(vertices, g, c, k[~small])
    return result


def _by_edges(vertices: Tensor, g: Tensor, c: Tensor, k: Tensor) -> Tensor:
    edges = vertices.roll(-1, 0) - vertices
    middles = vertices + edges / 2
    normals = torch.stack([edges[:, 1], -edges[:, 0]], 1)  # outward, as long as the edge
    phases = -(k @ middles.T)
    wave = torch.complex(phases.cos(), phases.sin())
    half = k @ edges.T / 2  # (K, m)
    flow, square = k @ normals.T, (k * k).sum(1)
    constant = wave * torch.sinc(half / torch.pi)
    if not bool(g.any()):
        return 1j * c * (flow * constant).sum(1) / square
    edge = constant * (middles @ g + c) - 0.5j * wave * _j1(half) * (edges @ g)
    indicator = 1j * (flow * constant).sum(1) / square
    return -1j * ((k @ g) * indicator - (flow * edge).sum(1)) / square


def _by_quadrature(vertices: Tensor, g: Tensor, c: Tensor, k: Tensor) -> Tensor:
    """Gauss-Legendre on the triangles of a fan: exact to rounding while the wave turns by less than about a radian."""
    number = torch.arange(1, _NODES, dtype=torch.float64)
    off = number / (4 * number**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))  # Golub & Welsch
    u, w = ((nodes + 1) / 2).to(k.device), (vectors[0] ** 2).to(k.device)
    # x = a + u ((b - a) + v (d - b)), of Jacobian 2 |triangle| u
    a, b, d = vertices[0], vertices[1:-1, None, None], vertices[2:, None, None]
    points = a + u[:, None, None] * ((b - a) + u[None, :, None] * (d - b))  # (T, n, n, 2)
    (bx, by), (dx, dy) = (vertices[1:-1] - a).T, (vertices[2:] - a).T
    weights = (bx * dy - by * dx)[:, None, None] * (w * u)[:, None] * w
    points, weights = points.reshape(-1, 2), weights.reshape(-1)
    values = (weights * (points @ g + c)).to(torch.complex128)
    phases = -(k @ points.T)
    integrals: Tensor = torch.complex(phases.cos(), phases.sin()) @ values
    return integrals


def _checked(vertices: Tensor) -> Tensor:
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
        raise ValueError(f"`vertices` must have shape (m, 2) with at least 3 rows, got {tuple(vertices.shape)}.")
    return to_float64(vertices.detach())
