"""Sample a denoiser at several numbers of steps, and measure what comes out: rows of results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewjump.data import Dataset
from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.denoiser.condition import make_condition
from fewjump.evaluate.bootstrap import (
    REPLICATES,
    Interval,
    bootstrap,
    combine,
    mean,
    over_seeds,
)
from fewjump.evaluate.causal import CausalJudge
from fewjump.evaluate.ngrams import copied_runs, ngram_keys, sorted_runs, tv_to_law
from fewjump.problem import MarkovChain
from fewjump.random import Generator, generator_for
from fewjump.results import Row
from fewjump.sampler.arguments import check_budgets
from fewjump.sampler.base import Sampler
from fewjump.sampler.run import prompt_of_kept, run
from fewjump.sampler.time_grid import GridSpec

TEST_DATA = "test data"
EXACT_SAMPLES = "exact samples"
STEPS = (1, 2, 4, 8, 16, 64)


class Meter(ABC):
    """What samples are measured by, and what they are compared with.

    Attributes:
        vocab_size, length: of the sequences.
        num_samples: how many to measure by default.
        matched: a metric that repetition improves, and that of variety at which it is to be
            compared; None where there is no such pair.
    """

    matched: tuple[str, str] | None = None
    vocab_size: int
    length: int
    num_samples: int

    @abstractmethod
    def measure(self, samples: Tensor, seed: int = 0) -> dict[str, Interval]:
        """Every metric of (N, L) samples, by name; the seed is of the intervals' resampling."""

    def of_classes(self, samples: Tensor, labels: Tensor, seed: int = 0) -> dict[str, Interval]:
        """Metrics of samples (N, L) drawn by class (N,), where the meter has such."""
        return {}

    def of_law(
        self,
        denoiser: Denoiser,
        steps: int,
        sampler: str | Sampler | None = None,
        grid: GridSpec | None = None,
    ) -> dict[str, Interval]:
        """Metrics of the law that so many steps draw from, where the meter knows them."""
        return {}

    @abstractmethod
    def reference(self, seed: int = 0) -> list[Row]:
        """The same metrics of the truth, as rows without evaluations."""

    def given(self, denoiser: Denoiser, num_samples: int) -> dict[str, Any]:
        """Arguments of :func:`fewjump.sampler.run` that say what samples are told of the truth."""
        return {}

    def check(self, denoiser: Denoiser) -> None:
        """Raise ValueError unless what the denoiser makes can be compared with this truth."""
        never = {*denoiser.process.kept, denoiser.process.mask}
        made = 1 + max(token for token in range(denoiser.clean_vocab_size) if token not in never)
        if made > self.vocab_size or denoiser.length not in (None, self.length):
            raise ValueError(
                f"the denoiser makes {denoiser.length} tokens below {made}, the data have "
                f"{self.length} below {self.vocab_size}: is this the data set it was trained on?"
            )


class DataMeter(Meter):
    """A meter that compares with a data set, whose test part is the reference.

    As many samples as that part has are measured by default: metrics that are biased by the size
    of a set have the same bias in both.

    Attributes:
        causal: the language model that reads the samples as text; None without.
    """

    causal: CausalJudge | None = None

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.vocab_size, self.length = dataset.vocab_size, dataset.length
        self.num_samples = len(dataset.test)
        self._learned: dict[int, Tensor] = {}

    def copied(
        self, samples: Tensor, n: int, generator: Generator = None, replicates: int = REPLICATES
    ) -> Interval:
        """Share of (N, L) samples with a run of n tokens that stands in the training part.

        That part is read once for each n.
        """
        if n not in self._learned:
            self._learned[n] = sorted_runs(self.dataset.all("train"), n)
        return copied_runs(samples, self._learned[n], n, generator, replicates)

    def reference(self, seed: int = 0) -> list[Row]:
        samples, labels = self.dataset.all("test"), self.dataset.labels.get("test")
        scores = self.measure(samples, seed)
        if labels is not None:
            scores |= self.of_classes(samples, labels, seed)
        return [as_result(value, metric, TEST_DATA) for metric, value in scores.items()]

    def given(self, denoiser: Denoiser, num_samples: int) -> dict[str, Any]:
        """Where padding begins and what frames a sequence, as in test sequences.

        A process never makes the tokens it keeps (:class:`~fewjump.process.Process`), so that
        samples take theirs from test sequences, one each, in order and over again: they have the
        same lengths and frames as what they are compared with.

        Returns:
            ``length``, and ``prompt`` and ``fixed`` where the process keeps tokens.
        """
        rows = None
        if denoiser.process.kept:
            index = torch.arange(num_samples) % len(self.dataset.test)
            rows = self.dataset.batch(index, "test")
        return {"length": self.length, **prompt_of_kept(denoiser.process, rows)}


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

        * ``bigram_tv``: total variation of their bigrams from the chain's;
        * ``nll``: nats per token under the chain, over the samples that it can produce; absent if
          those are fewer than 2;
        * ``impossible``: share of the others; only for a chain that has impossible transitions.
        """
        chain, samples, generator = self.chain, samples.cpu(), generator_for(seed, 0xB007)
        log_prob = chain.log_prob(samples)
        cells, law = ngram_keys(samples, 2, chain.vocab_size), chain.bigram_law().flatten()
        out = {"bigram_tv": tv_to_law(cells, law, generator, replicates)}
        possible = log_prob > -torch.inf
        if int(possible.sum()) >= 2:
            per_token = -log_prob[possible] / chain.length
            out["nll"] = bootstrap(per_token, mean, generator, replicates)
        if bool((chain.transition == 0).any() or (chain.initial == 0).any()):
            out["impossible"] = bootstrap((~possible).double(), mean, generator, replicates)
        return out

    def reference(self, seed: int = 0) -> list[Row]:
        """What exact samples score: the sampling floor of ``bigram_tv``, the chain's entropy."""
        source = generator_for(seed, 0xB007, 1)
        floor = self.chain.bigram_tv_floor(self.num_samples, generator=source)
        entropy = self.chain.entropy() / self.length
        return [
            Row(EXACT_SAMPLES, "", None, None, "bigram_tv", *floor),
            Row(EXACT_SAMPLES, "", None, None, "nll", entropy, entropy, entropy),
        ]


def quality(
    denoiser: Denoiser,
    meter: Meter,
    steps_list: Sequence[int] = STEPS,
    sampler: str | Sampler | None = None,
    num_samples: int | None = None,
    seeds: Sequence[int] = (0,),
    *,
    model: str = "student",
    grid: GridSpec | None = None,
    guidance: float | None = None,
    temperature: float = 1.0,
    batch_size: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Rows of a meter's metrics, at each number of steps.

    A denoiser with classes draws them in turn.

    Args:
        denoiser: makes the samples.
        meter: measures them; see :meth:`Meter.reference` for the numbers of the truth.
        steps_list: intervals of the grid, one group of rows each.
        sampler, grid, guidance, temperature, batch_size: as for :func:`fewjump.sample`.
        num_samples: per seed; the meter's by default.
        seeds: independent sets; a row's value is their mean. A metric that one of them lacks has
            none.
        model: name in the rows.
        progress: told about each run, in words.

    Raises:
        ValueError: for steps, seeds or data that make no sense, before anything is sampled.
    """
    meter.check(denoiser)
    count = meter.num_samples if num_samples is None else num_samples
    if not steps_list or not seeds or count < 2:
        raise ValueError(
            "give at least one number of steps, one seed and 2 samples; got "
            f"steps {list(steps_list)}, seeds {list(seeds)}, {count} samples"
        )
    check_budgets(denoiser, steps_list, sampler, grid)
    asked = classes_in_turn(denoiser, count, guidance)
    labels = asked["label"]
    options = {"batch_size": batch_size, "temperature": temperature, **meter.given(denoiser, count)}
    options |= asked
    rows = []
    for steps in steps_list:
        runs, scores = [], []
        # A temperature or a scale of guidance makes another law.
        plain = temperature == 1.0 and guidance is None
        with eval_mode(denoiser):
            known = meter.of_law(denoiser, steps, sampler, grid) if plain else {}
        for seed in seeds:
            result = run(denoiser, count, steps, sampler, grid, seed, **options)
            runs.append(result)
            samples = result.samples.cpu()
            scores.append({**meter.measure(samples, seed), **known})
            if labels is not None:
                scores[-1] |= meter.of_classes(samples, labels, seed)
            if progress is not None:
                progress(f"{model}, {result.sampler}, {steps} steps, seed {seed}")
        nfe = max(result.nfe for result in runs)
        seconds = sum(result.seconds for result in runs) / len(runs)
        # What one of the sets lacks has no mean.
        for metric in (name for name in scores[0] if all(name in score for score in scores)):
            value = combine([score[metric] for score in scores])
            rows.append(as_result(value, metric, model, runs[0].sampler, steps, nfe, seconds))
    return rows


def classes_in_turn(denoiser: Denoiser, count: int, guidance: float | None) -> dict[str, Any]:
    """``label`` and ``guidance`` of so many samples, of every class in turn; for ``run``.

    Raises:
        ValueError: for guidance that the denoiser does not take.
    """
    labels = None if denoiser.classes is None else torch.arange(count) % denoiser.classes
    make_condition(denoiser, labels, guidance)
    return {"label": labels, "guidance": guidance}


def as_result(
    interval: Interval,
    metric: str,
    model: str,
    sampler: str = "",
    steps: int | None = None,
    nfe: float | None = None,
    seconds: float | None = None,
) -> Row:
    """An interval as a row of ``results.json``; without ``nfe`` it is a reference."""
    ends = interval.value, interval.low, interval.high
    return Row(model, sampler, steps, nfe, metric, *ends, seconds)


def mean_over_seeds(rows: Sequence[Row]) -> Row:
    """One row for rows that differ by seed: the mean, with the interval of :func:`over_seeds`.

    Evaluations and seconds are averaged too. A row without an interval counts as exact.
    """
    names = ("value_low", "value_high")
    found = [{"value": row.value, **dict(zip(names, row.ends))} for row in rows]
    value, low, high = over_seeds(found, "value")
    nfe, seconds = (_mean_of([getattr(row, name) for row in rows]) for name in ("nfe", "seconds"))
    return replace(rows[0], value=value, low=low, high=high, nfe=nfe, seconds=seconds)


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
