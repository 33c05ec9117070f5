"""A head that reads whatever is visible first: causal attention along any order of the positions.

After any-order autoregressive models and self-speculative masked diffusion (arXiv 2510.03929): the
visible tokens come first, then the holes, each from left to right or in another order. It reads
tokens to the right of a hole itself, where a left-to-right head learns of them through the trunk
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewjump.config import check_counts
from fewjump.denoiser.attention import rotary_table
from fewjump.denoiser.constrain import certain_positions
from fewjump.denoiser.heads import JointHead
from fewjump.denoiser.joint_heads.autoregressive import CausalAttention
from fewjump.denoiser.joint_heads.states import TokenFactor
from fewjump.denoiser.position_order import Order, PositionOrder
from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, RowsAhead, Walk
from fewjump.law.batched import SHARED
from fewjump.law.logits import Logits
from fewjump.process import Process

# Embeddings of so many numbers are copied for a walk.
_COPIED = 1 << 20
# Tokens up to which more than the nearest neighbours are embedded by default.
_FAR_UP_TO = 4096


class AnyOrderHead(JointHead):
    """p(x₀^{σ(k)} | x₀^{σ(<k)}, x_t) along σ = visible positions, then holes, each in one order.

    The element that predicts σ(k) carries the token at σ(k−1) with that position's features, the
    features of σ(k), and the tokens next to σ(k) that come before it in the order. Queries stand
    at σ(k) and keys at σ(k−1) (rotary). The features of σ(k) are added again at the output.

    ``law.given(x0, known)`` moves the known positions to the front for any set of them: the law of
    x₀ is then the network's own for that set, in one evaluation of the trunk.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        width: of the attention blocks.
        heads: attention heads.
        blocks: attention blocks.
        neighbours: distances, to either side, at which tokens beside a position enter it, each by
            an embedding of its own: what the attention would be long in finding. (1, W) are the
            pixels around one in an image of W columns. By default four to either side (in an image:
            two in each direction); of vocabularies beyond 4,096 tokens, whose embeddings are large,
            one. With ``coarse-to-fine`` the distances are powers of two up to 8 (in an image: up to
            4 in each direction), as its coarse positions stand apart.
        columns: W, for positions on an image of W columns; None for a sequence.
        order: ``ascending``, ``coarse-to-fine``, or all positions in the order in which they are
            drawn (:class:`~fewjump.denoiser.PositionOrder`).
    """

    kind = "any-order"
    autoregressive = True
    closed_marginals = False

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        width: int = 128,
        heads: int = 4,
        blocks: int = 1,
        neighbours: tuple[int, ...] | None = None,
        columns: int | None = None,
        order: Order = "ascending",
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(width=width, heads=heads, blocks=blocks)
        self.order, self.drawn_in = order, PositionOrder(order, columns)
        if neighbours is None:
            neighbours = _neighbours(vocab_size <= _FAR_UP_TO, columns, order)
        if neighbours and min(neighbours) < 1:
            raise ValueError(
                f"neighbours are distances, such as (1,) or (1, 8); got {tuple(neighbours)}"
            )
        if columns is not None and (columns < 1 or width % (4 * heads)):
            raise ValueError(
                f"positions on an image need columns ≥ 1 and a width that is a multiple of "
                f"4*heads = {4 * heads}; got columns={columns} and width={width}"
            )
        self.width, self.heads, self.blocks, self.columns = width, heads, blocks, columns
        self.neighbours = tuple(int(distance) for distance in neighbours)
        # Two more rows than tokens: a token that is not there yet, and what is outside.
        sides = 1 + 2 * len(self.neighbours)
        self.embeddings = nn.ModuleList(nn.Embedding(vocab_size + 2, width) for _ in range(sides))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=1.0)  # type: ignore[arg-type]
        self.last = nn.Linear(hidden, width)
        self.next = nn.Linear(hidden, width)
        self.layers = nn.ModuleList(CausalAttention(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(hidden, width)
        self.read = nn.Linear(width, width)
        self.tokens = TokenFactor(vocab_size, width)

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> AutoregressiveLaw:
        base = self.base(features, x_t, process).source
        last, following, mix = (
            layer(features).to(layer.weight.dtype) for layer in (self.last, self.next, self.mix)
        )
        visible = certain_positions(x_t, process)
        conditionals = AnyOrderConditionals(
            self, base, last, following, mix, self.order_of(visible)
        )
        return AutoregressiveLaw(conditionals, certain=torch.where(visible, x_t, -1))

    def order_of(self, known: Tensor) -> Tensor:
        """Known positions, then the others, each in the head's order: (B, L) → (B, L) int64."""
        length = known.shape[-1]
        return (self.drawn_in.ranks(length, known.device) + length * ~known).argsort(1)

    def factors(self, states: Tensor, mix: Tensor) -> Tensor:
        """What, times the token factor, is added to the product logits: (..., width)."""
        return functional.gelu(self.read(self.norm(states)) + mix, approximate="tanh")


def _neighbours(far: bool, columns: int | None, order: Order) -> tuple[int, ...]:
    """Distances at which tokens are read where none are given."""
    if not far:
        return (1,) if columns is None else (1, columns)
    if order == "coarse-to-fine":
        return (1, 2, 4, 8) if columns is None else (1, 2, 4, columns, 2 * columns, 4 * columns)
    return (1, 2, 3, 4) if columns is None else (1, 2, columns, 2 * columns)


@dataclass(eq=False)
class AnyOrderConditionals(Conditionals):
    """The conditionals of an :class:`AnyOrderHead` for one batch of features.

    Args:
        head: whose parameters are used.
        base: constrained product logits, (B, L, V).
        last, following, mix: (B, L, width), projections of the features.
        order: (B, L) int64, positions in the order in which they are drawn.
    """

    head: AnyOrderHead = field(metadata=SHARED)
    base: Logits
    last: Tensor
    following: Tensor
    mix: Tensor
    order: Tensor  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.batch_size, self.length = self.base.batch_size, self.base.length
        self.vocab_size = self.base.vocab_size

    def given(self, x0: Tensor, known: Tensor) -> AnyOrderConditionals:
        del x0
        return replace(self, order=self.head.order_of(known))

    @cached_property
    def rank(self) -> Tensor:
        """The step of each position, the inverse of the order: (B, L)."""
        return self.order.argsort(1)

    @cached_property
    def table(self) -> Tensor:
        """The rotary table of all positions: (2, L, 1, width/heads)."""
        head, size = self.head, self.head.width // self.head.heads
        return rotary_table(self.length, size, head.columns, self.order.device)[..., 0, :]

    def source(self, x0: Tensor) -> Logits:
        everything = slice(0, self.length)
        states = self.elements(everything, x0)
        for layer in self.head.layers:
            states = layer(states, self.rotation)
        states = _at(states, self.rank)
        return self.base.plus(self.head.factors(states, self.mix), self.head.tokens.weight)

    def product_logits(self) -> Logits:
        return self.base

    def begin(self) -> Walk:
        return _AnyOrderWalk(self)

    @cached_property
    def before(self) -> Tensor:
        """The position that is drawn before each step; the first one's own: (B, L)."""
        return torch.cat([self.order[:, :1], self.order[:, :-1]], 1)

    @cached_property
    def context(self) -> Tensor:
        """What the attention reads of the features at each step: (B, L, width)."""
        first = torch.arange(self.length, device=self.order.device)[:, None] == 0
        last = _at(self.last, self.before).masked_fill(first, 0.0)
        return _at(self.following, self.order) + last

    @cached_property
    def sources(self) -> tuple[Tensor, Tensor]:
        """Where each embedding finds its token at each step, twice (B, L, n).

        The position that it reads, and what it has in place of that token; −1 where it reads.
        """
        head, length, absent = self.head, self.length, self.vocab_size
        order, device = self.order[..., None], self.order.device
        step = torch.arange(length, device=device)[:, None]
        sides = [side * distance for distance in head.neighbours for side in (-1, 1)]
        offsets = torch.tensor(sides, dtype=torch.int64, device=device)
        beside = order + offsets
        outside = (beside < 0) | (beside >= length)
        if head.columns is not None:
            in_row = offsets.abs() < head.columns
            outside |= in_row & (beside // head.columns != order // head.columns)
        beside = beside.clamp_(0, length - 1)
        rank = self.rank.gather(1, beside.flatten(1)).view_as(beside)
        other = torch.where(rank < step, -1, absent).masked_fill_(outside, absent + 1)
        first = torch.where(step > 0, -1, absent + 1).expand_as(order)
        return torch.cat([self.before[..., None], beside], -1), torch.cat([first, other], -1)

    def elements(self, steps: slice, x0: Tensor) -> Tensor:
        """What the attention reads at some steps: (B, n, width).

        Of the tokens x0 (B, L) those at positions that come before a step's are read.
        """
        place, other = (part[:, steps] for part in self.sources)
        tokens = x0.gather(1, place.flatten(1)).view_as(place)
        tokens = torch.where(other < 0, tokens, other)
        return self.context[:, steps] + self.embedded(tokens)

    def embedded(self, tokens: Tensor) -> Tensor:
        """The sum of what the head's embeddings say of tokens (..., n): (..., width)."""
        each = zip(self.head.embeddings, tokens.unbind(-1), strict=True)
        return reduce(torch.add, (embedding(token) for embedding, token in each))

    @cached_property
    def rotation(self) -> Tensor:
        """Where the queries and keys of all steps stand: (2, B, L, 2, 1, width/heads)."""
        return torch.stack([self.table[:, self.order], self.table[:, self.before]], 3)


class _AnyOrderWalk(Walk):
    """A walk is hundreds of calls on a few numbers each: what does not wait for a token is done
    for all steps at once, and cut into steps once."""

    def __init__(self, conditionals: AnyOrderConditionals) -> None:
        given, head = conditionals, conditionals.head
        self.conditionals = conditionals
        self.caches = [layer.begin(given.last) for layer in head.layers]  # type: ignore[operator]
        self.mix = _at(given.mix, given.order).unbind(1)
        self.base = RowsAhead(given.base, given.order)
        self.context = given.context.split(1, 1)
        self.rotation = given.rotation.split(1, 2)
        place, other = given.sources
        self.place, reads = place.unbind(1), (other < 0).unbind(1)
        # Small embeddings are copied one below the other, since the sum of their rows is one call.
        weights: list[Tensor] = [one.weight for one in head.embeddings]  # type: ignore[misc]
        first = torch.zeros(len(weights), dtype=torch.int64, device=place.device)
        self.table = None
        if sum(weight.numel() for weight in weights) <= _COPIED:
            self.table = torch.cat(weights)
            first = torch.arange(len(weights), device=place.device) * len(weights[0])
        self.first, self.reads, self.other = first, reads, (other + first).unbind(1)

    def skip(self, steps: int, x0: Tensor) -> None:
        if steps:
            given = self.conditionals
            states, rotation = given.elements(slice(0, steps), x0), given.rotation[:, :, :steps]
            for layer, cache in zip(given.head.layers, self.caches):
                states = layer.step(states, 0, cache, rotation)  # type: ignore[operator]

    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        head, table = self.conditionals.head, self.table
        rows = x0.gather(1, self.place[step]) + self.first
        rows = torch.where(self.reads[step], rows, self.other[step])
        if table is None:
            embedded = self.conditionals.embedded(rows)
        else:
            embedded = functional.embedding(rows, table).sum(1)
        states = self.context[step] + embedded[:, None]
        for layer, cache in zip(head.layers, self.caches):
            states = layer.step(states, step, cache, self.rotation[step])  # type: ignore[operator]
        return self.base[step] + head.tokens(head.factors(states[:, 0], self.mix[step]))


def _at(values: Tensor, position: Tensor) -> Tensor:
    """Rows of (B, L, D) at positions (B, n): (B, n, D)."""
    return values.gather(1, position[..., None].expand(-1, -1, values.shape[-1]))
