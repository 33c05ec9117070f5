"""What a law is: a distribution p(x₀ | x_t) over whole clean sequences, as an object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.law.batched import Batched
from fewjump.law.log_weights import safe_log
from fewjump.law.logits import Clock
from fewjump.law.scores import Scores
from fewjump.random import Generator

ENUMERATION_LIMIT = 1_000_000
# Rows of one call of log_prob while states are enumerated.
_ENUMERATED_ROWS = 1024


class Draw(NamedTuple):
    """One draw of x₀ from a law, with what chose it.

    Attributes:
        x0: (B, L) int64.
        law: the product law x₀ was drawn from given what chose it; None for other laws.
        log_choice: (B,) log-probability of that choice, with gradient; None if there was none.
    """

    x0: Tensor
    law: Law | None
    log_choice: Tensor | None


class Law(Batched, ABC):
    """A batch of distributions over sequences of L tokens, one for each x_t of a batch.

    Shapes: ``batch_size`` B, ``length`` L, ``vocab_size`` V. In the style of
    ``torch.distributions``, but with an explicit generator and without a sample shape. A law that
    is no dataclass (see :class:`Batched`) has a ``device`` and a ``select`` of its own.

    Attributes:
        independent: whether the positions are; it is then a
            :class:`~fewjump.law.ProductLaw`.
        chosen_product: whether every :meth:`draw` is one of a product law, out of some that are
            all at hand.
        conditions_exactly: whether :meth:`given` is this law's own conditional for every set of
            known positions.
        exact_density: whether :meth:`log_prob` is that of what :meth:`sample` draws, and no bound.
        scores: concrete scores from which the law was recovered, None for most.
        untempered: the law before a sampler's temperature, where that has one.
    """

    length: int
    vocab_size: int
    independent: ClassVar[bool] = False
    chosen_product: ClassVar[bool] = False
    conditions_exactly: ClassVar[bool] = True
    scores: Scores | None = None
    untempered: Law | None = None

    @abstractmethod
    def sample(self, generator: Generator = None) -> Tensor:
        """One exact draw of x₀ for each batch row: (B, L) int64."""

    def sample_at(self, where: Tensor, generator: Generator = None) -> Tensor:
        """As :meth:`sample`, for who reads only the positions ``where`` (B, L): (B, L) int64.

        A law that draws one position after another ends at the last of them; what it returns
        elsewhere means nothing.
        """
        del where
        return self.sample(generator)

    def draw(self, generator: Generator = None) -> Draw:
        """As :meth:`sample`, with the product law that the draw is of, for laws that have one."""
        with torch.no_grad():
            return Draw(self.sample(generator), None, None)

    @abstractmethod
    def log_prob(self, x0: Tensor) -> Tensor:
        """Joint log-probability of (B, L) sequences, in nats: (B,).

        Raises:
            ValueError: as :meth:`checked`.
        """

    @abstractmethod
    def marginals(self) -> Tensor:
        """Per-position probabilities p(x₀ⁱ = · | x_t): (B, L, V), rows sum to 1."""

    @property
    def exact_density(self) -> bool:
        return True

    def component_logits(self) -> Tensor | None:
        """Unnormalised log-weights (B, K) of the components of a mixture, with gradients.

        None for a law that is none, or whose components cannot be counted.
        """
        return None

    def token_log_prob(self, x0: Tensor) -> Tensor:
        """Log-probability of each token of ``x0`` (B, L) by itself: (B, L).

        An autoregressive law's are given the tokens before, in its order.
        """
        x0 = self.checked(x0)
        return safe_log(self.marginals().gather(-1, x0[..., None])[..., 0])

    def precise_marginals(self) -> Tensor:
        """:meth:`marginals` in float64, normalised in it where that can be done.

        The sum of a softmax over a large vocabulary has an error of its own in float32.
        """
        return self.marginals().double()

    def timed(self, clock: Clock) -> Law:
        """The law with a clock around what it defers of a network's own work."""
        return self

    @abstractmethod
    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> Law:
        """The law with every conditional draw sharpened and truncated to its nucleus.

        Each categorical that :meth:`sample` draws from has its log-probabilities divided by
        ``temperature`` and is then restricted to the smallest set of tokens of total
        probability ≥ ``top_p``. For a product law these are the positions; joint laws say in
        their own docstring which categoricals they draw.
        """

    @abstractmethod
    def given(self, x0: Tensor, known: Tensor) -> Law:
        """Condition exactly on known positions.

        Args:
            x0: (B, L) int64; read only where ``known`` holds.
            known: (B, L) boolean.

        Raises:
            ValueError: as :meth:`checked`.
        """

    def checked(self, x0: Tensor, known: Tensor | None = None) -> Tensor:
        """The sequences that this law is asked about, as int64: 0 wherever they are not ``known``.

        Raises:
            ValueError: unless ``x0`` is (B, L), of the law's own B and L, and holds tokens in
                {0..V−1}, and ``known`` is (B, L) and boolean; where ``known`` is False, nothing is
                asked of the token. Tokens of ``log_prob`` that live on an accelerator are not
                read, since that would make it wait.
        """
        x0 = whole_numbers(x0, "x0")
        shape = (self.batch_size, self.length)
        if known is not None and known.dtype != torch.bool:
            raise ValueError(f"known must be boolean, got {known.dtype}; use known.bool()")
        for name, value in (("x0", x0), ("known", known)):
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{name} must be (B, L) = {shape} for this law, got {tuple(value.shape)}; "
                    "expand it, or select the law's rows"
                )
        if known is None and x0.device.type != "cpu":
            return x0
        if known is not None:
            x0 = torch.where(known, x0, 0)
        wrong = (x0 < 0) | (x0 >= self.vocab_size)
        if bool(wrong.any()):
            raise ValueError(
                f"x0 holds {int(x0[wrong][0])}, outside the tokens of this law, "
                f"{{0..{self.vocab_size - 1}}}"
            )
        return x0

    def conditional_logits(self, x0: Tensor) -> Tensor:
        """Log-weights of every position given those to its left, along x0 (B, L): (B, L, V).

        Raises:
            ValueError: for a law that has no such conditionals in closed form.
        """
        raise ValueError(
            f"a {type(self).__name__} has no conditionals from left to right in closed form; use "
            "a product, mixture, chain or autoregressive model"
        )

    def decoded(self, decoding: Decoding, draft: Law | None = None) -> Law:
        """The same law, drawn in another way (see :mod:`fewjump.law.decoding`).

        Args:
            decoding: the way.
            draft: a law of the same rows, for a way that drafts.

        Raises:
            ValueError: for a law that is drawn in one way only.
        """
        raise ValueError(
            f"{decoding.kind} decoding is for autoregressive laws, and this is a "
            f"{type(self).__name__}, which draws all positions at once; leave decoding='sequential'"
        )

    def held(self, kept: list[Tensor]) -> Law:
        """The law with the latent of earlier draws; a product law, which has none, as it is.

        Args:
            kept: shared by the laws of one trajectory: empty until the first of them is drawn,
                which puts the latent of each row there.

        Raises:
            ValueError: for a joint law without a latent.
        """
        if self.independent:
            return self
        raise ValueError(
            f"held-latent is for latent students, and this law ({type(self).__name__}) has no "
            "latent to hold (conditioned on a prompt that no mask shows, a latent one has none "
            "either); use sampler='ancestral'"
        )

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """−E_{x₀~target}[log p(x₀)] in nats: (B,). One draw unless a subclass has a closed form."""
        return -self.log_prob(target.sample(generator))

    def summed_cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """:meth:`cross_entropy` with each position's own token summed out, in nats: (B,).

        One draw of a product target is walked from left to right, and −log p(x₀ⁱ|x₀^{<i}) is
        averaged over the target's law of x₀ⁱ: the same expectation, and never more variance
        (Rao–Blackwell). Writes (B, L, V). Joint targets are drawn.

        Raises:
            ValueError: as :meth:`conditional_logits`.
        """
        if not target.independent:
            return self.cross_entropy(target, generator)
        log_probs = self.conditional_logits(target.sample(generator)).log_softmax(-1)
        weights = target.marginals().to(log_probs.dtype)
        return -(weights * log_probs.masked_fill(weights == 0, 0.0)).sum((1, 2))

    def enumerate(self) -> Tensor:
        """Log-probability of every sequence, (B, V^L), the last position varying fastest.

        Raises:
            ValueError: if V^L exceeds 1e6.
        """
        states = enumerate_states(self.vocab_size, self.length, self.device)
        rows = torch.arange(self.batch_size, device=self.device)
        columns = []
        for part in row_chunks(len(states), len(rows), _ENUMERATED_ROWS):
            each = states[part]
            law = self.select(rows.repeat_interleave(len(each)))
            columns.append(law.log_prob(each.repeat(len(rows), 1)).view(len(rows), len(each)))
        return torch.cat(columns, -1)


LawType = TypeVar("LawType", bound=Law)


@dataclass
class Decoding(ABC, Generic[LawType]):
    """A way to draw sequences from laws of one kind, and what it took.

    Attributes:
        kind: what the user types.
        sequences: drawn so far.
        passes: of the conditionals over all positions at once, summed over those sequences.
        tokens: that those sequences had to have drawn: what a walk would have taken in steps.
    """

    kind: ClassVar[str]
    sequences: int = 0
    passes: int = 0
    tokens: int = 0

    @abstractmethod
    def draw(self, law: LawType, generator: Generator = None) -> Tensor:
        """One draw of x₀ for each row of the law: (B, L) int64."""

    def _count(self, law: LawType, passes: Tensor, known: Tensor) -> None:
        self.sequences += law.batch_size
        self.passes += int(passes.sum())
        self.tokens += law.batch_size * law.length - int(known.sum())

    def __str__(self) -> str:
        each = max(1, self.sequences)
        return (
            f"{self.kind} decoding: {self.passes / each:.1f} passes over all positions for "
            f"{self.tokens / each:.1f} tokens, on average"
        )


def whole_numbers(x: Tensor, name: str) -> Tensor:
    """Token numbers as int64, of which alone torch makes an index everywhere.

    Raises:
        ValueError: for booleans, and numbers that are not whole by their type.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} must hold token numbers, and this is {x.dtype}; give integers")
    return x.long()


def enumerate_states(
    vocab_size: int, length: int, device: torch.device | str | None = None
) -> Tensor:
    """All V^L sequences, (V^L, L) int64, the last position varying fastest."""
    check_enumerable(vocab_size, length)
    return unravel(torch.arange(vocab_size**length, device=device), vocab_size, length)


def check_enumerable(vocab_size: int, length: int) -> None:
    """Raise ValueError for more than 1e6 sequences."""
    if vocab_size**length > ENUMERATION_LIMIT:
        raise ValueError(
            f"{vocab_size}^{length} states are too many to enumerate (limit {ENUMERATION_LIMIT}); "
            "use a smaller problem"
        )


def unravel(index: Tensor, vocab_size: int, length: int) -> Tensor:
    """State numbers (N,) → sequences (N, L); inverse of :func:`ravel`."""
    powers = vocab_size ** torch.arange(length - 1, -1, -1, device=index.device)
    return (index[:, None] // powers) % vocab_size


def ravel(x: Tensor, vocab_size: int) -> Tensor:
    """Sequences (..., L) → state numbers (...), the last position varying fastest."""
    powers = vocab_size ** torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)
    return (x * powers).sum(-1)
