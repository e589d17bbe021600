"""Complexity along the optimization path, the measures of capacity it is compared with, their bounds, and SuperNat."""

# ruff: noqa: I001 - grouped by subject

# along the path
from .path import PathComplexitySum as PathComplexitySum
from .path import Segment as Segment
from .probe import PathComplexity as PathComplexity

# other measures of capacity
from .probe_capacity import Capacity as Capacity
from .chain import NotDefined as NotDefined
from .fisher_rao import Likelihood as Likelihood
from .fisher_rao import fisher_rao_norm as fisher_rao_norm
from .layer_norms import LayerNorms as LayerNorms
from .layer_norms import matrix_norms as matrix_norms
from .layer_norms import operator_norms as operator_norms
from .margin import margins as margins
from .margin import normalized_margins as normalized_margins
from .margin import signs as signs
from .norms import distance_from_initialization as distance_from_initialization
from .norms import frobenius_norm as frobenius_norm
from .norms import parameter_count as parameter_count
from .path_norm import MaxPool as MaxPool
from .path_norm import path_norm as path_norm
from .sharpness import sharpness as sharpness
from .spectral_bounds import margin_bound as margin_bound
from .spectral_bounds import pac_bayes_bound as pac_bayes_bound
from .spectral_bounds import pac_bayes_spectral as pac_bayes_spectral
from .spectral_bounds import spectral_complexity as spectral_complexity
from .two_layer import TwoLayer as TwoLayer
from .two_layer import two_layer_bound as two_layer_bound
from .two_layer import two_layer_capacity as two_layer_capacity
from .two_layer import two_layer_matrices as two_layer_matrices
from .two_layer import unit_wise_capacity as unit_wise_capacity

# bounds of Rademacher complexity
from .rademacher import OptimalRescaling as OptimalRescaling
from .rademacher import flow_bound as flow_bound
from .rademacher import linear_bound as linear_bound
from .rademacher import multiclass_bound as multiclass_bound
from .rademacher import optimal_rescaling as optimal_rescaling

# SuperNat
from .linear_regression import LinearPath as LinearPath
from .linear_regression import Normalization as Normalization
from .linear_regression import gradient_descent as gradient_descent
from .linear_regression import gradient_descent_closed_form as gradient_descent_closed_form
from .linear_regression import supernat as supernat
from .linear_regression import time_constants as time_constants
