"""What hidden layers represent: how many directions they use, how similar they are, and how they separate classes."""

from .cka import Similarity as Similarity
from .cka import debiased_cka_matrix as debiased_cka_matrix
from .cka import similarity_matrix as similarity_matrix
from .class_means import ClassMeans as ClassMeans
from .class_means import class_means as class_means
from .classifier import Share as Share
from .classifier import nearest_mean_agreement as nearest_mean_agreement
from .classifier import self_duality_distance as self_duality_distance
from .features import Features as Features
from .features import as_features as as_features
from .frame import distance_from_maximal_angle as distance_from_maximal_angle
from .frame import equiangularity as equiangularity
from .frame import equinormness as equinormness
from .layers import hidden_outputs as hidden_outputs
from .probe import Representation as Representation
from .ranks import covariance_eigenvalues as covariance_eigenvalues
from .ranks import participation_ratio as participation_ratio
from .ranks import rankme as rankme
from .ranks import stable_rank as stable_rank
from .ridge import ridge_accuracy as ridge_accuracy
from .ridge import ridge_predictions as ridge_predictions
from .ridge import stratified_folds as stratified_folds
from .variability import within_class_variability as within_class_variability
