"""Capacity from the spectral norms of all layers: spectral complexity, its PAC-Bayesian sibling, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .layer_norms import LayerNorms, matrix_norms

__all__ = ["margin_bound", "pac_bayes_bound", "pac_bayes_spectral", "spectral_complexity"]


def spectral_complexity(
    weights: LayerNorms | Sequence[Tensor],
    lipschitz: Tensor | Sequence[float] | None = None,
    *,
    from_reference: bool = False,
) -> Tensor:
    r"""Spectral complexity: the product of all spectral norms, times how far the layers are from reference matrices.

    .. math:: R_A = \Big( \prod_i \rho_i \|A_i\|_\sigma \Big)
              \Big( \sum_i \frac{\|A_i^\top - M_i^\top\|_{2,1}^{2/3}}{\|A_i\|_\sigma^{2/3}} \Big)^{3/2}

    The product is taken into the sum, so that a layer of norm zero needs no division. The theorem is for networks
    without biases whose nonlinearities take zero to zero (ReLU, tanh, max pooling; not the sigmoid).

    Args:
        weights: A_i, the first applied first; or the norms of :func:`matrix_norms` or :func:`operator_norms`.
        lipschitz: :math:`\rho_i` of the nonlinearity after each layer; all 1 by default. Shape ``(L,)``.
        from_reference: Whether M_i are the reference matrices that the norms were computed with, such as the weights
            before training; zero by default, as in the source's experiments.

    Returns:
        In units of output per unit of input, float64; infinite on overflow. Shape ``()``.

    Raises:
        ValueError: If a weight is no matrix, or ``lipschitz`` has another length.

    Example:
        >>> ones = [torch.eye(1)] * 4  # the product is 1, and so is each of the four ratios
        >>> round(spectral_complexity(ones).item(), 4)
        8.0

    Reference:
        Bartlett, Foster & Telgarsky, "Spectrally-normalized margin bounds for neural networks", NeurIPS 2017, eq. 1.2.
        Their figures use the entrywise 1-norm in place of the (2, 1) norm, with, they say, negligible difference.
    """
    norms = _norms(weights)
    rho = torch.ones_like(norms.spectral) if lipschitz is None else torch.as_tensor(lipschitz, dtype=torch.float64)
    if rho.shape != norms.spectral.shape:
        raise ValueError(f"`lipschitz` must have one number for each of {len(norms.spectral)} layers, got {len(rho)}.")
    groups = norms.group_distance if from_reference else norms.group
    terms = groups * _product_of_others(norms.spectral)
    return rho.prod() * terms.pow(2 / 3).sum().pow(1.5)


def margin_bound(complexity: Tensor | float, norm_x: Tensor | float, margin: float, n: int, width: int) -> Tensor:
    r"""Leading term of the margin bound of the generalization error, from the spectral complexity.

    .. math:: \Pr[\arg\max_j F_A(x)_j \ne y] \le \widehat{\mathcal R}_\gamma(F_A)
              + \tilde O \Big( \frac{\|X\|_2 R_A}{\gamma n} \ln W + \sqrt{\frac{\ln (1 / \delta)}{n}} \Big)

    Returned is the first fraction with its logarithm. Hidden in the O are constants and logarithms of n, of the margin
    and of the norms: it compares networks, it does not certify any.

    Args:
        complexity: R_A.
        norm_x: Euclidean norm of all n inputs together.
        margin: :math:`\gamma`, in the unit of the outputs.
        n: Number of samples.
        width: W, the largest dimension of the inputs and of any layer, ``LayerNorms.width``.

    Returns:
        Dimensionless, float64. Shape ``()``.

    Raises:
        ValueError: If ``margin`` is not positive, or ``n`` or ``width`` is below 1.

    Example:
        >>> margin_bound(6.0, 2.0, 4.0, 3, 1).item()  # ln 1 = 0
        0.0

    Reference:
        Bartlett, Foster & Telgarsky (2017), theorem 1.1.
    """
    if not margin > 0 or n < 1 or width < 1:
        raise ValueError(f"`margin`, `n` and `width` must be positive, got {margin}, {n} and {width}.")
    size = torch.as_tensor(norm_x, dtype=torch.float64) * torch.as_tensor(complexity, dtype=torch.float64)
    return size * math.log(width) / (margin * n)


def pac_bayes_spectral(weights: LayerNorms | Sequence[Tensor], *, from_reference: bool = False) -> Tensor:
    r"""The product of all squared spectral norms, times the sum of the stable ranks.

    .. math:: \Phi = \prod_i \|W_i\|_2^2 \, \sum_i \frac{\|W_i\|_F^2}{\|W_i\|_2^2}

    The product is taken into the sum, so that a layer of norm zero needs no division.

    Args:
        weights: W_i, the first applied first; or the norms of :func:`matrix_norms` or :func:`operator_norms`.
        from_reference: Whether the Frobenius norms are of the distances from the reference matrices. The theorem has
            zero there; the authors' own later code has the weights before training, and so has "spec-init-main" of
            Jiang et al. (2020) beside "spec-orig-main".

    Returns:
        In units of squared output per squared unit of input, float64; infinite on overflow. Shape ``()``.

    Raises:
        ValueError: If a weight is no matrix.

    Example:
        >>> round(pac_bayes_spectral([2 * torch.eye(2), 3 * torch.eye(1)]).item(), 4)  # 36 (2 + 1)
        108.0

    Reference:
        Neyshabur, Bhojanapalli & Srebro, "A PAC-Bayesian approach to spectrally-normalized margin bounds for neural
        networks", ICLR 2018, theorem 1. (Checked in Xiao et al., "PAC-Bayesian spectrally-normalized bounds for
        adversarially robust generalization", NeurIPS 2023, theorem 2; the number 1 is from memory.)
    """
    norms = _norms(weights)
    frobenius = norms.distance if from_reference else norms.frobenius
    return (frobenius * _product_of_others(norms.spectral)).square().sum()


def pac_bayes_bound(
    measure: Tensor | float, radius: float, margin: float, n: int, depth: int, units: int, delta: float = 0.05
) -> Tensor:
    r"""The PAC-Bayesian bound of the generalization gap, up to its constant.

    .. math:: L_0(f) \le \widehat L_\gamma(f)
              + O \Bigg( \sqrt{\frac{B^2 d^2 h \ln(d h) \, \Phi + \ln (d n / \delta)}{\gamma^2 n}} \Bigg)

    Args:
        measure: :math:`\Phi`, as :func:`pac_bayes_spectral` gives it.
        radius: B, the largest norm of an input.
        margin: :math:`\gamma`, in the unit of the outputs.
        n: Number of samples.
        depth: d, the number of layers.
        units: h, the largest number of outputs of a layer, ``LayerNorms.units``.
        delta: Probability that the bound does not hold.

    Returns:
        The square root, dimensionless, float64. Shape ``()``.

    Raises:
        ValueError: If ``margin``, ``n``, ``depth`` or ``units`` is not positive, or ``delta`` not between 0 and 1.

    Example:
        >>> pac_bayes_bound(4.0, 3.0, margin=1.0, n=1, depth=1, units=1, delta=1.0).item()  # ln 1 = 0
        0.0

    Reference:
        Neyshabur, Bhojanapalli & Srebro (2018), theorem 1, checked as for :func:`pac_bayes_spectral`.
    """
    if not margin > 0 or min(n, depth, units) < 1 or not 0 < delta <= 1:
        raise ValueError(
            f"`margin`, `n`, `depth` and `units` must be positive and `delta` between 0 and 1, got {margin}, {n}, "
            f"{depth}, {units} and {delta}."
        )
    phi = torch.as_tensor(measure, dtype=torch.float64)
    capacity = radius**2 * depth**2 * units * math.log(depth * units) * phi
    return ((capacity + math.log(depth * n / delta)) / (margin**2 * n)).sqrt()


def _norms(weights: LayerNorms | Sequence[Tensor]) -> LayerNorms:
    return weights if isinstance(weights, LayerNorms) else matrix_norms(weights)


def _product_of_others(factors: Tensor) -> Tensor:
    """Of each factor, the product of all the others."""
    one = factors.new_ones(1)
    before = torch.cat([one, factors[:-1]]).cumprod(0)
    after = torch.cat([one, factors.flip(0)[:-1]]).cumprod(0).flip(0)
    return before * after
