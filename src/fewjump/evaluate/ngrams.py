"""Statistics of runs of tokens: frequencies, entropies, distances, variety, copies.

All are functionals of weighted sequences, ``(tokens, weights) → value``, so that their
confidence intervals resample whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.law.base import whole_numbers
from fewjump.random import Generator

_MULTIPLIER = 0x2545F4914F6CDD1D
_SOURCE_TOKENS = 1 << 20


def ngram_keys(tokens: Tensor, n: int, vocab_size: int) -> Tensor:
    """Each run of ``n`` tokens as one number: (N, L) → (N, L − n + 1) int64.

    Raises:
        ValueError: if sequences are shorter than ``n``, tokens are out of range, or vocab_size^n
            does not fit 62 bits.
    """
    if tokens.dim() != 2 or not 1 <= n <= tokens.shape[1]:
        raise ValueError(f"{n}-grams need (N, L) tokens with L ≥ {n}, got {tuple(tokens.shape)}")
    if vocab_size**n > 1 << 62:
        raise ValueError(f"{n}-grams of {vocab_size} tokens do not fit 62 bits; use a smaller n")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(f"tokens must lie in 0..{vocab_size - 1}; was a mask left in a sample?")
    # A narrow type would overflow.
    tokens = whole_numbers(tokens, "tokens")
    keys = torch.zeros_like(tokens[:, : tokens.shape[1] - n + 1])
    for i in range(n):
        keys = keys * vocab_size + tokens[:, i : tokens.shape[1] - n + 1 + i]
    return keys


def frequencies(cells: Tensor, count: int, weights: Tensor) -> Tensor:
    """Frequencies of the cells (N, M) in {0..count−1} under weights (N,) of the rows: (count,)."""
    runs = cells.shape[1]
    spread = weights.repeat_interleave(runs)
    return torch.bincount(cells.flatten(), weights=spread, minlength=count) / runs


def _of_frequencies(
    count: int, functional: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A statistic for :func:`bootstrap` from a functional of the frequencies (count,) → ().

    One resampled set at a time: tables of all of them together could be large.
    """

    def statistic(cells: Tensor, weights: Tensor) -> Tensor:
        return torch.stack([functional(frequencies(cells, count, w)) for w in weights])

    return statistic


def ngram_entropy(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Joint entropy H(x₁…xₙ) of n neighbouring tokens, in nats, averaged over positions.

    The plug-in estimate, biased downwards by about (cells − 1)/(2·N·L): compare sets of equal
    size.
    """
    cells, count = _cells(tokens, n, vocab_size)
    statistic = _of_frequencies(count, lambda p: -torch.xlogy(p, p).sum())
    return bootstrap(cells, statistic, generator, replicates)


def ngram_tv(
    tokens: Tensor,
    reference: Tensor,
    n: int,
    vocab_size: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Total variation between the n-gram frequencies of (N, L) tokens and those of a reference.

    Biased upwards by the finite number of both; compare with a test set of the samples' size.
    The reference is held fixed in the interval.
    """
    keys, other = ngram_keys(tokens, n, vocab_size), ngram_keys(reference, n, vocab_size)
    if not other.numel():
        raise ValueError("the reference holds no sequences; give at least one")
    cells, count = _dense(torch.cat([keys.flatten(), other.flatten()]))
    mine, theirs = cells[: keys.numel()].reshape(keys.shape), cells[keys.numel() :]
    target = torch.bincount(theirs, minlength=count).double() / theirs.numel()
    return tv_to_law(mine, target, generator, replicates)


def tv_to_law(
    cells: Tensor, law: Tensor, generator: Generator = None, replicates: int = REPLICATES
) -> Interval:
    """Total variation between the frequencies of cells (N, M) and a law (count,)."""
    statistic = _of_frequencies(law.numel(), lambda p: 0.5 * (p - law).abs().sum())
    return bootstrap(cells, statistic, generator, replicates)


def distinct_ngrams(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Distinct n-grams divided by all n-grams, over the whole set (Li et al. 2016).

    It falls as the set grows, so only sets of equal size compare.
    """
    cells, count = _cells(tokens, n, vocab_size)
    statistic = _of_frequencies(count, lambda p: (p > 0).sum().double() / cells.numel())
    return bootstrap(cells, statistic, generator, replicates)


def repeated_ngrams(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
    padding: int | None = None,
) -> Interval:
    """Share of a sequence's n-grams that it has had before (rep-n, Welleck et al. 2020), its mean.

    Args:
        tokens: (N, L).
        n: length of a run; runs that hold ``padding`` are left out.
        vocab_size: V.
        generator, replicates: of the bootstrap over sequences.
        padding: a token that fills sequences up.
    """
    cells, _ = _cells(tokens, n, vocab_size)
    if padding is not None:
        empty = (tokens == padding).unfold(1, n, 1).any(-1)
        # Each of another number, so that none is like another.
        cells = torch.where(empty, -1 - torch.arange(cells.shape[1]), cells)
    ordered = cells.sort(1).values
    again = ordered[:, 1:] == ordered[:, :-1]
    runs = (ordered >= 0).sum(1).clamp(min=1)
    return bootstrap(again.sum(1).double() / runs, mean, generator, replicates)


def sequence_entropy(
    tokens: Tensor,
    vocab_size: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
    padding: int | None = None,
) -> Interval:
    """Entropy of the token frequencies within a sequence, in nats, averaged over sequences.

    What papers of diffusion language models call the entropy of samples, beside their generative
    perplexity. At most log L.

    Args:
        tokens: (N, L).
        vocab_size: V.
        generator, replicates: of the bootstrap over sequences.
        padding: a token that fills sequences up, and is not counted.
    """
    ordered = ngram_keys(tokens, 1, vocab_size).sort(1).values
    real = torch.ones_like(ordered) if padding is None else (ordered != padding).long()
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # In sorted order a token's count is the length of its run.
    group = new.long().cumsum(1) - 1
    counts = torch.zeros_like(ordered).scatter_add_(1, group, real).double()
    total = counts.sum(1, keepdim=True).clamp(min=1)
    share = counts / total
    return bootstrap(-torch.xlogy(share, share).sum(1), mean, generator, replicates)


def copied_runs(
    tokens: Tensor,
    source: Tensor,
    n: int,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Share of the sequences with a run of ``n`` tokens that occurs in a row of a source.

    Args:
        tokens: (N, L) with L ≥ n.
        source: :func:`sorted_runs` of what may have been learned by heart.
        n: length of a run.
        generator, replicates: of the bootstrap over sequences.
    """
    mine = _run_sums(tokens.long(), n)
    place = torch.searchsorted(source, mine).clamp_(max=source.numel() - 1)
    copies = (source[place] == mine).any(1)
    return bootstrap(copies.double(), mean, generator, replicates)


def sorted_runs(source: Tensor, n: int) -> Tensor:
    """Every run of ``n`` tokens of (M, L) rows as one number, in order: (M·(L − n + 1),) int64.

    Runs are told apart by 64-bit sums of odd powers, which differ for unlike runs all but surely.

    Raises:
        ValueError: for rows without such a run.
    """
    rows, runs = source.shape[0], source.shape[1] - n + 1
    if rows < 1 or runs < 1:
        raise ValueError(f"runs of {n} tokens need longer rows than {tuple(source.shape)}")
    out = torch.empty(rows, runs, dtype=torch.int64)
    size = max(1, _SOURCE_TOKENS // source.shape[1])
    for part, sums in zip(source.split(size), out.split(size)):
        sums.copy_(_run_sums(part.long(), n))
    # In place: a large training part has as many runs as tokens.
    out = out.flatten()
    out.numpy().sort()
    return out


def _run_sums(tokens: Tensor, n: int) -> Tensor:
    """(N, L) → (N, L − n + 1) int64: Σ_j (x_{i+j} + 1)·m^{n−1−j} modulo 2⁶⁴, for an odd m.

    By halves: runs are half a window long, and a pass for each of their tokens would be too many.
    """
    if n == 1:
        return tokens + 1
    if n % 2:
        return _run_sums(tokens, n - 1)[:, :-1] * _MULTIPLIER + tokens[:, n - 1 :] + 1
    half = _run_sums(tokens, n // 2)
    power = pow(_MULTIPLIER, n // 2, 1 << 64)
    # As int64 has it.
    power -= (power >> 63) << 64
    return half[:, : -(n // 2)] * power + half[:, n // 2 :]


def _cells(tokens: Tensor, n: int, vocab_size: int) -> tuple[Tensor, int]:
    """Numbers 0..count−1 of the n-grams of (N, L) tokens, and count; for any V and n.

    An n-gram whose number V^n does not fit is two shorter ones that overlap or touch.
    """
    if vocab_size**n <= 1 << 62:
        return _dense(ngram_keys(tokens, n, vocab_size))
    half = (n + 1) // 2
    shorter, count = _cells(tokens, half, vocab_size)
    last = shorter.shape[1] - (n - half)
    return _dense(shorter[:, :last] * count + shorter[:, n - half :])


def _dense(keys: Tensor) -> tuple[Tensor, int]:
    """Keys renumbered 0..count−1, and count."""
    found, cells = keys.unique(return_inverse=True)
    return cells, found.numel()
