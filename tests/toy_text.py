"""What the experiments on text are tested at: tiny networks, and names of a few syllables."""

from __future__ import annotations

import random
from pathlib import Path

from experiments.text_sizes import Sizes

SIZES = Sizes(
    length=6,
    seeds=1,
    hidden=16,
    blocks=1,
    teacher_steps=3,
    product_steps=2,
    joint_steps=2,
    batch_size=8,
    samples=20,
    heads={"product": {}, "shared-chain": {"states": 3, "length": 6}},
    steps=(1, 2),
    teacher_extra=(),
    replicates=3,
)


def words(count: int = 300) -> list[str]:
    """Words of one to three syllables: always the same ones."""
    pick = random.Random(0)
    return ["".join(pick.choices(["an", "be", "lo"], k=pick.randint(1, 3))) for _ in range(count)]


def names_file(folder: Path) -> Path:
    """A file with one of the words a line."""
    file = folder / "names.txt"
    file.write_text("\n".join(words()) + "\n")
    return file
