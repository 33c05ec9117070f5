"""Judging samples: exact where the truth is known, with intervals everywhere else."""

from fewjump.evaluate.bootstrap import Interval, bootstrap, combine
from fewjump.evaluate.classifier import ImageClassifier, classifier_for, train_classifier
from fewjump.evaluate.exact import (
    ChiSquare,
    ErrorDecomposition,
    chi_square_test,
    data_law,
    decompose_error,
    entropy,
    kl,
    tv,
)
from fewjump.evaluate.frontier import (
    FrontierPoint,
    Row,
    as_result,
    quality_at_entropy,
    read_results,
    sweep,
    write_results,
)
from fewjump.evaluate.image import (
    ManifoldScores,
    frechet_distance,
    gaussian_frechet,
    manifold_scores,
)
from fewjump.evaluate.judge import Judge
from fewjump.evaluate.judge_gru import GRUJudge
from fewjump.evaluate.judge_ngram import NGramJudge
from fewjump.evaluate.markov import MarkovReport, markov_report
from fewjump.evaluate.ngrams import distinct_ngrams, ngram_entropy, ngram_tv
from fewjump.evaluate.run import (
    evaluate_images,
    evaluate_markov,
    evaluate_text,
    image_reference,
    markov_reference,
    text_frontier,
    text_reference,
)
from fewjump.evaluate.text import TextMeter
from fewjump.evaluate.words import dictionary, dictionary_words

__all__ = [
    "ChiSquare",
    "ErrorDecomposition",
    "FrontierPoint",
    "GRUJudge",
    "ImageClassifier",
    "Interval",
    "Judge",
    "ManifoldScores",
    "MarkovReport",
    "NGramJudge",
    "Row",
    "TextMeter",
    "as_result",
    "bootstrap",
    "chi_square_test",
    "classifier_for",
    "combine",
    "data_law",
    "decompose_error",
    "dictionary",
    "dictionary_words",
    "distinct_ngrams",
    "entropy",
    "evaluate_images",
    "evaluate_markov",
    "evaluate_text",
    "frechet_distance",
    "gaussian_frechet",
    "image_reference",
    "kl",
    "manifold_scores",
    "markov_reference",
    "markov_report",
    "ngram_entropy",
    "ngram_tv",
    "quality_at_entropy",
    "read_results",
    "sweep",
    "text_frontier",
    "text_reference",
    "train_classifier",
    "tv",
    "write_results",
]
