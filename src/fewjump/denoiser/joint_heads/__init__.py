"""Heads whose law is joint over positions."""

from fewjump.denoiser.joint_heads.any_order import AnyOrderHead
from fewjump.denoiser.joint_heads.autoregressive import AutoregressiveHead
from fewjump.denoiser.joint_heads.chain import ChainHead, MixtureOfChainsHead, SharedChainHead
from fewjump.denoiser.joint_heads.mixture import MixtureHead, SharedMixtureHead
from fewjump.denoiser.joint_heads.states import moved
from fewjump.denoiser.joint_heads.tensor_train import TensorTrainHead

__all__ = [
    "AnyOrderHead",
    "AutoregressiveHead",
    "ChainHead",
    "MixtureHead",
    "MixtureOfChainsHead",
    "SharedChainHead",
    "SharedMixtureHead",
    "TensorTrainHead",
    "moved",
]
