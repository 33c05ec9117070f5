"""Inverting a cumulative distribution: the definition, its edges, tiny probabilities."""

from __future__ import annotations

import pytest
import torch

from fewjump.inversion import invert_cdf, invert_shared_cdf


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
