"""Everything that is measured on a set of generated texts, at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewjump.data import Bytes, Characters, Dataset
from fewjump.evaluate.bootstrap import REPLICATES, Interval
from fewjump.evaluate.judge import Judge
from fewjump.evaluate.judge_ngram import NGramJudge
from fewjump.evaluate.ngrams import distinct_ngrams, ngram_entropy, ngram_tv
from fewjump.evaluate.words import dictionary, dictionary_words
from fewjump.random import generator_for

MIN_WORD = 3
_REFERENCE_ROWS = 20_000


@dataclass
class TextMeter:
    """What is needed to measure samples against a data set; made once, used for many sets.

    Attributes:
        dataset: the training part is what samples are compared with.
        judges: each gives a row of NLL per token; the name ``nll`` is the n-gram judge's, others
            are called ``nll_<name>``. By default the n-gram judge alone.
        words: the dictionary, for data of characters or bytes; None otherwise.
        whole: whether a sequence is a whole line rather than a window of a stream.
    """

    dataset: Dataset
    judges: dict[str, Judge] = field(default_factory=dict)
    words: frozenset[str] | None = field(init=False, default=None)
    whole: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        vocabulary = self.dataset.vocabulary
        self.whole = isinstance(vocabulary, Characters) and vocabulary.padding is not None
        train = self.dataset.all("train")
        if "nll" not in self.judges:
            ngram = NGramJudge(train, vocabulary.size, begins=self.whole)
            self.judges = {"nll": ngram, **self.judges}
        if isinstance(vocabulary, Characters | Bytes):
            self.words = dictionary(vocabulary.decode(train), whole=self.whole)
        # Frequencies converge long before a large training set is read.
        self._reference = self.dataset.all("train", _REFERENCE_ROWS)

    def measure(
        self, samples: Tensor, seed: int = 0, replicates: int = REPLICATES
    ) -> dict[str, Interval]:
        """Every metric of (N, L) samples, with intervals over sequences.

        * ``nll`` (and ``nll_<name>``): nats per token under a judge of the data;
        * ``entropy_unigram``, ``entropy_bigram``, ``entropy``: joint entropy, in nats, of one,
          two and three neighbouring tokens of the samples;
        * ``bigram_tv``, ``trigram_tv``: distance of their frequencies from the data's;
        * ``distinct_4``: distinct 4-grams over all 4-grams of the set;
        * ``dictionary_words``: share of the words of 3 letters or more that the data know.

        Runs longer than the sequences are left out.
        """
        samples = samples.cpu()
        size, length = self.dataset.vocab_size, samples.shape[1]

        def options(stream: int) -> tuple[torch.Generator, int]:
            return generator_for(seed, 0xB007, stream), replicates

        out = {
            name if name == "nll" else f"nll_{name}": judge.nll(samples, *options(0))
            for name, judge in self.judges.items()
        }
        entropies = {1: "entropy_unigram", 2: "entropy_bigram", 3: "entropy"}
        for n, name in entropies.items():
            if n <= length:
                out[name] = ngram_entropy(samples, n, size, *options(1))
        for n, name in {2: "bigram_tv", 3: "trigram_tv"}.items():
            if n <= length:
                out[name] = ngram_tv(samples, self._reference, n, size, *options(2))
        if length >= 4:
            out["distinct_4"] = distinct_ngrams(samples, 4, size, *options(3))
        if self.words is not None:
            texts = self.dataset.vocabulary.decode(samples)
            out["dictionary_words"] = dictionary_words(
                texts, self.words, MIN_WORD, self.whole, *options(4)
            )
        return out
