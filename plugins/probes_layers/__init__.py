"""Statistics of layers: weights, gradients, updates and activations."""

from probes.precision import square_sum as square_sum

from .activations import Activation as Activation
from .activations import activations as activations
from .activations import output_entropy as output_entropy
from .activations import summarize as summarize
from .probe import LayerStatistics as LayerStatistics
from .updates import UpdateWatch as UpdateWatch
from .updates import gradient_sums as gradient_sums
from .updates import nonzero_count as nonzero_count
