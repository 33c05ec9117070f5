"""Small instances of every kind of problem; a new kind is a file in the package and a line here."""

from __future__ import annotations

from fewjump.problem import EnumeratedJoint, HiddenMarkovChain, MarkovChain, Problem
from fewjump.random import generator_for
from laws.registry import Registry

PROBLEMS: Registry[Problem] = Registry(Problem, "fewjump.problem")
PROBLEMS.add(EnumeratedJoint, lambda: EnumeratedJoint.random(3, 4, generator=generator_for(1)))
PROBLEMS.add(MarkovChain, lambda: MarkovChain.random(3, 4, 0.5, generator_for(2)))
PROBLEMS.add(HiddenMarkovChain, lambda: HiddenMarkovChain.random(5, 3, 4, 0.5, generator_for(3)))
