"""Problems: laws of data whose truth is known exactly; small ones to test and teach with."""

from fewjump.problem.base import Estimate, Problem
from fewjump.problem.chain import MarkovChain, reference_markov_chain
from fewjump.problem.enumerable import (
    EnumeratedJoint,
    copy,
    ising,
    joint_target,
    mixture_bias,
    xor,
)
from fewjump.problem.finite_support import FiniteSupport
from fewjump.problem.hidden_markov import HiddenMarkovChain, reference_hidden_markov_chain

__all__ = [
    "EnumeratedJoint",
    "Estimate",
    "FiniteSupport",
    "HiddenMarkovChain",
    "MarkovChain",
    "Problem",
    "copy",
    "ising",
    "joint_target",
    "mixture_bias",
    "reference_hidden_markov_chain",
    "reference_markov_chain",
    "xor",
]
