"""Curvature of the loss during training: eigenvalues of the Hessian, sharpness, and the noise of the gradient.

Probe: :class:`Curvature`. Pure functions of a model, a loss and a batch: :func:`hessian_eigenvalues`,
:func:`ggn_eigenvalues`, :func:`hessian_trace`, :func:`spectral_density`, :func:`critical_sharpness`,
:func:`gradient_noise_scale`. Those of an :class:`Objective`, which is a loss on a batch that is set up once:
:func:`largest_eigenvalues` and :func:`trace_of` of any operator on its parameters, :func:`directional_sharpness`,
:func:`batch_sharpness`, :func:`adaptive_sharpness`, :func:`pac_bayes_sharpness`. Of an optimizer: :func:`stability`;
of the micro-batches that a loop accumulates: :func:`accumulated_noise_scale`; of ranks: :func:`rank_noise_scale`.

Sources: Cohen et al. (2021, 2022), Kalra et al. (2026), McCandlish et al. (2018).
"""

from .batch_sharpness import batch_sharpness as batch_sharpness
from .critical import CriticalSharpness as CriticalSharpness
from .critical import critical_sharpness as critical_sharpness
from .critical import critical_sharpness_of as critical_sharpness_of
from .density import HessianDensity as HessianDensity
from .density import density_of as density_of
from .density import spectral_density as spectral_density
from .directional import directional_sharpness as directional_sharpness
from .eigenvalues import Eigenvalues as Eigenvalues
from .eigenvalues import ggn_eigenvalues as ggn_eigenvalues
from .eigenvalues import hessian_eigenvalues as hessian_eigenvalues
from .eigenvalues import largest_eigenvalues as largest_eigenvalues
from .gradient_noise import GradientNoiseScale as GradientNoiseScale
from .gradient_noise import accumulated_noise_scale as accumulated_noise_scale
from .gradient_noise import gradient_noise_scale as gradient_noise_scale
from .gradient_noise import gradient_noise_scale_of as gradient_noise_scale_of
from .gradient_noise import noise_scale as noise_scale
from .gradient_noise import rank_noise_scale as rank_noise_scale
from .objective import Objective as Objective
from .perturbed import adaptive_sharpness as adaptive_sharpness
from .perturbed import pac_bayes_sharpness as pac_bayes_sharpness
from .probe import Curvature as Curvature
from .stability import Stability as Stability
from .stability import last_update as last_update
from .stability import stability as stability
from .trace import hessian_trace as hessian_trace
from .trace import trace_of as trace_of
