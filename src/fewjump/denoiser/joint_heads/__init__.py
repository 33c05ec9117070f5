"""Heads whose law is joint over positions. Importing this package registers them."""

from fewjump.denoiser.joint_heads.autoregressive import AutoregressiveHead
from fewjump.denoiser.joint_heads.chain import ChainHead, MixtureOfChainsHead
from fewjump.denoiser.joint_heads.mixture import MixtureHead
from fewjump.denoiser.joint_heads.movement import moved
from fewjump.denoiser.joint_heads.shared_chain import SharedChainHead
from fewjump.denoiser.joint_heads.shared_mixture import SharedMixtureHead

__all__ = [
    "AutoregressiveHead",
    "ChainHead",
    "MixtureHead",
    "MixtureOfChainsHead",
    "SharedChainHead",
    "SharedMixtureHead",
    "moved",
]
