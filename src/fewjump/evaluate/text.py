"""Everything that is measured on a set of generated texts, at once; quality at matched entropy.

A sampler that repeats itself pleases every judge. So samplers are compared where their variety
is equal: each is run at several temperatures, and its NLL is read off the curve at the entropy of
the data (arXiv 2606.08417).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.data import Bytes, Characters, Dataset
from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, ratio
from fewjump.evaluate.causal import CausalJudge, mauve, perplexities
from fewjump.evaluate.judges import Judge, NGramJudge
from fewjump.evaluate.meter import DataMeter
from fewjump.evaluate.ngrams import (
    distinct_ngrams,
    ngram_entropy,
    ngram_tv,
    repeated_ngrams,
    sequence_entropy,
)
from fewjump.random import Generator, generator_for

MIN_WORD = 3
#: Temperatures that the search walks along, from 1 on.
LADDER = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 2.0)
_REFERENCE_ROWS = 20_000
Scores = Mapping[str, Interval]
_LETTERS = re.compile(r"[^\W\d_]+")


class TextMeter(DataMeter):
    """Judges and dictionary of a data set; made once, used for many sets of samples.

    Args:
        dataset: the training part is what samples are compared with.
        judges: each gives a row of NLL per token; the name ``nll`` is the n-gram judge's, others
            are called ``nll_<name>``. By default the n-gram judge alone.
        causal: a language model that reads samples as text, for ``gen_ppl`` and ``mauve``; quality
            is then matched in these, at the entropy within sequences.

    Attributes:
        words: the dictionary, for data of characters or bytes; None otherwise.
        whole: whether a sequence is a whole line rather than a window of a stream.
    """

    words: frozenset[str] | None = None
    matched = ("nll", "entropy")

    def __init__(
        self,
        dataset: Dataset,
        judges: Mapping[str, Judge] | None = None,
        causal: CausalJudge | None = None,
    ) -> None:
        super().__init__(dataset)
        self.causal = causal
        if causal is not None:
            self.matched = ("gen_ppl", "entropy_within")
            # As many as samples: MAUVE grows with the number of texts.
            texts = causal.documents(dataset.all("train", self.num_samples), dataset.vocabulary)
            self._read = causal.read(texts)
        vocabulary, train = dataset.vocabulary, dataset.all("train")
        self.whole = isinstance(vocabulary, Characters) and vocabulary.padding is not None
        self.judges = dict(judges or {})
        if "nll" not in self.judges:
            ngram = NGramJudge(train, vocabulary.size, begins=self.whole)
            self.judges = {"nll": ngram, **self.judges}
        if isinstance(vocabulary, Characters | Bytes):
            self.words = dictionary(vocabulary.decode(train), whole=self.whole)
        # Frequencies converge long before a large training set is read.
        self._reference = dataset.all("train", _REFERENCE_ROWS)

    def measure(
        self, samples: Tensor, seed: int = 0, replicates: int = REPLICATES
    ) -> dict[str, Interval]:
        """Every metric of (N, L) samples, with intervals over sequences.

        * ``nll`` (and ``nll_<name>``): nats per token under a judge of the data;
        * ``entropy_unigram``, ``entropy_bigram``, ``entropy``: joint entropy, in nats, of one,
          two and three neighbouring tokens of the samples;
        * ``entropy_within``: of the token frequencies within a sequence, its mean;
        * ``bigram_tv``, ``trigram_tv``: distance of their frequencies from the data's;
        * ``distinct_4``: distinct 4-grams over all 4-grams of the set;
        * ``repeated_4``: share of a sequence's 4-grams that it has had before;
        * ``copied``: share of sequences that are in the training part, or for windows of a stream
          have a run of half their length from it;
        * ``dictionary_words``: share of the words of 3 letters or more that the data know;
        * ``gen_ppl``, ``gen_ppl_mean``: perplexity of the text under a causal language model
          (:func:`~fewjump.evaluate.causal.perplexities`);
        * ``mauve``: against as many training texts, in that model's features.

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
        padding = self.dataset.vocabulary.padding_token
        out["entropy_within"] = sequence_entropy(samples, size, *options(7), padding)
        for n, name in {2: "bigram_tv", 3: "trigram_tv"}.items():
            if n <= length:
                out[name] = ngram_tv(samples, self._reference, n, size, *options(2))
        if length >= 4:
            out["distinct_4"] = distinct_ngrams(samples, 4, size, *options(3))
            out["repeated_4"] = repeated_ngrams(samples, 4, size, *options(5), padding)
        run = length if self.whole else (length + 1) // 2
        out["copied"] = self.copied(samples, run, *options(6))
        texts = None
        if self.words is not None:
            texts = self.dataset.vocabulary.decode(samples)
            out["dictionary_words"] = dictionary_words(
                texts, self.words, MIN_WORD, self.whole, *options(4)
            )
        if self.causal is not None:
            documents = self.causal.documents(samples, self.dataset.vocabulary, texts)
            readings = self.causal.read(documents)
            out |= perplexities(readings, *options(8))
            out["mauve"] = mauve(self._read.features, readings.features, *options(9))
        return out


def words_in(text: str, whole: bool = False) -> list[str]:
    """The words of a text: runs of letters, in lower case.

    A run that touches the start or the end of a window may be cut off, and is left out unless
    ``whole`` says that the text is complete.
    """
    return [
        match.group().casefold()
        for match in _LETTERS.finditer(text)
        if whole or (match.start() > 0 and match.end() < len(text))
    ]


def dictionary(texts: Iterable[str], min_count: int = 1, whole: bool = False) -> frozenset[str]:
    """The words that occur at least ``min_count`` times in the training text."""
    counts = Counter(word for text in texts for word in words_in(text, whole))
    return frozenset(word for word, count in counts.items() if count >= min_count)


def dictionary_words(
    texts: list[str],
    known: frozenset[str],
    min_length: int = 3,
    whole: bool = False,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Fraction of the samples' words, counted as often as they occur, that the dictionary knows.

    Args:
        texts: samples.
        known: see :func:`dictionary`.
        min_length: shorter words are not counted: most short runs of letters are words.
        whole: see :func:`words_in`.
        generator, replicates: of the bootstrap over samples.

    Returns:
        The fraction; 0 if the samples hold no word of that length.
    """
    rows = []
    for text in texts:
        long = [word for word in words_in(text, whole) if len(word) >= min_length]
        rows.append((sum(word in known for word in long), len(long)))
    return bootstrap(torch.tensor(rows, dtype=torch.float64), ratio, generator, replicates)


@dataclass(frozen=True)
class FrontierPoint:
    """One sampler at one temperature: its samples' entropy and quality."""

    temperature: float
    entropy: Interval
    quality: Interval


def quality_at_entropy(points: Sequence[FrontierPoint], entropy: float) -> Interval:
    """Quality where the frontier has the given entropy, by linear interpolation.

    Between the two neighbours in entropy. Each replicate is brought there along the slope of the
    values, since its own is a ratio of noise where two temperatures have nearly the same entropy.

    Args:
        points: at least two temperatures, with equal numbers of replicates.
        entropy: in the unit of the points.

    Raises:
        ValueError: for fewer than two points, or an entropy outside of theirs, naming the range.
    """
    if len(points) < 2:
        raise ValueError("a frontier needs runs at two temperatures at least")
    ordered = sorted(points, key=lambda p: p.entropy.value)
    low, high = ordered[0].entropy.value, ordered[-1].entropy.value
    if not low <= entropy <= high:
        raise ValueError(
            f"entropy {entropy:.4g} is outside the frontier's {low:.4g}..{high:.4g}: add "
            f"{'lower' if entropy < low else 'higher'} temperatures"
        )
    above = next(i for i, p in enumerate(ordered) if p.entropy.value >= entropy and i > 0)
    left, right = ordered[above - 1], ordered[above]
    gap = right.entropy.value - left.entropy.value
    # Two temperatures of equal entropy: their mean.
    share = (entropy - left.entropy.value) / gap if gap else 0.5
    slope = (right.quality.value - left.quality.value) / gap if gap else 0.0

    def between(start: Interval, end: Interval) -> tuple[float, Tensor]:
        replicates = (1 - share) * start.replicates + share * end.replicates
        return (1 - share) * start.value + share * end.value, replicates

    value, qualities = between(left.quality, right.quality)
    _, entropies = between(left.entropy, right.entropy)
    replicates = qualities - slope * (entropies - entropy)
    return Interval.from_replicates(value, replicates, left.quality.confidence)


def enclosing(
    measure: Callable[[float], Scores],
    target: float,
    variety: str = "entropy",
) -> dict[float, Scores]:
    """Scores at temperature 1 and on along :data:`LADDER` until the entropies enclose ``target``.

    A walk costs as many runs as the target is far, where a sweep costs all of them.

    Args:
        measure: temperature → scores.
        target: in nats.
        variety: the score that is to be ``target``, an entropy, which rises with the temperature.

    Returns:
        By temperature. If the ladder ends first, its entropies do not enclose the target.
    """
    found = {1.0: measure(1.0)}
    down = found[1.0][variety].value > target
    rest = [t for t in LADDER if t < 1][::-1] if down else [t for t in LADDER if t > 1]
    for temperature in rest:
        found[temperature] = measure(temperature)
        if (found[temperature][variety].value > target) != down:
            break
    return found


def matched(
    found: Mapping[float, Scores], target: float, metric: str, variety: str = "entropy"
) -> Interval | None:
    """The metric where the variety is ``target``, by interpolation; None if it is not enclosed."""
    points = [FrontierPoint(t, s[variety], s[metric]) for t, s in found.items()]
    entropies = [p.entropy.value for p in points]
    if len(points) < 2 or not min(entropies) <= target <= max(entropies):
        return None
    return quality_at_entropy(points, target)
