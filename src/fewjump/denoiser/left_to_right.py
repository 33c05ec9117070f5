"""An autoregressive network of a given size: what a diffusion model is compared with.

It is an ordinary denoiser whose trunk is as small as can be, and whose head walks from left to
right: in one evaluation with nothing visible it is an autoregressive model and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from typing import Any, Literal, get_args

from fewjump.config import one_of, require
from fewjump.denoiser.heads import head_from_config
from fewjump.denoiser.meta_device import without_memory
from fewjump.denoiser.network import NetworkDenoiser, network_from_config
from fewjump.denoiser.transformer import TransformerConfig
from fewjump.process import Absorbing
from fewjump.random import initial_weights
from fewjump.schedule import LogLinear

Layers = Literal["transformer", "recurrent"]
_HIDDEN, _STEP, _WIDEST = 8, 8, 1 << 13
#: A transformer is this many times as wide as it is deep, as GPT-2 is, and a block of width w has
#: about 12·w² parameters.
_ASPECT, _OF_BLOCK = 64, 12
_INITIAL_WEIGHTS = 11


def left_to_right(
    vocab_size: int, length: int, parameters: int, layers: Layers = "transformer", seed: int = 0
) -> NetworkDenoiser:
    """A network with fresh parameters, as many as asked for or a few percent less.

    Train it where everything is hidden, by ``CrossEntropyELBO(min_time=0.999)``: the loss is then
    −log p of whole sequences.

    Args:
        vocab_size: tokens of the data.
        length: L.
        parameters: their number.
        layers: ``transformer``, attention blocks with rotary positions; or ``recurrent``, one gated
            recurrent unit, which learns small data in fewer steps.
        seed: of the parameters.

    Raises:
        ValueError: for fewer parameters than the smallest of these has.
    """
    trunk, head = sized(vocab_size, parameters, layers)
    with initial_weights(seed, _INITIAL_WEIGHTS):
        chosen, network = head_from_config(head), network_from_config(trunk)
    return NetworkDenoiser(network, chosen, Absorbing(trunk.vocab_size, LogLinear()), length)


@cache
def sized(
    vocab_size: int, parameters: int, layers: Layers
) -> tuple[TransformerConfig, dict[str, Any]]:
    """What the trunk and the head of :func:`left_to_right` are built from; nothing is built.

    Raises:
        ValueError: as that does.
    """
    one_of("layers", layers, get_args(Layers))
    states = vocab_size + 1
    trunk = TransformerConfig(
        states, _HIDDEN, blocks=1, heads=1, condition_dim=_HIDDEN, time_conditioned=False
    )
    head: dict[str, Any] = {"kind": "autoregressive"}
    if layers == "transformer":
        blocks = max(1, round((parameters / (_OF_BLOCK * _ASPECT**2)) ** (1 / 3)))
        head = {"kind": "any-order", "blocks": blocks, "neighbours": []}
    head |= {"hidden": _HIDDEN, "vocab_size": states}

    def size(width: int) -> int:
        with without_memory(1 << 62, 1 << 30):
            parts = network_from_config(trunk), head_from_config({**head, "width": width})
        return sum(p.numel() for part in parts for p in part.parameters())

    widths = range(_STEP, _WIDEST + 1, _STEP)
    fitting = bisect_right(widths, parameters, key=size)
    require(
        fitting > 0,
        f"an autoregressive network of {vocab_size} tokens has at least {size(_STEP):,} "
        f"parameters, got {parameters:,}",
    )
    return trunk, {**head, "width": widths[fitting - 1]}
