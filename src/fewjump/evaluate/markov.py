"""Samples against a Markov chain whose law is known, at any length."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.evaluate.meter import Meter, as_result
from fewjump.evaluate.ngrams import ngram_keys, tv_to_law
from fewjump.problem import MarkovChain
from fewjump.random import Generator, generator_for
from fewjump.report import Row

EXACT_SAMPLES = "exact samples"
FLOOR_SETS = 8


class ChainMeter(Meter):
    """``bigram_tv``, ``nll`` and ``impossible`` against a chain.

    Args:
        chain: the truth.
        num_samples: of each set, those of the reference included.
    """

    def __init__(self, chain: MarkovChain, num_samples: int = 10_000) -> None:
        self.chain, self.num_samples = chain, num_samples
        self.vocab_size, self.length = chain.vocab_size, chain.length

    def measure(
        self, samples: Tensor, seed: int = 0, replicates: int = REPLICATES
    ) -> dict[str, Interval]:
        """The numbers of (n, L) samples by name, with intervals over samples.

        * ``bigram_tv``: see :func:`bigram_tv`;
        * ``nll``: nats per token under the chain, over the samples that it can produce; absent if
          those are fewer than 2;
        * ``impossible``: share of the others; only for a chain that has impossible transitions.
        """
        chain, samples, generator = self.chain, samples.cpu(), generator_for(seed, 0xB007)
        log_prob = chain.log_prob(samples)
        out = {"bigram_tv": bigram_tv(chain, samples, generator, replicates)}
        possible = log_prob > -torch.inf
        if int(possible.sum()) >= 2:
            per_token = -log_prob[possible] / chain.length
            out["nll"] = bootstrap(per_token, mean, generator, replicates)
        if bool((chain.transition == 0).any() or (chain.initial == 0).any()):
            out["impossible"] = bootstrap((~possible).double(), mean, generator, replicates)
        return out

    def reference(self, seed: int = 0) -> list[Row]:
        """What exact samples score: the sampling floor of ``bigram_tv``, the chain's entropy."""
        floor = sampling_floor(self.chain, self.num_samples, generator_for(seed, 0xB007, 1))
        entropy = self.chain.entropy() / self.length
        return [
            as_result(floor, "bigram_tv", EXACT_SAMPLES),
            Row(EXACT_SAMPLES, "", None, None, "nll", entropy, entropy, entropy),
        ]


def bigram_tv(
    chain: MarkovChain,
    samples: Tensor,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Total variation of the samples' bigrams from the chain's, with an interval over samples."""
    cells = ngram_keys(samples, 2, chain.vocab_size)
    return tv_to_law(cells, chain.bigram_law().flatten(), generator, replicates)


def sampling_floor(
    chain: MarkovChain, n: int, generator: torch.Generator | None = None, sets: int = FLOOR_SETS
) -> Interval:
    """Mean :func:`bigram_tv` of ``sets`` sets of ``n`` exact samples, with their own spread.

    The interval covers a single set: where the score of a perfect sampler would lie.
    """
    if sets < 2:
        raise ValueError(f"the floor needs at least 2 sets of exact samples, got {sets}")
    values = torch.tensor(
        [chain.bigram_tv(chain.sample(n, generator)) for _ in range(sets)], dtype=torch.float64
    )
    value, spread = float(values.mean()), 1.96 * float(values.std())
    return Interval(value, max(0.0, value - spread), value + spread, values)
