"""Data and budgets of the experiment on names and running text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewjump.data import Dataset, load_data
from fewjump.data.text import LETTERS_AND_SPACE
from fewjump.demo.parts import TEACHER

#: Students whose positions are drawn side by side, given one draw of hidden states.
PARALLEL = ("shared-chain", "chain", "mixture", "latent")
STUDENTS = ("product", "shared-chain", "autoregressive", "chain", "mixture", "latent")


@dataclass(frozen=True)
class Sizes:
    """Budget of one corpus.

    Attributes:
        length: L.
        seeds: how many trainings of everything.
        hidden, blocks: of the trunk, the teacher's and every student's.
        teacher_steps, product_steps, joint_steps: optimiser steps.
        longer: optimiser steps of the kinds that get more (or fewer) than ``joint_steps``.
        once: kinds that are trained with the first seed only, for comparison.
        batch_size: of all trainings.
        near: share s/t at which the joint students ask the teacher.
        grid_steps: the joint students are trained at the times of so many equal intervals.
        heads: options of each student's head.
        steps: numbers of sampling steps of every model.
        teacher_extra: numbers of steps that only the teacher is drawn at; L is added.
        samples: drawn at each temperature; as many test sequences set the entropy.
        replicates: resampled sets behind every interval.
        seconds: what each part takes for one seed, estimated from CPU seconds of a few steps on
            one core of a 2-core CPU; printed before the run. Measured ones are in the result.
    """

    length: int
    seeds: int
    hidden: int
    blocks: int
    teacher_steps: int
    product_steps: int
    joint_steps: int
    batch_size: int
    samples: int
    heads: dict[str, dict[str, Any]]
    longer: dict[str, int] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    near: float = 0.1
    grid_steps: int = 4
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    teacher_extra: tuple[int, ...] = (64,)
    replicates: int = 200
    seconds: dict[str, int] = field(default_factory=dict, compare=False)

    def network(self) -> dict[str, Any]:
        """Options of the transformer. The law given x_t does not depend on t under a mask."""
        return {
            "hidden": self.hidden,
            "blocks": self.blocks,
            "heads": 4,
            "time_conditioned": False,
        }

    def head_of(self, model: str) -> tuple[str, dict[str, Any]]:
        """Kind and options of a student's head; a ``kind`` among these stands for the name."""
        options = dict(self.heads[model])
        return options.pop("kind", model), options

    def joint_steps_of(self, kind: str) -> int:
        """Optimiser steps of a joint student."""
        return self.longer.get(kind, self.joint_steps)

    def kinds(self, first: bool) -> list[str]:
        """Kinds of student that are trained, with the first seed or another."""
        return [kind for kind in STUDENTS if first or kind not in self.once]

    def steps_of(self, model: str) -> list[int]:
        """Numbers of sampling steps of a model, increasing."""
        extra = (self.length, *self.teacher_extra) if model == TEACHER else ()
        return sorted({*self.steps, *extra})


def heads_for(
    length: int,
    anchored: bool,
    states: int,
    many: int,
    components: int,
    size: int,
    width: int,
    table_rate: float = 30.0,
) -> dict[str, dict[str, Any]]:
    """Options of every head.

    Args:
        length: L. A mixture has templates of that length always: one choice for all positions
            says nothing about windows that begin anywhere, unless positions can differ.
        anchored: whether a sequence begins where it begins, as a name does; the chains and the
            latent student then have templates too.
        states: r of the chain whose transitions are its own at every position.
        many, table_rate: r and rate of the chain with shared transitions.
        components: K of the mixture.
        size: numbers of the latent student's normal z, one for a whole sequence.
    """
    template = {"length": length} if anchored else {}
    return {
        "product": {},
        "chain": {"states": states, "emission": "dense", **template},
        "mixture": {"components": components, "length": length},
        "shared-chain": {"states": many, "table_rate": table_rate, **template},
        "latent": {"categories": 0, "size": size, **template},
        "autoregressive": {"width": width},
    }


SIZES = {
    "names": Sizes(
        length=16,
        seeds=3,
        hidden=64,
        blocks=3,
        teacher_steps=4000,
        product_steps=200,
        joint_steps=1000,
        batch_size=128,
        samples=1500,
        heads=heads_for(16, True, states=32, many=256, components=64, size=32, width=128),
        longer={"shared-chain": 2000, "autoregressive": 6000, "chain": 600},
        once=("chain", "mixture", "latent"),
        seconds={"teacher": 160, "product": 20, "joint students": 1000, "sampling": 300},
    ),
    "text": Sizes(
        length=64,
        seeds=1,
        hidden=96,
        blocks=4,
        teacher_steps=3000,
        product_steps=200,
        joint_steps=400,
        batch_size=64,
        samples=400,
        heads=heads_for(
            64, False, states=32, many=512, components=64, size=32, width=192, table_rate=100.0
        ),
        longer={"shared-chain": 1500, "autoregressive": 1500},
        seconds={"teacher": 750, "product": 70, "joint students": 2000, "sampling": 1200},
    ),
}


def load_corpus(corpus: str, sizes: Sizes, names: Path | None, text: Path | None) -> Dataset:
    """The data of a corpus: 27 symbols each.

    Raises:
        ValueError, FileNotFoundError: see :func:`fewjump.data.load_data`.
    """
    if corpus == "names":
        if names is None:
            raise ValueError("the names need a file with one name of a–z per line: give --names")
        return load_data(names, sizes.length, kind="lines", alphabet=LETTERS_AND_SPACE.strip())
    return load_data("text" if text is None else text, sizes.length, normalise=True)
