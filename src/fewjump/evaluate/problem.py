"""What is measured where the law of the data is known: exactly if it can be, else on samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.data import Dataset
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.evaluate.exact import kl, tv
from fewjump.evaluate.likelihood import one_evaluation_nlls
from fewjump.evaluate.meter import EXACT_SAMPLES, DataMeter, as_result
from fewjump.evaluate.ngrams import (
    distinct_ngrams,
    frequencies,
    ngram_entropy,
    ngram_keys,
    tv_to_law,
)
from fewjump.law.base import ENUMERATION_LIMIT
from fewjump.problem import FiniteSupport, Problem
from fewjump.random import generator_for
from fewjump.results import Row
from fewjump.sampler.base import Sampler
from fewjump.sampler.carried import chosen_sampler
from fewjump.sampler.exact import enumeration_cost, exact_output_law
from fewjump.sampler.prior_law import prior_law
from fewjump.sampler.time_grid import GridSpec, times_for

#: The output law of each number of steps takes seconds up to here, for product and joint laws.
_COST, _JOINT_COST = 2e9, 1e7
#: Sequences of a list whose density is asked for.
_LISTED = 1 << 16
_RUN = 3


class ProblemMeter(DataMeter):
    """The law of a problem as judge.

    Args:
        problem: the truth.
        dataset: draws of it. Exact samples are its test part; copies are of its training part.
    """

    def __init__(self, problem: Problem, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.problem = problem
        listed = problem.listed()
        self._list = None if listed is None else FiniteSupport(*listed, self.vocab_size)
        self._possible = problem.all_possible()
        if self._possible and self._list is None:
            # What is listed is judged whole, and elsewhere samples may have no likelihood.
            self.matched = ("nll", "entropy")
        longest = min(_RUN, self.length)
        fits = [n for n in range(1, longest + 1) if self.vocab_size**n <= ENUMERATION_LIMIT]
        self._runs = {n: problem.ngram_law(n) for n in fits}
        train = FiniteSupport(dataset.all("train"), vocab_size=self.vocab_size)
        # Where most sequences are in the training part anyway, neither copies nor repeats say much.
        known = train.log_prob(dataset.all("test")) > -torch.inf
        self._train = train if float(known.double().mean()) < 0.5 else None

    def measure(
        self, samples: Tensor, seed: int = 0, replicates: int = REPLICATES
    ) -> dict[str, Interval]:
        """Every metric of (N, L) samples, with intervals over samples.

        * ``sequence_tv``: total variation of whole sequences, for laws that are listed;
        * ``bigram_tv``, ``trigram_tv``: total variation of neighbouring tokens from their law;
        * ``transition_kl``: Σ f(a, b)·log[f(b|a)/p(b|a)], f the frequencies of neighbours and p
          their law; absent where some neighbours cannot occur;
        * ``nll``: nats per token under the truth, over the samples that can occur; absent if those
          are fewer than 2;
        * ``valid``: share of the samples that can occur, where not all sequences can;
        * ``entropy_unigram``, ``entropy_bigram``, ``entropy``: joint entropy, in nats, of one, two
          and three neighbouring tokens;
        * ``duplicates``: 1 less the share of different sequences, and ``copied``: share of the
          samples that are training sequences; both where most exact samples are none.

        The frequencies of a set differ from the law that it was drawn from: compare with exact
        samples, which are as many.
        """
        samples, size = samples.cpu(), self.vocab_size

        def options(stream: int) -> tuple[torch.Generator, int]:
            return generator_for(seed, 0xB007, stream), replicates

        out: dict[str, Interval] = {}
        if self._list is not None:
            at, found = self._list.support.find(samples)
            cells = torch.where(found, at, len(self._list.probs))[:, None]
            law = torch.cat([self._list.probs, torch.zeros(1, dtype=torch.float64)])
            out["sequence_tv"] = tv_to_law(cells, law, *options(2))
        for n, name in {2: "bigram_tv", 3: "trigram_tv"}.items():
            if n in self._runs:
                cells = ngram_keys(samples, n, size)
                out[name] = tv_to_law(cells, self._runs[n], *options(3))
        if 2 in self._runs and bool((self._runs[2] > 0).all()):
            out["transition_kl"] = self._transition_kl(samples, *options(4))
        log_prob = self.problem.log_prob(samples)
        possible = log_prob > -torch.inf
        if int(possible.sum()) >= 2:
            out["nll"] = bootstrap(-log_prob[possible] / self.length, mean, *options(0))
        if not self._possible:
            out["valid"] = bootstrap(possible.double(), mean, *options(1))
        names = {1: "entropy_unigram", 2: "entropy_bigram", 3: "entropy"}
        for n in range(1, min(_RUN, self.length) + 1):
            name = "entropy" if n == min(_RUN, self.length) else names[n]
            out[name] = ngram_entropy(samples, n, size, *options(5))
        if self._train is not None:
            new = distinct_ngrams(samples, self.length, size, *options(6))
            out["duplicates"] = Interval.from_replicates(1 - new.value, 1 - new.replicates)
            copies = self._train.log_prob(samples) > -torch.inf
            out["copied"] = bootstrap(copies.double(), mean, *options(7))
        return out

    def _transition_kl(
        self, samples: Tensor, generator: torch.Generator, replicates: int
    ) -> Interval:
        size = self.vocab_size
        pairs = self._runs[2].reshape(size, size)
        after = pairs / pairs.sum(1, keepdim=True)

        def statistic(cells: Tensor, weights: Tensor) -> Tensor:
            values = []
            for one in weights:
                found = frequencies(cells, size**2, one).reshape(size, size)
                expected = found.sum(1, keepdim=True) * after
                ratio = torch.where(found > 0, found / expected, 1.0)
                values.append((found * ratio.log()).sum())
            return torch.stack(values)

        return bootstrap(ngram_keys(samples, 2, size), statistic, generator, replicates)

    def of_law(
        self,
        denoiser: Denoiser,
        steps: int,
        sampler: str | Sampler | None = None,
        grid: GridSpec | None = None,
    ) -> dict[str, Interval]:
        """What needs no samples of the model, where its output law or its density is known.

        * ``kl``, ``tv``: KL(truth ‖ output) in nats, and total variation, of whole sequences: from
          the output law of any number of steps where its states are few, and of one evaluation
          under masks for a truth of up to 65,536 listed sequences;
        * ``kl_rate``: KL(truth ‖ output) in nats per token, of one evaluation under masks for other
          truths: exact densities, averaged over the exact samples;
        * ``missed``: beside them, the probability under the truth of what the output never is.
          Where it is above 0 the divergence is infinite, and left out.
        """
        method, spec = chosen_sampler(denoiser, sampler, steps, grid)
        one = prior_law(denoiser, self.length, method)
        if not one.exact_density:
            return {}
        most = _COST if one.independent else _JOINT_COST
        random = method.random_times and denoiser.time_conditioned
        few = denoiser.length == self.length and not random
        if few and enumeration_cost(denoiser, method, steps) <= most:
            law = exact_output_law(denoiser, steps, method, spec).cpu()
            # A network's softmax in single precision has a sum of its own.
            law, truth = law / law.sum(), self._table(law.shape)
            return _compared(truth, law)
        at_once = times_for(spec, steps, denoiser, self.length).tolist() == [1, 0]
        if not (at_once and denoiser.process.absorbing):
            return {}
        if self._list is None or len(self._list.probs) > _LISTED:
            samples = self.dataset.all("test")
            log_q = -one_evaluation_nlls(denoiser, samples).cpu() * self.length
            terms = (self.problem.log_prob(samples) - log_q) / self.length
            never = log_q == -torch.inf
            out = {"missed": bootstrap(never.double(), mean, generator_for(0, 0xB007))}
            if not bool(never.any()):
                out["kl_rate"] = bootstrap(terms, mean, generator_for(0, 0xB007))
            return out
        sequences, p = self._list.support.sequences, self._list.probs
        q = (-one_evaluation_nlls(denoiser, sequences).cpu() * self.length).exp()
        elsewhere = (1 - q.sum()).clamp(min=0)[None]
        # What the model draws outside of the list is one more outcome, of probability 0.
        q = torch.cat([q, elsewhere]) / (q.sum() + elsewhere)
        p = torch.cat([p, torch.zeros(1, dtype=torch.float64)])
        return _compared(p, q)

    def _table(self, shape: torch.Size) -> Tensor:
        """The truth over all sequences of the output."""
        assert self._list is not None
        law = torch.zeros(shape, dtype=torch.float64)
        law[tuple(self._list.support.sequences.T)] = self._list.probs
        return law

    def reference(self, seed: int = 0) -> list[Row]:
        """What as many exact samples score: the floor of what is biased by their number."""
        scores = self.measure(self.dataset.all("test"), seed)
        return [as_result(value, metric, EXACT_SAMPLES) for metric, value in scores.items()]


def _compared(truth: Tensor, law: Tensor) -> dict[str, Interval]:
    """Of two tables of probabilities, what :meth:`ProblemMeter.of_law` says."""
    missed = float(truth[law == 0].sum())
    found = {"tv": tv(truth, law), "missed": missed}
    if missed == 0:
        # Of equal laws rounding can leave a little less than nothing.
        found = {"kl": max(0.0, kl(truth, law)), **found}
    return {name: Interval.exact(value) for name, value in found.items()}
