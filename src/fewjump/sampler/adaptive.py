"""Samplers of absorbing processes that choose which positions to unmask by what the law says."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.inversion import row_chunks
from fewjump.law import Law, ProductLaw
from fewjump.law.base import ravel
from fewjump.law.product import as_product
from fewjump.random import Generator, uniform
from fewjump.sampler.base import Move, Moves, Sampler, Step
from fewjump.sampler.moves import LawMove, UnmaskMove
from fewjump.sampler.reveal import checked_block, turns

Certainty = Literal["entropy", "peak", "margin"]
Ranking = Literal["token", "entropy", "peak", "margin"]


class _ByMarginals(Sampler):
    """A sampler of masks that ranks positions by what one evaluation says of each."""

    order: ClassVar[float] = 0
    evaluations: ClassVar[int] = 1
    masked_only: bool = True

    #: What makes a position certain.
    by: Ranking

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if not denoiser.closed_marginals and self.by != "token":
            raise ValueError(
                f"{self.name} ranks positions by their marginals, which this model's laws have in "
                "no closed form; use sampler='ancestral', whose draws are joint anyway, or "
                "'confidence' with by=token"
            )


class EntropyBounded(_ByMarginals):
    """Unmask as many positions at once as their entropies allow.

    Masked positions are sorted by how certain they are, and the longest run of them with
    Σᵢ Hᵢ − maxᵢ Hᵢ ≤ γ, at least one, is drawn from one evaluation. That sum bounds the total
    correlation of what is drawn together, if the law's marginals are exact. Entropies are those
    before temperature and nucleus, sorted to 16 binary places, ties from the left.

    ``steps`` is the most evaluations there may be: the last of them draws all that is left. With as
    many steps as positions γ alone decides, and a batch ends when its last row has.

    **Law.** With γ = 0 and as many steps as positions an exact product posterior gives exactly the
    data law (positions that are certain go along for free). With γ > 0 it does not, whatever the
    number of steps: each round adds at most γ to the KL from the data law.

    Args:
        gamma: γ in nats, ≥ 0.
        by: what makes a position certain: a small ``entropy``, a large probability of its likeliest
            token (``peak``), or a large distance between the two likeliest (``margin``).
        block: a round draws positions of one block only; see
            :class:`~fewjump.sampler.first_hitting.FirstHitting`.

    Raises:
        ValueError: for options outside these.
    """

    name: ClassVar[str] = "entropy-bounded"
    reference: ClassVar[str] = "Ben-Hamu et al. 2025, arXiv 2505.24857"
    uses_grid: ClassVar[bool] = False

    def __init__(
        self, gamma: float = 0.1, by: Certainty = "entropy", block: int | None = None
    ) -> None:
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be at least 0 (nats), got {gamma}")
        _check_choice(by, Certainty)
        self.gamma, self.by, self.block = gamma, by, checked_block(block)

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """One round that is not the last; s plays no part."""
        return self._round(denoiser, t, False, x_t)

    def steps(self, denoiser: Denoiser, x: Tensor, times: Tensor) -> list[Step]:
        rounds = min(times.shape[0] - 1, int((x == denoiser.process.mask).sum(-1).max()))
        return [
            partial(self._round, denoiser, times[0], left == 0) for left in reversed(range(rounds))
        ]

    def _round(self, denoiser: Denoiser, start: Tensor, last: bool, x: Tensor) -> Moves:
        hidden = x == denoiser.process.mask
        if not bool(hidden.any()):
            yield StayMove(x, denoiser.process.vocab_size)
            return
        law = denoiser(x, _time_of(denoiser, start, x))
        show = hidden if last else self._choose(denoiser, law, hidden)
        yield UnmaskMove(law, x, denoiser.process, show)

    def _choose(self, denoiser: Denoiser, law: Law, hidden: Tensor) -> Tensor:
        """Where to unmask: (B, L) boolean."""
        product = as_product(law.untempered or law)
        entropy = product.entropy().double()
        turn = turns(denoiser, hidden, self.block)
        hidden = hidden & (turn == turn.amin(-1, keepdim=True))
        doubt = _doubt(product, self.by, hidden).masked_fill(~hidden, torch.inf)
        order = _settled(doubt).argsort(stable=True, dim=-1)
        entropy, there = entropy.gather(-1, order), hidden.gather(-1, order)
        bound = entropy.cumsum(-1) - entropy.cummax(-1).values
        chosen = there & (bound <= self.gamma + 1e-12)
        return torch.zeros_like(hidden).scatter(-1, order, chosen)


class Confidence(_ByMarginals):
    """Draw every masked position, keep the tokens one is surest of, and mask the rest again.

    From t to s the number of masks falls by the factor (1 − α(s))/(1 − α(t)), rounded down, and by
    one at least. With ``by="token"`` a token's score is its own log-probability (MaskGIT; the
    low-confidence remasking of LLaDA), of an autoregressive law given the tokens drawn before it;
    otherwise it is how certain the token's position is (see :class:`EntropyBounded`). Scores are
    those before temperature and nucleus, without noise to 16 binary places. Ties go to the left.
    With ``block`` all tokens of the first blocks are kept before any of the next.

    **Law.** ``token`` does not keep the data law in any number of steps, because it prefers likely
    tokens. The other three choose by x_t alone: with a position a step (or more steps) an exact
    product posterior gives exactly the data law, with fewer it does not.

    Args:
        by: ``token``, ``entropy``, ``peak`` or ``margin``.
        noise: scale, ≥ 0, of Gumbel noise added to the scores, times 1 − α(s) (MaskGIT's choice
            temperature, which falls to 0); with a large one positions are chosen at random.
        block: length of the blocks that are filled one after another, in the denoiser's order
            (LLaDA's block length); None for no order.

    Raises:
        ValueError: for options outside these.
    """

    name: ClassVar[str] = "confidence"
    reference: ClassVar[str] = "Chang et al. 2022, arXiv 2202.04200; LLaDA, arXiv 2502.09992"

    def __init__(self, by: Ranking = "token", noise: float = 0.0, block: int | None = None) -> None:
        _check_choice(by, Ranking)
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.by, self.noise, self.block = by, noise, checked_block(block)

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        process = denoiser.process
        hidden = x_t == process.mask
        if not bool(hidden.any()):
            yield StayMove(x_t, process.vocab_size)
            yield StayMove(x_t, process.vocab_size)
            return
        law = denoiser(x_t, t)
        x0 = yield LawMove(law, x_t, process)
        plain = law.untempered or law
        if self.by == "token":
            score = plain.token_log_prob(x0).double()
        else:
            score = -_doubt(as_product(plain), self.by, hidden)
        left_s, left_t = (process.schedule.one_minus_alpha(time) for time in (s, t))
        number = hidden.sum(-1)
        # Rounding of the factor must not keep one mask more.
        left = (number * (left_s / left_t) + 1e-9).floor().long()
        count = (number - left).clamp(min=1).minimum(number)
        scale = (self.noise * left_s).expand(x_t.shape[0])
        turn = turns(denoiser, hidden, self.block)
        yield PickMove(x_t, x0, process.vocab_size, turn, score, count, scale)


class PickMove(Move):
    """Take ``count`` of the hidden positions from x0, turn after turn, by the highest noisy score.

    With Gumbel noise of scale c this draws positions one after another without replacement, in
    proportion to exp(score/c) (Plackett–Luce).

    Args:
        x, x0: (B, L) int64, the state and the proposal.
        vocab_size: V.
        turn: (B, L) int64, in which each hidden position is taken, see
            :func:`~fewjump.sampler.reveal.turns`; L where it is not hidden.
        score: (B, L) float64.
        count: (B,) int64.
        scale: (B,) float64, of the noise.
    """

    def __init__(
        self,
        x: Tensor,
        x0: Tensor,
        vocab_size: int,
        turn: Tensor,
        score: Tensor,
        count: Tensor,
        scale: Tensor,
    ) -> None:
        self.x, self.x0, self.vocab_size = x, x0, vocab_size
        self.turn, self.count, self.scale = turn, count, scale
        self.hidden = turn < x.shape[1]
        # Noise settles ties where there is some.
        self.score = torch.where(scale[:, None] > 0, score, _settled(score))

    def sample(self, generator: Generator = None) -> Tensor:
        score = self.score
        if bool((self.scale > 0).any()):
            u = uniform(self.x.shape, generator, self.x.device)
            score = score - self.scale[:, None] * (-u.log()).log()
        return self._taken(self._best(score))

    def _best(self, score: Tensor) -> Tensor:
        order = score.argsort(stable=True, dim=-1, descending=True)
        order = order.gather(-1, self.turn.gather(-1, order).argsort(stable=True, dim=-1))
        first = torch.arange(order.shape[1], device=order.device) < self.count[:, None]
        return torch.zeros_like(self.hidden).scatter(-1, order, first) & self.hidden

    def _taken(self, show: Tensor) -> Tensor:
        return torch.where(show, self.x0, self.x)

    def table(self) -> Tensor:
        batch, length = self.x.shape
        out = torch.zeros(batch, self.vocab_size**length, dtype=torch.float64, device=self.x.device)
        if not bool((self.scale > 0).any()):
            index = ravel(self._taken(self._best(self.score)), self.vocab_size)
            return out.scatter_(-1, index[:, None], 1.0)
        # Probability of every set of positions taken so far, by the bits of its number.
        scale = self.scale[:, None].clamp(min=torch.finfo(torch.float64).tiny)
        sets = [
            torch.zeros(batch, dtype=torch.float64, device=self.x.device)
            for _ in range(1 << length)
        ]
        sets[0] += 1
        for number, chance in enumerate(sets):
            bits = [i for i in range(length) if number >> i & 1]
            rest = [i for i in range(length) if i not in bits]
            ended = self.count == len(bits)
            show = torch.zeros_like(self.hidden)
            show[:, bits] = True
            index = ravel(self._taken(show), self.vocab_size)
            out.scatter_add_(-1, index[:, None], (chance * ended)[:, None])
            turn = self.turn.masked_fill(show, length)
            now = self.hidden & (turn == turn.amin(-1, keepdim=True)) & ~show
            share = (self.score / scale).masked_fill(~now, -torch.inf).softmax(-1)
            share = torch.where(now, share, 0.0)
            for i in rest:
                sets[number | 1 << i] += torch.where(ended, 0.0, chance * share[:, i])
        return out


class StayMove(Move):
    """Nothing moves.

    Args:
        x: (B, L) int64.
        vocab_size: V.
    """

    def __init__(self, x: Tensor, vocab_size: int) -> None:
        self.x, self.vocab_size = x, vocab_size

    def sample(self, generator: Generator = None) -> Tensor:
        del generator
        return self.x

    def table(self) -> Tensor:
        states = self.vocab_size ** self.x.shape[1]
        out = torch.zeros(self.x.shape[0], states, dtype=torch.float64, device=self.x.device)
        return out.scatter_(-1, ravel(self.x, self.vocab_size)[:, None], 1.0)


def _doubt(law: ProductLaw, by: Certainty | Ranking, hidden: Tensor) -> Tensor:
    """How uncertain each position is, 0 where it is not hidden: (B, L) float64."""
    if by == "entropy":
        return law.entropy().double()
    index = hidden.reshape(-1).nonzero()[:, 0]
    out = torch.zeros(hidden.numel(), dtype=torch.float64, device=hidden.device)
    for part in row_chunks(index.shape[0], 1, law.source.rows_at_once()):
        first, second = law.source.read(index[part]).softmax(-1).topk(2, -1).values.unbind(-1)
        out[index[part]] = (second - first if by == "margin" else -first).double()
    return out.reshape(hidden.shape)


def _settled(score: Tensor) -> Tensor:
    """The score, float64, to 16 binary places.

    Single precision rounds otherwise in another batch: of positions that are alike, which there are
    where a network has learned little, it would be the rounding that chooses.
    """
    return (score * (1 << 16)).round() / (1 << 16)


def _time_of(denoiser: Denoiser, start: Tensor, x: Tensor) -> Tensor:
    """The time at which as many positions are masked as are, on average: (B,) float64.

    Of those that noise can mask.
    """
    process, schedule = denoiser.process, denoiser.process.schedule
    noisy = (~process.is_kept(x)).sum(-1).clamp(min=1)
    share = process.hidden(x).sum(-1) / noisy.double() * schedule.one_minus_alpha(start)
    return schedule.time_of_sigma_bar(-torch.log1p(-share)).minimum(start)


def _check_choice(by: str, choices: object) -> None:
    if by not in get_args(choices):
        raise ValueError(f"by must be one of {', '.join(get_args(choices))}; got {by!r}")
