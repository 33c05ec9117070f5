"""Sizes and options of the reference network, as plain data that a model folder holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


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
        conditioned: whether a constant vector is added to the noise embedding: the embedding of the
            class that a class-conditional original was loaded for.
        padding: token of positions after the end of a short sequence, which other positions do not
            see; None where there are none.
        separator: token that ends a document, for rows that hold several: a position then sees its
            own document only. None where a row is one sequence.

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
    conditioned: bool = False
    padding: int | None = None
    separator: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden", "blocks", "heads", "mlp_ratio", "condition_dim"):
            _require(getattr(self, name) >= 1, f"{name} must be ≥ 1, got {getattr(self, name)}")
        _require(
            self.hidden % self.heads == 0,
            f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})",
        )
        _require(self.positions in ("1d", "2d"), f"positions: 1d or 2d, got {self.positions!r}")
        part = 2 if self.positions == "1d" else 4
        _require(
            self.head_dim % part == 0,
            f"{self.positions} rotary positions need hidden/heads to be a multiple of {part}, "
            f"got {self.head_dim}",
        )
        _require(
            (self.grid is not None) == (self.positions == "2d"),
            "grid=(rows, columns) goes with positions='2d', and only with it",
        )
        if self.grid is not None:
            object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
            _require(min(self.grid) >= 1, f"grid must be at least 1×1, got {self.grid}")
        _require(
            self.padding is None or 0 <= self.padding < self.vocab_size,
            f"padding must be a token below {self.vocab_size}, got {self.padding}",
        )
        _require(
            self.separator is None or 0 <= self.separator < self.vocab_size,
            f"separator must be a token below {self.vocab_size}, got {self.separator}",
        )
        _require(
            self.separator is None or (self.positions == "1d" and self.separator != self.padding),
            "separator= is for sequences (positions='1d'), and another token than padding",
        )
        _require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        _require(
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
        if self.separator is None:
            # What was written before there was this option reads the same.
            del plain["separator"]
        return plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransformerConfig:
        """Inverse of :meth:`config`.

        Raises:
            ValueError: for an option this version does not know.
        """
        unknown = sorted(set(config) - set(cls.__dataclass_fields__))
        _require(not unknown, f"unknown transformer options: {', '.join(unknown)}")
        return cls(**{**config, "grid": None if not config.get("grid") else tuple(config["grid"])})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
