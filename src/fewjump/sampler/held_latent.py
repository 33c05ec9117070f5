"""Ancestral steps of a latent student that draws its latent once for all of them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.sampler.single_stage import Ancestral


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
