"""How close generated images are to real ones, in the feature space of a small classifier.

Its classifier is trained on the data, so numbers compare with those of the same classifier and the
same number of samples only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewjump.data import Dataset, ImageLevels, as_tokens
from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.evaluate.frechet import checked_features, frechet_distance
from fewjump.evaluate.meter import DataMeter
from fewjump.files import whole_file
from fewjump.random import Generator, fold_seed, generator_for, integers, uniform

FEATURES = 32
DEFAULT_STEPS = 600
NEIGHBOURS = 3
_CHUNK_ROWS = 1024
_CHUNK_ELEMENTS = 1 << 22
_FORMAT = "fewjump image classifier 1"

_cache: dict[tuple[int, ...], ImageClassifier] = {}


class ImageClassifier(nn.Module):
    """Two convolutions, pooling, and two linear layers with ``width`` features between them.

    Args:
        levels, height, width: of the pictures.
        classes: number of classes.
        seed: of the initial weights.
    """

    def __init__(self, levels: int, height: int, width: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.shape = (levels, height, width)
        self.classes = classes
        # Linear layers see at most 4 × 4 places, whatever the picture's size.
        places = min(height, 4) * min(width, 4)
        # PyTorch's own initial weights, drawn from the global generator, are not used.
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(1, 24, 3, padding=1)
            self.second = nn.Conv2d(24, 48, 3, padding=1)
            self.hidden = nn.Linear(48 * places, FEATURES)
            self.out = nn.Linear(FEATURES, classes)
        generator = generator_for(seed, 0)
        with torch.no_grad():
            for weight in self.parameters():
                fan_in = weight[0].numel() if weight.dim() > 1 else 0
                bound = math.sqrt(6 / fan_in) if fan_in else 0.0
                weight.copy_((2 * uniform(weight.shape, generator) - 1) * bound)

    def embed(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens → (N, 32) penultimate activations, before their nonlinearity."""
        levels, height, width = self.shape
        pictures = tokens.reshape(-1, 1, height, width).float() / (levels - 1) * 2 - 1
        x = functional.gelu(self.first(pictures))
        x = functional.gelu(self.second(x))
        x = functional.adaptive_avg_pool2d(x, (min(height, 4), min(width, 4)))
        return self.hidden(x.flatten(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens → (N, classes) logits."""
        return self.out(functional.gelu(self.embed(tokens)))

    @torch.no_grad()
    def features(self, tokens: Tensor) -> Tensor:
        """Features of (N, L) tokens, (N, 32) float64 on the CPU, in pieces.

        Raises:
            ValueError: for tokens that are no pictures of this classifier.
        """
        levels, height, width = self.shape
        tokens = as_tokens(tokens)
        if tokens.dim() != 2 or tokens.shape[1] != height * width:
            raise ValueError(
                f"expected (N, {height * width}) tokens, got shape {tuple(tokens.shape)}"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < levels:
            raise ValueError(f"levels must lie in 0..{levels - 1}; was a mask left in a sample?")
        return torch.cat([self.embed(part) for part in tokens.split(_CHUNK_ROWS)]).double()

    @torch.no_grad()
    def classes_of(self, tokens: Tensor) -> Tensor:
        """The likeliest class of (N, L) tokens: (N,) int64."""
        parts = [self(part).argmax(-1) for part in as_tokens(tokens).split(_CHUNK_ROWS)]
        return torch.cat(parts)


def train_classifier(
    dataset: Dataset, steps: int = DEFAULT_STEPS, batch_size: int = 64, seed: int = 0
) -> ImageClassifier:
    """Train on the labelled training part; the result is a function of the arguments.

    Args:
        dataset: of images with labels, such as :func:`fewjump.data.digits`.
        steps, batch_size: of AdamW with a decaying rate.
        seed: of weights and batches.

    Raises:
        ValueError: for data that are not images, or have no labels.
    """
    vocabulary = dataset.vocabulary
    if not isinstance(vocabulary, ImageLevels):
        raise ValueError(f"a classifier of images cannot read {vocabulary.name}")
    if "train" not in dataset.labels:
        raise ValueError(
            "these images have no labels to train a classifier on; pass a classifier trained on "
            "similar images, or a Dataset with labels={'train': ...}"
        )
    labels = dataset.labels["train"]
    classes = max(int(part.max()) for part in dataset.labels.values()) + 1
    model = ImageClassifier(vocabulary.levels, vocabulary.height, vocabulary.width, classes, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    generator = generator_for(seed, 1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        rows = integers(len(dataset), (batch_size,), generator)
        loss = functional.cross_entropy(
            model(dataset.batch(rows)), labels[rows], label_smoothing=0.05
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def classifier_for(
    dataset: Dataset, path: str | Path | None = None, steps: int = DEFAULT_STEPS, seed: int = 0
) -> ImageClassifier:
    """The classifier of a data set: read from ``path``, remembered by this process, or trained.

    Args:
        dataset: see :func:`train_classifier`.
        path: file to read it from, or to write it to once it is trained; None keeps it in
            memory only. Name one to make numbers of different runs comparable.
        steps, seed: of the training.

    Raises:
        ValueError: as :func:`train_classifier`, or if the file is no classifier of such images.
    """
    if path is not None and Path(path).is_file():
        return load_classifier(path, dataset)
    key = _identity(dataset, steps, seed)
    if key not in _cache:
        _cache[key] = train_classifier(dataset, steps, seed=seed)
    if path is not None:
        save_classifier(_cache[key], path)
    return _cache[key]


def save_classifier(model: ImageClassifier, path: str | Path) -> None:
    """Write the weights (safetensors), in one move."""
    from safetensors.torch import save_file

    facts = {"format": _FORMAT, "shape": json.dumps(model.shape), "classes": str(model.classes)}
    with whole_file(Path(path)) as temporary:
        save_file(model.state_dict(), temporary, metadata=facts)


def load_classifier(path: str | Path, dataset: Dataset | None = None) -> ImageClassifier:
    """Read a classifier; with ``dataset``, check that it is one of such images.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no classifier at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no classifier: {error}") from error
    if facts.get("format") != _FORMAT:
        raise ValueError(f"{path} is no classifier of this library")
    shape = json.loads(facts["shape"])
    if dataset is not None and isinstance(dataset.vocabulary, ImageLevels):
        wanted = [dataset.vocabulary.levels, dataset.vocabulary.height, dataset.vocabulary.width]
        if shape != wanted:
            raise ValueError(
                f"{path} reads pictures of {shape} (levels, height, width), not {wanted}"
            )
    model = ImageClassifier(*shape, classes=int(facts["classes"]))
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _identity(dataset: Dataset, steps: int, seed: int) -> tuple[int, ...]:
    """What training depends on, as numbers."""
    tokens = dataset.all("train", 512)
    labels = dataset.labels.get("train", torch.zeros(0, dtype=torch.int64))
    mixed = tokens @ torch.arange(1, tokens.shape[1] + 1) * torch.arange(1, len(tokens) + 1)
    checks = fold_seed(int(mixed.sum()), int((labels * torch.arange(1, len(labels) + 1)).sum()))
    return (len(dataset), tokens.shape[1], dataset.vocab_size, checks, steps, seed)


class ImageMeter(DataMeter):
    """``frechet``, ``precision``, ``recall``, ``density`` and ``coverage`` against training images.

    And ``two_sample``, the accuracy of a nearest neighbour that tells real from drawn; ``copied``,
    the share of samples that are one of them, pixel for pixel. Of images drawn by class also
    ``class_accuracy``, the share that the classifier gives theirs.

    Args:
        dataset: real images.
        classifier: the feature space; by default one trained on ``dataset`` (and remembered).
    """

    def __init__(self, dataset: Dataset, classifier: ImageClassifier | None = None) -> None:
        super().__init__(dataset)
        self.space = classifier_for(dataset) if classifier is None else classifier
        self._real = self.space.features(dataset.all("train"))

    def measure(self, samples: Tensor, seed: int = 0) -> dict[str, Interval]:
        features = self.space.features(samples)
        frechet = frechet_distance(self._real, features, generator_for(seed, 0xB007, 0))
        overlap = manifold_scores(self._real, features, generator=generator_for(seed, 0xB007, 1))
        copied = self.copied(samples.cpu(), self.length, generator_for(seed, 0xB007, 3))
        same = min(len(features), len(self._real))
        told = nearest_neighbour_accuracy(
            self._real[:same], features[:same], generator_for(seed, 0xB007, 4)
        )
        return {"frechet": frechet, **vars(overlap), "two_sample": told, "copied": copied}

    def of_classes(self, samples: Tensor, labels: Tensor, seed: int = 0) -> dict[str, Interval]:
        right = (self.space.classes_of(samples) == labels).double()
        return {"class_accuracy": bootstrap(right, mean, generator_for(seed, 0xB007, 2))}


@dataclass(frozen=True)
class ManifoldScores:
    """Overlap of two sets of features; see :func:`manifold_scores`. Higher is better."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def manifold_scores(
    real: Tensor,
    generated: Tensor,
    neighbours: int = NEIGHBOURS,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> ManifoldScores:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The manifold of a set is the union of balls around its points that reach to their
    ``neighbours``-th nearest neighbour in the set.

    * precision: share of generated points in the real manifold;
    * recall: share of real points in the generated manifold;
    * density: real balls that a generated point lies in, on average, over ``neighbours``;
    * coverage: share of real balls that hold a generated point.

    Intervals resample the points that are averaged over (generated ones for precision and
    density, real ones for recall and coverage), with the manifolds fixed.

    Args:
        real, generated: (M, D) and (N, D) features, more than ``neighbours`` of each.

    Raises:
        ValueError: for too few points, or as
            :func:`~fewjump.evaluate.frechet.frechet_distance`.
    """
    real, generated = checked_features(real, generated)
    fewest = min(real.shape[0], generated.shape[0])
    if not 1 <= neighbours < fewest:
        raise ValueError(
            f"{neighbours} neighbours need more points than that in both sets; the smaller has "
            f"{fewest}"
        )
    real_radius = _neighbour_distance(real, neighbours)
    generated_radius = _neighbour_distance(generated, neighbours)
    inside = torch.zeros(generated.shape[0], dtype=torch.float64)
    recalled = torch.zeros(real.shape[0], dtype=torch.float64)
    covered = torch.zeros(real.shape[0], dtype=torch.float64)
    step = max(1, _CHUNK_ELEMENTS // generated.shape[0])
    for start in range(0, real.shape[0], step):
        part = slice(start, start + step)
        distance = _distances(real[part], generated)
        in_real = distance <= real_radius[part, None]
        inside += in_real.sum(0)
        covered[part] = in_real.any(1).double()
        recalled[part] = (distance <= generated_radius).any(1).double()
    return ManifoldScores(
        precision=bootstrap((inside > 0).double(), mean, generator, replicates),
        recall=bootstrap(recalled, mean, generator, replicates),
        density=bootstrap(inside / neighbours, mean, generator, replicates),
        coverage=bootstrap(covered, mean, generator, replicates),
    )


def nearest_neighbour_accuracy(
    real: Tensor,
    generated: Tensor,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Classifier two-sample test by the nearest neighbour, left out (arXiv 1610.06545, 1806.07755).

    The share of points of both sets whose nearest other point is of their own set: 0.5 where the
    laws are equal, 1 where they do not overlap, and towards 0 for copies of the real ones.

    Args:
        real, generated: (N, D) features, equally many.
        generator, replicates: of the bootstrap over points.

    Raises:
        ValueError: for sets of different sizes, or as
            :func:`~fewjump.evaluate.frechet.frechet_distance`.
    """
    real, generated = checked_features(real, generated)
    if len(real) != len(generated):
        raise ValueError(
            f"a two-sample test needs equally many of both, got {len(real)} and {len(generated)}"
        )
    points = torch.cat([real, generated])
    index = torch.arange(len(points))
    nearest = []
    for part in index.split(max(1, _CHUNK_ELEMENTS // len(points))):
        distance = _distances(points[part], points)
        distance[torch.arange(len(part)), part] = math.inf
        nearest.append(distance.argmin(-1))
    own = (torch.cat(nearest) < len(real)) == (index < len(real))
    return bootstrap(own.double(), mean, generator, replicates)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The product form loses half the digits where points nearly coincide, which is here.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _neighbour_distance(points: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other point: (N,)."""
    step = max(1, _CHUNK_ELEMENTS // points.shape[0])
    parts = [
        # A point's own distance, 0, is the first.
        _distances(part, points).kthvalue(neighbours + 1, dim=-1).values
        for part in points.split(step)
    ]
    return torch.cat(parts)
