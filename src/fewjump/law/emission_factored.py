"""Emissions for large vocabularies: r categoricals without r·V numbers at each position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import nucleus, refuse_twice, row_chunks
from fewjump.law.emission import Emission, draw_rows
from fewjump.law.emission_normaliser import CHUNK, log_matmul_exp, low_rank_normaliser
from fewjump.law.tokens import at_least_float32, token_log_prob
from fewjump.random import Generator


class FactoredEmission(Emission):
    """Base of emissions e_i(z, x) ∝ exp(u_i(x) + s_i(z, x)) whose s is given by small factors.

    Args:
        base: (B, L, V) logits u, shared by the states; −inf marks impossible tokens.
        states: number of states r.
        temperature, top_p: applied to every e_i(·|z) when :meth:`tempered`.
    """

    def __init__(
        self, base: Tensor, states: int, temperature: float = 1.0, top_p: float = 1.0
    ) -> None:
        if base.dim() != 3:
            raise ValueError(f"base must be (B, L, V), got shape {tuple(base.shape)}")
        self.base = base
        self.batch_size, self.length, self.vocab_size = base.shape
        self.states = states
        self.temperature, self.top_p = temperature, top_p

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def _plain(self) -> bool:
        return self.temperature == 1 and self.top_p == 1

    @abstractmethod
    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        """Logits of rows of the flattened (B·L) positions, one state each: (n, V)."""

    @abstractmethod
    def _log_likelihood(self, x0: Tensor) -> Tensor:
        """:meth:`log_likelihood` of the emissions as they were given, not tempered."""

    def _shaped(self, rows: slice, state: Tensor) -> Tensor:
        return nucleus(self._state_logits(rows, state), self.temperature, self.top_p)

    def _rows(self) -> Iterator[slice]:
        return row_chunks(self.batch_size * self.length, self.vocab_size, CHUNK)

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        flat = state.reshape(-1)
        shape = (self.batch_size, self.length)
        return draw_rows(
            lambda rows: self._shaped(rows, flat[rows]),
            shape,
            self.vocab_size,
            self.device,
            generator,
        )

    def log_likelihood(self, x0: Tensor) -> Tensor:
        if not self._plain:
            return self._state_by_state(x0)
        return self._log_likelihood(x0)

    def _state_by_state(self, x0: Tensor) -> Tensor:
        flat = x0.reshape(-1)
        columns = []
        for z in range(self.states):
            parts = []
            for rows in self._rows():
                token = flat[rows]
                parts.append(token_log_prob(self._shaped(rows, torch.full_like(token, z)), token))
            columns.append(torch.cat(parts))
        return torch.stack(columns, -1).reshape(*x0.shape, self.states)

    def marginals(self, weights: Tensor) -> Tensor:
        flat = weights.reshape(-1, self.states)
        out = []
        for rows in self._rows():
            total = torch.zeros((), dtype=flat.dtype, device=self.device)
            for z in range(self.states):
                state = torch.full((len(flat[rows]),), z, device=self.device)
                each = at_least_float32(self._shaped(rows, state)).softmax(-1)
                total = total + flat[rows, z, None] * each
            out.append(total)
        return torch.cat(out).reshape(self.base.shape)

    def _flat_base(self) -> Tensor:
        return self.base.reshape(-1, self.vocab_size)


class SharedFactorEmission(FactoredEmission):
    """e_i(z, x) ∝ exp(u_i(x))·B[z, x], B a non-negative r×V matrix shared by all positions.

    Normalisers are one matrix product exp(u)·Bᵀ (METHOD section 4), taken a few rows at a time.

    Args:
        base: (B, L, V) logits u.
        log_factor: (r, V), the logarithm of B; −inf where B is 0.
    """

    def __init__(
        self, base: Tensor, log_factor: Tensor, temperature: float = 1.0, top_p: float = 1.0
    ) -> None:
        if log_factor.dim() != 2 or log_factor.shape[1] != base.shape[-1]:
            raise ValueError(
                f"log_factor must be (r, V) with V = {base.shape[-1]}, "
                f"got shape {tuple(log_factor.shape)}"
            )
        super().__init__(base, log_factor.shape[0], temperature, top_p)
        self.log_factor = at_least_float32(log_factor)

    @cached_property
    def log_normaliser(self) -> Tensor:
        """log Σ_x exp(u_i(x))·B[z, x]: (B, L, r)."""
        total = log_matmul_exp(self._flat_base(), self.log_factor)
        return total.reshape(self.batch_size, self.length, self.states)

    def _log_likelihood(self, x0: Tensor) -> Tensor:
        chosen = at_least_float32(self.base.gather(-1, x0[..., None]))
        return chosen + self.log_factor.T[x0] - self.log_normaliser

    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        return self._flat_base()[rows] + self.log_factor[state]

    def marginals(self, weights: Tensor) -> Tensor:
        if not self._plain:
            return super().marginals(weights)
        # Σ_z w(z)·e(z, x) = exp(u(x))·Σ_z (w(z)/normaliser(z))·B[z, x]: a second matrix product.
        flat = weights.reshape(-1, self.states)
        peak = self.log_factor.amax(-1, keepdim=True)
        factor = (self.log_factor - peak).exp()
        out = []
        for rows in self._rows():
            base = at_least_float32(self._flat_base()[rows])
            share = (base - base.amax(-1, keepdim=True)).exp()
            total = share @ factor.T.to(share.dtype)
            out.append(share * ((flat[rows] / total).to(share.dtype) @ factor.to(share.dtype)))
        return torch.cat(out).reshape(self.base.shape)

    def tempered(self, temperature: float, top_p: float) -> SharedFactorEmission:
        refuse_twice(self.temperature, self.top_p)
        return SharedFactorEmission(self.base, self.log_factor, temperature, top_p)

    def select(self, rows: Tensor) -> SharedFactorEmission:
        return self._on(self.base[rows])

    def expand(self, batch_size: int) -> SharedFactorEmission:
        return self._on(self.base.expand(batch_size, -1, -1))

    def _on(self, base: Tensor) -> SharedFactorEmission:
        return SharedFactorEmission(base, self.log_factor, self.temperature, self.top_p)


class LowRankEmission(FactoredEmission):
    """e_i(z, x) ∝ exp(u_i(x) + a_i(z)·W(x)), with per-position, per-state features a of rank d.

    Normalisers over V are computed over chunks of the vocabulary and again in the backward pass:
    what is kept is the target's logit and r normalisers per position.

    Args:
        base: (B, L, V) logits u.
        features: (B, L, r, d), the a.
        tokens: (V, d), the W.
    """

    def __init__(
        self,
        base: Tensor,
        features: Tensor,
        tokens: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        if features.dim() != 4 or features.shape[:2] != base.shape[:2]:
            raise ValueError(
                f"features must be (B, L, r, d) with (B, L) = {tuple(base.shape[:2])}, "
                f"got shape {tuple(features.shape)}"
            )
        if tokens.shape != (base.shape[-1], features.shape[-1]):
            raise ValueError(
                f"tokens must be (V, d) = ({base.shape[-1]}, {features.shape[-1]}), "
                f"got shape {tuple(tokens.shape)}"
            )
        super().__init__(base, features.shape[2], temperature, top_p)
        self.features, self.tokens = at_least_float32(features), at_least_float32(tokens)

    def _log_likelihood(self, x0: Tensor) -> Tensor:
        features = self.features.flatten(0, 1)
        normaliser = low_rank_normaliser(self._flat_base(), features, self.tokens)
        chosen = at_least_float32(self.base.gather(-1, x0[..., None]))
        chosen = chosen + (self.features @ self.tokens[x0][..., None])[..., 0]
        return chosen - normaliser.reshape(chosen.shape)

    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        features = self.features.flatten(0, 1)[rows]
        index = torch.arange(features.shape[0], device=self.device)
        base = at_least_float32(self._flat_base()[rows])
        return torch.addmm(base, features[index, state], self.tokens.T)

    def tempered(self, temperature: float, top_p: float) -> LowRankEmission:
        refuse_twice(self.temperature, self.top_p)
        return LowRankEmission(self.base, self.features, self.tokens, temperature, top_p)

    def select(self, rows: Tensor) -> LowRankEmission:
        return self._on(self.base[rows], self.features[rows])

    def expand(self, batch_size: int) -> LowRankEmission:
        base, features = self.base, self.features
        return self._on(
            base.expand(batch_size, -1, -1), features.expand(batch_size, *features.shape[1:])
        )

    def _on(self, base: Tensor, features: Tensor) -> LowRankEmission:
        return LowRankEmission(base, features, self.tokens, self.temperature, self.top_p)
