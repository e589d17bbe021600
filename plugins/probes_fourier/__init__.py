"""Spectra of the function that a network has learned: lower frequencies are learned first.

Probes: :class:`FourierSpectrum` (amplitudes along a path, or between samples of a batch), :class:`SpectralNorm` (of
every layer, with the Lipschitz bounds), :class:`KernelSpectrum` (generalised frequencies on real data),
:class:`RadialSpectrum` (functions of two inputs), :class:`ImageFrequencies` (which frequencies of images the outputs
depend on), :class:`SpectrumRobustness` (what survives a perturbation of the parameters). Each is a thin class around
pure functions of tensors, which can be used by themselves; among them :func:`breakpoints` and
:func:`piecewise_linear_coefficients`, the exact spectrum of a ReLU network without a grid, and :func:`planar_pieces`
and :func:`planar_transform`, the same for two inputs.

Sources: Rahaman et al. (2019); Baratin (2021), chapter 3 and appendix A.
"""

from .affine_norm import affine_spectral_norm as affine_spectral_norm
from .broken_line import linear_regions as linear_regions
from .broken_line import piecewise_linear_coefficients as piecewise_linear_coefficients
from .dft import amplitude as amplitude
from .dft import fourier_coefficients as fourier_coefficients
from .dft import grid as grid
from .dft import remove_line as remove_line
from .dft import segment_points as segment_points
from .dft import segment_samples as segment_samples
from .exact import breakpoints as breakpoints
from .exact import double as double
from .heat_map import HeatMap as HeatMap
from .heat_map import fourier_basis_image as fourier_basis_image
from .heat_map import fourier_heat_map as fourier_heat_map
from .heat_map import map_frequencies as map_frequencies
from .image_bands import high_pass as high_pass
from .image_bands import image_radii as image_radii
from .image_bands import low_pass as low_pass
from .image_bands import ring_sums as ring_sums
from .jacobian_spectrum import JacobianSpectrum as JacobianSpectrum
from .jacobian_spectrum import jacobian_spectrum as jacobian_spectrum
from .kernel_basis import KernelBasis as KernelBasis
from .kernel_basis import kernel_basis as kernel_basis
from .kernel_basis import kernel_spectrum as kernel_spectrum
from .kernel_basis import median_width as median_width
from .lines import LineSpectrum as LineSpectrum
from .lines import line_spectrum as line_spectrum
from .lipschitz import AFFINE as AFFINE
from .lipschitz import is_chain as is_chain
from .lipschitz import is_torchs as is_torchs
from .lipschitz import max_norm_bound as max_norm_bound
from .lipschitz import spectral_norm_product as spectral_norm_product
from .noise import kernel_noise as kernel_noise
from .noise import radial_wave as radial_wave
from .passed_images import PassedImages as PassedImages
from .passed_images import passed_images as passed_images
from .planar import PlanarPiece as PlanarPiece
from .planar import planar_pieces as planar_pieces
from .planar import planar_transform as planar_transform
from .polygon import affine_transform as affine_transform
from .polygon import indicator_transform as indicator_transform
from .probe import FourierSpectrum as FourierSpectrum
from .probe_images import ImageFrequencies as ImageFrequencies
from .probe_kernel import KernelSpectrum as KernelSpectrum
from .probe_norms import SpectralNorm as SpectralNorm
from .probe_radial import RadialSpectrum as RadialSpectrum
from .probe_robustness import SpectrumRobustness as SpectrumRobustness
from .radial import radial_spectrum as radial_spectrum
from .robustness import PerturbedAmplitudes as PerturbedAmplitudes
from .robustness import perturbed_amplitudes as perturbed_amplitudes
from .robustness import unit_direction as unit_direction
from .spectral_norm import OperatorNorm as OperatorNorm
from .spectral_norm import matrix_spectral_norm as matrix_spectral_norm
from .spectral_norm import module_spectral_norm as module_spectral_norm
from .spectral_norm import operator_spectral_norm as operator_spectral_norm
from .summaries import half_amplitude_steps as half_amplitude_steps
from .summaries import power_below as power_below
from .summaries import spectral_centroid as spectral_centroid
