"""Students that are their teacher plus a low-rank difference: one copy of the weights for both.

Every linear layer of the transformer blocks gets W + (α/r)·B·A beside it (LoRA, arXiv 2106.09685,
through ``peft``), A (r, in) and B (out, r), B zero at first. W is the teacher's own tensor, frozen.
What is published is an ordinary denoiser with the differences added up (:func:`merged`).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

from fewjump.config import optional
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.score import ScoreDenoiser, ScoreNetwork
from fewjump.random import initial_weights

_INITIAL_WEIGHTS = 7

#: What has a transformer of ours or of ``transformers`` in it.
WithTrunk = NetworkDenoiser | ScoreDenoiser
AnyWithTrunk = TypeVar("AnyWithTrunk", bound=NetworkDenoiser | ScoreDenoiser)


def adapt(student: WithTrunk, teacher: WithTrunk, rank: int, seed: int = 0) -> None:
    """Make a student share its teacher's weights and learn a low-rank difference B·A, in place.

    The trunk is shared, and the layer onto the vocabulary where it means the same in both: product
    heads, and scores under a mask, which are posteriors but for a factor. Another head is the
    student's own and is trained whole. Shared parameters are frozen in both.

    Args:
        student: of the teacher's trunk configuration; its own trunk weights are let go.
        teacher: whose weights are taken.
        rank: r ≥ 1, below the width of the network.
        seed: of the first A.

    Raises:
        ValueError: for trunks of different configurations, a foreign score network, or a rank
            outside its range.
        ModuleNotFoundError: without ``peft``.
    """
    trunk, source = _trunk(student), _trunk(teacher)
    whole = isinstance(rank, int) and not isinstance(rank, bool)
    if not (whole and 1 <= rank < source.config.hidden):
        raise ValueError(
            f"lora must be a rank from 1 to less than the network's width {source.config.hidden}, "
            f"got {rank}"
        )
    if trunk.config != source.config:
        raise ValueError(
            "a low-rank student has its teacher's network: leave out network=…, or lora=…"
        )
    peft: Any = optional("peft", "a low-rank student", "lora")
    share(trunk, source)
    output, given = student.product_layer(), teacher.product_layer()
    if output is not None and given is not None:
        share(output, given)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_targets(trunk))
    with initial_weights(seed, _INITIAL_WEIGHTS):
        peft.inject_adapter_in_model(config, trunk)


def _trunk(model: WithTrunk) -> Any:
    if isinstance(model, NetworkDenoiser):
        return model.trunk
    if not isinstance(model.network, ScoreNetwork):
        raise ValueError(
            "lora takes over a transformer; the scores here are of a "
            f"{type(model.network).__name__}"
        )
    return model.network.trunk


def share(module: nn.Module, source: nn.Module) -> None:
    """Let a module use the very parameters of another of the same structure, and freeze them."""
    mine = dict(module.named_modules())
    for path, other in source.named_modules():
        for name, parameter in other.named_parameters(recurse=False):
            parameter.requires_grad_(False)
            setattr(mine[path], name, parameter)


def _targets(trunk: nn.Module) -> list[str]:
    """The linear layers inside the blocks, by name; not those that only see the noise level."""
    names = [
        name
        for name, module in trunk.named_modules()
        if type(module) is nn.Linear
        and any(part.isdecimal() for part in name.split("."))
        and not name.startswith("noise.")
        and not name.endswith("modulation")
    ]
    if not names:
        raise ValueError("this network has no linear layers in blocks to adapt")
    return names


def is_low_rank(denoiser: nn.Module) -> bool:
    """Whether some layer carries a low-rank difference that is not added up yet."""
    return any(hasattr(module, "lora_A") for module in denoiser.modules())


def merged(student: AnyWithTrunk) -> AnyWithTrunk:
    """The ordinary denoiser of the same law, with weights of its own: W ← W + B·A."""
    whole = copy.deepcopy(student)
    for path, module in list(whole.named_modules()):
        if not hasattr(module, "lora_A"):
            continue
        layer: Any = module
        layer.merge(safe_merge=True)
        parent, _, name = path.rpartition(".")
        setattr(whole.get_submodule(parent), name, layer.get_base_layer())
    for module in whole.modules():
        # What peft takes for adapters that are there.
        vars(module).pop("peft_config", None)
    return whole.requires_grad_(True)
