"""Problems: laws of data whose truth is known exactly."""

from fewjump.problem.base import Estimate, Problem
from fewjump.problem.chain import MarkovChain
from fewjump.problem.enumerable import EnumeratedJoint, joint_target, mixture_bias
from fewjump.problem.finite_support import FiniteSupport
from fewjump.problem.hidden_markov import HiddenMarkovChain

__all__ = [
    "EnumeratedJoint",
    "Estimate",
    "FiniteSupport",
    "HiddenMarkovChain",
    "MarkovChain",
    "Problem",
    "joint_target",
    "mixture_bias",
]
