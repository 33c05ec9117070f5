"""Samplers of one evaluation a step: the exact reverse step, with its latent drawn anew or held,
Euler's, tau-leaping, and the step of flow matching."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.sampler.base import Move, Moves, Sampler
from fewjump.sampler.moves import FlowMove, JointReverseMove, JumpMove, Rule
from fewjump.sampler.rates import Rates
from fewjump.sampler.reveal import AncestralRevealMove, checked_block
from fewjump.sampler.reverse import reverse_rates, reverse_step


class Jump(NamedTuple):
    """What a :class:`~fewjump.sampler.moves.JumpMove` from a state is made of."""

    rates: Rates
    duration: Tensor | float
    rule: Rule


class JumpSampler(Sampler):
    """A sampler of which every position jumps or stays, by the rates that one evaluation gives."""

    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1

    @abstractmethod
    def jump(self, law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Jump:
        """The step t → s of a law at x_t (B, L); t and s are () or (B,) float64."""

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        yield JumpMove(x_t, *self.jump(denoiser(x_t, t), denoiser.process, x_t, t, s))


class Ancestral(JumpSampler):
    """x_s ~ Σ_{x₀} law(x₀)·q(x_s | x_t, x₀).

    For a product law this is, position by position, SEDD's analytic (Tweedie) step and the
    ancestral step of D3PM and MDLM (METHOD section 2.3). For a joint law x₀ is drawn jointly and
    x_s from the bridge: with an exact joint law every number of steps is exact. The order stated
    is that of a product law, whose only error is that positions move independently.

    With ``block``, of an absorbing process, as many masks are drawn as without, but those of the
    first block of so many positions that still has masks, and then those of the next; 1 goes from
    left to right, or in the order of a denoiser that has another. An exact joint law that ignores
    time keeps the data law then too. It is what an autoregressive law is drawn by where no sampler
    is named: it continues its own prefix, where by chance it would have to meet what stands to the
    right.

    Args:
        block: length of the blocks, in the denoiser's order; None for no order.
    """

    name: ClassVar[str] = "ancestral"
    reference: ClassVar[str] = "arXiv 2512.12889, Eq. 8; SEDD arXiv 2310.16834, Sec. 4.2"

    def __init__(self, block: int | None = None) -> None:
        self.block = checked_block(block)
        self.masked_only = block is not None

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        if self.block is None:
            yield reverse_move(denoiser(x_t, t), denoiser.process, x_t, t, s)
        else:
            yield AncestralRevealMove(denoiser, x_t, t, s, self.block)

    def jump(self, law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Jump:
        return Jump(reverse_step(as_product(law), process, x_t, t, s), 1.0, "linear")


def reverse_move(law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Move:
    """The exact reverse step t → s of a law, in the cheapest form that applies."""
    if not law.independent:
        return JointReverseMove(law, process, x_t, t, s)
    return JumpMove(x_t, reverse_step(as_product(law), process, x_t, t, s), 1.0, "linear")


class Euler(JumpSampler):
    """Pr(xⁱ → y) = (t − s)·σ(t)·Q[y, xⁱ]·r_y for y ≠ xⁱ; each position independently.

    Where these sum to more than 1 the position leaves for certain, to y in proportion; the excess
    is reported as clamped mass.
    """

    name: ClassVar[str] = "euler"
    reference: ClassVar[str] = "arXiv 2512.12889, Eq. 11"

    def jump(self, law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Jump:
        return Jump(reverse_rates(law, process, x_t, t), t - s, "linear")


class TauLeaping(JumpSampler):
    """Each target y of each position has a Poisson clock of its frozen rate; one ring decides.

    A position leaves with probability 1 − exp(−Λ·(t − s)), Λ the sum of its rates, and goes to y
    in proportion to the rate. Under frozen rates it does not matter which of several rings counts;
    further rings are not added up.
    """

    name: ClassVar[str] = "tau-leaping"
    reference: ClassVar[str] = "Campbell et al. 2022, arXiv 2205.14987"

    def jump(self, law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Jump:
        return Jump(reverse_rates(law, process, x_t, t), t - s, "poisson")


class HeldLatent(Ancestral):
    """x_s ~ Σ_{x₀} p(x₀|x_t, z)·q(x_s | x_t, x₀), with one z ~ p(z|x_T) for the whole trajectory.

    VADD's consistency sampler. The ancestral step of a latent student draws z anew; here all steps
    have the same z. In one step both are the same.

    **Law.** The mixture over z of the output laws of the product denoisers p(x₀ⁱ|x_t, z), and the
    order stated is theirs: where these are exact given z, the limit is Σ_z p(z)·p(x₀|z). A product
    law has no latent, and its step is the ancestral one. Other joint laws are refused.
    """

    name: ClassVar[str] = "held-latent"
    holds_latent: ClassVar[bool] = True
    reference: ClassVar[str] = "VADD arXiv 2505.17384"

    def opened(self, denoiser: Denoiser) -> Denoiser:
        return _Holding(denoiser)


class _Holding(Denoiser):
    """A denoiser whose laws draw the latent of one trajectory."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.process, inner.length, inner.clean_vocab_size)
        self.inner, self.kept = inner, []
        self.take_after(inner)

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self.inner(x_t, t).held(self.kept)


class FlowMatching(Sampler):
    """x₀ from the law, then x_s that moves as little from x_t as q(x_s | x₀) allows.

    Where noise redraws a token once, from a law that stands still, each position becomes x₀'s with
    probability (α_s − α_t)/(1 − α_t) and otherwise keeps its token: the probability velocity of
    discrete flow matching. Under a mask this is the ancestral step. Under uniform noise the
    ancestral step also redraws tokens on the way; here they stay as they began until they are
    drawn, which students of rectified couplings need (:class:`fewjump.objective.Rectification`).

    **Law.** q(x_s | x₀) is kept given x₀, for every process, so that with an exact joint law every
    number of steps is exact. The order stated is that of a product law.
    """

    name: ClassVar[str] = "flow-matching"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Gat et al. 2024, arXiv 2407.15595; Campbell et al., 2402.04997"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        yield FlowMove(denoiser(x_t, t), denoiser.process, x_t, t, s)
