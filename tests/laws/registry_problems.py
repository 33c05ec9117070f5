"""Small instances of every kind of problem; a new kind is a file in the package and a line here."""

from __future__ import annotations

import torch

from fewjump.problem import (
    EnumeratedJoint,
    FiniteSupport,
    HiddenMarkovChain,
    MarkovChain,
    Problem,
)
from fewjump.random import generator_for
from laws.registry import Registry


def some_sequences() -> FiniteSupport:
    """Thirty draws of 3^4 sequences, some of them twice, of unequal weight."""
    generator = generator_for(4)
    sequences = torch.randint(3, (30, 4), generator=generator)
    return FiniteSupport(sequences, torch.rand(30, generator=generator), vocab_size=3)


PROBLEMS: Registry[Problem] = Registry(Problem, "fewjump.problem")
PROBLEMS.add(EnumeratedJoint, lambda: EnumeratedJoint.random(3, 4, generator=generator_for(1)))
PROBLEMS.add(MarkovChain, lambda: MarkovChain.random(3, 4, 0.5, generator_for(2)))
PROBLEMS.add(HiddenMarkovChain, lambda: HiddenMarkovChain.random(5, 3, 4, 0.5, generator_for(3)))
PROBLEMS.add(FiniteSupport, some_sequences)
