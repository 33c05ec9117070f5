"""Guided steps: powers of two reverse chains, for samplers that move positions by rates.

With R(y) and R the rates x → y of the class's reverse chain and of that without a class, the guided
chain has the rates R(y)^γ·R^(1−γ) (Nisonoff et al., arXiv 2406.01572), by which ``euler``,
``tau-leaping`` and the θ-methods step. ``ancestral`` needs no small step: the transition law of
each position is p(x_s|x_t, y)^γ·p(x_s|x_t)^(1−γ), normalised over all tokens, staying included
(D-CFG: Schiff et al., arXiv 2412.10193). Under a mask it is read as in that paper's code: the
posterior of x₀ is guided and normalised, and the step is that posterior's own; when a position is
unmasked is then as without guidance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.inversion import row_chunks, rows_per_chunk
from fewjump.law.logits import Guidance, Logits
from fewjump.law.product import ProductLaw
from fewjump.process.bridge import ReverseCoefficients
from fewjump.sampler.rates import Rates, RatesByRow

#: The numbers of the positions (N,) → rows (N, V) float64: rates, or a whole transition law.
Rows = Callable[[Tensor], Tensor]


class GuidedRates(Rates):
    """conditional^γ·unconditional^(1−γ), entry by entry, in the log domain and in float64.

    A target that either of the two excludes is excluded.

    Args:
        conditional, unconditional: rows of the two chains: rates, whose entry at the current token
            is not read; or with ``whole`` transition laws, whose powers are normalised over all
            tokens, the current one included.
        scale: (B,) γ of each row.
        x: (B, L) int64, the current state.
        vocab_size: V.
        moving: (N,) int64, the positions that may move; the others have no rates.
        whole: see above.
    """

    def __init__(
        self,
        conditional: Rows,
        unconditional: Rows,
        scale: Tensor,
        x: Tensor,
        vocab_size: int,
        moving: Tensor,
        whole: bool,
    ) -> None:
        self.conditional, self.unconditional, self.whole = conditional, unconditional, whole
        self.scale, self.length = scale.double(), x.shape[1]
        self.x, self.vocab_size = x.reshape(-1), vocab_size
        total = torch.zeros(x.numel(), dtype=torch.float64, device=x.device)
        # No bound is known without reading: powers of rates may exceed both.
        for part in row_chunks(moving.shape[0], 1, rows_per_chunk(vocab_size, x.device)):
            total[moving[part]] = self.values(moving[part]).sum(-1)
        self.bound = total.reshape(x.shape)

    def values(self, index: Tensor) -> Tensor:
        here = self.x[index][:, None]
        given, free = self.conditional(index).log(), self.unconditional(index).log()
        impossible = (given == -torch.inf) | (free == -torch.inf)
        scale = self.scale[index // self.length][:, None]
        powers = torch.lerp(free, given, scale).masked_fill_(impossible, -torch.inf)
        if self.whole:
            return powers.softmax(-1).scatter_(-1, here, 0.0)
        return powers.exp_().scatter_(-1, here, 0.0)


def rows_from_coefficients(
    logits: Logits, x: Tensor, coefficients: ReverseCoefficients, whole: bool
) -> Rows:
    """Rows of a chain whose kernels are the identity plus rank one, from the posterior's logits.

    Args:
        logits: (B, L, V) of p(x₀|x_t).
        x: (B, L) int64.
        coefficients: of its rates, or of a step.
        whole: whether to fill in the probability of staying.
    """
    *numbers, redrawn = coefficients
    data, toward, toward_self = (c.expand(x.shape).reshape(-1, 1) for c in numbers)
    prior = redrawn.on(x.device)
    tokens, length = x.reshape(-1, 1), x.shape[1]

    def rows(index: Tensor) -> Tensor:
        p = logits.read(index).double().softmax(-1)
        here = tokens[index]
        at = p.gather(-1, here)
        law = prior if prior.dim() == 1 else prior[index // length]
        through = toward[index] * (1 - at) + toward_self[index] * at
        out = (data[index] * p).addcmul_(through, law).scatter_(-1, here, 0.0)
        if whole:
            out.scatter_(-1, here, (1 - out.sum(-1, keepdim=True)).clamp(min=0))
        return out

    return rows


def rows_of_table(table: Tensor) -> Rows:
    """Rows of a table (B, L, V), for processes without a closed form."""
    flat = table.double().flatten(0, 1)
    return lambda index: flat[index]


def guided_rates(
    guidance: Guidance,
    x: Tensor,
    rows: Callable[[ProductLaw], Rows],
    whole: bool,
    alone: Callable[[ProductLaw], Rates],
) -> Rates:
    """The guided chain of two laws.

    Batch rows at scale 1 or 0 are drawn as where all are (:func:`fewjump.denoiser.condition.ask`):
    what a row draws must not depend on the scales beside it.

    Args:
        guidance: the laws, and the scale of each row.
        x: (B, L) int64.
        rows: makes those of one law.
        whole: see :class:`GuidedRates`.
        alone: makes the rates of one law without guidance.
    """
    conditional, unconditional = (ProductLaw(part) for part in guidance[:2])
    given, free = guidance.scale == 1, guidance.scale == 0
    moving = guidance.conditional.uncertain()
    moving = moving[~(given | free)[moving // x.shape[1]]]
    pair = rows(conditional), rows(unconditional)
    vocab_size = pair[0](moving[:1]).shape[-1] if moving.numel() else alone(conditional).vocab_size
    made = GuidedRates(*pair, guidance.scale, x, vocab_size, moving, whole)
    if not bool((given | free).any()):
        return made
    parts = made, alone(conditional), alone(unconditional)
    return RatesByRow(parts, given.long() + 2 * free.long())
