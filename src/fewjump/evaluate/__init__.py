"""Judging samples: exact where the truth is known, with intervals everywhere else."""

from fewjump.evaluate.bootstrap import Interval, bootstrap, combine
from fewjump.evaluate.causal import CausalJudge, mauve, perplexities
from fewjump.evaluate.exact import (
    ErrorDecomposition,
    conditional_total_correlation,
    data_law,
    decompose_error,
    entropy,
    kl,
    tv,
)
from fewjump.evaluate.frechet import frechet_distance, gaussian_frechet
from fewjump.evaluate.image import (
    ImageClassifier,
    ImageMeter,
    ManifoldScores,
    classifier_for,
    manifold_scores,
    nearest_neighbour_accuracy,
    train_classifier,
)
from fewjump.evaluate.judges import Judge, NGramJudge
from fewjump.evaluate.likelihood import one_evaluation_nll, one_evaluation_nlls, path_bound
from fewjump.evaluate.meter import ChainMeter, DataMeter, Meter, as_result, quality
from fewjump.evaluate.ngrams import distinct_ngrams, ngram_entropy, ngram_tv
from fewjump.evaluate.text import (
    FrontierPoint,
    TextMeter,
    dictionary,
    dictionary_words,
    quality_at_entropy,
)

__all__ = [
    "CausalJudge",
    "ChainMeter",
    "DataMeter",
    "ErrorDecomposition",
    "FrontierPoint",
    "ImageClassifier",
    "ImageMeter",
    "Interval",
    "Judge",
    "ManifoldScores",
    "Meter",
    "NGramJudge",
    "TextMeter",
    "as_result",
    "bootstrap",
    "classifier_for",
    "combine",
    "conditional_total_correlation",
    "data_law",
    "decompose_error",
    "dictionary",
    "dictionary_words",
    "distinct_ngrams",
    "entropy",
    "frechet_distance",
    "gaussian_frechet",
    "kl",
    "manifold_scores",
    "mauve",
    "nearest_neighbour_accuracy",
    "ngram_entropy",
    "ngram_tv",
    "one_evaluation_nll",
    "one_evaluation_nlls",
    "path_bound",
    "perplexities",
    "quality",
    "quality_at_entropy",
    "train_classifier",
    "tv",
]
