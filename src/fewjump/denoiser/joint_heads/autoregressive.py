"""A head that reads the tokens to the left: a light causal layer over the trunk's features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewjump.config import check_counts
from fewjump.denoiser.attention import rotary_table, rotate
from fewjump.denoiser.constrain import certain_positions
from fewjump.denoiser.heads import JointHead
from fewjump.denoiser.joint_heads.states import TokenFactor
from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, RowsAhead, Walk
from fewjump.law.batched import SHARED
from fewjump.law.logits import Logits
from fewjump.process import Process


class CausalGRU(nn.Module):
    """A gated recurrent unit; its cache is the hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, L, width) → (B, L, width); output i reads inputs 0..i."""
        return self.gru(inputs)[0]

    def begin(self, inputs: Tensor) -> list[Tensor]:
        """An empty cache for a batch like ``inputs``."""
        return [inputs.new_zeros(1, inputs.shape[0], inputs.shape[2])]

    def step(self, inputs: Tensor, position: int, cache: list[Tensor]) -> Tensor:
        """The next n positions, (B, n, width) → (B, n, width); the cache is brought forward."""
        state, cache[0] = self.gru(inputs, cache[0])
        return state

    def gates(self, inputs: Tensor) -> Tensor:
        """What inputs (..., width) add to the three gates, linearly: (..., 3·width), no bias."""
        return functional.linear(inputs, self.gru.all_weights[0][0])

    def advance(self, gates: Tensor, state: Tensor) -> Tensor:
        """The next state (B, width) from this one and the :meth:`gates` of the inputs."""
        width = state.shape[-1]
        _, weight, input_bias, bias = self.gru.all_weights[0]
        gates, own = gates + input_bias, functional.linear(state, weight, bias)
        keep = (gates[:, : 2 * width] + own[:, : 2 * width]).sigmoid()
        new = torch.addcmul(gates[:, 2 * width :], keep[:, :width], own[:, 2 * width :]).tanh()
        return torch.lerp(new, state, keep[:, width:])


class CausalAttention(nn.Module):
    """One pre-norm attention block with rotary positions; its cache is the keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(
                f"attention needs a width that is a multiple of 2*heads = {2 * heads}, got {width}"
            )
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, inputs: Tensor, rotation: Tensor | None = None) -> Tensor:
        """(B, L, width) → (B, L, width); output i reads inputs 0..i.

        ``rotation`` has the rotary tables of where queries and keys stand, (2, [B,] L, 2, 1,
        width/heads); by default both at 0..L−1.
        """
        q, k, v = self._project(inputs, 0, rotation)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._finish(inputs, mixed)

    def begin(self, inputs: Tensor) -> list[Tensor]:
        """An empty cache for a batch and length like ``inputs``: keys and values."""
        batch, length, width = inputs.shape
        shape = (batch, self.heads, length, width // self.heads)
        dtype = self.qkv.weight.dtype
        return [torch.zeros(shape, dtype=dtype, device=inputs.device) for _ in range(2)]

    def step(
        self, inputs: Tensor, position: int, cache: list[Tensor], rotation: Tensor | None = None
    ) -> Tensor:
        """The next n inputs (B, n, width) → (B, n, width); the cache is filled in place."""
        q, k, v = self._project(inputs, position, rotation)
        end = position + inputs.shape[1]
        cache[0][:, :, position:end], cache[1][:, :, position:end] = k, v
        keys, values = (c[:, :, :end].to(q.dtype) for c in cache)
        causal = inputs.shape[1] > 1
        assert not (causal and position)
        mixed = functional.scaled_dot_product_attention(q, keys, values, is_causal=causal)
        return self._finish(inputs, mixed)

    def _project(
        self, inputs: Tensor, start: int, rotation: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = inputs.shape
        qkv = self.qkv(self.norm1(inputs)).view(batch, length, 3, self.heads, width // self.heads)
        if rotation is None:
            size = width // self.heads
            rotation = rotary_table(start + length, size, None, inputs.device)[:, start:]
        q, k = rotate(qkv[:, :, :2], rotation).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def _finish(self, inputs: Tensor, mixed: Tensor) -> Tensor:
        h = inputs + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.mlp(self.norm2(h))


CausalKind = Literal["gru", "attention"]


class AutoregressiveHead(JointHead):
    """p(x₀ⁱ|x₀^{<i}, x_t) = softmax(product logits + f(causal state i, features i)·W).

    One trunk evaluation gives the features; the causal layer then runs once over all positions to
    score a sequence, and position by position to draw one.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        width: of the causal layer.
        causal: ``gru``, or ``attention`` (one block with a key–value cache).
        neighbours: offsets back in the sequence whose tokens enter at each position. (1,) is the
            token to the left; (1, W) adds the one above in an image of W columns.
        heads: attention heads (``attention`` only).
        lookahead: read the known tokens to the right of each position too, by a recurrent pass
            from right to left, so that ``law.given`` takes any set of known positions.
    """

    kind = "autoregressive"
    autoregressive = True
    closed_marginals = False

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        width: int = 128,
        causal: CausalKind = "gru",
        neighbours: tuple[int, ...] = (1,),
        heads: int = 4,
        lookahead: bool = False,
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(width=width, heads=heads)
        if causal not in get_args(CausalKind):
            known = ", ".join(get_args(CausalKind))
            raise ValueError(f"unknown causal layer {causal!r}; known: {known}")
        if not neighbours or min(neighbours) < 1 or 1 not in neighbours:
            raise ValueError(
                f"neighbours are offsets back and must include 1, such as (1,) or (1, 8); "
                f"got {tuple(neighbours)}"
            )
        self.width, self.causal, self.heads = width, causal, heads
        self.neighbours = tuple(int(offset) for offset in neighbours)
        # One more row than tokens: what stands before the beginning.
        self.embeddings = nn.ModuleList(
            nn.Embedding(vocab_size + 1, width) for _ in self.neighbours
        )
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=1.0)  # type: ignore[arg-type]
        self.condition = nn.Linear(hidden, width)
        self.layer = CausalGRU(width) if causal == "gru" else CausalAttention(width, heads)
        self.mix = nn.Linear(hidden, width)
        self.read = nn.Linear(width, width)
        self.tokens = TokenFactor(vocab_size, width)
        self.lookahead = lookahead
        if lookahead:
            # One more row than tokens: a token that is not known.
            self.right_embedding = nn.Embedding(vocab_size + 1, width)
            self.right = nn.GRU(width, width, batch_first=True)
            self.right_read = nn.Linear(width, width)

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> AutoregressiveLaw:
        base = self.base(features, x_t, process).source
        # The causal layer runs when the law is asked, outside any autocast the trunk ran in: what
        # it reads has the precision of its weights.
        inputs = self.condition(features).to(self.condition.weight.dtype)
        mix = self.mix(features).to(self.mix.weight.dtype)
        conditionals = HeadConditionals(self, base, inputs, mix)
        visible = certain_positions(x_t, process)
        if self.lookahead:
            right = self.to_the_right(torch.where(visible, x_t, 0), visible)
            conditionals = replace(conditionals, right=right)
        return AutoregressiveLaw(conditionals, certain=torch.where(visible, x_t, -1))

    def to_the_right(self, x0: Tensor, known: Tensor) -> Tensor:
        """What the known tokens to the right of each position say: (B, L) → (B, L, width)."""
        tokens = self.right_embedding(torch.where(known, x0, self.vocab_size)).flip(1)
        states = self.right_read(self.right(tokens)[0].flip(1))
        return functional.pad(states[:, 1:], (0, 0, 0, 1))

    def embed(self, x0: Tensor, positions: slice) -> Tensor:
        """Sum of the neighbours' embeddings at ``positions``, from x0 (B, L): (B, n, width)."""
        total: Tensor | None = None
        for offset, embedding in zip(self.neighbours, self.embeddings):
            # A row of padding tokens in front of the sequence, then plain slicing.
            padded = functional.pad(x0[:, : positions.stop], (offset, 0), value=self.vocab_size)
            value = embedding(padded[:, positions])
            total = value if total is None else total + value
        assert total is not None
        return total

    def factors(self, states: Tensor, mix: Tensor) -> Tensor:
        """What, times the token factor, is added to the product logits: (..., width)."""
        return functional.gelu(self.read(states) + mix, approximate="tanh")


@dataclass(eq=False)
class HeadConditionals(Conditionals):
    """The conditionals of an :class:`AutoregressiveHead` for one batch of features.

    Args:
        head: whose parameters are used.
        base: constrained product logits, (B, L, V).
        inputs, mix: (B, L, width), projections of the features.
        right: (B, L, width), what the known tokens to the right of each position say.
    """

    head: AutoregressiveHead = field(metadata=SHARED)
    base: Logits
    inputs: Tensor
    mix: Tensor
    right: Tensor | None = None

    def __post_init__(self) -> None:
        self.batch_size, self.length = self.base.batch_size, self.base.length
        self.vocab_size = self.base.vocab_size

    def given(self, x0: Tensor, known: Tensor) -> HeadConditionals | None:
        if not self.head.lookahead:
            return None
        return replace(self, right=self.head.to_the_right(x0, known))

    def conditions(self) -> Tensor:
        """What enters the causal layer beside tokens: (B, L, width)."""
        return self.inputs if self.right is None else self.inputs + self.right

    def source(self, x0: Tensor) -> Logits:
        inputs = self.head.embed(x0, slice(0, self.length)) + self.conditions()
        factors = self.head.factors(self.head.layer(inputs), self.mix)
        return self.base.plus(factors, self.head.tokens.weight)

    def row(self, base: Tensor, step: int, state: Tensor) -> Tensor:
        """Logits (B, V) at a position: its product logits, and what the causal state adds there.

        Args:
            base: (B, V).
            step: the position.
            state: (B, width).
        """
        return base + self.head.tokens(self.head.factors(state, self.mix[:, step]))

    def product_logits(self) -> Logits:
        return self.base

    def begin(self) -> Walk:
        layer = self.head.layer
        # A table of what every token adds costs less than adding it up wherever it stands.
        if isinstance(layer, CausalGRU) and self.vocab_size < self.batch_size * self.length:
            return _GRUWalk(self, layer)
        return _HeadWalk(self)


class _HeadWalk(Walk):
    def __init__(self, conditionals: HeadConditionals) -> None:
        self.conditionals = conditionals
        layer = conditionals.head.layer
        self.base, self.inputs = RowsAhead(conditionals.base), conditionals.conditions()
        self.cache = layer.begin(self.inputs)

    def skip(self, steps: int, x0: Tensor) -> None:
        if steps:
            self._states(slice(0, steps), x0)

    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        state = self._states(slice(step, step + 1), x0)[:, 0]
        return self.conditionals.row(self.base[step], step, state)

    def _states(self, steps: slice, x0: Tensor) -> Tensor:
        head = self.conditionals.head
        inputs = head.embed(x0, steps) + self.inputs[:, steps]
        return head.layer.step(inputs, steps.start, self.cache)


class _GRUWalk(Walk):
    """The walk of a gated recurrent unit; all that does not depend on its state is there before."""

    def __init__(self, conditionals: HeadConditionals, layer: CausalGRU) -> None:
        self.conditionals, self.layer = conditionals, layer
        self.base = RowsAhead(conditionals.base)
        inputs, head = conditionals.conditions(), conditionals.head
        alike = inputs.stride(0) == 0
        self.gates = layer.gates(inputs[:1] if alike else inputs)
        self.tables = [layer.gates(e.weight) for e in head.embeddings]  # type: ignore[arg-type]
        self.state = inputs.new_zeros(inputs.shape[0], inputs.shape[2])

    def skip(self, steps: int, x0: Tensor) -> None:
        if steps:
            given, first = self.conditionals, slice(0, steps)
            inputs = given.head.embed(x0, first) + given.conditions()[:, first]
            self.state = self.layer(inputs)[:, -1]

    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        given, head = self.conditionals, self.conditionals.head
        gates = self.gates[:, step]
        for offset, table in zip(head.neighbours, self.tables):
            before = step - offset
            gates = gates + (table[x0[:, before]] if before >= 0 else table[-1:])
        self.state = self.layer.advance(gates, self.state)
        return given.row(self.base[step], step, self.state)
