"""A product law that keeps features and a head's weight instead of logits.

At a vocabulary of 50,000 the logits of one training batch take more memory than the network. What
a loss or a sampler asks of a product law is nearly always a sum over the vocabulary, for some
positions only: this law computes those in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law.base import SHARED, Batched, Law, nucleus, refuse_twice, row_chunks
from fewjump.law.cross_entropy import (
    SoftCrossEntropy,
    linear_soft_cross_entropy,
    linear_token_cross_entropy,
)
from fewjump.law.linear_table import LinearTable
from fewjump.law.logit_pass import Gain
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, invert_cdf, uniform, uniform_where

Watch: TypeAlias = Callable[[], AbstractContextManager[object]]


@dataclass(eq=False)
class LinearLaw(ProductLaw):
    """p(x₀|x_t) = Πᵢ softmax(featuresᵢ·weightᵀ + bias)(x₀ⁱ), except where the token is certain.

    Equal to the :class:`ProductLaw` of its :attr:`logits`, which are computed (and kept) when they
    are asked for. Methods that return (B, L) or less compute them in chunks, with gradients.

    Args:
        features: (B, L, D) floating point.
        weight: (V, D); kept, not copied.
        bias: (V,); −inf marks a token that is impossible wherever it is not certain.
        shown: (B, L) boolean, the positions whose token is certain; None for none.
        tokens: (B, L) int64, read only where ``shown`` holds.
        raised: (B, L) int64, a token of each position whose logit is higher by ``gain`` than the
            features say (what a noisy token tells about itself); None for none.
        gain: (B, L).
        compute: dtype of the products with the weight; the features' own by default.
        temperature, top_p: as in :meth:`Law.tempered`, applied to each row when it is computed.
        watch: entered around the computation of rows; a sampler's clock.
    """

    features: Tensor
    weight: Tensor = field(metadata=SHARED)
    bias: Tensor = field(metadata=SHARED)
    shown: Tensor | None = None
    tokens: Tensor | None = None
    raised: Tensor | None = None
    gain: Tensor | None = None
    compute: torch.dtype = field(default=None, metadata=SHARED)  # type: ignore[assignment]
    temperature: float = field(default=1.0, metadata=SHARED)
    top_p: float = field(default=1.0, metadata=SHARED)
    watch: Watch = field(default=nullcontext, metadata=SHARED)

    def __post_init__(self) -> None:
        if self.features.dim() != 3:
            raise ValueError(f"features must be (B, L, D), got shape {tuple(self.features.shape)}")
        self.batch_size, self.length, width = self.features.shape
        self.vocab_size = self.bias.shape[0]
        if self.weight.shape != (self.vocab_size, width):
            raise ValueError(
                f"weight must be (V, D) = {(self.vocab_size, width)}, got "
                f"{tuple(self.weight.shape)}"
            )
        self.compute = self.compute or self.features.dtype
        self._logits: dict[bool, Tensor] = {}

    @cached_property
    def rows(self) -> LinearTable:  # pyright: ignore[reportIncompatibleMethodOverride]
        return LinearTable(self)

    @property
    def logits(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L, V) in the precision of the products: everything at once."""
        # What was computed without gradients must not stand in for what has them.
        recorded = self._recorded()
        if recorded not in self._logits:
            self._logits[recorded] = self._all_logits()
        return self._logits[recorded]

    @property
    def log_normaliser(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As in :class:`ProductLaw`; not kept."""
        return ProductLaw(self.logits).log_normaliser

    def _all_logits(self) -> Tensor:
        with self.watch(), torch.autocast(self.device.type, enabled=False):
            parts = (v.to(self.compute) for v in (self.features, self.weight, self.bias))
            logits = functional.linear(*parts)
        if self.raised is not None and self.gain is not None:
            gain = self.gain[..., None].to(logits.dtype)
            logits = logits.scatter_add_(-1, self.raised[..., None], gain)
        if self._shaped:
            logits = nucleus(logits, self.temperature, self.top_p)
        if self.shown is None:
            return logits
        # The backward pass of a linear layer does not read its output: it may be overwritten.
        row, position = self.shown.nonzero(as_tuple=True)
        logits = logits.masked_fill_(self.shown[..., None], -torch.inf)
        logits[row, position, self._tokens[row, position]] = 0.0
        return logits

    @property
    def _shaped(self) -> bool:
        return self.temperature != 1 or self.top_p != 1

    @property
    def _tokens(self) -> Tensor:
        assert self.tokens is not None
        return self.tokens

    def parts(self) -> dict[str, Any]:
        """The arguments that make this law."""
        return {each.name: getattr(self, each.name) for each in fields(LinearLaw)}

    def _batched(self) -> dict[str, Tensor | Batched]:
        return Batched._batched(self)

    def _with(self, **changes: Any) -> LinearLaw:
        # A law that knows more than its logits does not know it of another's.
        return LinearLaw(**{**self.parts(), **changes})

    def detach(self) -> LinearLaw:
        parts = {name: getattr(self, name).detach() for name in ("features", "weight", "bias")}
        return self._with(**parts)

    def watched(self, watch: Watch) -> LinearLaw:
        """The same law with a clock around what it computes."""
        return self._with(watch=watch)

    def _uncertain(self, index: Tensor) -> Tensor:
        """Those of the positions ``index`` (N,), counted row-major, that are not certain: (M,)."""
        return index if self.shown is None else index[~self.shown.reshape(-1)[index]]

    def _every_uncertain(self) -> Tensor:
        return self._uncertain(torch.arange(self.batch_size * self.length, device=self.device))

    def is_linear_at(self, rows: Tensor) -> bool:
        """Whether log-odds at the positions ``rows`` (N,) are linear in the features: no token
        there is certain, and nothing was cut from the law."""
        return not self._shaped and self._uncertain(rows).shape[0] == rows.shape[0]

    def _recorded(self) -> bool:
        parts = (self.features, self.weight, self.bias)
        return torch.is_grad_enabled() and any(part.requires_grad for part in parts)

    # -- draws ------------------------------------------------------------------------------

    def sample(self, generator: Generator = None) -> Tensor:
        u = uniform((self.batch_size, self.length), generator, self.device).reshape(-1)
        return self._draw(torch.arange(u.shape[0], device=self.device), u).reshape(
            self.batch_size, self.length
        )

    def sample_where(self, where: Tensor, generator: Generator = None) -> Tensor:
        u = uniform_where(where, generator)
        return self._draw(where.reshape(-1).nonzero()[:, 0], u)

    def _draw(self, index: Tensor, u: Tensor) -> Tensor:
        """Invert the rows ``index`` (N,) at u (N,): (N,) int64."""
        if self.shown is None:
            out = torch.empty_like(index)
            left = torch.arange(index.shape[0], device=index.device)
        else:
            out = self._tokens.reshape(-1)[index].clone()
            left = (~self.shown.reshape(-1)[index]).nonzero()[:, 0]
        for part in self._chunks(left):
            weights = self.rows.index_select(0, index[left[part]])
            weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()
            out[left[part]] = invert_cdf(weights, u[left[part]])
        return out

    def _chunks(self, index: Tensor) -> Any:
        return row_chunks(index.shape[0], 1, self.rows.rows_at_once())

    # -- sums over the vocabulary -----------------------------------------------------------

    def token_log_prob(self, x0: Tensor) -> Tensor:
        if self._shaped and self._recorded():
            return super().token_log_prob(x0)
        flat = x0.reshape(-1)
        dtype = torch.promote_types(self.compute, torch.float32)
        # Impossible tokens need no row.
        out = torch.full((flat.shape[0],), -torch.inf, dtype=dtype, device=self.device)
        if self.shown is not None:
            out[(self.shown & (x0 == self._tokens)).reshape(-1)] = 0.0
        rows = self._every_uncertain()
        rows = rows[self.bias.detach()[flat[rows]] > -torch.inf]
        if self._shaped:
            found = torch.empty(rows.shape[0], dtype=dtype, device=self.device)
            for part in self._chunks(rows):
                log_probs = self.rows.index_select(0, rows[part]).log_softmax(-1)
                found[part] = log_probs.gather(1, flat[rows[part], None])[:, 0]
        else:
            with self.watch():
                found = -self.token_cross_entropy(flat, rows)
        return out.index_put((rows,), found.to(dtype)).reshape(x0.shape)

    def entropy(self) -> Tensor:
        if self._recorded():
            return super().entropy()
        rows = self._every_uncertain()
        out = torch.zeros(self.batch_size * self.length, dtype=self.rows.dtype, device=self.device)
        for part in self._chunks(rows):
            log_p = self.rows.index_select(0, rows[part]).log_softmax(-1)
            log_p.clamp_(min=torch.finfo(log_p.dtype).min)
            out[rows[part]] = -torch.linalg.vecdot(log_p.exp(), log_p)
        return out.reshape(self.batch_size, self.length)

    def position_cross_entropy(self, target: ProductLaw) -> Tensor:
        if self._shaped:
            return super().position_cross_entropy(target)
        shape = (self.batch_size, self.length)
        dtype = torch.promote_types(self.compute, torch.float32)
        out = torch.zeros(shape, dtype=dtype, device=self.device)
        if self.shown is not None:
            # Certain here: nothing if the target is certain of the same token, else infinite.
            agrees = _certain(target, torch.where(self.shown, self._tokens, 0))
            out.masked_fill_(self.shown & ~agrees, torch.inf)
        rows = self._every_uncertain()
        found = self.soft_cross_entropy(target, rows).cross_entropy
        return out.reshape(-1).index_put((rows,), found).reshape(shape)

    def soft_cross_entropy(
        self, target: ProductLaw, rows: Tensor, row_weight: Tensor | None = None
    ) -> SoftCrossEntropy:
        if not self.is_linear_at(rows):
            return super().soft_cross_entropy(target, rows, row_weight)
        return linear_soft_cross_entropy(
            self.features.flatten(0, 1)[rows],
            self.weight,
            self.bias,
            target.rows,
            rows,
            row_weight,
            self.compute,
            self._gain(rows),
        )

    def token_cross_entropy(self, tokens: Tensor, rows: Tensor) -> Tensor:
        if not self.is_linear_at(rows):
            return super().token_cross_entropy(tokens, rows)
        features = self.features.flatten(0, 1)[rows]
        head = self.weight, self.bias
        return linear_token_cross_entropy(
            features, *head, tokens[rows], self.compute, self._gain(rows)
        )

    def _gain(self, rows: Tensor) -> Gain | None:
        if self.raised is None or self.gain is None:
            return None
        return Gain(self.raised.reshape(-1)[rows], self.gain.reshape(-1)[rows])

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        if not isinstance(target, ProductLaw):
            target = ProductLaw(target.marginals().log())
        return self.position_cross_entropy(target).sum(-1)

    # -- other laws -------------------------------------------------------------------------

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> LinearLaw:
        nucleus(torch.zeros(1), temperature, top_p)  # refuses bad values before any reading
        if temperature == 1 and top_p == 1:
            return self
        refuse_twice(self.temperature, self.top_p)
        if temperature > 0 and top_p == 1:
            return self._with(
                features=self.features / temperature,
                bias=self.bias / temperature,
                gain=None if self.gain is None else self.gain / temperature,
            )
        return self._with(temperature=temperature, top_p=top_p)

    def _expanded(self, batch_size: int) -> LinearLaw:
        return Batched._expanded(self, batch_size)  # pyright: ignore[reportReturnType]

    def given(self, x0: Tensor, known: Tensor) -> LinearLaw:
        if self.shown is None:
            return self._with(shown=known, tokens=x0)
        return self._with(shown=self.shown | known, tokens=torch.where(known, x0, self._tokens))

    def replaced(self, rows: Tensor, other: LinearLaw) -> LinearLaw:
        """This law with some batch rows (N,) taken from ``other`` (N rows) of the same head."""
        changes = {}
        for name in ("features", "shown", "tokens", "raised", "gain"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None):
                raise ValueError(f"only one of the two laws has {name}; they are of two heads")
            changes[name] = None if mine is None else mine.index_put((rows,), theirs)
        return self._with(**changes)


@torch.no_grad()
def _certain(law: ProductLaw, tokens: Tensor) -> Tensor:
    """Where the law allows no token but the given one: (B, L) int64 → (B, L) boolean."""
    if isinstance(law, LinearLaw):
        none = torch.zeros_like(tokens, dtype=torch.bool)
        return none if law.shown is None else law.shown & (tokens == law.tokens)
    return law.token_log_prob(tokens) == 0
