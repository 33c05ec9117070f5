from __future__ import annotations

import numpy as np
import pytest
import torch

from fewjump.data import Dataset, ImageLevels, Tokens
from fewjump.evaluate import ImageMeter, classifier_for, frechet_distance, train_classifier
from fewjump.evaluate.image import ImageClassifier, load_classifier
from fewjump.random import generator_for, integers


@pytest.fixture(scope="module")
def stripes() -> Dataset:
    """Pictures of 5 × 6 with a bright row (class 0) or a bright column (class 1), and noise."""
    source = generator_for(1)
    rows = integers(3, (300, 5, 6), source)
    labels = torch.arange(300) % 2
    place = integers(5, (300,), source)
    index = torch.arange(300)
    rows[index[::2], place[::2]] = 7
    rows[index[1::2], :, place[1::2]] = 7
    vocabulary = ImageLevels(8, 5, 6)
    tokens = vocabulary.encode(rows)
    return Dataset(
        tokens[:200],
        tokens[200:220],
        tokens[220:],
        vocabulary,
        "stripes",
        {"train": labels[:200], "valid": labels[200:220], "test": labels[220:]},
    )


def accuracy(model: ImageClassifier, tokens: np.ndarray, labels: torch.Tensor) -> float:
    found = model(torch.as_tensor(tokens, dtype=torch.int64)).argmax(-1)
    return float((found == labels).double().mean())


def test_it_learns_and_is_deterministic(stripes):
    state = torch.get_rng_state()
    model = train_classifier(stripes, steps=40)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert accuracy(model, stripes.test, stripes.labels["test"]) > 0.95
    features = model.features(stripes.test)
    assert features.shape == (80, 32)
    assert torch.equal(features, train_classifier(stripes, steps=40).features(stripes.test))
    assert not torch.equal(
        features, train_classifier(stripes, steps=40, seed=1).features(stripes.test)
    )


def test_it_is_remembered_and_read_from_its_file(stripes, tmp_path):
    model = classifier_for(stripes, steps=3)
    assert classifier_for(stripes, steps=3) is model
    assert classifier_for(stripes, steps=4) is not model
    path = tmp_path / "deep" / "classifier.safetensors"
    assert classifier_for(stripes, path, steps=3) is model
    # The file decides, whatever the training options say.
    again = classifier_for(stripes, path, steps=99)
    assert torch.equal(again.features(stripes.test), model.features(stripes.test))


def test_what_is_no_classifier_of_these_images_is_refused(stripes, tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="no classifier"):
        load_classifier(path)
    classifier_for(stripes, tmp_path / "d.safetensors", steps=3)
    other = Dataset(
        stripes.train, stripes.valid, stripes.test, ImageLevels(8, 6, 5), "turned", stripes.labels
    )
    with pytest.raises(ValueError, match=r"not \[8, 6, 5\]"):
        load_classifier(tmp_path / "d.safetensors", other)
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "e.safetensors")
    unlabelled = Dataset(stripes.train, stripes.valid, stripes.test, stripes.vocabulary, "bare")
    with pytest.raises(ValueError, match="no labels"):
        train_classifier(unlabelled)
    tokens = Dataset(stripes.train, stripes.valid, stripes.test, Tokens(8), "tokens")
    with pytest.raises(ValueError, match="cannot read tokens"):
        train_classifier(tokens)
    model = classifier_for(stripes, steps=3)
    with pytest.raises(ValueError, match="mask"):
        model.features(torch.full((2, 30), 8))
    with pytest.raises(ValueError, match=r"\(N, 30\)"):
        model.features(torch.zeros(2, 31, dtype=torch.int64))


def test_on_digits_the_feature_space_orders_what_it_should():
    pytest.importorskip("sklearn")
    from fewjump.data import digits

    data = digits()
    model = classifier_for(data, steps=300)
    assert accuracy(model, data.test, data.labels["test"]) > 0.975
    scores = {row.metric: row.value for row in ImageMeter(data, model).reference()}
    assert scores["precision"] > 0.85
    assert scores["recall"] > 0.85
    real = model.features(data.train)
    source = generator_for(5)
    # Independent pixels: what one step of a product law makes of the data at best.
    picks = integers(len(data), (450, 64), source)
    independent = data.train.gather(0, picks)
    damaged = torch.where(torch.rand(450, 64, generator=source) < 0.2, independent, data.test)
    half, one_step = (
        frechet_distance(real, model.features(x), source).value for x in (damaged, independent)
    )
    assert scores["frechet"] < half / 1.5
    assert half < one_step / 3
