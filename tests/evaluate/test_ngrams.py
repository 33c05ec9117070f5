from __future__ import annotations

import math

import pytest
import torch

from fewjump.evaluate import distinct_ngrams, ngram_entropy, ngram_tv, ngrams
from fewjump.evaluate.ngrams import copied_runs, ngram_keys, repeated_ngrams, sorted_runs
from fewjump.evaluate.text import dictionary, dictionary_words, words_in
from fewjump.problem import MarkovChain
from fewjump.random import generator_for, integers


def test_keys_are_numbers_in_the_base_of_the_vocabulary():
    tokens = torch.tensor([[1, 2, 0, 4]])
    assert ngram_keys(tokens, 3, 5).tolist() == [[25 + 10 + 0, 50 + 0 + 4]]
    with pytest.raises(ValueError, match="62 bits"):
        ngram_keys(torch.zeros(1, 8, dtype=torch.int64), 5, 1 << 14)
    with pytest.raises(ValueError, match="mask"):
        ngram_keys(tokens, 2, 4)
    with pytest.raises(ValueError, match="L ≥ 5"):
        ngram_keys(tokens, 5, 5)


def test_by_hand(generator):
    tokens = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
    # Unigrams 6:2; bigrams 01 ×2, 10 ×1, 00 ×3.
    p = [6 / 8, 2 / 8]
    assert ngram_entropy(tokens, 1, 2, generator).value == pytest.approx(
        -sum(q * math.log(q) for q in p)
    )
    p = [2 / 6, 1 / 6, 3 / 6]
    assert ngram_entropy(tokens, 2, 2, generator).value == pytest.approx(
        -sum(q * math.log(q) for q in p)
    )
    assert distinct_ngrams(tokens, 2, 2, generator).value == pytest.approx(3 / 6)
    other = torch.tensor([[1, 1, 1]])
    assert ngram_tv(tokens, other, 2, 2, generator).value == pytest.approx(1.0)
    other = torch.tensor([[0, 0, 1]])
    assert ngram_tv(tokens, other, 2, 2, generator).value == pytest.approx(1 / 6)
    assert ngram_tv(tokens, tokens, 2, 2, generator).value == pytest.approx(0, abs=1e-15)


def test_runs_of_a_large_vocabulary_are_told_apart():
    # 50,258 tokens: a 4-gram has no number of 62 bits.
    tokens = integers(50_258, (40, 12), generator_for(7))
    tokens[1, 3:9] = tokens[0, 2:8]
    for n in (4, 5, 7):
        runs = {tuple(row[i : i + n].tolist()) for row in tokens for i in range(13 - n)}
        share = distinct_ngrams(tokens, n, 50_258, generator_for(8)).value
        assert share == pytest.approx(len(runs) / (40 * (13 - n)))


def test_repeated_runs_by_hand(generator):
    tokens = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 3, 3]])
    # 01 10 01 10 01: three of five again; 01 12 23 33 33: one of five.
    assert repeated_ngrams(tokens, 2, 4, generator).value == pytest.approx((3 / 5 + 1 / 5) / 2)
    # Without padding 3: 01 12 are left of the second.
    padded = repeated_ngrams(tokens, 2, 4, generator, padding=3).value
    assert padded == pytest.approx(3 / 5 / 2)


def test_copied_runs_are_those_that_the_source_has(monkeypatch):
    monkeypatch.setattr(ngrams, "_SOURCE_TOKENS", 25)
    source = integers(3, (30, 10), generator_for(9))
    tokens = integers(3, (50, 8), generator_for(10))
    for n in (3, 5, 8):
        known = {tuple(row[i : i + n].tolist()) for row in source for i in range(11 - n)}
        expected = [
            any(tuple(row[i : i + n].tolist()) in known for i in range(9 - n)) for row in tokens
        ]
        found = copied_runs(tokens, sorted_runs(source, n), n, generator_for(11)).value
        assert found == pytest.approx(sum(expected) / 50)
    five = copied_runs(tokens, sorted_runs(source, 5), 5, generator_for(11)).value
    assert 0 < five < 1
    with pytest.raises(ValueError, match="need longer rows"):
        sorted_runs(source, 11)


def test_entropies_of_a_chain_approach_the_truth():
    chain = MarkovChain.random(4, 16, generator=generator_for(3))
    samples = chain.sample(4000, generator_for(4))
    bigram = chain.bigram_law()
    truth = -float(torch.xlogy(bigram, bigram).sum())
    found = ngram_entropy(samples, 2, 4, generator_for(5))
    assert found.low < truth < found.high
    assert found.value == pytest.approx(truth, abs=0.01)
    three = ngram_entropy(samples, 3, 4, generator_for(5))
    assert three.value - found.value == pytest.approx(chain.entropy_rate(), abs=0.01)


def test_resampling_respects_sequences():
    # Two kinds of sequences: their shares vary as a binomial of N sequences, not of N·L tokens.
    tokens = torch.zeros(100, 50, dtype=torch.int64)
    tokens[:50] = 1
    interval = ngram_tv(tokens, torch.zeros(1, 50, dtype=torch.int64), 1, 2, generator_for(1))
    assert interval.value == pytest.approx(0.5)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.05, rel=0.25)


def test_words_at_the_edges_are_cut_and_left_out():
    assert words_in("he quick brown fo") == ["quick", "brown"]
    assert words_in("Anna-Lena", whole=True) == ["anna", "lena"]
    assert words_in("abc") == []


def test_dictionary_words(generator):
    known = dictionary([" the cat sat the ", " the dog x "], min_count=1)
    assert known == {"the", "cat", "sat", "dog", "x"}
    assert dictionary([" the cat sat the "], min_count=2) == {"the"}
    texts = [" the xyz cat ", " a bb ", " dog qqq www "]
    # Of length 3 and more: the✓ xyz cat✓ dog✓ qqq www.
    assert dictionary_words(texts, known, generator=generator).value == pytest.approx(3 / 6)
    assert dictionary_words(["   ", "x"], known, generator=generator).value == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_tokens_of_narrow_types_do_not_overflow(dtype: torch.dtype) -> None:
    x = torch.randint(0, 250, (60, 8), generator=torch.Generator().manual_seed(0))
    narrow = x.to(dtype)
    assert torch.equal(ngram_keys(narrow, 3, 250), ngram_keys(x, 3, 250))
    assert (
        distinct_ngrams(narrow, 2, 250, generator_for(0)).value
        == distinct_ngrams(x, 2, 250, generator_for(0)).value
    )
    assert torch.equal(sorted_runs(narrow, 5), sorted_runs(x, 5))
    with pytest.raises(ValueError, match="holds no sequences"):
        ngram_tv(x, x[:0], 2, 250)
    with pytest.raises(ValueError, match="give integers"):
        ngram_keys(x.float(), 2, 250)
