"""From the names that the originals give their tensors to this library's.

SEDD, MDLM, UDLM and Duo share one network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fewjump.checkpoint.errors import CheckpointError, listed
from fewjump.denoiser.wrappers import split_name

Shape = tuple[int, ...]

OUTER = {
    "vocab_embed.embedding": "trunk.embedding.weight",
    "sigma_map.mlp.0.weight": "trunk.noise.mlp.0.weight",
    "sigma_map.mlp.0.bias": "trunk.noise.mlp.0.bias",
    "sigma_map.mlp.2.weight": "trunk.noise.mlp.2.weight",
    "sigma_map.mlp.2.bias": "trunk.noise.mlp.2.bias",
    "output_layer.norm_final.weight": "trunk.norm.weight",
    "output_layer.linear.weight": "linear.weight",
    "output_layer.linear.bias": "linear.bias",
    "output_layer.adaLN_modulation.weight": "trunk.modulation.weight",
    "output_layer.adaLN_modulation.bias": "trunk.modulation.bias",
}
BLOCK = {
    "norm1.weight": "norm1.weight",
    "attn_qkv.weight": "attention.qkv.weight",
    "attn_out.weight": "attention.out.weight",
    "norm2.weight": "norm2.weight",
    "mlp.0.weight": "mlp.0.weight",
    "mlp.0.bias": "mlp.0.bias",
    "mlp.2.weight": "mlp.2.weight",
    "mlp.2.bias": "mlp.2.bias",
    "adaLN_modulation.weight": "modulation.weight",
    "adaLN_modulation.bias": "modulation.bias",
}
CLASSES = "cond_map.embedding_table.weight"
FREQUENCIES = "rotary_emb.inv_freq"
_FIRST = list(OUTER)[:5]
_LAST = list(OUTER)[5:]

# Beside the network: a schedule without parameters, a distillation teacher, metrics.
BESIDE = ("noise.", "teacher.", "metrics.", "train_metrics.", "valid_metrics.", "test_metrics.")
BESIDE_EXACTLY = ("limiting_distribution",)


def bare_names(entries: Mapping[Any, Any], nested: bool) -> tuple[dict[str, Any], list[str]]:
    """The network's entries under their own names, and the names of what lies beside it.

    The marks of wrappers are taken off (:mod:`fewjump.denoiser.wrappers`), ``backbone.`` among
    them: one for every model that holds the network.

    Args:
        entries: a state dictionary.
        nested: whether the network's names start with ``backbone.``.

    Raises:
        CheckpointError: if two names become one, or none of them is the network's.
    """
    network: dict[str, Any] = {}
    beside: list[str] = []
    for name, value in entries.items():
        if not isinstance(name, str):
            raise CheckpointError(f"a tensor is called {str(name)[:40]!r}, which is not a text")
        holders, bare = split_name(name)
        if nested and "backbone" not in holders:
            beside.append(bare)
            continue
        if bare in network:
            raise CheckpointError(f"two tensors are called {bare} once wrappers are stripped")
        network[bare] = value
    if not network:
        raise CheckpointError(
            "no tensor's name starts with 'backbone.', as the network's do in this kind of file; "
            f"found {listed(entries)}"
        )
    return network, beside


def expected_names(blocks: int, classes: bool) -> list[str]:
    """Parameters of an original network in the order in which it registers them."""
    middle = [CLASSES] if classes else []
    inside = [f"blocks.{i}.{name}" for i in range(blocks) for name in BLOCK]
    return [*_FIRST, *middle, *inside, *_LAST]


def in_parameter_order(
    shapes: Mapping[str, Shape], average: Sequence[Shape], beside: int = 0
) -> list[str]:
    """Names for the values of an average, which is a list in the order of the parameters.

    The order is that of the file, whose state dictionary is written as modules are registered.
    Where that does not fit (a dictionary that was sorted), it is the originals' own.

    Args:
        shapes: of the network's entries in the order of the file, buffers among them.
        average: shapes of the list.
        beside: parameters that are not the network's and may follow at the end.

    Returns:
        One name for each of the network's parameters, for the first values of the list.

    Raises:
        CheckpointError: if the list fits neither order, or both and they differ.
    """
    given = [name for name in shapes if name != FREQUENCIES]
    if not len(given) <= len(average) <= len(given) + beside:
        raise CheckpointError(
            f"the average (ema) holds {len(average)} tensors and the network {len(given)} "
            "parameters; the two do not belong together. weights='raw' reads the others"
        )
    blocks = sum(name.endswith(".attn_qkv.weight") for name in given)
    own = expected_names(blocks, CLASSES in shapes)
    fitting = [
        order
        for order in (given, own)
        if all(shapes.get(name) == shape for name, shape in zip(order, average))
    ]
    if not fitting:
        wrong = next((n, s) for n, s in zip(given, average) if shapes[n] != s)
        raise CheckpointError(
            f"the average (ema) has shape {wrong[1]} where {wrong[0]} of shape "
            f"{shapes[wrong[0]]} was expected; the two do not belong together. weights='raw' reads "
            "the others"
        )
    if any(order != fitting[0] for order in fitting):
        raise CheckpointError(
            "the average (ema) is a list without names, and the file's order of the parameters is "
            "not the originals'; which value is which cannot be told. weights='raw' reads the "
            "others"
        )
    return fitting[0]


def renamed(tensors: Mapping[str, Tensor], label: int | None) -> dict[str, Tensor]:
    """The network's tensors under this library's names (``trunk.…`` and ``linear.…``).

    Args:
        tensors: by the original names.
        label: the class whose embedding is added to the condition, None for none.
    """
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in OUTER:
            out[OUTER[name]] = value
        elif name == CLASSES:
            if label is not None:
                out["trunk.condition"] = value[label].clone()
        elif name != FREQUENCIES:
            _, index, rest = name.split(".", 2)
            out[f"trunk.blocks.{index}.{BLOCK[rest]}"] = value
    return out
