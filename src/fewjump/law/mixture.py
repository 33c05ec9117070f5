"""Mixtures of product laws and of laws of any kind, and several laws side by side in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.law.base import Draw, Law
from fewjump.law.emission import DenseEmission, Emission
from fewjump.law.log_weights import at_least_float32, nucleus, safe_log, safe_logsumexp
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, categorical_from_logits, forked, of_rows


def reweighted(weight_logits: Tensor, evidence: Tensor) -> Tensor:
    """Bayes' rule for log-weights (B, K); rows without a possible component stay as they are."""
    weights = weight_logits + evidence
    impossible = (weights == -torch.inf).all(-1, keepdim=True)
    return torch.where(impossible, weight_logits, weights)


@dataclass(eq=False)
class MixtureLaw(Law):
    """p(x₀|x_t) = Σ_k π_k Πᵢ eᵢ(x₀ⁱ|k) (METHOD section 4; Di4C, arXiv 2410.08709).

    What a component says of a position is an :class:`~fewjump.law.emission.Emission`, with one
    state for the whole sequence: logits of their own for small vocabularies; low-rank differences
    where K·V numbers at each position would not fit; tables (L, K, V) shared by all rows, with
    which thousands of components are cheap.

    :meth:`cross_entropy` against a product target is the unbiased one-draw estimate of the base
    class. :meth:`sample` draws the component, then that component's positions; :meth:`tempered`
    sharpens both, component weights included.

    Args:
        emission: of B rows, L positions and K states; or logits (B, K, L, V) for a dense one,
            unnormalised, −inf for impossible tokens, kept and not copied.
        weight_logits: (B, K), unnormalised log-weights of the components.
    """

    emission: Emission
    weight_logits: Tensor
    chosen_product = True

    def __init__(self, emission: Emission | Tensor, weight_logits: Tensor) -> None:
        if isinstance(emission, Tensor):
            if emission.dim() != 4:
                raise ValueError(f"logits must be (B, K, L, V), got shape {tuple(emission.shape)}")
            emission = DenseEmission(emission.transpose(1, 2))
        shape = (emission.batch_size, emission.states)
        if weight_logits.shape != shape:
            raise ValueError(
                f"weight_logits must be (B, K) = {shape}, got shape {tuple(weight_logits.shape)}"
            )
        self.emission, self.weight_logits = emission, at_least_float32(weight_logits)
        self.batch_size, self.components = shape
        self.length, self.vocab_size = emission.length, emission.vocab_size

    def component_logits(self) -> Tensor:
        return self.weight_logits

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log Πᵢ p(x₀ⁱ|k) for each component: (B, L) → (B, K)."""
        return self.emission.log_likelihood(self.checked(x0)).sum(1)

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def component(self, index: Tensor) -> ProductLaw:
        """The product law of component ``index`` (B,) of each row."""
        return ProductLaw(self.emission.logits_of(index[:, None].expand(-1, self.length)))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self.emission.sample(index[:, None].expand(-1, self.length), generator)

    def draw(self, generator: Generator = None) -> Draw:
        with torch.no_grad():
            index = categorical_from_logits(self.weight_logits, generator)
        part = self.component(index)
        choice = self.weight_logits.log_softmax(-1).gather(-1, index[:, None])[:, 0]
        return part.draw(generator)._replace(log_choice=choice)

    def marginals(self) -> Tensor:
        weights = self.weight_logits.softmax(-1)[:, None]
        return self.emission.marginals(weights.expand(-1, self.length, -1))

    def conditional_logits(self, x0: Tensor) -> Tensor:
        weights = self.weight_logits[:, None] + _before(self.emission.log_likelihood(x0))
        return safe_log(self.emission.marginals(weights.softmax(-1)))

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> MixtureLaw:
        weights = nucleus(self.weight_logits, temperature, top_p)
        if temperature == 1 and top_p == 1:
            return self
        return MixtureLaw(self.emission.tempered(temperature, top_p), weights)

    def given(self, x0: Tensor, known: Tensor) -> MixtureLaw:
        """Exact: components are re-weighted by what they say of the known tokens.

        Tokens that no component allows leave the weights as they are.
        """
        x0 = self.checked(x0, known)
        evidence = self.emission.log_likelihood(x0)
        evidence = evidence.masked_fill(~known[..., None], 0.0).sum(1)
        weights = reweighted(self.weight_logits, evidence)
        return MixtureLaw(self.emission.pinned(x0, known), weights)


class MixtureOf(Law):
    """p(x₀) = Σ_k π_k p_k(x₀), for components that are laws of any kind.

    Exact wherever the components are: log-probabilities, marginals, conditioning, sampling.
    :meth:`tempered` sharpens the weights and, in the components' own sense, the components.

    Args:
        components: either a list of K laws of the same (B, L, V), or one law with B·K rows whose
            row b·K + k is component k of batch row b (much faster when they are of one kind).
        weight_logits: (B, K) unnormalised log-weights.
        rows: (B,) int64, whose components each batch row has, where that is not its own; the one
            law may then have any multiple of K rows.
    """

    def __init__(
        self,
        components: Law | Sequence[Law],
        weight_logits: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        if not isinstance(components, Law):
            components = JoinedLaw.interleaved(components)
        self.weight_logits = at_least_float32(weight_logits)
        self.batch_size, self.components_count = weight_logits.shape
        if rows is None and components.batch_size != weight_logits.numel():
            raise ValueError(
                f"the components have {components.batch_size} rows, but weight_logits of shape "
                f"{tuple(weight_logits.shape)} need B*K = {weight_logits.numel()}"
            )
        self._stored, self._rows = components, rows
        self.length, self.vocab_size = components.length, components.vocab_size

    @property
    def components(self) -> Law:
        """The law whose row b·K + k is component k of batch row b."""
        if self._rows is None:
            return self._stored
        each = torch.arange(self.components_count, device=self.device)
        return self._stored.select((self._first()[:, None] + each).reshape(-1))

    def _first(self) -> Tensor:
        """Where the components of each batch row begin in the law that is stored: (B,)."""
        rows = torch.arange(self.batch_size, device=self.device)
        return (rows if self._rows is None else self._rows) * self.components_count

    @property
    def device(self) -> torch.device:
        return self.weight_logits.device

    def _repeat(self, value: Tensor) -> Tensor:
        return value.repeat_interleave(self.components_count, 0)

    def component_logits(self) -> Tensor:
        return self.weight_logits

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log p_k(x₀) of each component: (B, L) → (B, K)."""
        each = self.components.log_prob(self._repeat(self.checked(x0)))
        return each.reshape(self.batch_size, self.components_count)

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self._stored.select(self._first() + index).sample(generator)

    def marginals(self) -> Tensor:
        each = self.components.marginals()
        each = each.reshape(self.batch_size, self.components_count, *each.shape[1:])
        with torch.autocast(self.device.type, enabled=False):
            return torch.einsum("bk,bklv->blv", self.weight_logits.softmax(-1).to(each.dtype), each)

    def conditional_logits(self, x0: Tensor) -> Tensor:
        shape = (self.batch_size, self.components_count, self.length, self.vocab_size)
        logits = self.components.conditional_logits(self._repeat(x0))
        each = logits.log_softmax(-1).reshape(shape)
        index = x0[:, None, :, None].expand(-1, self.components_count, -1, -1)
        seen = each.gather(-1, index)[..., 0].transpose(1, 2)
        weights = (self.weight_logits[:, None] + _before(seen)).log_softmax(-1)
        return safe_logsumexp(weights.transpose(1, 2)[..., None] + each, 1)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> MixtureOf:
        if temperature == 1 and top_p == 1:
            return self
        weights = nucleus(self.weight_logits, temperature, top_p)
        return MixtureOf(self._stored.tempered(temperature, top_p), weights, self._rows)

    def select(self, rows: Tensor) -> MixtureOf:
        mine = torch.arange(self.batch_size, device=self.device)
        mine = mine if self._rows is None else self._rows
        return MixtureOf(self._stored, self.weight_logits[rows], mine[rows])

    def given(self, x0: Tensor, known: Tensor) -> MixtureOf:
        """Exact: components conditioned, weights multiplied by each one's evidence.

        The evidence p_k(known tokens) is the ratio p_k(y)/p_k(y|known) at any sequence y that the
        conditioned component allows, so no marginalisation is written twice.
        """
        x0, known = self._repeat(self.checked(x0, known)), self._repeat(known)
        conditioned = self.components.given(x0, known)
        with torch.no_grad():
            # A likely completion keeps the ratio well conditioned; any completion is exact.
            witness = conditioned.sample(torch.Generator(device=self.device).manual_seed(0))
        evidence = self.components.log_prob(witness) - conditioned.log_prob(witness)
        evidence = evidence.nan_to_num(nan=-torch.inf).reshape(self.weight_logits.shape)
        return MixtureOf(conditioned, reweighted(self.weight_logits, evidence))


def _before(values: Tensor) -> Tensor:
    """At each position the sum over those to its left, (B, L, K) → (B, L, K)."""
    return torch.nn.functional.pad(values.cumsum(1)[:, :-1], (0, 0, 1, 0))


class JoinedLaw(Law):
    """The rows of several laws as one batch, in any order.

    Args:
        laws: laws of one length and vocabulary.
        order: (N,) int64; row j is row ``order[j]`` of the laws laid end to end.
    """

    def __init__(self, laws: Sequence[Law], order: Tensor) -> None:
        if not laws or len({(law.length, law.vocab_size) for law in laws}) != 1:
            raise ValueError(
                "JoinedLaw needs at least one law, all of the same length and vocabulary"
            )
        self.laws = list(laws)
        self.order = order
        self.batch_size = order.shape[0]
        self.length, self.vocab_size = laws[0].length, laws[0].vocab_size

    @classmethod
    def interleaved(cls, laws: Sequence[Law]) -> JoinedLaw:
        """Row b·K + k is row b of law k; all laws must have the same batch size."""
        if not laws or len({law.batch_size for law in laws}) != 1:
            raise ValueError("the laws of a mixture must be at least one, and of one batch size")
        batch = laws[0].batch_size
        order = torch.arange(len(laws) * batch, device=laws[0].device)
        return cls(laws, order.reshape(len(laws), batch).T.reshape(-1))

    @property
    def device(self) -> torch.device:
        return self.order.device

    def _parts(self) -> list[tuple[Tensor, Law]]:
        """For each law in use: the rows here, and the law of just those rows in that order."""
        parts, offset = [], 0
        for law in self.laws:
            inside = (self.order >= offset) & (self.order < offset + law.batch_size)
            rows = inside.nonzero()[:, 0]
            # Of no rows there is one law still.
            if rows.numel() or not (parts or self.batch_size):
                parts.append((rows, law.select(self.order[rows] - offset)))
            offset += law.batch_size
        return parts

    def _gather(self, values: list[tuple[Tensor, Tensor]]) -> Tensor:
        rows = torch.cat([rows for rows, _ in values])
        return torch.cat([value for _, value in values])[rows.argsort()]

    def log_prob(self, x0: Tensor) -> Tensor:
        x0 = self.checked(x0)
        return self._gather([(rows, law.log_prob(x0[rows])) for rows, law in self._parts()])

    def conditional_logits(self, x0: Tensor) -> Tensor:
        parts = self._parts()
        return self._gather([(rows, law.conditional_logits(x0[rows])) for rows, law in parts])

    def sample(self, generator: Generator = None) -> Tensor:
        # A sub-batch draws from streams of its own samples, whatever else is drawn.
        source = forked(generator)
        return self._gather(
            [(rows, law.sample(of_rows(source, rows))) for rows, law in self._parts()]
        )

    def marginals(self) -> Tensor:
        return self._gather([(rows, law.marginals()) for rows, law in self._parts()])

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> JoinedLaw:
        return JoinedLaw([law.tempered(temperature, top_p) for law in self.laws], self.order)

    def select(self, rows: Tensor) -> JoinedLaw:
        return JoinedLaw(self.laws, self.order[rows])

    def given(self, x0: Tensor, known: Tensor) -> JoinedLaw:
        x0, parts = self.checked(x0, known), self._parts()
        laws = [law.given(x0[rows], known[rows]) for rows, law in parts]
        return JoinedLaw(laws, torch.cat([rows for rows, _ in parts]).argsort())
