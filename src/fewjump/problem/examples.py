"""Small problems to test, teach and benchmark with."""

from __future__ import annotations

import math

import torch

from fewjump.law.base import ENUMERATION_LIMIT, enumerate_states
from fewjump.problem.chain import MarkovChain
from fewjump.problem.enumerable import EnumeratedJoint
from fewjump.problem.hidden_markov import HiddenMarkovChain
from fewjump.random import generator_for


def ising(rows: int = 4, cols: int = 4, coupling: float = 0.4) -> EnumeratedJoint:
    """The Ising model on a grid with free edges: p(x) ∝ exp(coupling·Σ_{neighbours} s·s').

    Tokens 0 and 1 are the spins s = −1 and +1; positions are the grid's cells in row order.
    """
    if not math.isfinite(coupling):
        raise ValueError(f"coupling must be a finite number, got {coupling}")
    spins = 2 * enumerate_states(2, rows * cols).double() - 1
    grid = spins.reshape(-1, rows, cols)
    down = (grid[:, 1:] * grid[:, :-1]).sum((1, 2))
    across = (grid[:, :, 1:] * grid[:, :, :-1]).sum((1, 2))
    return EnumeratedJoint((coupling * (down + across)).softmax(0).reshape((2,) * (rows * cols)))


def xor(length: int = 4) -> EnumeratedJoint:
    """Uniform over the bit strings of even parity: any length−1 positions are independent."""
    even = (enumerate_states(2, length).sum(-1) % 2 == 0).double()
    return EnumeratedJoint((even / even.sum()).reshape((2,) * length))


def copy(vocab_size: int = 4, length: int = 3) -> EnumeratedJoint:
    """One uniform token repeated at every position: TC = (length−1)·log V."""
    if vocab_size**length > ENUMERATION_LIMIT:
        raise ValueError(f"{vocab_size}^{length} states exceed the limit {ENUMERATION_LIMIT}")
    probs = torch.zeros((vocab_size,) * length, dtype=torch.float64)
    token = torch.arange(vocab_size)
    probs[(token,) * length] = 1 / vocab_size
    return EnumeratedJoint(probs)


def reference_markov_chain(length: int = 32) -> MarkovChain:
    """The stationary chain with V = 8 on which the library's curves are measured.

    Entropy rate 1.094 nats. With uniform noise the exact product denoiser's bigram total
    variation is 0.43 in one step (Σ|π(a)π(b) − π(a)P(a, b)|/2) and about halves with each doubling
    of the steps, down to 0.008 at 64.
    """
    return MarkovChain.random(8, length, concentration=0.4, generator=generator_for(482))


def reference_hidden_markov_chain(length: int = 32) -> HiddenMarkovChain:
    """A stationary hidden chain with 16 states and V = 8: tokens of unbounded memory.

    Entropy rate 1.355 nats per token, entropy of one token 1.987.
    """
    return HiddenMarkovChain.random(16, 8, length, concentration=0.2, generator=generator_for(0))
