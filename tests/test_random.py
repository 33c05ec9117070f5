"""Random draws: known answers, independence of batch splits, categories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewjump.inversion import invert_cdf, invert_shared_cdf
from fewjump.random import (
    SampleStreams,
    bernoulli,
    categorical,
    categorical_from_logits,
    fold_seed,
    generator_for,
    integers,
    philox4x32,
    uniform,
    uniform_where,
)


def streams(n, seed=11, start=0):
    return SampleStreams(seed, torch.arange(start, start + n))


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "kind",
    [int, lambda word: torch.tensor([word]), lambda word: np.array([word], dtype=np.uint64)],
    ids=["integers", "tensors", "arrays"],
)
def test_philox_known_answers(counter, key, answer, kind):
    words = [kind(int(w, 16)) for w in counter.split()]
    k0, k1 = (int(w, 16) for w in key.split())
    out = philox4x32(words, (k0, k1))
    assert " ".join(f"{int(np.ravel(w)[0]):08x}" for w in out) == answer


def test_stream_of_a_sample_does_not_depend_on_its_batch():
    whole, halves = streams(7), [streams(3), streams(4, start=3)]
    for shape in ((5,), (2, 3), ()):
        parts = [h.uniform((h.batch_size, *shape)) for h in halves]
        assert torch.equal(whole.uniform((7, *shape)), torch.cat(parts))


def test_masked_draws_agree_with_full_ones_and_with_any_split():
    where = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    full = streams(7).uniform((7, 5))
    assert torch.equal(streams(7).uniform_where(where), full[where])
    parts = [streams(3).uniform_where(where[:3]), streams(4, start=3).uniform_where(where[3:])]
    assert torch.equal(torch.cat(parts), full[where])


def test_a_split_changes_no_categorical_draw():
    logits = torch.randn(6, 4, 700, generator=torch.Generator().manual_seed(1))
    whole = categorical_from_logits(logits, streams(6))
    first = categorical_from_logits(logits[:2], streams(2))
    second = categorical_from_logits(logits[2:], streams(4, start=2))
    assert torch.equal(whole, torch.cat([first, second]))


def test_successive_draws_and_other_seeds_differ():
    source = streams(4)
    first, second = source.uniform((4, 100)), source.uniform((4, 100))
    assert not torch.isclose(first, second).any()
    assert not torch.isclose(first, streams(4, seed=12).uniform((4, 100))).any()
    assert not torch.isclose(first[0], first[1]).any()


def test_large_seeds_and_indices_are_distinct():
    big = SampleStreams(2**64 - 1, torch.tensor([2**40, 2**40 + 1, 1]))
    draws = big.uniform((3, 4))
    assert draws.unique().numel() == 12
    assert not torch.equal(draws, SampleStreams(2**32 - 1, big.indices).uniform((3, 4)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        SampleStreams(seed, torch.arange(2))


def test_wrong_batch_is_refused():
    with pytest.raises(ValueError, match="batch of 3"):
        uniform((4, 2), streams(3))


@pytest.mark.parametrize("source", [torch.Generator().manual_seed(5), streams(100)])
def test_uniforms_are_open_float64_and_uniform(source):
    u = uniform((100, 1000), source)
    assert u.dtype == torch.float64
    assert bool((u > 0).all())
    assert bool((u < 1).all())
    counts = torch.histc(u, 50, 0, 1)
    chi2 = ((counts - 2000) ** 2 / 2000).sum()
    assert 20 < float(chi2) < 95  # 49 degrees of freedom
    low = (u * 2**26) % 1  # digits that a float32 uniform does not have
    assert float(low.mean()) == pytest.approx(0.5, abs=0.01)


def test_cpu_generator_reproduces():
    a = uniform((3, 4), torch.Generator().manual_seed(9))
    b = uniform((3, 4), torch.Generator().manual_seed(9))
    assert torch.equal(a, b)
    torch.manual_seed(4)
    c = uniform((3, 4))
    torch.manual_seed(4)
    assert torch.equal(c, uniform((3, 4)))


def test_uniform_where_with_a_generator_draws_one_for_each():
    where = torch.tensor([[True, False], [True, True]])
    assert uniform_where(where, torch.Generator().manual_seed(0)).shape == (3,)


def test_bernoulli_and_integers():
    source = torch.Generator().manual_seed(3)
    p = torch.tensor([0.0, 0.25, 1.0]).expand(20000, 3)
    rate = bernoulli(p, source).double().mean(0)
    assert rate[0] == 0
    assert rate[2] == 1
    assert float(rate[1]) == pytest.approx(0.25, abs=0.015)
    draws = integers(7, (35000,), source)
    counts = torch.bincount(draws, minlength=7)
    assert counts.numel() == 7
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 25  # 6 degrees of freedom


# -- categories ---------------------------------------------------------------------------------


@pytest.mark.parametrize("v", [4, 1000])
@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_a_row_without_a_law_is_refused(v, bad):
    weights = torch.ones(3, v)
    weights[1] = bad
    with pytest.raises(ValueError, match="zero, NaN or infinite"):
        categorical(weights, torch.Generator())


def test_nan_logits_are_refused():
    logits = torch.zeros(2, 3, 5)
    logits[1, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        categorical_from_logits(logits, torch.Generator())


@pytest.mark.parametrize("v", [6, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_follow_the_logits(v, dtype):
    source = torch.Generator().manual_seed(8)
    logits = torch.full((v,), -torch.inf)
    support = torch.linspace(0, v - 1, 6).long()
    logits[support] = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -2.0])
    logits = logits.to(dtype)
    n = 20000
    counts = torch.zeros(v)
    for _ in range(4):
        tokens = categorical_from_logits(logits.expand(n // 8, 2, v), source)
        counts += torch.bincount(tokens.flatten(), minlength=v)
    p = logits.float().softmax(-1)
    assert counts[p == 0].sum() == 0
    chi2 = ((counts - n * p) ** 2 / (n * p))[support].sum()
    assert float(chi2) < 25  # 5 degrees of freedom


def test_chunks_do_not_change_the_result(monkeypatch):
    logits = torch.randn(9, 5, 600, generator=torch.Generator().manual_seed(1))
    expected = categorical_from_logits(logits, streams(9))
    monkeypatch.setattr("fewjump.inversion._ROWS_PER_CHUNK_ELEMENTS", 2500)
    assert torch.equal(categorical_from_logits(logits, streams(9)), expected)


def test_folded_seeds_are_distinct():
    seeds = {fold_seed(a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert len({fold_seed(*[0] * n) for n in range(8)}) == 8
    assert fold_seed(1, 2) != fold_seed(2, 1)
    assert len({fold_seed(-1), fold_seed(1), fold_seed(2**32), fold_seed(2**63)}) == 4
    assert all(0 <= s < 2**63 for s in seeds)
    assert fold_seed(3, 1, 4) == fold_seed(3, 1, 4)


def test_generator_for_is_a_function_of_its_parts():
    a, b, c = (torch.rand(3, generator=generator_for(*p)) for p in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_streams_and_cpu_generators_give_the_same_draws_on_an_accelerator():
    logits = torch.randn(4, 3, 900, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for make in (lambda: streams(4), lambda: torch.Generator().manual_seed(2)):
        here, there = make(), make()
        assert torch.equal(uniform((4, 5), here), uniform((4, 5), there, "cuda").cpu())
        a = categorical_from_logits(logits, here)
        assert torch.equal(a, categorical_from_logits(logits.cuda(), there).cpu())


# -- inverting a cumulative distribution --------------------------------------------------------


def sparse_weights(n, v, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, v, generator=source, dtype=torch.float64) ** 8
    keep = torch.rand(n, v, generator=source) < 0.1
    weights = weights * keep
    weights[:, v // 2] += 0.01  # a row is never empty, in float16 neither
    return weights.to(dtype)


@pytest.mark.parametrize("v", [2, 511, 512, 513, 768, 1000, 5003])
def test_inversion_is_the_definition(v):
    weights = sparse_weights(400, v)
    u = torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    index = invert_cdf(weights, u)
    cumulative = weights.cumsum(-1)
    expected = (cumulative > u[:, None] * cumulative[:, -1:]).double().argmax(-1)
    assert torch.equal(index, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("v", [3, 300, 2000])
def test_no_index_of_zero_weight_at_any_edge(v, dtype):
    weights = sparse_weights(60, v, dtype=dtype)
    weights[0] = 0
    weights[0, 1] = 1  # certainty away from both ends
    # 1 itself is never drawn, but rounding inside a block of a large row can arrive there.
    for u in (2.0**-54, 0.5, 1 - 2.0**-30, 1 - 2.0**-53, 1.0):
        index = invert_cdf(weights, torch.full((60,), u, dtype=torch.float64))
        assert bool((weights.gather(1, index[:, None]) > 0).all())
        assert index[0] == 1


def test_shared_weights_give_what_repeated_ones_do():
    weights = sparse_weights(1, 900)[0]
    u = torch.rand(30, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    repeated = invert_cdf(weights.expand(210, -1), u.reshape(-1)).reshape(30, 7)
    assert torch.equal(invert_shared_cdf(weights, u), repeated)
    edge = invert_shared_cdf(torch.tensor([0.0, 0.3, 0.0]), torch.tensor([1e-17, 1 - 2.0**-53]))
    assert edge.tolist() == [1, 1]


def test_a_rare_jump_keeps_its_probability_in_float32():
    # 50,257 clean tokens share a probability of 1/1024. Gumbel noise from float32 uniforms never
    # exceeds 16.7, while each clean logit lies 17.8 below the mask's: almost no draw would unmask.
    vocab, rows = 50_257, 1 << 13
    clean = torch.log(torch.tensor(1 / 1024 / vocab))
    mask = torch.log(torch.tensor(1 - 1 / 1024))
    logits = torch.cat([clean.expand(vocab), mask[None]]).float()
    weights = logits.exp()
    u = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    tokens = torch.cat([invert_cdf(weights.expand(64, -1), part) for part in u.split(64)])
    assert int((tokens < vocab).sum()) == rows // 1024
    noise = torch.rand(64, vocab + 1, generator=torch.Generator().manual_seed(0))
    assert float(-torch.log(-torch.log(noise.clamp(max=1 - 2.0**-24))).max()) < 16.7
    assert float(mask - clean) > 17.7


@pytest.mark.parametrize("v", [8, 1200])
def test_a_probability_far_below_float32_is_drawn_where_it_should_be(v):
    weights = torch.zeros(2, v)
    weights[:, 0] = 1.0
    weights[:, v - 1] = 1e-12
    edge = 1 / (1 + float(weights[0, v - 1]))
    u = torch.tensor([edge - 1e-13, edge + 1e-13], dtype=torch.float64)
    assert invert_cdf(weights, u).tolist() == [0, v - 1]


def test_a_seed_is_no_generator() -> None:
    with pytest.raises(TypeError, match="manual_seed"):
        uniform((2,), 7)  # type: ignore[arg-type]
