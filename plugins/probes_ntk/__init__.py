"""Tangent features of the learned function: the tangent kernel, its spectrum, and its alignment with the labels."""

from .engine import TangentDiagonal as TangentDiagonal
from .engine import TangentGram as TangentGram
from .engine import TraceEstimate as TraceEstimate
from .engine import estimate_trace as estimate_trace
from .engine import tangent_diagonal as tangent_diagonal
from .engine import tangent_kernel as tangent_kernel
