"""A mixture of product laws whose components are tables shared by all rows: thousands are cheap."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from fewjump.law.base import Law, nucleus, refuse_twice, row_chunks
from fewjump.law.mixture import reweighted
from fewjump.law.product import ProductLaw, pin_logits
from fewjump.law.tokens import at_least_float32, exponentiated, safe_logsumexp
from fewjump.random import Generator, categorical_from_logits

# Entries of a temporary: positions are taken a few at a time where their tables are large.
_CHUNK = 1 << 22


class SharedMixtureLaw(Law):
    """p(x₀|x_t) = Σ_k π_k(x_t) Πᵢ softmax(uᵢ(x_t) + Tᵢᵏ)(x₀ⁱ).

    What tells components apart, T, is one table for all rows; x_t enters through the logits u and
    the weights π. A mixture of products given independently noised tokens has exactly this form:
    its tables stay, its logits gain the tokens' evidence and its weights the components'.

    Against :class:`~fewjump.law.mixture.MixtureLaw`, whose components are logits of their own in
    every row: the normalisers are one matrix product a position, and memory is B·L·K + L·K·V where
    that needs B·K·L·V.

    :meth:`sample` draws the component, then that component's positions; :meth:`tempered` sharpens
    both, component weights included. Against a product target the cross-entropy has no closed form;
    the base class's one-draw estimate is unbiased.

    Args:
        base: (B, L, V) logits u; −inf marks impossible tokens.
        tables: (L, K, V) log-factors T.
        weight_logits: (B, K), unnormalised log-weights of the components.
        temperature, top_p: applied to every component's positions; :meth:`tempered` sets them.
    """

    def __init__(
        self,
        base: Tensor,
        tables: Tensor,
        weight_logits: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        if base.dim() != 3:
            raise ValueError(f"base must be (B, L, V), got shape {tuple(base.shape)}")
        self.batch_size, self.length, self.vocab_size = base.shape
        if tables.dim() != 3 or (tables.shape[0], tables.shape[2]) != tuple(base.shape[1:]):
            raise ValueError(
                f"tables must be (L, K, V) with (L, V) = {tuple(base.shape[1:])}, "
                f"got shape {tuple(tables.shape)}"
            )
        self.components = tables.shape[1]
        if weight_logits.shape != (self.batch_size, self.components):
            raise ValueError(
                f"weight_logits must be (B, K) = {(self.batch_size, self.components)}, "
                f"got shape {tuple(weight_logits.shape)}"
            )
        self.base, self.tables = at_least_float32(base), at_least_float32(tables)
        self.weight_logits = at_least_float32(weight_logits)
        self.temperature, self.top_p = temperature, top_p

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def _plain(self) -> bool:
        return self.temperature == 1 and self.top_p == 1

    @cached_property
    def log_normaliser(self) -> Tensor:
        """log Σ_x exp(uᵢ(x) + Tᵢᵏ(x)): (B, L, K)."""
        share, top = exponentiated(self.base)
        factor, peak = exponentiated(self.tables)
        total = torch.einsum("blv,lkv->blk", share, factor)
        lost = (total == 0).nonzero(as_tuple=True)
        value = total.masked_fill(total == 0, 1.0).log() + top + peak[..., 0]
        if lost[0].numel():
            row, position, component = lost
            logits = self.base[row, position] + self.tables[position, component]
            value = value.index_put(lost, safe_logsumexp(logits))
        return value

    def _token_log_prob(self, x0: Tensor) -> Tensor:
        """log p(x₀ⁱ|k): (B, L, K)."""
        if not self._plain:
            return torch.stack(
                [self._component(k).token_log_prob(x0) for k in range(self.components)], -1
            )
        chosen = self.base.gather(-1, x0[..., None]) + position_rows(self.tables, x0)
        value = chosen - self.log_normaliser
        return value.masked_fill(chosen == -torch.inf, -torch.inf)

    def _component(self, k: int | Tensor) -> ProductLaw:
        """The product law of one component, or of one for each row (B,)."""
        table = self.tables[:, k]
        logits = self.base + (table.transpose(0, 1) if isinstance(k, Tensor) else table)
        return ProductLaw(nucleus(logits, self.temperature, self.top_p))

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log Πᵢ p(x₀ⁱ|k) for each component: (B, L) → (B, K)."""
        return self._token_log_prob(x0).sum(1)

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self._component(index).sample(generator)

    def marginals(self) -> Tensor:
        weights = self.weight_logits.softmax(-1)
        if self._plain:
            width = self.vocab_size * max(self.batch_size, self.components)
            chunks = row_chunks(self.length, width, _CHUNK)
            return torch.cat([self._mixed(weights, positions) for positions in chunks], 1)
        total = torch.zeros((), dtype=weights.dtype, device=self.device)
        for k in range(self.components):
            total = total + weights[:, k, None, None] * self._component(k).marginals()
        return total

    def _mixed(self, weights: Tensor, positions: slice) -> Tensor:
        """Marginals of some positions: (B, l, V).

        Σ_k π_k·exp(u + Tᵏ)/Zᵏ = exp(u)·Σ_k (π_k/Zᵏ)·exp(Tᵏ): two matrix products a position.
        """
        base, tables = self.base[:, positions], self.tables[positions]
        share, _ = exponentiated(base)
        factor, _ = exponentiated(tables)
        total = torch.einsum("blv,lkv->blk", share, factor)
        weights = weights.to(total.dtype)
        # A component is computed from its logits where products underflow, or where the gradient,
        # which divides by the square of the sum, would overflow.
        lost = total < torch.finfo(total.dtype).tiny ** 0.5
        each = (weights[:, None] / total.masked_fill(lost, 1.0)).masked_fill(lost, 0.0)
        mixed = share * torch.einsum("blk,lkv->blv", each, factor)
        found = (lost & (weights[:, None] > 0)).nonzero()
        for part in row_chunks(found.shape[0], self.vocab_size, _CHUNK):
            row, position, component = found[part].unbind(1)
            law = (base[row, position] + tables[position, component]).softmax(-1)
            value = weights[row, component, None] * law
            mixed = mixed.index_put((row, position), value, accumulate=True)
        return mixed

    def responsibilities(self, x0: Tensor) -> Tensor:
        """Posterior probability of each component given a sequence: (B, K)."""
        return (self.weight_logits + self.component_log_prob(x0)).softmax(-1)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> SharedMixtureLaw:
        if temperature == 1 and top_p == 1:
            return self
        refuse_twice(self.temperature, self.top_p)
        weights = nucleus(self.weight_logits, temperature, top_p)
        if top_p < 1 or temperature == 0:
            return SharedMixtureLaw(self.base, self.tables, weights, temperature, top_p)
        return SharedMixtureLaw(self.base / temperature, self.tables / temperature, weights)

    def select(self, rows: Tensor) -> SharedMixtureLaw:
        return self._with(self.base[rows], self.weight_logits[rows])

    def _expanded(self, batch_size: int) -> SharedMixtureLaw:
        weights = self.weight_logits.expand(batch_size, -1)
        return self._with(self.base.expand(batch_size, -1, -1), weights)

    def _with(self, base: Tensor, weights: Tensor) -> SharedMixtureLaw:
        return SharedMixtureLaw(base, self.tables, weights, self.temperature, self.top_p)

    def given(self, x0: Tensor, known: Tensor) -> SharedMixtureLaw:
        """Exact: components are re-weighted by what they say of the known tokens.

        Tokens that no component allows leave the weights as they are.
        """
        safe = torch.where(known, x0, 0)
        evidence = self._token_log_prob(safe)
        evidence = evidence.masked_fill(~known[..., None], 0.0).sum(1)
        return self._with(
            pin_logits(self.base, safe, known), reweighted(self.weight_logits, evidence)
        )


def position_rows(tables: Tensor, x: Tensor) -> Tensor:
    """tables[i, :, xⁱ]: (L, K, V), (B, L) → (B, L, K)."""
    length, _, size = tables.shape
    rows = tables.transpose(1, 2).flatten(0, 1)
    return nn.functional.embedding(size * torch.arange(length, device=x.device) + x, rows)
