"""Denoisers: (x_t, t) → a law over clean sequences."""

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.heads import Head, ProductHead, head_from_config
from fewjump.denoiser.joint_heads import (
    AnyOrderHead,
    AutoregressiveHead,
    ChainHead,
    MixtureHead,
    MixtureOfChainsHead,
    SharedChainHead,
    SharedMixtureHead,
    TensorTrainHead,
    moved,
)
from fewjump.denoiser.latent import LatentHead
from fewjump.denoiser.left_to_right import left_to_right
from fewjump.denoiser.logits import LogitDenoiser, from_logits, from_masked_lm
from fewjump.denoiser.network import NetworkDenoiser, parameter_counts
from fewjump.denoiser.position_order import PositionOrder
from fewjump.denoiser.recovered import RecoveryReport
from fewjump.denoiser.score import ScoreDenoiser, ScoreNetwork
from fewjump.denoiser.transformer import Transformer, TransformerConfig
from fewjump.registry import HEADS

__all__ = [
    "HEADS",
    "AnyOrderHead",
    "AutoregressiveHead",
    "ChainHead",
    "Condition",
    "Denoiser",
    "Head",
    "LatentHead",
    "LogitDenoiser",
    "MixtureHead",
    "MixtureOfChainsHead",
    "NetworkDenoiser",
    "PositionOrder",
    "ProductHead",
    "RecoveryReport",
    "ScoreDenoiser",
    "ScoreNetwork",
    "SharedChainHead",
    "SharedMixtureHead",
    "TensorTrainHead",
    "Transformer",
    "TransformerConfig",
    "from_logits",
    "from_masked_lm",
    "head_from_config",
    "left_to_right",
    "moved",
    "parameter_counts",
]
