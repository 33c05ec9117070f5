"""The network that SEDD, MDLM, UDLM and Duo share: names, sizes and shapes of its tensors.

The originals' names become this library's, and its sizes follow from the shapes, which must fit
together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.attention import ROTARY_BASE
from fewjump.denoiser.transformer import TIME_FREQUENCIES, Transformer, TransformerConfig
from fewjump.denoiser.wrappers import split_name
from fewjump.reading import CheckpointError, listed

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
    """Names for the values of an average, in the order of the file or else the originals' own.

    Args:
        shapes: of the network's entries in the order of the file, buffers among them.
        average: shapes of the list, which is in the order of the parameters.
        beside: parameters that are not the network's and may follow at the end.

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


def own_name(name: str) -> str:
    """This library's name (``trunk.…`` or ``linear.…``) of a parameter of an original network."""
    if name in OUTER:
        return OUTER[name]
    _, index, rest = name.split(".", 2)
    return f"trunk.blocks.{index}.{BLOCK[rest]}"


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors, by the original names, under this library's names."""
    out = {own_name(n): value for n, value in tensors.items() if n not in (CLASSES, FREQUENCIES)}
    if CLASSES in tensors:
        out["trunk.labels.weight"] = tensors[CLASSES]
    return out


# -- sizes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Sizes of an original network, from the shapes of its tensors.

    Attributes:
        vocab_size: rows V of the embedding.
        hidden, blocks, heads, mlp_ratio, condition_dim: as in
            :class:`~fewjump.denoiser.transformer.TransformerConfig`.
        classes: rows of the class embedding, the one for "no class" included; 0 for none.
    """

    vocab_size: int
    hidden: int
    blocks: int
    heads: int
    mlp_ratio: int
    condition_dim: int
    classes: int

    def trunk(self, time_conditioned: bool, with_classes: bool) -> TransformerConfig:
        """The configuration of the same network here, with its classes or without."""
        return TransformerConfig(
            vocab_size=self.vocab_size,
            hidden=self.hidden,
            blocks=self.blocks,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            time_conditioned=time_conditioned,
            condition_dim=self.condition_dim,
            conv_kernel=0,
            classes=self.classes - 1 if with_classes else None,
        )


def sizes_of(shapes: Mapping[str, Shape], heads: int | None = None) -> Sizes:
    """Sizes of the network that tensors of these shapes make up.

    Args:
        shapes: by the network's own names.
        heads: attention heads, for files without ``rotary_emb.inv_freq``.

    Raises:
        CheckpointError: for names that are missing or not expected, and for shapes that do not
            fit together.
    """
    found = [re.match(r"blocks\.(\d{1,4})\.", name) for name in shapes]
    blocks = 1 + max((int(match[1]) for match in found if match), default=-1)
    expected = expected_names(blocks, CLASSES in shapes)
    missing = [name for name in expected if name not in shapes]
    extra = sorted(set(shapes) - set(expected) - {FREQUENCIES})
    if missing or extra or not blocks:
        said = [f"missing: {listed(missing)}"] if missing else []
        said += [f"not expected: {listed(extra)}"] if extra else []
        raise CheckpointError(
            "the tensors are not those of the network that SEDD, MDLM, UDLM and Duo share; "
            f"{'; '.join(said) or 'there are no blocks'}"
        )
    vocab_size, hidden = _matrix(shapes, "vocab_embed.embedding")
    condition_dim, frequencies = _matrix(shapes, "sigma_map.mlp.0.weight")
    inner = _matrix(shapes, "blocks.0.mlp.0.weight")[0]
    heads = _heads(shapes, hidden, heads)
    if inner % hidden or not inner or frequencies != 2 * TIME_FREQUENCIES:
        raise CheckpointError(
            f"an MLP of width {inner} on {hidden} channels and {frequencies} time features were "
            f"found; the originals have a whole multiple, and {2 * TIME_FREQUENCIES}"
        )
    classes = _matrix(shapes, CLASSES)[0] if CLASSES in shapes else 0
    sizes = Sizes(vocab_size, hidden, blocks, heads, inner // hidden, condition_dim, classes)
    _check_shapes(shapes, sizes)
    return sizes


def _heads(shapes: Mapping[str, Shape], hidden: int, heads: int | None) -> int:
    if FREQUENCIES in shapes:
        shape = shapes[FREQUENCIES]
        if len(shape) != 1 or not shape[0] or hidden % (2 * shape[0]):
            raise CheckpointError(
                f"{FREQUENCIES} has shape {shape}; half of a head's width was expected, and "
                f"{hidden} channels to be whole heads"
            )
        return hidden // (2 * shape[0])
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or hidden % (2 * heads):
        raise CheckpointError(
            f"neither {FREQUENCIES} nor the configuration says how many attention heads there are"
        )
    return heads


def _matrix(shapes: Mapping[str, Shape], name: str) -> tuple[int, int]:
    shape = shapes[name]
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}; a matrix was expected")
    return shape[0], shape[1]


def _check_shapes(shapes: Mapping[str, Shape], sizes: Sizes) -> None:
    """Raise CheckpointError unless they are those of the same network here."""
    with torch.device("meta"):
        trunk = Transformer(sizes.trunk(time_conditioned=True, with_classes=False))
    own: dict[str, Shape] = {f"trunk.{n}": tuple(v.shape) for n, v in trunk.state_dict().items()}
    own |= {"linear.weight": (sizes.vocab_size, sizes.hidden), "linear.bias": (sizes.vocab_size,)}
    expected = {name: own[own_name(name)] for name in expected_names(sizes.blocks, classes=False)}
    expected[CLASSES] = (sizes.classes, sizes.condition_dim)
    wrong = [
        f"{name} has shape {shape}, expected {expected[name]}"
        for name, shape in shapes.items()
        if name != FREQUENCIES and shape != expected[name]
    ]
    if wrong:
        raise CheckpointError(f"the tensors' shapes do not fit together: {listed(wrong, 3)}")


def check_frequencies(found: Tensor) -> None:
    """Raise CheckpointError unless the rotary frequencies are those of base 10,000."""
    count = found.shape[0]
    step = torch.arange(count, dtype=torch.float64) / count
    expected = ROTARY_BASE**-step
    tolerance = 1e-5 if found.dtype.itemsize >= 4 else 1e-2
    if not torch.allclose(found.double(), expected, rtol=tolerance, atol=0):
        raise CheckpointError(
            f"{FREQUENCIES} is not that of rotary positions with base {ROTARY_BASE:g}; the file is "
            "damaged, or of another network"
        )
