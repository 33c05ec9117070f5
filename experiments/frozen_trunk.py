"""Distillation of heads alone: the frozen trunk of a large teacher is run once for every state.

A student whose trunk is its teacher's, frozen, needs of each state x_t the features (L, D) only,
and the teacher's law at x_s is a linear layer of the features there. So a fixed set of states is
drawn, the trunk runs over it once, and every student is trained on what is kept. At t = 1 all
states are one, whose features serve every sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.files import whole_file
from fewjump.law import Law
from fewjump.objective import Objective
from fewjump.objective.base import Metrics
from fewjump.process import Process
from fewjump.random import Generator, generator_for, integers, uniform

#: Sequences whose states are drawn and kept together: more sequences leave the earlier ones alone.
_TOGETHER = 16
_TRUNK_BATCH = 16
#: States of a sequence that the trunk is run on.
STATES = 8


@dataclass(frozen=True)
class Pairs:
    """States x_t with cleaner states x_s on the same path, as rows of one table of states.

    Attributes:
        states: (S, L) int64; the first hides everything.
        features: (S, L, D) of the trunk.
        outer, inner: (P,) int64 rows of x_t and x_s.
    """

    states: Tensor
    features: Tensor
    outer: Tensor
    inner: Tensor


def kept_pairs(
    teacher: NetworkDenoiser, x0: Tensor, near: tuple[float, float], seed: int, folder: Path
) -> Pairs:
    """Eight states and eight pairs of each sequence; half of the pairs begin at pure noise.

    What the trunk says of them is kept in ``folder``, for these sequences and any that follow.

    Args:
        teacher: whose trunk is run.
        x0: (N, L) clean sequences of one frame.
        near: least and largest share of positions that is hidden where the teacher is asked.
        seed: of the states.
        folder: of the features.
    """
    process = teacher.process
    assert process.mask is not None
    blank = torch.where(process.is_kept(x0[:1]), x0[:1], process.mask)
    tables, outer, inner, size = [blank], [], [], 1
    features = [_features(teacher, blank, folder / "blank.safetensors")]
    for number, rows in enumerate(torch.arange(len(x0)).split(_TOGETHER)):
        states = nested_states(x0[rows], process, near, generator_for(seed, number))
        whole = states.flatten(0, 1)
        file = folder / f"{number}-{len(rows)}.safetensors"
        features.append(_features(teacher, whole, file))
        at = torch.arange(len(whole)).view(states.shape[:2]) + size
        outer += [at[::2].flatten(), torch.zeros(at[1::2].numel(), dtype=torch.int64)]
        inner += [at[1::2].flatten()] * 2
        tables.append(whole)
        size += len(whole)
    return Pairs(torch.cat(tables), torch.cat(features), torch.cat(outer), torch.cat(inner))


def nested_states(
    x0: Tensor, process: Process, near: tuple[float, float], generator: Generator
) -> Tensor:
    """Four pairs (x_t, x_s) of each sequence, one after the other: (8, N, L).

    Two hide scattered positions, each with a probability that is uniform on (near₁, 1), and two
    hide one stretch of 5 to a third of the positions. Of all positions, or of the stretch, x_s
    hides a share that is uniform on ``near``.
    """
    count, length = x0.shape
    low, high = near
    free = ~process.is_kept(x0)
    at = torch.arange(length)
    out = []
    for scattered in (True, True, False, False):
        share = low + (high - low) * uniform((count, 1), generator)
        rank = uniform(x0.shape, generator)
        if scattered:
            hidden = rank < high + (1 - high) * uniform((count, 1), generator)
        else:
            width = 5 + integers(length // 3 - 4, (count, 1), generator)
            start = 1 + (uniform((count, 1), generator) * (length - width)).long()
            hidden = (at >= start) & (at < start + width)
        for part in (hidden, hidden & (rank < share)):
            out.append(torch.where(part & free, process.mask or 0, x0))
    return torch.stack(out)


@torch.no_grad()
def _features(teacher: NetworkDenoiser, states: Tensor, file: Path) -> Tensor:
    """(S, L, D), from a file if it is there."""
    if not file.is_file():
        low = teacher.autocast is not None
        with torch.autocast(states.device.type, torch.bfloat16, enabled=low):
            found = [
                teacher.trunk.features(x, torch.zeros(len(x))).float()
                for x in states.split(_TRUNK_BATCH)
            ]
        with whole_file(file) as temporary:
            save_file({"states": states, "features": torch.cat(found)}, temporary)
    kept = load_file(file)
    if not torch.equal(kept["states"], states):
        raise ValueError(f"{file} holds features of other states; remove it")
    return kept["features"]


class KeptStates(Objective):
    """E_{(x_t, x_s)} E_{x₀~p^θ(·|x_s)} [−log p^φ(x₀|x_t)] over kept pairs, in nats per position.

    Joint conditional matching (:class:`fewjump.objective.JointConditionalMatching`) whose paths are
    a fixed set. The student's head is asked, its trunk never.

    Args:
        teacher: a product teacher, whose head is a linear layer.
        pairs: the states and what the trunk says of them.
    """

    needs_teacher = False
    needs_data = False

    def __init__(self, teacher: NetworkDenoiser, pairs: Pairs) -> None:
        self._teacher, self._pairs = teacher, pairs

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        assert isinstance(student, NetworkDenoiser)
        chosen = integers(len(self._pairs.outer), (len(batch), 1), generator)[:, 0]
        with torch.no_grad():
            target = self._law(self._teacher, self._pairs.inner[chosen])
        law = self._law(student, self._pairs.outer[chosen])
        loss = law.cross_entropy(target, generator).mean() / batch.shape[1]
        return loss, {"cross_entropy": loss.detach()}

    def _law(self, model: NetworkDenoiser, rows: Tensor) -> Law:
        pairs = self._pairs
        return model.head(pairs.features[rows], pairs.states[rows], model.process)
