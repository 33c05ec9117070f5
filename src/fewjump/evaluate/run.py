"""Sample a denoiser at several numbers of steps, and judge what comes out: rows of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewjump.data import Dataset
from fewjump.evaluate.bootstrap import Interval
from fewjump.evaluate.by_steps import check_fit, rows_by_steps
from fewjump.evaluate.classifier import ImageClassifier, classifier_for
from fewjump.evaluate.frontier import (
    TEMPERATURES,
    FrontierPoint,
    Row,
    as_result,
    quality_at_entropy,
    sweep,
)
from fewjump.evaluate.image import frechet_distance, manifold_scores
from fewjump.evaluate.kept import kept_positions
from fewjump.evaluate.markov import chain_metrics, sampling_floor
from fewjump.evaluate.text import TextMeter
from fewjump.random import generator_for

if TYPE_CHECKING:
    from fewjump.denoiser.base import Denoiser
    from fewjump.problem import MarkovChain
    from fewjump.sampler.base import Sampler
    from fewjump.sampler.time_grid import GridSpec

TEST_DATA = "test data"
EXACT_SAMPLES = "exact samples"
STEPS = (1, 2, 4, 8, 16, 64)
SEEDS = (0, 1, 2)
# Keeps the draws of the bootstrap apart from the sampler's of the same seed.
_BOOTSTRAP = 0xB007


def evaluate_images(
    denoiser: Denoiser,
    dataset: Dataset,
    steps_list: Sequence[int] = STEPS,
    sampler: str | Sampler = "ancestral",
    num_samples: int | None = None,
    seeds: Sequence[int] = SEEDS,
    *,
    model: str = "student",
    classifier: ImageClassifier | None = None,
    grid: GridSpec | None = None,
    temperature: float = 1.0,
    batch_size: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """``frechet``, ``precision``, ``recall``, ``density`` and ``coverage`` against training images.

    Args:
        denoiser: makes the images.
        dataset: real images; see :func:`image_reference` for the numbers of its test part.
        steps_list: intervals of the grid, one group of rows each.
        sampler, grid, temperature, batch_size: as for :func:`fewjump.sample`.
        num_samples: images per seed. By default as many as the test part has, since these metrics
            are biased by the size of the set and the reference must have the same bias.
        seeds: independent sets; a row's value is their mean.
        model: name in the rows.
        classifier: the feature space; by default one trained on ``dataset`` (and remembered).
        progress: told about each run, in words.

    Raises:
        ValueError: for steps, seeds or data that make no sense, before anything is sampled.
    """
    check_fit(denoiser, dataset.vocab_size, dataset.length)
    num_samples = len(dataset.test) if num_samples is None else num_samples
    space = classifier_for(dataset) if classifier is None else classifier
    real = space.features(dataset.all("train"))

    def measure(samples: Tensor, seed: int) -> dict[str, Interval]:
        return _image_scores(real, space.features(samples), seed)

    return rows_by_steps(
        denoiser,
        measure,
        steps_list,
        sampler,
        num_samples,
        seeds,
        model,
        grid,
        batch_size,
        progress,
        temperature,
    )


def image_reference(
    dataset: Dataset, classifier: ImageClassifier | None = None, seed: int = 0
) -> list[Row]:
    """The same metrics for the test part: what real images score."""
    space = classifier_for(dataset) if classifier is None else classifier
    real, test = (space.features(dataset.all(name)) for name in ("train", "test"))
    scores = _image_scores(real, test, seed)
    return [as_result(value, metric, TEST_DATA) for metric, value in scores.items()]


def evaluate_text(
    denoiser: Denoiser,
    dataset: Dataset,
    steps_list: Sequence[int] = STEPS,
    sampler: str | Sampler = "ancestral",
    num_samples: int | None = None,
    seeds: Sequence[int] = (0,),
    *,
    model: str = "student",
    meter: TextMeter | None = None,
    grid: GridSpec | None = None,
    temperature: float = 1.0,
    batch_size: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """The metrics of :class:`~fewjump.evaluate.text.TextMeter`; arguments as for images.

    Args:
        meter: judges and dictionary; by default an n-gram judge of the training part.
        temperature: of every draw.
    """
    check_fit(denoiser, dataset.vocab_size, dataset.length)
    num_samples = len(dataset.test) if num_samples is None else num_samples
    meter = TextMeter(dataset) if meter is None else meter
    return rows_by_steps(
        denoiser,
        meter.measure,
        steps_list,
        sampler,
        num_samples,
        seeds,
        model,
        grid,
        batch_size,
        progress,
        temperature,
        kept_positions(denoiser, dataset, num_samples),
    )


def text_reference(dataset: Dataset, meter: TextMeter | None = None, seed: int = 0) -> list[Row]:
    """The same metrics for the test part: what real text scores."""
    meter = TextMeter(dataset) if meter is None else meter
    scores = meter.measure(dataset.all("test"), seed)
    return [as_result(value, metric, TEST_DATA) for metric, value in scores.items()]


def text_frontier(
    denoiser: Denoiser,
    dataset: Dataset,
    steps: int,
    sampler: str | Sampler = "ancestral",
    num_samples: int | None = None,
    seed: int = 0,
    *,
    model: str = "student",
    meter: TextMeter | None = None,
    grid: GridSpec | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    entropy: float | None = None,
) -> tuple[Row, list[FrontierPoint]]:
    """NLL at matched trigram entropy, from runs at several temperatures.

    Args:
        temperatures: of the runs; they must enclose the target.
        entropy: the target, joint trigram entropy in nats; the test part's by default.

    Returns:
        The row ``nll_at_matched_entropy``, and the points.

    Raises:
        ValueError: if the target lies outside what the temperatures reach.
    """
    from fewjump.sampler.run import run

    check_fit(denoiser, dataset.vocab_size, dataset.length)
    num_samples = len(dataset.test) if num_samples is None else num_samples
    meter = TextMeter(dataset) if meter is None else meter
    if entropy is None:
        entropy = meter.measure(dataset.all("test"))["entropy"].value
    given = kept_positions(denoiser, dataset, num_samples)
    cost: list[tuple[int, float, str]] = []

    def measure(temperature: float) -> tuple[Interval, Interval]:
        options = {"temperature": temperature, **given}
        result = run(denoiser, num_samples, steps, sampler, grid, seed, **options)
        cost.append((result.nfe, result.seconds, result.sampler))
        scores = meter.measure(result.samples, seed)
        return scores["entropy"], scores["nll"]

    points = sweep(measure, temperatures)
    value = quality_at_entropy(points, entropy)
    nfe, _, name = cost[0]
    seconds = sum(s for _, s, _ in cost) / len(cost)
    return as_result(value, "nll_at_matched_entropy", model, name, steps, nfe, seconds), points


def evaluate_markov(
    denoiser: Denoiser,
    chain: MarkovChain,
    steps_list: Sequence[int] = STEPS,
    sampler: str | Sampler = "ancestral",
    num_samples: int = 10_000,
    seeds: Sequence[int] = (0,),
    *,
    model: str = "student",
    grid: GridSpec | None = None,
    batch_size: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """``bigram_tv``, ``nll`` and ``impossible`` of :func:`~fewjump.evaluate.markov.chain_metrics`.

    Arguments as for images.
    """
    check_fit(denoiser, chain.vocab_size, chain.length)

    def measure(samples: Tensor, seed: int) -> dict[str, Interval]:
        return chain_metrics(chain, samples, generator_for(seed, _BOOTSTRAP))

    return rows_by_steps(
        denoiser,
        measure,
        steps_list,
        sampler,
        num_samples,
        seeds,
        model,
        grid,
        batch_size,
        progress,
    )


def markov_reference(chain: MarkovChain, num_samples: int = 10_000, seed: int = 0) -> list[Row]:
    """What exact samples score: the sampling floor of ``bigram_tv`` and the chain's entropy."""
    floor = sampling_floor(chain, num_samples, generator_for(seed, _BOOTSTRAP, 1))
    entropy = chain.entropy() / chain.length
    return [
        as_result(floor, "bigram_tv", EXACT_SAMPLES),
        Row(EXACT_SAMPLES, "", None, None, "nll", entropy, entropy, entropy),
    ]


def _image_scores(real: Tensor, generated: Tensor, seed: int) -> dict[str, Interval]:
    def generator(stream: int) -> torch.Generator:
        return generator_for(seed, _BOOTSTRAP, stream)

    overlap = manifold_scores(real, generated, generator=generator(1))
    return {
        "frechet": frechet_distance(real, generated, generator(0)),
        "precision": overlap.precision,
        "recall": overlap.recall,
        "density": overlap.density,
        "coverage": overlap.coverage,
    }
