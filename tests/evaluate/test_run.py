from __future__ import annotations

import pytest
import torch

import fewjump
from fewjump.data import Dataset, ImageLevels, digits, text_stream
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.evaluate import (
    ChainMeter,
    ImageMeter,
    NGramJudge,
    TextMeter,
    quality,
)
from fewjump.problem import MarkovChain
from fewjump.process import Uniform
from fewjump.random import generator_for


@pytest.fixture(scope="module")
def chain() -> MarkovChain:
    return MarkovChain.random(4, 8, generator=generator_for(2))


def find(rows, metric, steps=None):
    [row] = [r for r in rows if r.metric == metric and r.steps == steps]
    return row


def test_markov_rows_follow_the_product_floor(chain):
    denoiser = chain.denoiser(Uniform(4, fewjump.LogLinear()))
    meter = ChainMeter(chain, 2000)
    rows = quality(denoiser, meter, [1, 16], seeds=[0, 1], model="exact")
    reference = meter.reference()
    one, many = find(rows, "bigram_tv", 1), find(rows, "bigram_tv", 16)
    assert (one.model, one.sampler, one.steps, one.nfe) == ("exact", "ancestral", 1, 1)
    assert many.nfe == 16
    assert one.seconds is not None
    assert one.seconds > 0
    # One step from (almost) pure noise: independent positions.
    law = chain.bigram_law()
    product = 0.5 * float((law - law.sum(1, keepdim=True) * law.sum(0)).abs().sum())
    assert one.value == pytest.approx(product, rel=0.06)
    assert find(reference, "bigram_tv").value < many.value < one.value / 3
    assert find(rows, "nll", 1).low > find(reference, "nll").value
    assert {r.metric for r in rows} == {"bigram_tv", "nll"}


def text_dataset(chain: MarkovChain) -> Dataset:
    letters = torch.tensor([ord(c) for c in "ab e"])
    codes = letters[chain.sample(4000, generator_for(9))].flatten().tolist()
    return text_stream("".join(map(chr, codes)), 8, alphabet="ab e", test_fraction=0.2)


def test_text_rows(chain):
    data = text_dataset(chain)
    denoiser = chain.denoiser(Uniform(4, fewjump.LogLinear()))
    meter = TextMeter(data, judges={"bigram": NGramJudge(data.all(), 4, 2)})
    rows = quality(denoiser, meter, [1, 16], num_samples=800)
    reference = meter.reference()
    metrics = {r.metric for r in reference}
    assert metrics == {
        "nll", "nll_bigram", "entropy_unigram", "entropy_bigram", "entropy", "bigram_tv",
        "trigram_tv", "distinct_4", "repeated_4", "copied", "dictionary_words", "entropy_within",
    }  # fmt: skip
    assert {r.metric for r in rows} == metrics
    for metric in ("nll", "entropy", "trigram_tv"):
        one, many = find(rows, metric, 1), find(rows, metric, 16)
        real = find(reference, metric)
        assert abs(many.value - real.value) < 0.3 * abs(one.value - real.value)
    assert find(reference, "nll_bigram").value == pytest.approx(chain.entropy() / 8, abs=0.03)


def test_lines_are_whole_words_to_the_meter(tmp_path, monkeypatch):
    from fewjump.data import line_file

    path = tmp_path / "names.txt"
    path.write_text("\n".join(["anna", "otto", "hannah", "eve"] * 20))
    meter = TextMeter(line_file(path))
    assert meter.whole
    assert meter.words == {"anna", "otto", "hannah", "eve"}
    tokens = meter.dataset.vocabulary.encode("anna\u2400\u2400" + "annaaa")
    scores = meter.measure(tokens.reshape(2, 6))
    assert scores["dictionary_words"].value == pytest.approx(0.5)
    assert scores["copied"].value == 0.5
    # The training part was read for it, and is not read again.
    monkeypatch.setattr(Dataset, "all", None)
    again = meter.measure(meter.dataset.vocabulary.encode("hannahotto\u2400\u2400").reshape(2, 6))
    assert again["copied"].value == 1


def test_image_rows():
    pytest.importorskip("sklearn")
    data = digits()
    small = Dataset(
        data.train[:300], data.valid[:10], data.test[:60], data.vocabulary, "some digits",
        {"train": data.labels["train"][:300]},
    )  # fmt: skip
    from fewjump.evaluate import train_classifier

    space = train_classifier(small, steps=60)
    process = Uniform(17, fewjump.LogLinear())
    counts = torch.nn.functional.one_hot(data.train, 17).double().mean(0)

    def independent(x_t, t):
        return counts.log().expand(x_t.shape[0], -1, -1)

    denoiser = LogitDenoiser(independent, process, 64)
    meter = ImageMeter(small, space)
    rows = quality(denoiser, meter, [1], seeds=[0, 1], model="pixels")
    reference = meter.reference()
    metrics = {"frechet", "precision", "recall", "density", "coverage", "two_sample", "copied"}
    assert {r.metric for r in rows} == {r.metric for r in reference} == metrics
    assert find(rows, "frechet", 1).value > 3 * find(reference, "frechet").value
    assert find(rows, "precision", 1).value < find(reference, "precision").value
    row = find(rows, "frechet", 1)
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.value < row.high
    wrong = LogitDenoiser(independent, process, 63)
    with pytest.raises(ValueError, match="data set it was trained on"):
        quality(wrong, meter, [1])
    assert isinstance(small.vocabulary, ImageLevels)
