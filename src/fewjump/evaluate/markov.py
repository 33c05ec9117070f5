"""Samples against a Markov chain whose law is known, at any length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.evaluate.ngrams import ngram_keys, tv_to_law
from fewjump.random import Generator

if TYPE_CHECKING:
    from fewjump.problem import MarkovChain

FLOOR_SETS = 8


@dataclass(frozen=True)
class MarkovReport:
    """What :func:`markov_report` finds; entropies and likelihoods in nats per token.

    Attributes:
        bigram_tv: total variation between the chain's bigram law, averaged over positions, and
            the samples' frequencies.
        bigram_tv_floor: the same for exact samples, as many: what a perfect sampler would score.
        nll: −log p(x)/L under the chain, over the samples that it can produce at all.
        impossible: fraction of samples that the chain cannot produce.
        entropy: H(x)/L of the chain: the ``nll`` of exact samples.
        entropy_rate: its limit for long sequences.
    """

    bigram_tv: Interval
    bigram_tv_floor: Interval
    nll: Interval
    impossible: float
    entropy: float
    entropy_rate: float


def markov_report(
    chain: MarkovChain,
    samples: Tensor,
    generator: torch.Generator | None = None,
    replicates: int = REPLICATES,
    floor_sets: int = FLOOR_SETS,
) -> MarkovReport:
    """Judge (n, L) samples by the chain that they should come from.

    Args:
        chain: the truth.
        samples: (n, L) int64 with n ≥ 2 and L ≥ 2, of the chain's length.
        generator: of the bootstrap and of the exact samples.
        replicates: resampled sets.
        floor_sets: sets of exact samples for the floor, at least 2.

    Raises:
        ValueError: for samples that do not fit the chain, or if it can produce fewer than 2.
    """
    scores = chain_metrics(chain, samples, generator, replicates)
    if "nll" not in scores:
        raise ValueError("the chain can produce fewer than 2 of the samples")
    return MarkovReport(
        bigram_tv=scores["bigram_tv"],
        bigram_tv_floor=sampling_floor(chain, samples.shape[0], generator, floor_sets),
        nll=scores["nll"],
        impossible=scores["impossible"].value if "impossible" in scores else 0.0,
        entropy=chain.entropy() / chain.length,
        entropy_rate=chain.entropy_rate(),
    )


def chain_metrics(
    chain: MarkovChain,
    samples: Tensor,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> dict[str, Interval]:
    """The numbers of (n, L) samples by name, with intervals over samples.

    * ``bigram_tv``: see :func:`bigram_tv`;
    * ``nll``: nats per token under the chain, over the samples that it can produce; absent if
      those are fewer than 2;
    * ``impossible``: share of the others; only for a chain that has impossible transitions.
    """
    samples = samples.cpu()
    log_prob = chain.log_prob(samples)
    out = {"bigram_tv": bigram_tv(chain, samples, generator, replicates)}
    possible = log_prob > -torch.inf
    if int(possible.sum()) >= 2:
        per_token = -log_prob[possible] / chain.length
        out["nll"] = bootstrap(per_token, mean, generator, replicates)
    if bool((chain.transition == 0).any() or (chain.initial == 0).any()):
        out["impossible"] = bootstrap((~possible).double(), mean, generator, replicates)
    return out


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
