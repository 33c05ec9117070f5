"""Heads whose law is joint over positions. Importing this package registers them."""

from fewjump.denoiser.joint_heads.autoregressive import AutoregressiveHead
from fewjump.denoiser.joint_heads.chain import ChainHead, MixtureOfChainsHead
from fewjump.denoiser.joint_heads.mixture import MixtureHead
from fewjump.denoiser.joint_heads.movement import moved
from fewjump.denoiser.joint_heads.shared_chain import SharedChainHead

__all__ = [
    "AutoregressiveHead",
    "ChainHead",
    "MixtureHead",
    "MixtureOfChainsHead",
    "SharedChainHead",
    "moved",
]
