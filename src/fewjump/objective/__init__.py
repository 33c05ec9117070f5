"""Objectives: what training minimises, for students (from a teacher) and teachers (from data)."""

from fewjump.objective.base import Metrics, Objective, freeze
from fewjump.objective.conditional import ConditionalMatching
from fewjump.objective.consistency import DiscreteConsistency
from fewjump.objective.correlation import CorrelationDistillation
from fewjump.objective.data_only import (
    DataLikelihood,
    RoutedLikelihood,
    VariationalLikelihood,
)
from fewjump.objective.elbo import CrossEntropyELBO, ScoreEntropy, nelbo
from fewjump.objective.inverse_distillation import InverseDistillation
from fewjump.objective.joint import JointConditionalMatching
from fewjump.objective.latent import LatentMatching
from fewjump.objective.learned_sampler import SamplerDistillation
from fewjump.objective.moment_matching import MomentMatching
from fewjump.objective.on_policy import OnPolicyRefinement
from fewjump.objective.rectification import Rectification
from fewjump.objective.reward import RewardRefinement
from fewjump.objective.self_distillation import SelfDistillation
from fewjump.objective.time_sampling import TimeSampling
from fewjump.objective.token_matching import TokenMatching
from fewjump.registry import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "ConditionalMatching",
    "CorrelationDistillation",
    "CrossEntropyELBO",
    "DataLikelihood",
    "DiscreteConsistency",
    "InverseDistillation",
    "JointConditionalMatching",
    "LatentMatching",
    "Metrics",
    "MomentMatching",
    "Objective",
    "OnPolicyRefinement",
    "Rectification",
    "RewardRefinement",
    "RoutedLikelihood",
    "SamplerDistillation",
    "ScoreEntropy",
    "SelfDistillation",
    "TimeSampling",
    "TokenMatching",
    "VariationalLikelihood",
    "freeze",
    "nelbo",
]
