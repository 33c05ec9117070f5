"""The reference network: layout, positions, initialisation, conditioning."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fewjump.denoiser import Transformer, TransformerConfig
from fewjump.denoiser.attention import rotary_table, rotate
from fewjump.denoiser.transformer import LocalMixing

CPU = torch.device("cpu")
SMALL = TransformerConfig(vocab_size=7, hidden=16, blocks=2, heads=2, condition_dim=8)
IMAGE = TransformerConfig(
    vocab_size=7,
    hidden=16,
    blocks=2,
    heads=2,
    condition_dim=8,
    positions="2d",
    grid=(4, 3),
    conv_kernel=3,
)


def shaken(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A network none of whose parameters is zero, so that nothing hides behind a closed gate."""
    generator = torch.Generator().manual_seed(seed)
    network = Transformer(config)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def tokens(*shape: int, seed: int = 1, high: int = 7) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


# -- positions ------------------------------------------------------------------------------


def attention_scores(length: int, head_dim: int, columns: int | None) -> Tensor:
    """q·k for one fixed query and key vector put at every pair of positions: (L, L)."""
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, head_dim, generator=generator, dtype=torch.float64)
    table = rotary_table(length, head_dim, columns, CPU, torch.float64)
    q = rotate(q.expand(1, length, 1, 1, head_dim), table)[0, :, 0, 0]
    k = rotate(k.expand(1, length, 1, 1, head_dim), table)[0, :, 0, 0]
    return q @ k.T


def test_scores_depend_on_the_difference_of_positions_only() -> None:
    scores = attention_scores(40, 8, None)
    for offset in (-7, -1, 0, 1, 12):
        along = scores.diagonal(offset)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-10, rtol=0)
    assert scores[0].std() > 0.1
    assert abs(scores[0, 3] - scores[3, 0]) > 1e-2, "direction must matter too"


def test_scores_depend_on_the_difference_of_rows_and_of_columns_only() -> None:
    rows, columns = 5, 4
    scores = attention_scores(rows * columns, 8, columns).reshape(rows, columns, rows, columns)
    for down in range(rows):
        for right in range(columns):
            same = [
                scores[r, c, r + down, c + right]
                for r in range(rows - down)
                for c in range(columns - right)
            ]
            assert max(same) - min(same) < 1e-10
    assert abs(scores[0, 0, 0, 1] - scores[0, 0, 1, 0]) > 1e-2, "rows and columns must differ"
    assert abs(scores[0, 0, 0, 0] - scores[0, 0, 0, 1]) > 1e-2
    assert abs(scores[0, 0, 0, 0] - scores[0, 0, 1, 0]) > 1e-2


def test_rotary_is_half_split_with_base_ten_thousand() -> None:
    head_dim, length = 6, 9
    vectors = torch.randn(1, length, 1, 1, head_dim, dtype=torch.float64)
    got = rotate(vectors, rotary_table(length, head_dim, None, CPU, torch.float64))
    for position in range(length):
        for pair in range(head_dim // 2):
            turn = torch.polar(
                torch.ones((), dtype=torch.float64),
                torch.tensor(position * 1e4 ** (-2 * pair / head_dim), dtype=torch.float64),
            )
            at = vectors[0, position, 0, 0]
            expected = torch.complex(at[pair], at[pair + 3]) * turn
            actual = got[0, position, 0, 0]
            assert abs(torch.complex(actual[pair], actual[pair + 3]) - expected) < 1e-12


def test_rotation_has_the_right_gradient() -> None:
    table = rotary_table(3, 4, None, CPU, torch.float64)
    vectors = torch.randn(2, 3, 2, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: rotate(v, table), (vectors,))


def test_any_length_works_and_context_is_read_both_ways() -> None:
    network = shaken(SMALL)
    t = torch.tensor([0.5])
    for length in (1, 2, 9, 300):
        assert network.features(tokens(1, length), t).shape == (1, length, 16)
    x = tokens(1, 12)
    changed = x.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 7
    moved = (network.features(x, t) - network.features(changed, t)).abs().amax(-1)[0]
    assert (moved > 1e-5).all(), "attention must be full, not causal"


def test_an_image_may_have_more_rows_but_only_whole_ones() -> None:
    network = shaken(IMAGE)
    assert network.features(tokens(2, 21), torch.ones(2)).shape == (2, 21, 16)
    with pytest.raises(ValueError, match="whole rows of 3 columns"):
        network.features(tokens(2, 13), torch.ones(2))


def test_order_matters() -> None:
    for config in (SMALL, TransformerConfig(7, 16, 1, 2, conv_kernel=0, condition_dim=8)):
        network = shaken(config)
        x = torch.tensor([[0, 1, 2, 3, 4, 5]])
        flipped = network.features(x.flip(1), torch.ones(1)).flip(1)
        assert (flipped - network.features(x, torch.ones(1))).abs().max() > 1e-2


def test_groups_tell_apart_what_distances_cannot() -> None:
    board = TransformerConfig(
        7, 16, 1, 2, conv_kernel=0, condition_dim=8, position_groups=((0, 0, 1, 1), (0, 1, 0, 1))
    )
    x = torch.full((1, 4), 5)
    features = shaken(board).features(x, torch.ones(1))[0]
    assert torch.pdist(features).min() > 1e-2
    # All masked, relative positions say nothing.
    alike = TransformerConfig(7, 16, 1, 2, conv_kernel=0, condition_dim=8)
    features = shaken(alike).features(x, torch.ones(1))[0]
    assert torch.pdist(features).max() < 1e-5
    with pytest.raises(ValueError, match="number 4 positions, got 5"):
        shaken(board).features(torch.full((1, 5), 5), torch.ones(1))


# -- initialisation and layers --------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, IMAGE])
def test_a_fresh_network_is_the_identity_and_a_norm(config: TransformerConfig) -> None:
    network = Transformer(config)
    x = tokens(2, 12)
    expected = nn.functional.layer_norm(network.embedding(x), (16,))
    torch.testing.assert_close(network.features(x, torch.tensor([0.3, 2.0])), expected)


@pytest.mark.parametrize(
    "config", [SMALL, IMAGE, replace(SMALL, position_groups=(range(12), (0, 1) * 6))]
)
def test_every_parameter_receives_a_gradient(config: TransformerConfig) -> None:
    network = shaken(config).train()
    x = torch.arange(12).reshape(1, 12) % 7
    weights = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
    (network.features(x, torch.tensor([0.7])) * weights).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_network_can_leave_its_initialisation() -> None:
    network = Transformer(SMALL)
    weights = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
    (network.features(tokens(2, 12), torch.ones(2)) * weights).sum().backward()
    gates = network.blocks[0].modulation.bias.grad
    assert gates is not None
    assert gates.abs().max() > 0


def test_local_mixing_reads_the_nearest_neighbours_of_its_grid() -> None:
    mixing = LocalMixing(IMAGE)
    h = torch.randn(1, 12, 16)
    torch.testing.assert_close(mixing(h), h)
    nn.init.ones_(mixing.weight)
    impulse = torch.zeros(1, 12, 16)
    impulse[0, 4] = 1.0
    reached = mixing(impulse)[0, :, 0].reshape(4, 3)
    expected = torch.tensor([[1.0, 1, 1], [1, 2, 1], [1, 1, 1], [0, 0, 0]])
    torch.testing.assert_close(reached, expected)
    line = LocalMixing(SMALL)
    nn.init.ones_(line.weight)
    reached = line(impulse)[0, :, 0]
    expected = torch.tensor([0.0, 0, 1, 1, 2, 1, 1, 0, 0, 0, 0, 0])
    torch.testing.assert_close(reached, expected)


def test_dropout_is_for_training_only() -> None:
    network = shaken(TransformerConfig(7, 16, 1, 2, condition_dim=8, dropout=0.5))
    x, t = tokens(2, 8), torch.ones(2)
    assert torch.equal(network.features(x, t), network.features(x, t))
    network.train()
    assert not torch.equal(network.features(x, t), network.features(x, t))


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    network = shaken(IMAGE).double()
    x, t = tokens(3, 12), torch.tensor([0.1, 1.0, 4.0])
    together = network.features(x, t)
    for row in range(3):
        alone = network.features(x[row : row + 1], t[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-12, rtol=1e-12)


def test_time_is_read_when_conditioned_and_only_then() -> None:
    x = tokens(2, 8)
    early, late = torch.tensor([0.1, 0.1]), torch.tensor([5.0, 3.0])
    network = shaken(SMALL)
    assert (network.features(x, early) - network.features(x, late)).abs().max() > 1e-3
    blind = shaken(TransformerConfig(7, 16, 2, 2, condition_dim=8, time_conditioned=False))
    assert torch.equal(blind.features(x, early), blind.features(x, late))


def test_tokens_must_be_rows_of_positions() -> None:
    with pytest.raises(ValueError, match="must be"):
        Transformer(SMALL).features(tokens(5), torch.ones(1))


def test_large_vocabulary() -> None:
    network = Transformer(TransformerConfig(50_258, hidden=16, blocks=1, heads=2))
    assert network.features(tokens(1, 5, high=50_258), torch.ones(1)).isfinite().all()


# -- the layout that published checkpoints share --------------------------------------------


def plain_dit(p: dict[str, Tensor], x: Tensor, sigma: Tensor, blocks: int, heads: int) -> Tensor:
    """The shared DiT written out once more, one position, head and formula at a time."""
    frequency = torch.exp(-math.log(1e4) * torch.arange(128, dtype=torch.float64) / 128)
    angle = sigma[:, None] * frequency
    c = torch.cat([angle.cos(), angle.sin()], -1) @ p["noise.mlp.0.weight"].T
    c = c + p["noise.mlp.0.bias"]
    c = (c * c.sigmoid()) @ p["noise.mlp.2.weight"].T + p["noise.mlp.2.bias"]
    c = c * c.sigmoid()

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    x = p["embedding.weight"][x]
    _, length, hidden = x.shape
    size = hidden // heads
    for i in range(blocks):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in p.items() if f"blocks.{i}." in k}
        modulation = c @ b["modulation.weight"].T + b["modulation.bias"]
        shift, scale, gate, shift2, scale2, gate2 = (m[:, None] for m in modulation.chunk(6, -1))
        h = norm(x, b["norm1.weight"]) * (1 + scale) + shift
        packed = h @ b["attention.qkv.weight"].T
        mixed = torch.zeros_like(h)
        for head in range(heads):
            at = head * size
            q, k, v = (packed[..., n * hidden + at : n * hidden + at + size] for n in range(3))
            turned = []
            for vector in (q, k):
                out = vector.clone()
                for pair in range(size // 2):
                    angles = torch.arange(length, dtype=torch.float64) * 1e4 ** (-2 * pair / size)
                    a, o = vector[..., pair], vector[..., pair + size // 2]
                    out[..., pair] = a * angles.cos() - o * angles.sin()
                    out[..., pair + size // 2] = o * angles.cos() + a * angles.sin()
                turned.append(out)
            weights = (turned[0] @ turned[1].mT / math.sqrt(size)).softmax(-1)
            mixed[..., at : at + size] = weights @ v
        x = x + gate * (mixed @ b["attention.out.weight"].T)
        h = norm(x, b["norm2.weight"]) * (1 + scale2) + shift2
        h = h @ b["mlp.0.weight"].T + b["mlp.0.bias"]
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + gate2 * (h @ b["mlp.2.weight"].T + b["mlp.2.bias"])
    shift, scale = (c @ p["modulation.weight"].T + p["modulation.bias"])[:, None].chunk(2, -1)
    return norm(x, p["norm.weight"]) * (1 + scale) + shift


def test_without_local_mixing_it_is_the_published_layout() -> None:
    config = TransformerConfig(11, 24, 3, 2, conv_kernel=0, condition_dim=12)
    network = shaken(config).double()
    x, sigma = tokens(2, 9, high=11), torch.tensor([0.2, 3.0], dtype=torch.float64)
    expected = plain_dit(dict(network.state_dict()), x, sigma, blocks=3, heads=2)
    with torch.no_grad():
        torch.testing.assert_close(network.features(x, sigma), expected, atol=1e-10, rtol=1e-10)
