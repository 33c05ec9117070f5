"""Small float64 instances of every law, for the tests that hold for all of them.

``make(seed)`` returns a law with B = 3, L = 3, V = 3; token 2 of the first row's first position is
impossible in it wherever the law can express that.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from registry import Registry

from fewjump.denoiser import NetworkDenoiser
from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, Walk
from fewjump.law.base import Law, enumerate_states
from fewjump.law.chain import ChainLaw
from fewjump.law.emission import DenseEmission, LowRankEmission, SharedFactorEmission
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.finite_support import FiniteSupportLaw, Support
from fewjump.law.latent import DiscreteLatent, LatentLaw
from fewjump.law.logits import DenseLogits, LinearLogits
from fewjump.law.markov import MarkovLaw
from fewjump.law.mixture import JoinedLaw, MixtureLaw, MixtureOf
from fewjump.law.product import ProductLaw
from fewjump.law.scores import Ratios, Scores
from fewjump.law.tensor_train import TensorTrain
from fewjump.law.transition import Transition
from fewjump.process import Absorbing
from fewjump.registry import HEADS
from fewjump.schedule import LogLinear

B, L, V, STATES = 3, 3, 3, 4


def normal(seed: int, *shape: int, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def forbid(logits: Tensor) -> Tensor:
    """−inf at token 2 of position 0 of row 0, for (B, ..., V) logits with L as axis 1."""
    logits = logits.clone()
    logits[0, 0, ..., 2] = -torch.inf
    return logits


class TabularConditionals(Conditionals):
    """One free row of logits for every prefix of tokens: (B, L, V^(L−1), V)."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.batch_size, self.length, _, self.vocab_size = table.shape

    @property
    def device(self) -> torch.device:
        return self.table.device

    def row(self, position: int, x0: Tensor) -> Tensor:
        index = torch.zeros(self.batch_size, dtype=torch.int64)
        for i in range(position):
            index = index * self.vocab_size + x0[:, i]
        return self.table[torch.arange(self.batch_size), position, index]

    def source(self, x0: Tensor) -> DenseLogits:
        return DenseLogits(torch.stack([self.row(i, x0) for i in range(self.length)], 1))

    def begin(self) -> Walk:
        return _TabularWalk(self)

    def select(self, rows: Tensor) -> TabularConditionals:
        return TabularConditionals(self.table[rows])


class _TabularWalk(Walk):
    def __init__(self, conditionals: TabularConditionals | JointConditionals) -> None:
        self.conditionals = conditionals

    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        return self.conditionals.row(step, x0)


class JointConditionals(Conditionals):
    """The conditionals of a joint (B, V^L) along any order (B, L)."""

    def __init__(self, joint: Tensor, order: Tensor) -> None:
        self.joint, self.order = joint, order
        self.batch_size, self.length, self.vocab_size = len(joint), L, V

    @property
    def device(self) -> torch.device:
        return self.joint.device

    def row(self, step: int, x0: Tensor) -> Tensor:
        states = enumerate_states(V, L)
        read = torch.zeros(self.batch_size, L, dtype=torch.bool)
        read.scatter_(1, self.order[:, :step], True)
        agrees = ((states[None] == x0[:, None]) | ~read[:, None]).all(-1)
        at = states.T[self.order[:, step]]
        weight = (self.joint * agrees)[:, None] * (at[:, None] == torch.arange(V)[:, None])
        return weight.sum(-1).log()

    def source(self, x0: Tensor) -> DenseLogits:
        along = torch.stack([self.row(k, x0) for k in range(L)], 1)
        return DenseLogits(along.gather(1, self.order.argsort(1)[..., None].expand(-1, -1, V)))

    def begin(self) -> Walk:
        return _TabularWalk(self)

    def given(self, x0: Tensor, known: Tensor) -> JointConditionals:
        return JointConditionals(self.joint, (~known).long().argsort(dim=1, stable=True))

    def select(self, rows: Tensor) -> JointConditionals:
        return JointConditionals(self.joint[rows], self.order[rows])


def p_value(counts: Tensor, probability: Tensor) -> float:
    """χ² p-value of one histogram, with rare states pooled; impossible states must be empty."""
    stats = pytest.importorskip("scipy.stats")
    assert int(counts[probability == 0].sum()) == 0
    expected = probability * counts.sum()
    rare = expected < 8
    pooled = (rare & (probability > 0)).any()
    observed, wanted = counts[~rare], expected[~rare]
    if pooled:
        observed = torch.cat([observed, counts[rare].sum()[None]])
        wanted = torch.cat([wanted, expected[rare].sum()[None]])
    if len(observed) == 1:
        return 1.0
    wanted = wanted * (observed.sum() / wanted.sum())
    return float(stats.chisquare(observed.numpy(), wanted.numpy()).pvalue)


def product(seed: int = 0) -> ProductLaw:
    return ProductLaw(forbid(normal(seed, B, L, V)))


X_T = torch.tensor([[1, 2, 2], [2, 1, 2], [2, 2, 2]])


def visible(seed: int = 0) -> ProductLaw:
    """Some positions are visible, and that is written when it is read."""
    logits = normal(seed, B, L, V).index_fill(-1, torch.tensor([2]), -torch.inf)
    return ProductLaw(DenseLogits(logits, X_T != 2, X_T))


def linear(seed: int = 0) -> ProductLaw:
    parts = normal(seed, B, L, 4), normal(seed + 1, V, 4), normal(seed + 2, V)
    return ProductLaw(LinearLogits(*parts))


def linear_visible(seed: int = 0) -> ProductLaw:
    bias = normal(seed + 2, V).index_fill(0, torch.tensor([2]), -torch.inf)
    parts = normal(seed, B, L, 4), normal(seed + 1, V, 4), bias
    return ProductLaw(LinearLogits(*parts, X_T != 2, X_T))


def recovered(seed: int = 0) -> ProductLaw:
    """With the concrete scores that it was recovered from."""
    law = linear_visible(seed)
    return ProductLaw(law.source, Scores(Ratios(law.source, X_T, log=True)))


def mixture(seed: int = 0) -> MixtureLaw:
    logits = forbid(normal(seed, B, L, STATES, V)).transpose(1, 2)
    return MixtureLaw(logits, normal(seed + 1, B, STATES))


def mixture_low_rank(seed: int = 0) -> MixtureLaw:
    features, tokens = normal(seed + 1, B, L, STATES, 2), normal(seed + 2, V, 2)
    emission = LowRankEmission(forbid(normal(seed, B, L, V)), features, tokens)
    return MixtureLaw(emission, normal(seed + 3, B, STATES))


def chain_with(emission, seed: int, method="sequential") -> ChainLaw:
    transition = normal(seed + 1, B, L - 1, STATES, STATES)
    transition[0, 0, 1, 2] = -torch.inf
    return ChainLaw(normal(seed, B, STATES), transition, emission, method)


def chain(seed: int = 0, method="sequential") -> ChainLaw:
    return chain_with(DenseEmission(forbid(normal(seed + 2, B, L, STATES, V))), seed, method)


def chain_scan(seed: int = 0) -> ChainLaw:
    return chain(seed, "scan")


def chain_shared(seed: int = 0) -> ChainLaw:
    base = forbid(normal(seed + 2, B, L, V))
    return chain_with(SharedFactorEmission(base, normal(seed + 3, STATES, V)), seed)


def chain_low_rank(seed: int = 0) -> ChainLaw:
    base = forbid(normal(seed + 2, B, L, V))
    emission = LowRankEmission(base, normal(seed + 3, B, L, STATES, 2), normal(seed + 4, V, 2))
    return chain_with(emission, seed)


def chain_pinned(seed: int = 0) -> ChainLaw:
    known = torch.tensor([[True, False, False], [False, True, False], [False, False, False]])
    inner = DenseEmission(normal(seed + 2, B, L, STATES, V))
    return chain_with(inner.pinned(torch.ones(B, L, dtype=torch.int64), known), seed)


def potentials_with(emission, seed: int) -> ChainLaw:
    potential, transition = normal(seed, B, L, STATES), normal(seed + 1, STATES, STATES)
    potential[1, 1, 3] = -torch.inf
    transition[1, 2] = -torch.inf
    return ChainLaw(potential, transition, emission)


def chain_potentials(seed: int = 0) -> ChainLaw:
    base = forbid(normal(seed + 2, B, L, V))
    return potentials_with(SharedFactorEmission(base, normal(seed + 3, STATES, V)), seed)


def chain_potentials_pinned(seed: int = 0) -> ChainLaw:
    known = torch.tensor([[True, False, False], [False, True, False], [False, False, False]])
    inner = DenseEmission(normal(seed + 2, B, L, STATES, V))
    return potentials_with(inner.pinned(torch.ones(B, L, dtype=torch.int64), known), seed)


def chain_potentials_per_row(seed: int = 0) -> ChainLaw:
    """A matrix for every row and position."""
    potential, transition = normal(seed, B, L, STATES), normal(seed + 1, B, L - 1, STATES, STATES)
    transition[0, 1, 2] = -torch.inf
    return ChainLaw(potential, transition, DenseEmission(normal(seed + 2, B, L, STATES, V)))


def chain_one_matrix(seed: int = 0) -> ChainLaw:
    emission = DenseEmission(forbid(normal(seed + 2, B, L, STATES, V)))
    return ChainLaw(normal(seed, B, STATES), normal(seed + 1, STATES, STATES), emission)


def blocks(seed: int, *leading: int) -> Transition:
    """Of two blocks of states that hold two each; one state of the first step is impossible."""
    first, second = (normal(seed + k, *leading, 2, 2, 2) for k in (0, 1))
    first[..., 1, 0, 1] = -torch.inf
    return Transition((first, second))


def chain_blocks(seed: int = 0) -> ChainLaw:
    base = forbid(normal(seed + 2, B, L, V))
    emission = SharedFactorEmission(base, normal(seed + 3, STATES, V))
    return ChainLaw(normal(seed, B, L, STATES), blocks(seed + 4), emission)


def chain_blocks_per_row(seed: int = 0) -> ChainLaw:
    emission = DenseEmission(forbid(normal(seed + 2, B, L, STATES, V)))
    return ChainLaw(normal(seed, B, STATES), blocks(seed + 4, B, L - 1), emission)


def chain_blocks_conditionals(seed: int = 0) -> ChainLaw:
    emission = DenseEmission(forbid(normal(seed + 2, B, L, STATES, V)))
    return ChainLaw(normal(seed, B, STATES), blocks(seed + 4), emission)


def mixture_shared(seed: int = 0) -> MixtureLaw:
    tables = normal(seed + 1, L, STATES, V)
    emission = SharedFactorEmission(forbid(normal(seed, B, L, V)), tables)
    return MixtureLaw(emission, normal(seed + 2, B, STATES))


def autoregressive(seed: int = 0) -> AutoregressiveLaw:
    return AutoregressiveLaw(TabularConditionals(forbid(normal(seed, B, L, V ** (L - 1), V))))


def any_order(seed: int = 0) -> AutoregressiveLaw:
    order = torch.tensor([[2, 0, 1], [0, 1, 2], [1, 0, 2]])
    joint = normal(seed, B, V**L).exp()
    joint[0, 2 * V**2 :] = 0
    return AutoregressiveLaw(JointConditionals(joint, order))


def tensor_train(seed: int = 0) -> AutoregressiveLaw:
    cores, left = normal(seed + 1, V, 4, 4, scale=0.7), normal(seed + 2, 4)
    scale = normal(seed + 3, B, L, 4, scale=0.5)
    return AutoregressiveLaw(TensorTrain(forbid(normal(seed, B, L, V)), cores, left, scale))


def mixture_of_chains(seed: int = 0) -> MixtureOf:
    big = ChainLaw(
        normal(seed, 2 * B, STATES),
        normal(seed + 1, 2 * B, L - 1, STATES, STATES),
        normal(seed + 2, 2 * B, L, STATES, V),
    )
    return MixtureOf(big, normal(seed + 3, B, 2))


def mixture_of_kinds(seed: int = 0) -> MixtureOf:
    laws = [product(seed), chain(seed + 10), mixture(seed + 20)]
    return MixtureOf(laws, normal(seed + 3, B, 3))


def joined(seed: int = 0) -> JoinedLaw:
    return JoinedLaw([chain(seed), product(seed + 5)], torch.tensor([0, 4, 2]))


def latent(seed: int = 0) -> LatentLaw:
    table = forbid(normal(seed, B, L, STATES, V)).transpose(1, 2)
    prior = DiscreteLatent(normal(seed + 1, B, STATES))
    return LatentLaw(prior, lambda z, rows: ProductLaw(table[rows, z]), L, V)


def enumerated(seed: int = 0) -> EnumeratedLaw:
    return EnumeratedLaw(normal(seed, 1, V**L).exp(), normal(seed + 1, B, L, V).exp())


def markov(seed: int = 0) -> MarkovLaw:
    return MarkovLaw(
        normal(seed, 1, STATES).softmax(-1),
        normal(seed + 1, 1, 1, STATES, STATES).softmax(-1),
        normal(seed + 2, B, L, V).exp(),
        normal(seed + 3, 1, 1, STATES, V).softmax(-1),
    )


def enumerated_per_row(seed: int = 0) -> EnumeratedLaw:
    factors = forbid(normal(seed + 1, B, L, V)).exp()
    return EnumeratedLaw(normal(seed, B, V**L).exp(), factors)


def finite_support(seed: int = 0) -> FiniteSupportLaw:
    """Fourteen of the 27 sequences; the third row's factors exclude them all."""
    states = enumerate_states(V, L)
    support = Support(states[normal(seed, 27).argsort()[:14]], V)
    factors = forbid(normal(seed + 1, B, L, V)).exp()
    factors[2] = torch.nn.functional.one_hot(states[normal(seed, 27).argsort()[20]], V)
    weights = normal(seed + 2, 1, 14)
    return FiniteSupportLaw(
        support, weights, factors, fallback=lambda: forbid(normal(seed + 3, B, L, V)).exp()
    )


def markov_visible(seed: int = 0) -> MarkovLaw:
    initial, transition = normal(seed, B, V), normal(seed + 1, B, L - 1, V, V)
    factors = forbid(normal(seed + 2, B, L, V)).exp()
    return MarkovLaw(initial.exp(), transition.exp(), factors)


LAWS: Registry[Law] = Registry(Law, "fewjump")
LAWS.add(ProductLaw, product)
LAWS.add(ProductLaw, visible, "ProductLaw-visible")
LAWS.add(ProductLaw, linear, "ProductLaw-linear")
LAWS.add(ProductLaw, linear_visible, "ProductLaw-linear-visible")
LAWS.add(ProductLaw, recovered, "ProductLaw-recovered")
LAWS.add(MixtureLaw, mixture)
LAWS.add(MixtureLaw, mixture_low_rank, "MixtureLaw-low-rank")
LAWS.add(ChainLaw, chain)
LAWS.add(ChainLaw, chain_scan, "ChainLaw-scan")
LAWS.add(ChainLaw, chain_shared, "ChainLaw-shared-factor")
LAWS.add(ChainLaw, chain_low_rank, "ChainLaw-low-rank")
LAWS.add(ChainLaw, chain_pinned, "ChainLaw-pinned")
LAWS.add(ChainLaw, chain_potentials, "ChainLaw-potentials")
LAWS.add(ChainLaw, chain_potentials_pinned, "ChainLaw-potentials-pinned")
LAWS.add(ChainLaw, chain_potentials_per_row, "ChainLaw-potentials-per-row")
LAWS.add(ChainLaw, chain_one_matrix, "ChainLaw-conditionals-one-matrix")
LAWS.add(ChainLaw, chain_blocks, "ChainLaw-blocks")
LAWS.add(ChainLaw, chain_blocks_per_row, "ChainLaw-blocks-per-row")
LAWS.add(ChainLaw, chain_blocks_conditionals, "ChainLaw-blocks-conditionals")
LAWS.add(MixtureLaw, mixture_shared, "MixtureLaw-shared")
LAWS.add(AutoregressiveLaw, autoregressive)
LAWS.add(AutoregressiveLaw, any_order, "AutoregressiveLaw-any-order")
LAWS.add(AutoregressiveLaw, tensor_train, "AutoregressiveLaw-tensor-train")
LAWS.add(MixtureOf, mixture_of_chains, "MixtureOf-chains")
LAWS.add(MixtureOf, mixture_of_kinds, "MixtureOf-kinds")
LAWS.add(JoinedLaw, joined)
LAWS.add(LatentLaw, latent, "LatentLaw-discrete")
LAWS.add(EnumeratedLaw, enumerated)
LAWS.add(MarkovLaw, markov)
LAWS.add(EnumeratedLaw, enumerated_per_row, "EnumeratedLaw-per-row")
LAWS.add(MarkovLaw, markov_visible, "MarkovLaw-visible")
LAWS.add(FiniteSupportLaw, finite_support)


#: Sizes for three tokens, of the heads that have such a size: theirs are for real vocabularies.
SIZES = {"states": STATES, "components": 3, "categories": 4, "rank": 2, "width": 8}


def of_head(kind: str) -> Callable[..., Law]:
    """The law of a small network with a head of that kind, under a mask that is token 2."""

    known = inspect.signature(HEADS[kind]).parameters
    head = {"kind": kind, **{name: size for name, size in SIZES.items() if name in known}}

    @cache
    @torch.no_grad()
    def make(seed: int = 0) -> Law:
        trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}
        process = Absorbing(V, LogLinear())
        options = {"process": process.config(), "trunk": trunk, "head": head}
        model = NetworkDenoiser.from_config({**options, "length": L}).double()
        # Larger ones make laws that hold one sequence for certain, of which every test holds.
        for number, (name, part) in enumerate(model.requires_grad_(False).named_parameters()):
            scale = 0.5 if name.startswith("head.") and "base" not in name else 0.3
            part.copy_(normal(100 * seed + number, *part.shape, scale=scale))
        return model(torch.tensor([[2, 1, 2], [2, 2, 2], [2, 2, 0]]), 0.6)

    return make


for kind in HEADS:
    make_head = of_head(kind)
    LAWS.add(type(make_head()), make_head, f"head-{kind}")
