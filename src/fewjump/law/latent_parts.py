"""Latents of more than one number: a category for every position, and several latents at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from fewjump.law.base import nucleus
from fewjump.law.latent import DiscreteLatent, GaussianLatent, Latent, straight_through
from fewjump.random import Generator, categorical_from_logits


class PositionLatent(Latent):
    """An independent categorical z_i in {0..K−1} for every position.

    Args:
        logits: (B, L, K), unnormalised.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.batch_size, self.length, self.values = logits.shape
        self.device = logits.device

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical_from_logits(self.logits, generator)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.logits.log_softmax(-1).gather(-1, z[..., None])[..., 0].sum(-1)

    def kl(self, other: PositionLatent) -> Tensor:
        """KL(self ‖ other) in nats at each position: (B, L)."""
        mine, theirs = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        weight = mine.exp()
        return (weight * (mine - theirs).masked_fill(weight == 0, 0.0)).sum(-1)

    def select(self, rows: Tensor) -> PositionLatent:
        return PositionLatent(self.logits[rows])

    def relaxed(self, generator: Generator = None) -> Tensor:
        """(B, L, K) one-hot, see :func:`fewjump.law.latent.straight_through`."""
        return straight_through(self.logits, generator)

    def tempered(self, temperature: float, top_p: float) -> PositionLatent:
        return PositionLatent(nucleus(self.logits, temperature, top_p))


class LatentProduct(Latent):
    """Independent latents side by side. z is their values laid out in one row, (B, F).

    Integers are kept as floating point numbers of the same value (exact below 2^24).

    Args:
        parts: two or more latents of one batch; :meth:`unpack` takes a z apart again.
    """

    def __init__(self, parts: Sequence[Latent]) -> None:
        if len({part.batch_size for part in parts}) != 1 or len(parts) < 2:
            raise ValueError("LatentProduct needs two or more latents of one batch size")
        self.parts = tuple(parts)
        self.batch_size, self.device = parts[0].batch_size, parts[0].device

    def sample(self, generator: Generator = None) -> Tensor:
        return self._pack([part.sample(generator) for part in self.parts])

    def relaxed(self, generator: Generator = None) -> Tensor:
        return self._pack([part.relaxed(generator) for part in self.parts])

    def log_prob(self, z: Tensor) -> Tensor:
        total = torch.zeros((), device=self.device)
        for part, value in zip(self.parts, self.unpack(z)):
            total = total + part.log_prob(value)
        return total

    def select(self, rows: Tensor) -> LatentProduct:
        return LatentProduct([part.select(rows) for part in self.parts])

    def tempered(self, temperature: float, top_p: float) -> LatentProduct:
        return LatentProduct([part.tempered(temperature, top_p) for part in self.parts])

    def unpack(self, z: Tensor) -> list[Tensor]:
        """The parts' own values, in order, from what :meth:`sample` or :meth:`relaxed` returned."""
        hard = [_shape(part, relaxed=False) for part in self.parts]
        soft = [_shape(part, relaxed=True) for part in self.parts]
        is_hard = z.shape[1] == sum(map(prod, hard))
        shapes = hard if is_hard else soft
        pieces = z.split([prod(shape) for shape in shapes], dim=1)
        out = []
        for part, shape, piece in zip(self.parts, shapes, pieces):
            value = piece.reshape(len(z), *shape)
            whole = is_hard and not isinstance(part, GaussianLatent)
            out.append(value.long() if whole else value)
        return out

    def _pack(self, values: list[Tensor]) -> Tensor:
        dtype = torch.float32
        for value in values:
            if value.is_floating_point():
                dtype = torch.promote_types(dtype, value.dtype)
        return torch.cat([value.reshape(self.batch_size, -1).to(dtype) for value in values], 1)


def unit_kl(posterior: Latent, prior: Latent) -> Tensor:
    """KL(posterior ‖ prior) of each unit of z in nats: (B, units).

    A unit is one categorical, or one normal number.

    Raises:
        TypeError: for latents of different kinds.
    """
    if isinstance(posterior, LatentProduct) and isinstance(prior, LatentProduct):
        return torch.cat([unit_kl(q, p) for q, p in zip(posterior.parts, prior.parts)], 1)
    for kind in (DiscreteLatent, PositionLatent, GaussianLatent):
        if isinstance(posterior, kind) and isinstance(prior, kind):
            return posterior.kl(prior).reshape(posterior.batch_size, -1)  # type: ignore[arg-type]
    raise TypeError(f"no KL from {type(posterior).__name__} to {type(prior).__name__}")


def _shape(part: Latent, relaxed: bool) -> tuple[int, ...]:
    """Shape of one row of a part's z."""
    if isinstance(part, GaussianLatent):
        return tuple(part.mean.shape[1:])
    if isinstance(part, PositionLatent):
        return (part.length, part.values) if relaxed else (part.length,)
    assert isinstance(part, DiscreteLatent)
    return (part.values,) if relaxed else ()
