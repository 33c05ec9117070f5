"""Concrete-score networks as denoisers: (x_t, t) → ratios → the law of x₀ (paper Eq. 8).

Recovery is a linear inversion that amplifies the score's error by about 1/α(t); how much was
clipped, and the condition number, are kept after every call. See
:mod:`fewjump.process.recovery` for where it is not to be trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.constrain import (
    constrain_logits,
    defers,
    linear_logits,
    unconstrained_logits,
)
from fewjump.denoiser.heads import ProductHead
from fewjump.denoiser.network import NetworkDenoiser, check_sizes, noise_level
from fewjump.denoiser.recovered import (
    LateRecoveryReport,
    LawRecovery,
    MaskedRecoveryReport,
    RecoveredLogits,
    RecoveryReport,
    clean_mass,
    recovered_logits,
)
from fewjump.denoiser.transformer import Transformer, TransformerConfig, zero_linear
from fewjump.inversion import row_chunks
from fewjump.law.logits import DenseLogits, Logits
from fewjump.law.product import ProductLaw
from fewjump.law.scores import Ratios, Scores
from fewjump.process import Process, process_from_config
from fewjump.process.kernel import expand_time


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
        return Ratios(DenseLogits(self.network(x_t.clone(), t)), x_t, self.log).dense()

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
        any scaling). Under uniform noise it starts near it: what the other positions say of a noisy
        token stands in for what they say of a clean one (``leave_one_out``); they agree at low
        noise. Under other noise the trunk is taken over and the head starts uniform.

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

        A copy under a mask with method ``clip``. Other laws may have zeros, with which
        cross-entropy is infinite: then :meth:`as_network`, for a :class:`ScoreNetwork`.
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
        if self.process.rows_apart and not self.process.absorbing and not self._recorded():
            return self._late_law(x_t, t)
        ratios = self.ratios(x_t, t)
        parts = list(row_chunks(x_t.shape[1], x_t.shape[0] * ratios.shape[-1]))
        if len(parts) == 1:
            logits, clipped, condition = self._recovered(ratios, x_t, t)
        else:
            found = [self._part(ratios[:, part], x_t[:, part], t) for part in parts]
            logits, clipped = (torch.cat([each[k] for each in found], 1) for k in (0, 1))
            condition = found[0][2]
        self.last_recovery = RecoveryReport(clipped, condition)
        kept = Ratios(DenseLogits(ratios), x_t, log=False)
        scores = Scores(kept, self._mass_of(ratios, x_t, t))
        return ProductLaw(constrain_logits(logits, x_t, self.process), scores)

    def _recorded(self) -> bool:
        """Whether gradients may flow to the network."""
        return torch.is_grad_enabled() and (
            not isinstance(self.network, nn.Module)
            or any(p.requires_grad for p in self.network.parameters())
        )

    def _late_law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        """A law that is recovered when it is read; samplers step by its ratios, and read none."""
        network = self.network
        if isinstance(network, ScoreNetwork) and defers(network.linear):
            features = network.trunk.features(x_t, self.process.schedule.sigma_bar(t))
            source: Logits = unconstrained_logits(network.linear, features)
            ratios = Ratios(source, x_t, log=True)
        else:
            ratios = Ratios(DenseLogits(network(x_t, t)), x_t, self.log)
        logits = RecoveredLogits(self.process, ratios, t, self.method)
        self.last_recovery = LateRecoveryReport(logits, self.process.condition_number(t))
        return ProductLaw(logits, Scores(ratios))

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
        shift = torch.expm1(sigma_bar.double()).log() - network.offset(sigma_bar).double()
        shift = shift.detach()
        condition = self.process.condition_number(t)
        self.last_recovery = MaskedRecoveryReport(logits, shift, condition)
        return ProductLaw(logits, Scores(None, lambda: clean_mass(logits, shift)))

    def _part(self, ratios: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some positions, each of which recovers on its own.

        Recovery is in float64 and takes a dozen tensors of its size; where there are gradients they
        are computed again in the backward pass.
        """
        if ratios.requires_grad and torch.is_grad_enabled():
            return checkpoint(self._recovered, ratios, x_t, t, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return self._recovered(ratios, x_t, t)

    def _recovered(self, ratios: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return recovered_logits(self.process, self.method, ratios, x_t, t)

    def described(self) -> dict[str, Any] | None:
        return self.config() if isinstance(self.network, ScoreNetwork) else None

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
        raw = self.raw_logits(x_t, sigma_bar)
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
