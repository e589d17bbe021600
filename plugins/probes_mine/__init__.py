"""Mutual information: MINE, its bounds and gradient, adaptive clipping, and what can be had without a critic."""

# ruff: noqa: I001 - grouped by subject

# from the values of a critic
from .bounds import donsker_varadhan_bound as donsker_varadhan_bound
from .bounds import f_divergence_bound as f_divergence_bound
from .bounds import info_nce_bound as info_nce_bound
from .bounds import jensen_shannon_bound as jensen_shannon_bound
from .bounds import log_mean_exp as log_mean_exp
from .bounds import smile_estimate as smile_estimate
from .moving_average import LogMovingAverage as LogMovingAverage
from .moving_average import mine_surrogate as mine_surrogate

# the best estimate
from .categorical import categorical_information as categorical_information
from .estimator import Flag as Flag
from .estimator import Method as Method
from .estimator import MutualInformationResult as MutualInformationResult
from .estimator import mutual_information as mutual_information

# MINE
from .mine import Bound as Bound
from .mine import Mine as Mine
from .mine import MineEstimate as MineEstimate
from .statistics_networks import ConvolutionalStatistics as ConvolutionalStatistics
from .statistics_networks import DenseStatistics as DenseStatistics
from .statistics_networks import GaussianNoise as GaussianNoise

# as a term of a loss
from .adaptive_clipping import AdaptedGradient as AdaptedGradient
from .adaptive_clipping import adaptive_clip as adaptive_clip
from .regularizer import Mode as Mode
from .regularizer import MutualInformationRegularizer as MutualInformationRegularizer

# of hidden layers
from .channel import ChannelInformation as ChannelInformation
from .channel import noisy_channel_information as noisy_channel_information
from .probe import MutualInformation as MutualInformation

# without a critic
from .gaussian import GaussianAnchor as GaussianAnchor
from .gaussian import canonical_correlations as canonical_correlations
from .gaussian import gaussian_anchor as gaussian_anchor
from .gaussian import gaussian_mutual_information as gaussian_mutual_information
from .gaussian import normal_scores as normal_scores
from .nearest_neighbors import ksg as ksg

# of discrete variables and mixtures
from .mixed import InformationEstimate as InformationEstimate
from .mixed import mixed_mutual_information as mixed_mutual_information

# of random projections
from .sliced import Projected as Projected
from .sliced import SlicedInformation as SlicedInformation
from .sliced import SlicedMethod as SlicedMethod
from .sliced import sliced_mutual_information as sliced_mutual_information

# of the samples
from .repeats import repeated_rows as repeated_rows
