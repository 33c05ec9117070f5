"""The latent student: z enters the trunk, and one z makes all positions agree.

p(x₀|x_t) = ∫ p(z|x_t) Πᵢ p(x₀ⁱ|x_t, z) dz. A draw costs one trunk evaluation, whatever the size of
z, and all positions are drawn at once. Relatives: VADD (arXiv 2505.17384) for a normal z, Di4C
(arXiv 2410.08709) for a category.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewjump.config import check_counts
from fewjump.denoiser.constrain import certain_positions
from fewjump.denoiser.heads import Head, JointHead, ProductHead, TrunkRun
from fewjump.denoiser.joint_heads.states import checked_template, spread
from fewjump.denoiser.latent_encoder import LatentEncoder, LatentPrior, LatentSizes
from fewjump.law.latent import Latent, LatentLaw, LatentProduct
from fewjump.law.product import ProductLaw
from fewjump.process import Process


class LatentEntry(nn.Module):
    """z → what is added to the embedded tokens: W·gelu(Σ A·z + template).

    A warm start sets W = 0: every z gives the teacher's law. A and the templates are random, so
    that an encoder's values of z separate from the first gradient on. Without an encoder all z
    would learn the same: ``warm_spread`` keeps a share of the fresh W. The W of a fresh head is
    random: its product head is zero, and with W = 0 neither would have a gradient.

    Args:
        hidden: width D of the trunk.
        sizes: which latents there are.
        width: of the hidden layer.
        length: if given, adds a free vector for each position in front of the gelu, so that one z
            can mean something else at each: an all-masked input looks alike everywhere.
    """

    def __init__(self, hidden: int, sizes: LatentSizes, width: int, length: int | None) -> None:
        super().__init__()
        self.codes = nn.ParameterList()
        for part in sizes.parts():
            # Categories start far apart; a normal z of any size adds up to about one.
            code = spread(part.values, width)
            if not part.categorical:
                code = torch.randn(part.values, width) * part.values**-0.5
            self.codes.append(nn.Parameter(code))
        self.template = None if length is None else nn.Parameter(torch.randn(length, width))
        self.out = nn.Linear(width, hidden, bias=False)
        # About the size of the embedded tokens to which it is added.
        nn.init.normal_(self.out.weight, std=1.5 * width**-0.5)

    def forward(self, parts: list[Tensor], length: int) -> Tensor:
        """Values of the parts, indices or one-hot rows → (N, L, D), or (N, 1, D) if all alike."""
        total: Tensor | None = None
        for code, z in zip(self.codes, parts):
            value = z.to(code.dtype) @ code if z.is_floating_point() else code[z]
            value = value[:, None] if value.dim() == 2 else value
            total = value if total is None else total + value
        assert total is not None
        if self.template is not None:
            total = total + checked_template(self.template, length)
        return self.out(functional.gelu(total, approximate="tanh"))


class LatentHead(JointHead):
    """Whole sequences through a latent z that is added to the trunk's input.

    Any of four kinds of z may be used together. One category per sequence and nothing else is
    summed out exactly, at K trunk evaluations for each log-probability; every other choice is
    scored by a bound (:class:`~fewjump.law.latent.LatentLaw`). Trained by
    :class:`~fewjump.objective.latent.LatentMatching`, whose encoder q(z|x_s, x_t) lives here while
    training and is not needed after (:meth:`for_sampling`).

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        categories: K values of one category per sequence, whose prior is learned; 0 for none.
        size: numbers of a standard normal z per sequence; 0 for none.
        position_categories: values of a uniform category at every position; 0 for none.
        position_size: numbers of a standard normal z at every position; 0 for none.
        width: of the layer through which z enters, and of the prior.
        length: see :class:`LatentEntry`.
        encoder: whether the encoder is there.
        encoder_width, encoder_blocks: of the encoder, a small transformer.
        particles: draws with which a z that cannot be summed out is scored.
        warm_spread: what a warm start leaves of W, as a share ≥ 0 of a fresh head's: 0 begins at
            the teacher's law. For on-policy training, see :class:`LatentEntry`.
    """

    kind = "latent"
    latent = True
    vanishing = ()

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        categories: int = 16,
        size: int = 0,
        position_categories: int = 0,
        position_size: int = 0,
        width: int = 64,
        length: int | None = None,
        encoder: bool = True,
        encoder_width: int = 64,
        encoder_blocks: int = 1,
        particles: int = 64,
        warm_spread: float = 0.0,
    ) -> None:
        super().__init__(hidden, vocab_size)
        if not 0 <= warm_spread < math.inf:
            raise ValueError(f"warm_spread must be ≥ 0, got {warm_spread}")
        check_counts(
            width=width,
            encoder_width=encoder_width,
            encoder_blocks=encoder_blocks,
            particles=particles,
        )
        self.sizes = LatentSizes(categories, size, position_categories, position_size)
        self.mixture = self.closed_marginals = self.is_one_category()
        self.categories, self.size = categories, size
        self.position_categories, self.position_size = position_categories, position_size
        self.width, self.length, self.particles = width, length, particles
        self.encoder_width, self.encoder_blocks = encoder_width, encoder_blocks
        self.warm_spread = warm_spread
        self.entry = LatentEntry(hidden, self.sizes, width, length)
        self.prior = LatentPrior(vocab_size, self.sizes, width, length)
        self.encoder: LatentEncoder | None = None
        if encoder:
            self.encoder = LatentEncoder(
                vocab_size, self.sizes, encoder_width, encoder_blocks, length
            )

    def config(self) -> dict[str, Any]:
        return {**super().config(), "encoder": self.encoder is not None}

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
        """p(x₀|x_t, z) from features that have seen z."""
        return self.base(features, x_t, process)

    def law(self, run: TrunkRun) -> LatentLaw:
        length = run.x_t.shape[1]
        prior = self.prior(run.x_t)

        def decode(z: Tensor, rows: Tensor) -> ProductLaw:
            parts = prior.unpack(z) if isinstance(prior, LatentProduct) else [z]
            return run(self, self.entry(parts, length), rows)

        visible = certain_positions(run.x_t, run.process)
        certain = torch.where(visible, run.x_t, -1)
        return LatentLaw(prior, decode, length, self.vocab_size, self.particles, certain=certain)

    def encode(self, x_s: Tensor, x_t: Tensor, level: Tensor) -> Latent:
        """q(z|x_s, x_t), for x_s and x_t (B, L) and x_t's noise level σ̄(t) (B,).

        Raises:
            ValueError: if the encoder was left behind after training.
        """
        if self.encoder is None:
            raise ValueError(
                "this latent student has no encoder: it was saved for sampling. Build one with "
                "head={'encoder': True} and warm-start it from this student to train on"
            )
        return self.encoder(x_s, x_t, level)

    def adopt(self, other: Head) -> bool:
        """As every head does; an encoder is taken over too where both have one."""
        if not isinstance(other, LatentHead):
            return False
        mine, theirs = self.config(), other.config()
        encoders = {"encoder", "encoder_width", "encoder_blocks"}
        if any(mine[key] != theirs[key] for key in mine.keys() - encoders - {"warm_spread"}):
            return False
        both = all(mine[key] == theirs[key] for key in encoders)
        for name, part in self.named_children():
            if name != "encoder" or both:
                part.load_state_dict(other.get_submodule(name).state_dict())
        return True

    def warm_start(self, product: ProductHead) -> None:
        super().warm_start(product)
        with torch.no_grad():
            self.entry.out.weight.mul_(self.warm_spread)

    def for_sampling(self) -> LatentHead:
        """The same head without its encoder; it shares the parameters."""
        if self.encoder is None:
            return self
        head = LatentHead(**{**_options(self), "encoder": False})
        for name in ("base", "entry", "prior"):
            setattr(head, name, self.get_submodule(name))
        return head.train(self.training)

    def is_one_category(self) -> bool:
        """Whether z is one category per sequence and nothing else, so that it can be summed out."""
        parts = self.sizes.parts()
        return len(parts) == 1 and parts[0].categorical and not parts[0].per_position


def _options(head: LatentHead) -> dict[str, Any]:
    return {key: value for key, value in head.config().items() if key != "kind"}
