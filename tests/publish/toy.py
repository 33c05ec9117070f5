"""A small untrained model that every test of this folder publishes."""

from __future__ import annotations

import torch

from fewjump.denoiser import NetworkDenoiser
from fewjump.process import Absorbing, Process, Uniform
from fewjump.schedule import LogLinear

TRUNK = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}


def model(
    vocab: int = 4, length: int | None = 6, kind: str = "product", process: Process | None = None
) -> NetworkDenoiser:
    """A network with random weights over ``vocab`` clean tokens and a mask."""
    process = process or Absorbing(vocab + 1, LogLinear())
    config = {
        "process": process.config(),
        "trunk": TRUNK,
        "head": {"kind": kind},
        "length": length,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = NetworkDenoiser.from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return denoiser


def uniform_model(vocab: int = 4, length: int | None = 6) -> NetworkDenoiser:
    """The same under uniform noise."""
    return model(vocab, length, process=Uniform(vocab, LogLinear()))
