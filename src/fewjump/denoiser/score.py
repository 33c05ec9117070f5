"""Concrete-score networks as denoisers: (x_t, t) → ratios → the law of x₀ (paper Eq. 8).

Recovery is a linear inversion that amplifies the score's error by about 1/α(t); how much was
clipped, and the condition number, are kept after every call. See
:mod:`fewjump.process.recovery` for where it is not to be trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.constrain import constrain_logits, defers, linear_logits
from fewjump.denoiser.heads import ProductHead
from fewjump.denoiser.network import NetworkDenoiser, check_sizes, noise_level
from fewjump.denoiser.transformer import Transformer, TransformerConfig, zero_linear
from fewjump.law.base import row_chunks
from fewjump.law.logits import LinearLogits, Logits
from fewjump.law.product import ProductLaw, Scores
from fewjump.process import Process, process_from_config
from fewjump.process.kernel import expand_time

LawRecovery = Literal["clip", "project", "multiplicative"]
# Positions of deferred logits that the mean of a training step's report is taken over, at most.
REPORTED_POSITIONS = 256


class RecoveryReport:
    """What the last recovery had to repair.

    Args:
        clipped_mass: (B, L) probability that the closed form put below zero, without gradients.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, clipped_mass: Tensor, condition_number: Tensor) -> None:
        self.clipped_mass = clipped_mass
        self.condition_number = condition_number

    def mean_clipped_mass(self) -> Tensor:
        """Its mean, (): over positions spread evenly where computing all of them costs much."""
        return self.clipped_mass.mean()


class MaskedRecoveryReport(RecoveryReport):
    """Of a masked position's closed form; see :func:`clean_mass`.

    Only the mask's entry, 1 − (e^σ̄ − 1)·Σr, can be below zero.

    Args:
        logits, shift: as for :func:`clean_mass`.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, logits: Logits, shift: Tensor, condition_number: Tensor) -> None:
        self.condition_number = condition_number
        # It outlives the training step, whose graph must not.
        self._logits, self._shift = logits.detach(), shift

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskedRecoveryReport:
        # A copied network need not copy its weights again for the sake of a report.
        return self

    @cached_property
    def clipped_mass(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L), computed when first asked for."""
        return (clean_mass(self._logits, self._shift) - 1).clamp(min=0)

    def mean_clipped_mass(self) -> Tensor:
        count = self._logits.batch_size * self._logits.length
        if "clipped_mass" in vars(self) or count <= REPORTED_POSITIONS:
            return self.clipped_mass.mean()
        spread = torch.linspace(0, count - 1, REPORTED_POSITIONS, dtype=torch.float64)
        index = spread.round().long().to(self._logits.device)
        return (clean_mass(self._logits, self._shift, index) - 1).clamp(min=0).mean()


@torch.no_grad()
def clean_mass(logits: Logits, shift: Tensor, index: Tensor | None = None) -> Tensor:
    """Σ of the closed form over clean tokens, in chunks: (N,) float64, or (B, L) of all positions.

    The closed form of a masked position is r(e^σ̄ − 1) at clean tokens and 1 less their sum at the
    mask; the law is its clean part, normalised.

    Args:
        logits: log r at clean tokens but for a number per sequence; a visible position has
            certainty.
        shift: (B,) float64, what makes log r(e^σ̄ − 1) of the logits.
        index: (N,) int64 positions, counted row-major; visible ones have 1.
    """
    assert logits.visible is not None
    if index is None:
        every = torch.arange(logits.batch_size * logits.length, device=logits.device)
        return clean_mass(logits, shift, every).reshape(logits.batch_size, logits.length)
    out = torch.ones(index.shape[0], dtype=torch.float64, device=index.device)
    (left,) = (~logits.visible.reshape(-1)[index]).nonzero(as_tuple=True)
    for part in row_chunks(left.shape[0], 1, logits.rows_at_once()):
        rows = index[left[part]]
        total = logits.read(rows).logsumexp(-1).double()
        out[left[part]] = torch.exp(total + shift.to(total.device)[rows // logits.length])
    return out


class ScoreDenoiser(Denoiser):
    """A concrete-score network as a denoiser with a product law.

    Args:
        network: callable (x_t (B, L) int64, t (B,) float64) → (B, L, V) concrete scores
            p_t(x with xⁱ→y)/p_t(x), positive; V counts every state of the process. An
            ``nn.Module`` is registered, so that its parameters train.
        process: the forward process.
        method: how posteriors are kept non-negative; the closed form itself (``exact``) is no law
            when the scores are imperfect, and ``clip`` equals it when they are exact.
        log: the network returns log-ratios.
        length: default sequence length.

    Attributes:
        last_recovery: report of the latest call, None before the first.

    Raises:
        ValueError: for a method that does not give a law.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        process: Process,
        method: LawRecovery = "clip",
        log: bool = False,
        length: int | None = None,
    ) -> None:
        super().__init__(process, length)
        if method not in ("clip", "project", "multiplicative"):
            raise ValueError(
                f"method must be clip, project or multiplicative, got {method!r}; the closed form "
                "can be negative, which no law is: use process.recover(..., 'exact') to see it"
            )
        self.network = network
        self.method: LawRecovery = method
        self.log = log
        self.last_recovery: RecoveryReport | None = None

    def ratios(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Concrete scores as the network has them, and 1 at the current token: (B, L, V).

        For rate-based samplers and score-entropy training, which need no posterior. Not counted
        as an evaluation: whoever calls it directly does that.
        """
        scores = self.network(x_t, t)
        if not self.log:
            return scores.scatter(-1, x_t[..., None], 1.0)
        return _ratios(scores, x_t)

    def raw_logits(self, x_t: Tensor, sigma: Tensor | float) -> Tensor:
        """The network's linear layer at noise level σ̄, before any scaling: (B, L, V).

        Raises:
            ValueError: if the network is not a :class:`ScoreNetwork`.
        """
        return self._own_network().raw_logits(x_t, noise_level(sigma, x_t))

    def log_score(self, x_t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_t(x with xⁱ→y)/p_t(x) at noise level σ̄, 0 at the current token: (B, L, V).

        Args:
            x_t: (B, L) int64.
            sigma: noise level, a float, (B,) or (B, 1).

        Raises:
            ValueError: if the network is not a :class:`ScoreNetwork`.
        """
        scores = self._own_network().log_ratios(x_t, noise_level(sigma, x_t))
        return scores.scatter(-1, x_t[..., None], 0.0)

    def as_network(self) -> NetworkDenoiser:
        """A product denoiser that starts where this network is.

        Under a mask its law is this one's (softmax of the network's output over clean tokens, for
        any scaling). Under uniform noise it starts near it: r_y is in proportion to what the other
        positions say of a noisy token y, which stands in for what they say of a clean one
        (``leave_one_out``); they agree at low noise. Under other noise the trunk is taken over and
        the head starts uniform.

        Raises:
            ValueError: if the network is not a :class:`ScoreNetwork`.
        """
        network, process = self._own_network(), self.process
        head = ProductHead(network.trunk.config.hidden, process.vocab_size)
        head = head.to(network.linear.weight)
        if process.uniform or process.absorbing:
            head.linear.load_state_dict(network.linear.state_dict())
        trunk = copy.deepcopy(network.trunk).requires_grad_(True)
        return NetworkDenoiser(trunk, head, process, self.length, leave_one_out=process.uniform)

    def as_student(self) -> Denoiser:
        """A trainable product denoiser that starts at or near this one.

        A copy under a mask with method ``clip``, where its law has no zeros. Recovery under other
        noise may clip, the projection puts zeros anywhere, and cross-entropy of a law with zeros is
        infinite: :meth:`as_network` then, for a :class:`ScoreNetwork`.
        """
        positive = self.process.absorbing and self.method == "clip"
        if isinstance(self.network, ScoreNetwork) and not positive:
            return self.as_network()
        return super().as_student()

    def _own_network(self) -> ScoreNetwork:
        if not isinstance(self.network, ScoreNetwork):
            raise ValueError(
                f"a {type(self.network).__name__} gives its output as a function of time only; "
                "this needs a ScoreNetwork"
            )
        return self.network

    def product_layer(self) -> nn.Module | None:
        """Under a mask scores are posteriors but for a factor."""
        own = isinstance(self.network, ScoreNetwork) and self.process.absorbing
        return self.network.linear if own else None  # type: ignore[union-attr]

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        network = self.network
        if (
            isinstance(network, ScoreNetwork)
            and self.process.absorbing
            and self.method == "clip"
            and defers(network.linear)
        ):
            return self._masked_law(network, x_t, t)
        ratios = self.ratios(x_t, t)
        parts = list(row_chunks(x_t.shape[1], x_t.shape[0] * ratios.shape[-1]))
        if len(parts) == 1:
            logits, clipped, condition = self._recovered(ratios, x_t, t)
        else:
            found = [self._part(ratios[:, part], x_t[:, part], t) for part in parts]
            logits, clipped = (torch.cat([each[k] for each in found], 1) for k in (0, 1))
            condition = found[0][2]
        self.last_recovery = RecoveryReport(clipped, condition)
        scores = Scores(lambda: ratios, self._mass_of(ratios, x_t, t))
        return ProductLaw(constrain_logits(logits, x_t, self.process), scores)

    def _mass_of(self, ratios: Tensor, x_t: Tensor, t: Tensor) -> Callable[[], Tensor] | None:
        """:func:`clean_mass` from the ratios themselves."""
        process, masked = self.process, self.process.masked(x_t)
        if masked is None:
            return None

        def mass() -> Tensor:
            wide = ratios.double()
            total = wide.sum(-1) - wide[..., [process.mask, *process.kept]].sum(-1)
            level = expand_time(process.schedule.sigma_bar(t).double(), x_t)
            return torch.where(masked, torch.expm1(level) * total, 1.0)

        return mass

    def _masked_law(self, network: ScoreNetwork, x_t: Tensor, t: Tensor) -> ProductLaw:
        """The law under a mask: the closed form at clean tokens is in proportion to the ratios,
        so that it is the softmax of the network's output, and nothing needs to be inverted."""
        sigma_bar = self.process.schedule.sigma_bar(t)
        features = network.trunk.features(x_t, sigma_bar)
        logits = linear_logits(network.linear, features, x_t, self.process)
        weight, bias = logits.weight, network.linear.bias
        bias = bias if weight.requires_grad else bias.detach()

        def ratios() -> Tensor:
            raw = LinearLogits(features, weight, bias, compute=logits.compute).dense()
            return _ratios(network.scaled_scores(raw, sigma_bar), x_t)

        shift = torch.expm1(sigma_bar.double()).log() - network.offset(sigma_bar).double()
        shift = shift.detach()
        condition = self.process.condition_number(t)
        self.last_recovery = MaskedRecoveryReport(logits, shift, condition)
        return ProductLaw(logits, Scores(ratios, lambda: clean_mass(logits, shift)))

    def _part(self, ratios: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some positions, each of which recovers on its own.

        Recovery is in float64 and takes a dozen tensors of its size; where there are gradients they
        are computed again in the backward pass.
        """
        if ratios.requires_grad and torch.is_grad_enabled():
            return checkpoint(self._recovered, ratios, x_t, t, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return self._recovered(ratios, x_t, t)

    def _recovered(self, ratios: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, L, V), clipped mass (B, L) and condition number of a recovery."""
        recovery = self.process.recover(ratios, x_t, t, self.method)
        posterior = recovery.posterior
        if self.process.absorbing:
            mask = self.process.mask
            if bool(((x_t == mask) & (posterior[..., mask] >= 1)).any()):
                raise ValueError(
                    "the score network gave no positive ratio at a masked position, so no clean "
                    "token is possible there; its scores must be positive"
                )
        # Not log(0): its infinite slope would turn the gradients of the other entries into NaN.
        possible = posterior > 0
        logits = torch.where(possible, torch.where(possible, posterior, 1).log(), -torch.inf)
        return logits, recovery.clipped_mass.detach(), recovery.condition_number

    def config(self) -> dict[str, Any]:
        """Plain data from which :meth:`from_config` rebuilds the denoiser.

        Raises:
            ValueError: if the network is not a :class:`ScoreNetwork`.
        """
        if not isinstance(self.network, ScoreNetwork):
            raise ValueError(
                f"only a ScoreDenoiser of a ScoreNetwork can be described by a configuration, this "
                f"one wraps {type(self.network).__name__}"
            )
        return {
            "kind": "score",
            "process": self.process.config(),
            "trunk": self.network.trunk.config.config(),
            "method": self.method,
            "length": self.length,
            "scaled": self.network.scaled,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ScoreDenoiser:
        """A denoiser of a :class:`ScoreNetwork` with fresh parameters."""
        process = process_from_config(config["process"])
        trunk = TransformerConfig.from_config(
            {"vocab_size": process.vocab_size, **config.get("trunk", {})}
        )
        check_sizes(trunk, process, config.get("length"))
        network = ScoreNetwork(Transformer(trunk), process, bool(config.get("scaled", True)))
        method = config.get("method", "clip")
        return cls(network, process, method, log=True, length=config.get("length"))


class ScoreNetwork(nn.Module):
    """Log-ratios from a trunk and a linear layer, scaled as SEDD does (arXiv 2310.16834).

    Absorbing: z − log(e^σ̄ − 1) − log(V − 1), so that z = 0 everywhere is the uniform posterior.
    Other processes: z, so that z = 0 is the stationary law of uniform noise.

    Args:
        trunk: the network; its vocabulary is every state of the process.
        process: the forward process.
        scaled: subtract those terms under an absorbing process (SEDD's ``scale_by_sigma``).
    """

    def __init__(self, trunk: Transformer, process: Process, scaled: bool = True) -> None:
        super().__init__()
        self.scaled = scaled
        check_sizes(trunk.config, process, None)
        self.trunk = trunk
        self.linear = zero_linear(trunk.config.hidden, process.vocab_size)
        self.process = process

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log-ratios (B, L, V) for x_t (B, L) and t (B,)."""
        return self.log_ratios(x_t, self.process.schedule.sigma_bar(t))

    def raw_logits(self, x_t: Tensor, sigma_bar: Tensor) -> Tensor:
        """The linear layer's output (B, L, V) at noise level σ̄ (B,)."""
        return self.linear(self.trunk.features(x_t, sigma_bar))

    def log_ratios(self, x_t: Tensor, sigma_bar: Tensor) -> Tensor:
        """As :meth:`forward`, at noise level σ̄ (B,)."""
        return self.scaled_scores(self.raw_logits(x_t, sigma_bar), sigma_bar)

    def scaled_scores(self, raw: Tensor, sigma_bar: Tensor) -> Tensor:
        """Log-ratios from the linear layer's output (B, L, V) at noise level σ̄ (B,)."""
        if not self._scales():
            return raw
        return raw - self.offset(sigma_bar)[:, None, None].to(raw.dtype)

    def offset(self, sigma_bar: Tensor) -> Tensor:
        """What is taken off the linear layer's output at noise level σ̄: (B,) → (B,)."""
        if not self._scales():
            return torch.zeros_like(sigma_bar)
        return torch.log(torch.expm1(sigma_bar) * (self.process.vocab_size - 1))

    def _scales(self) -> bool:
        return self.scaled and self.process.absorbing


def _ratios(scores: Tensor, x_t: Tensor) -> Tensor:
    """Ratios (B, L, V) from their logarithms, 1 at the current token."""
    ratios = scores.exp()
    if ratios.requires_grad:
        return ratios.scatter(-1, x_t[..., None], 1.0)
    return ratios.scatter_(-1, x_t[..., None], 1.0)
