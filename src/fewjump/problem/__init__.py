"""Problems: laws of data whose truth is known exactly."""

from fewjump.problem.base import Estimate, Problem
from fewjump.problem.bias import joint_target, mixture_bias
from fewjump.problem.enumerable import EnumeratedJoint
from fewjump.problem.hidden_markov import HiddenMarkovChain
from fewjump.problem.markov import MarkovChain

__all__ = [
    "EnumeratedJoint",
    "Estimate",
    "HiddenMarkovChain",
    "MarkovChain",
    "Problem",
    "joint_target",
    "mixture_bias",
]
