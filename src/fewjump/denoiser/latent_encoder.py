"""Where z comes from: its prior p(z|x_t), and the encoder q(z|x_s, x_t) that training uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewjump.denoiser.joint_heads.states import ComponentWeights, checked_template
from fewjump.denoiser.transformer import Transformer, TransformerConfig
from fewjump.law.latent import (
    DiscreteLatent,
    GaussianLatent,
    Latent,
    LatentProduct,
    PositionLatent,
)

#: Spread of the encoder's answers before training: logits this far apart, means as many deviations.
CONTRAST = 2.0


class LatentPart(NamedTuple):
    """One kind of z: ``values`` categories, or numbers, per sequence or per position."""

    values: int
    categorical: bool
    per_position: bool


@dataclass(frozen=True)
class LatentSizes:
    """Which latents a student has; see :class:`fewjump.denoiser.latent.LatentHead`.

    Raises:
        ValueError: for negative sizes, a category of one value, or no latent at all.
    """

    categories: int
    size: int
    position_categories: int
    position_size: int

    def __post_init__(self) -> None:
        for name in ("categories", "position_categories"):
            value = getattr(self, name)
            if value < 0 or value == 1:
                raise ValueError(f"{name} must be 0 (none) or at least 2, got {value}")
        for name in ("size", "position_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (none) or more, got {getattr(self, name)}")
        if not self.parts():
            raise ValueError(
                "a latent student needs a latent: set categories, size, position_categories or "
                "position_size"
            )

    def parts(self) -> list[LatentPart]:
        """The latents that are there, in a fixed order."""
        every = [
            LatentPart(self.categories, True, False),
            LatentPart(self.size, False, False),
            LatentPart(self.position_categories, True, True),
            LatentPart(self.position_size, False, True),
        ]
        return [part for part in every if part.values]


class TokenPair(nn.Module):
    """A small transformer that reads a sequence, or two of them laid over each other.

    Args:
        vocab_size: number of states V of the process.
        width: of its features.
        blocks: number of transformer blocks.
        length: if given, positions have free vectors of their own.
    """

    def __init__(self, vocab_size: int, width: int, blocks: int, length: int | None) -> None:
        super().__init__()
        config = TransformerConfig(
            vocab_size, width, blocks, _heads(width), mlp_ratio=2, condition_dim=width
        )
        self.trunk = Transformer(config)
        self.second = nn.Embedding(vocab_size, width)
        self.template = None if length is None else nn.Parameter(torch.randn(length, width))

    def forward(self, first: Tensor, second: Tensor, level: Tensor) -> Tensor:
        """(B, L), (B, L) and the noise level (B,) → (B, L, width)."""
        shift = self.second(second)
        if self.template is not None:
            shift = shift + checked_template(self.template, shift.shape[1])
        return self.trunk.features(first, level, shift)


class LatentEncoder(nn.Module):
    """q(z|x_s, x_t): a distribution for every part of z.

    It starts random, not at the prior: a posterior equal to the prior is a saddle point that the
    decoder would never leave.

    Args:
        vocab_size: number of states V of the process.
        sizes: which latents there are.
        width, blocks: of the transformer.
        length: see :class:`TokenPair`.
    """

    def __init__(
        self, vocab_size: int, sizes: LatentSizes, width: int, blocks: int, length: int | None
    ) -> None:
        super().__init__()
        self.parts = sizes.parts()
        self.read = TokenPair(vocab_size, width, blocks, length)
        self.pool: nn.Sequential | None = None
        if not all(part.per_position for part in self.parts):
            self.pool = nn.Sequential(nn.Linear(width, width), nn.GELU(approximate="tanh"))
        self.norm = nn.LayerNorm(width)
        self.out = nn.ModuleList()
        for part in self.parts:
            layer = nn.Linear(width, part.values * (1 if part.categorical else 2))
            nn.init.normal_(layer.weight, std=CONTRAST * width**-0.5)
            nn.init.zeros_(layer.bias)
            if not part.categorical:
                # The log-deviations: small to begin with, the same everywhere.
                layer.weight.data[part.values :] = 0.0
                layer.bias.data[part.values :] = -1.0
            self.out.append(layer)

    def forward(self, x_s: Tensor, x_t: Tensor, level: Tensor) -> Latent:
        """q for (B, L) tokens x_s and x_t and the noise level (B,) of x_t."""
        features = self.read(x_s, x_t, level)
        pooled = features if self.pool is None else self.pool(features).mean(1)
        return _joined(
            [
                _latent(part, layer(self.norm(features if part.per_position else pooled)))
                for part, layer in zip(self.parts, self.out)
            ]
        )


class LatentPrior(nn.Module):
    """p(z|x_t): learned for a category per sequence, fixed for all else.

    Args:
        vocab_size: number of states V of the process.
        sizes: which latents there are.
        width: of the embedded tokens from which the categories' weights are read.
        length: if given, positions have free vectors of their own.
    """

    def __init__(self, vocab_size: int, sizes: LatentSizes, width: int, length: int | None) -> None:
        super().__init__()
        self.parts = sizes.parts()
        self.embedding: nn.Embedding | None = None
        self.template: nn.Parameter | None = None
        if sizes.categories:
            self.embedding = nn.Embedding(vocab_size, width)
            self.weights = ComponentWeights(width, sizes.categories)
            if length is not None:
                self.template = nn.Parameter(torch.randn(length, width))
        # Follows the module's device and precision, which a fixed prior has no parameter for.
        self.register_buffer("unit", torch.zeros(()), persistent=False)

    def forward(self, x_t: Tensor) -> Latent:
        """The prior of each row of x_t (B, L)."""
        unit = self.get_buffer("unit")
        latents = []
        for part in self.parts:
            inner = x_t.shape if part.per_position else x_t.shape[:1]
            zero = unit.expand(*inner, part.values)
            if part.categorical and not part.per_position:
                zero = self._weights(x_t)
            latents.append(_latent(part, zero) if part.categorical else GaussianLatent(zero, zero))
        return _joined(latents)

    def _weights(self, x_t: Tensor) -> Tensor:
        assert self.embedding is not None
        embedded = self.embedding(x_t)
        if self.template is not None:
            embedded = embedded + checked_template(self.template, x_t.shape[1])
        return self.weights(embedded)


def _latent(part: LatentPart, values: Tensor) -> Latent:
    if part.categorical:
        return PositionLatent(values) if part.per_position else DiscreteLatent(values)
    mean, log_std = values.chunk(2, -1)
    return GaussianLatent(mean, log_std)


def _joined(latents: list[Latent]) -> Latent:
    return latents[0] if len(latents) == 1 else LatentProduct(latents)


def _heads(width: int) -> int:
    """As many attention heads, of 16 numbers or more, as the width divides into; at most 4."""
    return next((n for n in (4, 2) if width % (2 * n) == 0 and width // n >= 16), 1)
