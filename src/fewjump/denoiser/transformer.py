"""The reference network: a diffusion transformer (DiT, arXiv 2212.09748), top to bottom.

    tokens ─ embedding ─▶ x ─▶ [ block ] × n ─▶ adaLN ─▶ features
    noise level ─ cos/sin ─ MLP ─▶ c, which shifts, scales and gates every block (adaLN-zero)

Each block is attention, then an MLP, each on a layer-normalised and modulated copy of x, each added
back through a gate that is zero at initialisation. Attention sees relative positions only (rotary,
arXiv 2104.09864), so any length works.

Short depthwise convolutions in front of attention and MLP (*local mixing*) make neighbours visible
from the first steps, at a few percent more time each. With ``conv_kernel=0`` the network has the
layout, and computes the function, of the one that SEDD, MDLM, UDLM and Duo share.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewjump.config import checked_options, require
from fewjump.denoiser.attention import (
    ROTARY_BASE,
    AttentionMask,
    attend,
    attention_mask,
    mix_near,
    rotary_table,
    rotate,
)
from fewjump.denoiser.base import Condition

TIME_FREQUENCIES = 128
_EVERYTHING = AttentionMask()
NORM_EPS = 1e-5


class Transformer(nn.Module):
    """The trunk: (x_t, noise level) → features (B, L, D) that a head turns into a law.

    Args:
        config: sizes and options.

    Attributes:
        checkpoint_blocks: compute each block again in the backward pass instead of keeping what
            is inside it; changes memory and time only.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_blocks = False
        self.embedding = nn.Embedding(config.vocab_size, config.hidden)
        self.groups = nn.ModuleList(
            nn.Embedding(max(parts) + 1, config.hidden) for parts in config.position_groups
        )
        self.noise = NoiseEmbedding(config.condition_dim)
        self.labels: nn.Embedding | None = None
        if config.classes is not None:
            # One more row than classes: no class.
            self.labels = nn.Embedding(config.classes + 1, config.condition_dim)
        self.scale: NoiseEmbedding | None = None
        if config.guidance is not None:
            self.scale = NoiseEmbedding(config.condition_dim)
            # A student starts as its teacher is without guidance, whatever the scale.
            nn.init.zeros_(self.scale.mlp[2].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.scale.mlp[2].bias)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = ModulatedNorm(config.hidden)
        self.modulation = zero_linear(config.condition_dim, 2 * config.hidden)

    def gradient_checkpointing_enable(self) -> None:
        """Set :attr:`checkpoint_blocks`, by the name that models of ``transformers`` have."""
        self.checkpoint_blocks = True

    def gradient_checkpointing_disable(self) -> None:
        """The opposite."""
        self.checkpoint_blocks = False

    def features(
        self,
        x_t: Tensor,
        t: Tensor,
        shift: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Features of every position.

        Args:
            x_t: (B, L) int64 tokens.
            t: (B,) noise level, whatever measure of it the network was trained with;
                :class:`fewjump.denoiser.network.NetworkDenoiser` gives σ̄(t). Not read unless
                ``time_conditioned``.
            shift: (B, L, D) or (B, 1, D), added to the embedded tokens: where whatever else
                the network is to know comes in.
            condition: classes (B,), and guidance scales where the network takes them; by default
                no class, at scale 1.

        Returns:
            (B, L, D).

        Raises:
            ValueError: if ``x_t`` is not (B, L), or L does not fill whole rows of the grid or
                differs from that of the groups of positions.
        """
        config = self.config
        if x_t.dim() != 2:
            raise ValueError(f"x_t must be (B, L), got shape {tuple(x_t.shape)}")
        columns = None if config.grid is None else config.grid[1]
        if columns is not None and x_t.shape[1] % columns:
            raise ValueError(
                f"a length of {x_t.shape[1]} does not fill whole rows of {columns} columns"
            )
        x = self.embedding(x_t)
        for table, parts in zip(self.groups, config.position_groups, strict=True):
            if len(parts) != x_t.shape[1]:
                raise ValueError(
                    f"position_groups number {len(parts)} positions, got {x_t.shape[1]}"
                )
            x = x + table(torch.tensor(parts, device=x_t.device))
        if shift is not None:
            x = x + shift
        dtype = torch.promote_types(x.dtype, torch.float32)
        level = t.to(dtype) if config.time_conditioned else x.new_zeros(1, dtype=dtype)
        modulating = F.silu(self.noise(level))
        if self.labels is not None:
            modulating = modulating + self._of_class(x_t, condition, dtype)
        rotation = rotary_table(x_t.shape[1], config.head_dim, columns, x.device, dtype)
        mask = attention_mask(x_t, config.padding, config.separator, config.conv_kernel)
        checkpointed = self.checkpoint_blocks and torch.is_grad_enabled()
        for block in self.blocks:
            if checkpointed:
                x = checkpoint(block, x, modulating, rotation, mask, use_reentrant=False)
            else:
                x = block(x, modulating, rotation, mask)
        shift, scale = self.modulation(modulating)[:, None].chunk(2, -1)
        return self.norm(x, shift, scale)

    forward = features

    def _of_class(self, x_t: Tensor, condition: Condition | None, dtype: torch.dtype) -> Tensor:
        """What class and guidance scale add to the embedded noise level: (B, condition_dim)."""
        assert self.labels is not None
        batch = x_t.shape[0]
        if condition is None:
            labels = torch.full((batch,), self.labels.num_embeddings - 1, device=x_t.device)
        else:
            labels = condition.labels
        embedded = F.silu(self.labels(labels))
        if self.scale is None:
            return embedded
        scale = None if condition is None else condition.scale
        scale = torch.ones(batch, device=x_t.device) if scale is None else scale
        return embedded + F.silu(self.scale(scale.to(dtype)))


class NoiseEmbedding(nn.Module):
    """Noise level (B,) → (B, dim): [cos, sin] at 128 frequencies from 1 to 1e-4, then an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first, second = nn.Linear(2 * TIME_FREQUENCIES, dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, level: Tensor) -> Tensor:
        index = torch.arange(TIME_FREQUENCIES, dtype=level.dtype, device=level.device)
        angle = level[:, None] * torch.exp(-math.log(ROTARY_BASE) * index / TIME_FREQUENCIES)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(next(self.parameters()).dtype))


class Block(nn.Module):
    """x + gate·attention(…), then x + gate·MLP(…); shift, scale and gate come from c."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm1, self.norm2 = ModulatedNorm(config.hidden), ModulatedNorm(config.hidden)
        mixing = LocalMixing if config.conv_kernel else nn.Identity
        self.local1, self.local2 = mixing(config), mixing(config)
        self.attention = Attention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden, config.mlp_ratio * config.hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_ratio * config.hidden, config.hidden),
        )
        self.modulation = zero_linear(config.condition_dim, 6 * config.hidden)

    def forward(
        self, x: Tensor, condition: Tensor, rotation: Tensor, mask: AttentionMask = _EVERYTHING
    ) -> Tensor:
        """(B, L, D) → (B, L, D); ``mask`` says which positions a position sees."""
        modulation = self.modulation(condition)[:, None].chunk(6, -1)
        shift, scale, gate = modulation[:3]
        h = self._mix(self.local1, self.norm1(x, shift, scale), mask)
        x = torch.addcmul(x, gate, self._drop(self.attention(h, rotation, mask.mask)))
        shift, scale, gate = modulation[3:]
        h = self._mix(self.local2, self.norm2(x, shift, scale), mask)
        return torch.addcmul(x, gate, self._drop(self.mlp(h)))

    @staticmethod
    def _mix(local: nn.Module, h: Tensor, mask: AttentionMask) -> Tensor:
        h = h if mask.real is None else h * mask.real[..., None]
        return local(h) if mask.near is None else local(h, mask.near)

    def _drop(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


class Attention(nn.Module):
    """Full (not causal) multi-head attention with rotary positions on queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, h: Tensor, rotation: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, hidden = h.shape
        qkv = self.qkv(h).view(batch, length, 3, self.heads, hidden // self.heads)
        qk, v = qkv.split((2, 1), dim=2)
        q, k = rotate(qk, rotation).transpose(1, 3).unbind(2)
        mixed = attend(q, k, v.squeeze(2).transpose(1, 2), mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))


class LocalMixing(nn.Module):
    """h + depthwise convolution of h over its neighbours in the sequence or the image.

    Starts as the identity (zero weights): the network without it is the same function.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        k = config.conv_kernel
        self.columns = None if config.grid is None else config.grid[1]
        shape = (1, k) if self.columns is None else (k, k)
        self.weight = nn.Parameter(torch.zeros(config.hidden, 1, *shape))
        self.padding = (shape[0] // 2, shape[1] // 2)

    def forward(self, h: Tensor, near: Tensor | None = None) -> Tensor:
        """(B, L, D) → (B, L, D); ``near`` is an attention mask's."""
        # The compiler fuses these sums; a depthwise convolution's gradient is slow on CPUs.
        if near is not None or (self.columns is None and torch.compiler.is_compiling()):
            return h + mix_near(h, self.weight[:, 0, 0], near)
        batch, length, hidden = h.shape
        # (B, L, D) seen as an image is already in channels-last order: nothing is copied.
        columns = self.columns or length
        image = h.view(batch, length // columns, columns, hidden).permute(0, 3, 1, 2)
        mixed = F.conv2d(image, self.weight, padding=self.padding, groups=hidden)
        return h + mixed.permute(0, 2, 3, 1).reshape(h.shape)


class ModulatedNorm(nn.Module):
    """LayerNorm(x)·weight·(1 + scale) + shift, normalised in at least float32."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normal = F.layer_norm(wide, (x.shape[-1],), eps=NORM_EPS)
        return torch.addcmul(shift, normal, self.weight * (1 + scale)).to(x.dtype)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that returns 0 until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and options of a :class:`~fewjump.denoiser.transformer.Transformer`.

    Attributes:
        vocab_size: number of input tokens V, a mask included.
        hidden: width D of the residual stream, a multiple of ``heads``.
        blocks: number of transformer blocks.
        heads: attention heads; hidden/heads must be even (a multiple of 4 for 2-D positions).
        mlp_ratio: width of the MLP's inner layer over ``hidden``.
        positions: ``1d`` for sequences; ``2d`` for images flattened row by row.
        grid: (rows, columns) of the image, for ``2d`` only. More rows than this also work.
        time_conditioned: whether the noise level is read. When not, the network is given level 0
            throughout (as MDLM does), and the same x_t has the same features at any time.
        condition_dim: width of the noise embedding c.
        dropout: probability of dropping an entry of a branch while training; drawn from torch's
            global random state, as every ``nn.Dropout`` is.
        conv_kernel: width of the local mixing convolution (k, or k×k in 2-D), odd; 0 for none.
        classes: K, for a network that is told one of K classes or none of them; None for none to
            tell (:mod:`fewjump.denoiser.condition`).
        guidance: least and largest guidance scale that it was trained for, for a network that takes
            it as an input beside the class.
        padding: token of positions after the end of a short sequence, which other positions do not
            see; None where there are none.
        separator: token that ends a document, for rows that hold several: a position then sees its
            own document only. None where a row is one sequence.
        position_groups: partitions of the positions, such as the rows, columns and boxes of a
            board, each as the number from 0 of every position's part. A learned vector of a part
            is added to its tokens. One partition into single positions is learned absolute
            positions. The length is fixed then.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    vocab_size: int
    hidden: int = 128
    blocks: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    positions: Literal["1d", "2d"] = "1d"
    grid: tuple[int, int] | None = None
    time_conditioned: bool = True
    condition_dim: int = 128
    dropout: float = 0.0
    conv_kernel: int = 5
    classes: int | None = None
    guidance: tuple[float, float] | None = None
    padding: int | None = None
    separator: int | None = None
    position_groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden", "blocks", "heads", "mlp_ratio", "condition_dim"):
            require(getattr(self, name) >= 1, f"{name} must be ≥ 1, got {getattr(self, name)}")
        require(
            self.hidden % self.heads == 0,
            f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})",
        )
        require(self.positions in ("1d", "2d"), f"positions: 1d or 2d, got {self.positions!r}")
        part = 2 if self.positions == "1d" else 4
        require(
            self.head_dim % part == 0,
            f"{self.positions} rotary positions need hidden/heads to be a multiple of {part}, "
            f"got {self.head_dim}",
        )
        require(
            (self.grid is not None) == (self.positions == "2d"),
            "grid=(rows, columns) goes with positions='2d', and only with it",
        )
        if self.grid is not None:
            object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
            require(min(self.grid) >= 1, f"grid must be at least 1×1, got {self.grid}")
        require(
            self.padding is None or 0 <= self.padding < self.vocab_size,
            f"padding must be a token below {self.vocab_size}, got {self.padding}",
        )
        require(
            self.separator is None or 0 <= self.separator < self.vocab_size,
            f"separator must be a token below {self.vocab_size}, got {self.separator}",
        )
        require(
            self.separator is None or (self.positions == "1d" and self.separator != self.padding),
            "separator= is for sequences (positions='1d'), and another token than padding",
        )
        require(
            self.classes is None or self.classes >= 1,
            f"classes must be ≥ 1 (or None), got {self.classes}",
        )
        if self.guidance is not None:
            low, high = (float(end) for end in self.guidance)
            object.__setattr__(self, "guidance", (low, high))
            require(self.classes is not None, "guidance is for networks with classes")
            require(
                0 <= low <= high < math.inf,
                f"guidance must be two scales, 0 ≤ low ≤ high, got {low:g} and {high:g}",
            )
        groups = tuple(tuple(int(part) for part in parts) for parts in self.position_groups)
        object.__setattr__(self, "position_groups", groups)
        require(
            len({len(parts) for parts in groups}) <= 1 and all(groups),
            "position_groups must all number the same positions, at least one",
        )
        require(
            all(set(parts) == set(range(max(parts) + 1)) for parts in groups),
            "position_groups must number their parts from 0 without a gap",
        )
        require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        require(
            self.conv_kernel == 0 or (self.conv_kernel > 0 and self.conv_kernel % 2 == 1),
            f"conv_kernel must be 0 (none) or odd, got {self.conv_kernel}",
        )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def config(self) -> dict[str, Any]:
        """Plain data from which :meth:`from_config` rebuilds this."""
        plain = asdict(self)
        plain["grid"] = None if self.grid is None else list(self.grid)
        plain["guidance"] = None if self.guidance is None else list(self.guidance)
        plain["position_groups"] = [list(parts) for parts in self.position_groups]
        for name in ("separator", "classes", "guidance", "position_groups"):
            if plain[name] in (None, []):
                # What was written before there was this option reads the same.
                del plain[name]
        return plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransformerConfig:
        """Inverse of :meth:`config`.

        Raises:
            ValueError: for an option that it has not, lacks, or of another type.
        """
        # Models saved before there were classes say that they have no constant condition.
        config = {k: v for k, v in config.items() if (k, v) != ("conditioned", False)}
        return cls(**checked_options(cls, config, "the transformer"))
