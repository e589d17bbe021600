"""The gradient noise scale: how large a batch is still worth its cost.

Probe: :class:`GradientNoise`. Pure functions: :func:`noise_scale`, of inner products of gradients, and
:func:`gradient_products`, which computes those without holding more than two gradients.

Source: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162 (2018).
"""

from .noise_scale import NoiseScale as NoiseScale
from .noise_scale import gradient_products as gradient_products
from .noise_scale import noise_scale as noise_scale
from .probe import GradientNoise as GradientNoise
