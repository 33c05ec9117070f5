"""The denoiser that is trained: a trunk and a head."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fewjump.config import check_count
from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.heads import Head, TrunkRun, head_from_config
from fewjump.denoiser.huggingface import KIND, HuggingFaceConfig, HuggingFaceTrunk
from fewjump.denoiser.transformer import Transformer, TransformerConfig
from fewjump.denoiser.wrappers import unwrapped
from fewjump.law.base import Law
from fewjump.process import Process, process_from_config
from fewjump.registry import HEADS

# More tokens than any sequence has.
_MOST_TOKENS = 1 << 31

Autocast = Literal["bfloat16", "float16"] | None


class NetworkDenoiser(Denoiser):
    """law = head(trunk.features(x_t, σ̄(t)), x_t).

    The trunk is given the noise level σ̄(t) of the schedule rather than t, as SEDD, UDLM and Duo do:
    it means the same under any schedule.

    Args:
        trunk: the network.
        head: what turns its features into a law.
        process: the forward process.
        length: sequence length to generate by default; None where the user must say.
        autocast: ``bfloat16`` or ``float16``: compute in that precision where torch's autocast
            deems it safe. Parameters and the residual stream stay in float32.
        leave_one_out: under uniform noise, the head's product logits say what the *other* positions
            know of x₀ⁱ, and the likelihood of x_tⁱ is multiplied in here (UDLM, Duo; see
            :mod:`fewjump.denoiser.constrain`).

    Raises:
        ValueError: if the sizes of trunk, head, process and length do not agree, for a process
            that the head is not for, or for ``leave_one_out`` under another than a uniform one.
    """

    def __init__(
        self,
        trunk: Transformer | HuggingFaceTrunk,
        head: Head,
        process: Process,
        length: int | None = None,
        autocast: str | None = None,
        leave_one_out: bool = False,
    ) -> None:
        super().__init__(process, length)
        config = trunk.config
        if leave_one_out and not process.uniform:
            raise ValueError(
                f"leave_one_out is for uniform noise, got a {type(process).__name__} process"
            )
        self.leave_one_out = leave_one_out
        check_sizes(config, process, length)
        if (head.hidden, head.vocab_size) != (config.hidden, process.vocab_size):
            raise ValueError(
                f"the head has hidden={head.hidden} and vocab_size={head.vocab_size}; the trunk "
                f"has hidden={config.hidden} and the process vocab_size={process.vocab_size}"
            )
        head.check_process(process)
        self.trunk = trunk
        self.head = head
        self.autocast: Autocast = check_autocast(autocast)
        self.time_conditioned = config.time_conditioned
        self.autoregressive, self.joint = head.autoregressive, head.joint
        self.kind, self.mixture, self.latent = head.kind, head.mixture, head.latent
        self.closed_marginals, self.drawn_in = head.closed_marginals, head.drawn_in
        self.padding = config.padding
        self.classes = getattr(config, "classes", None)
        self.guidance_range = getattr(config, "guidance", None)
        self.longest = getattr(trunk, "longest", None)
        if length is not None:
            self.check_length(length)

    def product_layer(self) -> nn.Module | None:
        return self.head.product_layer()

    def described(self) -> dict[str, Any]:
        return self.config()

    def for_sampling(self) -> NetworkDenoiser:
        head = self.head.for_sampling()
        if head is self.head:
            return self
        slim = NetworkDenoiser(
            self.trunk, head, self.process, self.length, self.autocast, self.leave_one_out
        )
        slim.vocabulary_config = self.vocabulary_config
        return slim.train(self.training)

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self._law(x_t, t, None)

    def conditional_law(self, x_t: Tensor, t: Tensor, condition: Condition) -> Law:
        if self.classes is None:
            return super().conditional_law(x_t, t, condition)
        return self._law(x_t, t, condition)

    def _law(self, x_t: Tensor, t: Tensor, condition: Condition | None) -> Law:
        dtype = None if self.autocast is None else getattr(torch, self.autocast)
        level = self.process.schedule.sigma_bar(t)
        run = TrunkRun(self.trunk, x_t, level, self.process, dtype, self.leave_one_out, condition)
        return self.head.law(run)

    def raw_logits(self, x_t: Tensor, sigma: Tensor | float) -> Tensor:
        """The product head's output at noise level σ̄, before anything is imposed: (B, L, V).

        For a network of one of the originals this is the output of that network.

        Args:
            x_t: (B, L) int64.
            sigma: noise level, a float, (B,) or (B, 1).

        Raises:
            ValueError: if the head is not a product head.
        """
        layer = self.product_layer()
        if layer is None:
            raise ValueError(f"a {self.kind} head has no logits of single positions; call law()")
        return layer(self.trunk.features(x_t, noise_level(sigma, x_t)))

    def log_score(self, x_t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_t(x with xⁱ→y)/p_t(x) at noise level σ̄, from the law's marginals: (B, L, V).

        −inf where the law excludes y; see
        :meth:`fewjump.process.Process.ratios_from_posterior` for visible positions of a mask.
        """
        level = noise_level(sigma, x_t)
        t = self.process.schedule.time_of_sigma_bar(level.double())
        run = TrunkRun(self.trunk, x_t, level, self.process, None, self.leave_one_out)
        posterior = self.head.law(run).marginals().double()
        return self.process.ratios_from_posterior(posterior, x_t, t).log().float()

    def config(self) -> dict[str, Any]:
        """Plain data from which :meth:`from_config` rebuilds the denoiser, parameters excepted."""
        return {
            "kind": "network",
            "process": self.process.config(),
            "trunk": self.trunk.config.config(),
            "head": self.head.config(),
            "length": self.length,
            "autocast": self.autocast,
            "leave_one_out": self.leave_one_out,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NetworkDenoiser:
        """A denoiser with fresh parameters.

        ``head`` may leave out ``hidden``, ``vocab_size`` and a ``length`` that it needs, and
        ``trunk`` its ``vocab_size``: they follow from the rest. Without ``head`` it is a product
        head.

        Raises:
            ValueError: for unknown options, or sizes that do not agree.
        """
        process = process_from_config(config["process"])
        trunk = trunk_config({"vocab_size": process.vocab_size, **config.get("trunk", {})})
        sizes = {"kind": "product", "hidden": trunk.hidden, "vocab_size": process.vocab_size}
        length = config.get("length")
        options = {**sizes, **config.get("head", {})}
        kind = HEADS.get(str(options["kind"]))
        if kind is not None and kind.fixed_length and length is not None:
            options.setdefault("length", length)
        head = head_from_config(options)
        check_sizes(trunk, process, length)
        leave_one_out = bool(config.get("leave_one_out", False))
        autocast = config.get("autocast")
        return cls(network_from_config(trunk), head, process, length, autocast, leave_one_out)

    def warm_start(self, source: NetworkDenoiser) -> None:
        """Start where ``source`` is: copy its trunk, and make the head's law equal to its law.

        The two denoisers then return the same law for every (x_t, t) if their autocast agrees.

        Raises:
            ValueError: if the trunks differ in size, or the head cannot take over the source's.
        """
        mine, theirs = vars(self.trunk.config), vars(source.trunk.config)
        differing = [k for k in mine | theirs if mine.get(k) != theirs.get(k)]
        if mine.get("guidance") is not None and "guidance" in differing:
            # A student that takes a guidance scale starts at its teacher, whatever the scale; which
            # scales it learns is nothing that weights depend on.
            differing.remove("guidance")
        if differing:
            raise ValueError(
                "a warm start needs trunks of the same configuration; these differ in "
                f"{', '.join(differing)}. Build the student with the teacher's TransformerConfig"
            )
        if self.leave_one_out != source.leave_one_out:
            raise ValueError(
                f"a warm start needs leave_one_out={source.leave_one_out}, as the source has it"
            )
        if not self.head.adopt(source.head):
            if source.kind == "product":
                self.head.warm_start(source.head)  # type: ignore[arg-type]
            else:
                raise ValueError(
                    f"a {self.kind} student starts from a product teacher or from its own kind "
                    f"and sizes; the source has a {source.kind} head"
                )
        found = unwrapped(source.trunk).state_dict()
        own = unwrapped(self.trunk).state_dict()
        scale = {k: v for k, v in own.items() if k.startswith("scale.") and k not in found}
        unwrapped(self.trunk).load_state_dict(found | scale)


def noise_level(sigma: Tensor | float, x_t: Tensor) -> Tensor:
    """σ̄ as floating point (B,) on the device of x_t, from a float, (), (B,) or (B, 1)."""
    level = torch.as_tensor(sigma, device=x_t.device)
    level = level if level.is_floating_point() else level.double()
    return level.reshape(-1).expand(x_t.shape[0])


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """Number of parameters of each direct child, and ``total`` (shared ones counted once)."""
    counts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()
    }
    return {**counts, "total": sum(p.numel() for p in module.parameters())}


def trunk_config(config: dict[str, Any]) -> TransformerConfig | HuggingFaceConfig:
    """What a trunk is built from, from its ``config()``."""
    if config.get("kind") == KIND:
        return HuggingFaceConfig.from_config(config)
    return TransformerConfig.from_config(config)


def network_from_config(
    trunk: TransformerConfig | HuggingFaceConfig,
) -> Transformer | HuggingFaceTrunk:
    """The trunk itself, with fresh parameters."""
    if isinstance(trunk, HuggingFaceConfig):
        return HuggingFaceTrunk.from_config(trunk)
    return Transformer(trunk)


def check_sizes(
    trunk: TransformerConfig | HuggingFaceConfig, process: Process, length: int | None
) -> None:
    """Raise ValueError if a trunk does not fit its process and length."""
    if trunk.vocab_size != process.vocab_size:
        raise ValueError(
            f"the trunk has vocab_size={trunk.vocab_size}, the process {process.vocab_size} (which "
            "counts every state, a mask included); they must agree"
        )
    separator = getattr(trunk, "separator", None)
    if separator is not None and separator not in process.kept:
        raise ValueError(
            f"the network tells documents apart by token {separator}, which this process would "
            "noise and generate; give the process kept=[…] with it, or leave out separator"
        )
    if length is None:
        return
    check_count(length, "length")
    if length >= _MOST_TOKENS:
        raise ValueError(f"length must be below {_MOST_TOKENS}, got {length}")
    if trunk.grid is not None and length % trunk.grid[1]:
        raise ValueError(
            f"length {length} does not fill whole rows of a grid of {trunk.grid[1]} columns"
        )
    for parts in getattr(trunk, "position_groups", ()):
        if len(parts) != length:
            raise ValueError(
                f"position_groups number {len(parts)} positions, the length is {length}"
            )


def check_autocast(autocast: str | None) -> Autocast:
    """``autocast`` itself; raises ValueError for a precision that is not offered."""
    if autocast not in (None, "bfloat16", "float16"):
        raise ValueError(f"autocast must be None, 'bfloat16' or 'float16', got {autocast!r}")
    return cast(Autocast, autocast)
