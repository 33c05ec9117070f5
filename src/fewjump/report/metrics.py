"""What each metric is, in the words of someone who has not met it."""

from __future__ import annotations

from dataclasses import dataclass

from fewjump.report.content import Better


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: the chart's headline.
        unit: the axis.
        better: which direction is good, where one is.
        log: whether its values span orders of magnitude.
        caption: what it measures.
    """

    title: str
    unit: str
    better: Better | None = None
    log: bool = False
    caption: str = ""


METRICS: dict[str, Metric] = {
    "bigram_tv": Metric(
        "How far pairs of neighbours are from the truth",
        "total variation",
        "lower",
        True,
        "Total variation between the neighbour pairs of the samples and those of the true law: "
        "the share of pairs that would have to change. 0 is perfect.",
    ),
    "tv": Metric(
        "Distance of the samples' law from the true law",
        "total variation",
        "lower",
        True,
        "The largest difference in probability that the two laws give to any event.",
    ),
    "kl": Metric(
        "Divergence of the samples' law from the true law",
        "nats",
        "lower",
        True,
        "Kullback–Leibler divergence, from complete tables: no sampling noise.",
    ),
    "nll": Metric(
        "How surprised a judge is by the samples",
        "nats per token",
        None,
        False,
        "Negative log-likelihood under the judge. Compare it with real data's own value, and only "
        "at equal entropy: lower than the data means too repetitive, not better.",
    ),
    "nll_at_matched_entropy": Metric(
        "How surprised a judge is, at the data's own variety",
        "nats per token",
        "lower",
        False,
        "Each sampler's temperature is set so that its samples are as varied as real data; only "
        "then is a lower value better.",
    ),
    "entropy": Metric(
        "How varied the samples are",
        "nats",
        None,
        False,
        "Entropy of the samples. It should match the data's: below it, variety is lost.",
    ),
    "entropy_unigram": Metric(
        "Variety of single tokens",
        "nats",
        None,
        False,
        "Entropy of one token. It should match the data's.",
    ),
    "entropy_bigram": Metric(
        "Variety of pairs of tokens",
        "nats",
        None,
        False,
        "Joint entropy of two neighbouring tokens. It should match the data's.",
    ),
    "trigram_tv": Metric(
        "How far triples of neighbours are from the data",
        "total variation",
        "lower",
        True,
        "The share of triples of neighbouring tokens that would have to change.",
    ),
    "impossible": Metric(
        "Share of samples that cannot occur",
        "fraction",
        "lower",
        False,
        "Fraction of samples to which the true law gives probability zero.",
    ),
    "density": Metric(
        "How densely samples lie among real data",
        "density",
        "higher",
        False,
        "Like precision, but counts every real neighbour, so that single outliers matter less.",
    ),
    "coverage": Metric(
        "Share of real data with a sample nearby",
        "coverage",
        "higher",
        False,
        "Fraction of real images whose neighbourhood holds at least one sample.",
    ),
    "frechet": Metric(
        "Fréchet distance to real images",
        "Fréchet distance",
        "lower",
        True,
        "Distance between real and generated images in the features of a small classifier trained "
        "on the data. The reference is the distance between two sets of real images.",
    ),
    "precision": Metric(
        "Share of samples that look like real data",
        "precision",
        "higher",
        False,
        "Fraction of the samples that fall among real images in feature space.",
    ),
    "recall": Metric(
        "Share of real data the samples reach",
        "recall",
        "higher",
        False,
        "Fraction of real images that fall among the samples: the variety that is kept.",
    ),
    "dictionary_words": Metric(
        "Share of words that are words",
        "fraction",
        "higher",
        False,
        "Fraction of whole words in the samples that also occur in the training text.",
    ),
    "distinct": Metric(
        "Variety of letter groups",
        "distinct fraction",
        None,
        False,
        "Distinct n-grams over all n-grams: falls when samples repeat themselves.",
    ),
}

_ALIASES = {
    "frechet_distance": "frechet",
    "fid": "frechet",
    "bigram_total_variation": "bigram_tv",
    "total_variation": "tv",
    "dictionary_fraction": "dictionary_words",
    "word_fraction": "dictionary_words",
    "words": "dictionary_words",
    "entropy_rate": "entropy",
}


def metric_called(name: str) -> Metric:
    """The metric's description; for an unknown one its name serves as title."""
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key in METRICS:
        return METRICS[key]
    if key.startswith("distinct"):
        return METRICS["distinct"]
    if key.startswith("nll"):
        return METRICS["nll"]
    words = name.replace("_", " ")
    return Metric(words[:1].upper() + words[1:], words)
