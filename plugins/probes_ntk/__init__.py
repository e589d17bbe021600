"""Tangent features of the learned function: the tangent kernel, its spectrum, and its alignment with the labels."""

from .alignment import alignment as alignment
from .alignment import cka as cka
from .alignment import debiased_cka as debiased_cka
from .alignment import label_matrix as label_matrix
from .centering import Centering as Centering
from .centering import center as center
from .centering import center_targets as center_targets
from .dynamics import FunctionUpdate as FunctionUpdate
from .dynamics import function_update as function_update
from .eigenvector_fourier import eigenvector_amplitudes as eigenvector_amplitudes
from .engine import TangentDiagonal as TangentDiagonal
from .engine import TangentGram as TangentGram
from .engine import TraceEstimate as TraceEstimate
from .engine import estimate_trace as estimate_trace
from .engine import tangent_diagonal as tangent_diagonal
from .engine import tangent_kernel as tangent_kernel
from .perturbation import perturbation_effects as perturbation_effects
from .perturbation import random_directions as random_directions
from .perturbation import right_singular_vectors as right_singular_vectors
from .probe import TangentKernel as TangentKernel
from .spectrum import Eigenfunctions as Eigenfunctions
from .spectrum import effective_rank as effective_rank
from .spectrum import eigenfunctions as eigenfunctions
from .spectrum import eigenvalues as eigenvalues
from .spectrum import extend_eigenfunctions as extend_eigenfunctions
from .spectrum import trace_ratio as trace_ratio
