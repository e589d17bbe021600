"""Complexity along the optimization path, the bounds it comes from, and SuperNat."""

from .linear_regression import LinearPath as LinearPath
from .linear_regression import Normalization as Normalization
from .linear_regression import gradient_descent as gradient_descent
from .linear_regression import gradient_descent_closed_form as gradient_descent_closed_form
from .linear_regression import supernat as supernat
from .linear_regression import time_constants as time_constants
from .path import PathComplexitySum as PathComplexitySum
from .path import Segment as Segment
from .probe import PathComplexity as PathComplexity
from .rademacher import OptimalRescaling as OptimalRescaling
from .rademacher import flow_bound as flow_bound
from .rademacher import linear_bound as linear_bound
from .rademacher import multiclass_bound as multiclass_bound
from .rademacher import optimal_rescaling as optimal_rescaling
