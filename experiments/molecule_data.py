"""The molecules of the MOSES benchmark as token rows, its verdict on others, and a budget."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.harness import ROOT, ask_judge, digest
from fewjump.data import SMILES, Dataset, Pieces

#: Parts of molecules whose other symbols, marked _, are drawn.
DESIGNS = {
    "decoration": "______c1ccc(C(=O)N______)cc1",
    "linker": "Cc1ccccc1__________c1ccncc1",
}
#: Rows of the training set that are kept for validation.
_VALID = 1_000
Notation = Literal["smiles", "selfies"]
_SCRIPT = ROOT / "experiments" / "molecule_judge.py"
_NEEDS = (
    "rdkit, molsets==0.3.1 and fcd_torch==1.0.7 (experiments/molecules.py says how to make its "
    "environment)"
)
_FIND = "import importlib.util as u; print(u.find_spec('moses').submodule_search_locations[0])"


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        hidden, blocks, heads: of the teacher's transformer.
        every: teacher steps after which ``curve`` of its samples are judged.
        share: optimiser steps of the recurrent network over the teacher's, each of which takes half
            as long.
        student_steps, product_steps: optimiser steps; the product student's objective costs more.
        near: share of the hidden positions that is hidden where the teacher is asked.
        grid_steps: students are trained at the times of so many equal intervals.
        designs: molecules that are drawn of each part.
        heads_of: options of each student's head.
    """

    hidden: int = 256
    blocks: int = 5
    heads: int = 4
    batch_size: int = 64
    teacher_lr: float = 2e-3
    teacher_ema: float = 0.9995
    every: int = 500
    curve: int = 256
    share: float = 0.3
    student_steps: int = 1_200
    product_steps: int = 500
    student_lr: float = 2e-3
    near: float = 0.05
    grid_steps: int = 4
    designs: int = 512
    heads_of: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "any-order": {"width": 192, "blocks": 2},
            "shared-chain": {"states": 256},
            "autoregressive": {"width": 256, "lookahead": True},
            "product": {},
        }
    )

    @classmethod
    def of(cls, notation: Notation) -> Sizes:
        """The committed table's: that of SMILES is of a head that looks at one neighbour."""
        sizes = cls()
        if notation == "smiles":
            sizes.heads_of["any-order"]["neighbours"] = (1,)
        return sizes


@dataclass(frozen=True)
class Judge:
    """RDKit, and the metrics of the benchmark, in an environment of their own.

    Attributes:
        python: its interpreter.
        longest: tokens of the molecules that samples are compared with; None for all.
        folder: where statistics of the shorter ones are kept.
    """

    python: Path
    longest: int | None
    folder: Path

    def canonical(self, smiles: Sequence[str]) -> list[str | None]:
        """One spelling for each molecule, None for what is none.

        Raises:
            RuntimeError: with what the interpreter said, where it failed.
        """
        return self._ask({"smiles": list(smiles)})

    def metrics(self, smiles: Sequence[str]) -> dict[str, float]:
        """The benchmark's own; some are not numbers where nothing is valid."""
        request: dict[str, Any] = {"smiles": list(smiles), "statistics": ""}
        if self.longest is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"statistics-{self.longest}.pickle").resolve()
            request |= {"statistics": str(file), "longest": self.longest, "pattern": SMILES}
        return self._ask(request)

    def picture(self, smiles: Sequence[str]) -> str:
        """Valid molecules side by side, as SVG."""
        return self._ask({"smiles": list(smiles), "drawing": True})

    def translated(self, texts: Sequence[str], notation: Notation) -> list[str | None]:
        """SELFIES of SMILES, or SMILES of SELFIES (``selfies``); None for what has none."""
        return self._ask({"smiles": list(texts), "translation": notation})

    def _ask(self, request: dict[str, Any]) -> Any:
        return json.loads(ask_judge(self.python, [str(_SCRIPT)], json.dumps(request), _NEEDS))


def data_folder(python: Path) -> Path:
    """Where the installed benchmark keeps its molecules.

    Raises:
        RuntimeError: for an environment without it.
    """
    return Path(ask_judge(python, ["-c", _FIND], "", _NEEDS).strip()) / "dataset" / "data"


def molecules(
    file: Path, longest: int | None, runs: Path, notation: Notation, judge: Judge
) -> Dataset:
    """Molecules of ``file`` (train.csv.gz, a column SMILES) of at most ``longest`` tokens.

    The test part is that of test.csv.gz beside it. Rows are written once. As SELFIES they are the
    same molecules, which then have other numbers of tokens; the judge translates them.

    Raises:
        FileNotFoundError: if one of the files is not there.
        ValueError: if too few molecules are so short.
    """
    files = [file, file.with_name("test.csv.gz")]
    for each in files:
        if not each.is_file():
            raise FileNotFoundError(f"there is no {each}; --judge or --data says where it is")
    parts: list[Any] = [[(str(f), f.stat().st_size) for f in files], longest]
    stored = runs / f"tokens-{digest(*parts, *([notation] if notation != 'smiles' else []))}.npz"
    if not stored.is_file():
        texts = [_short(each, longest) for each in files]
        if len(texts[0]) <= 2 * _VALID:
            raise ValueError(f"{file} holds {len(texts[0])} molecules of {longest} tokens")
        if notation != "smiles":
            texts = [[t for t in judge.translated(each, notation) if t] for each in texts]
        vocabulary = Pieces.found_in(part for each in texts for part in each)
        length = max(len(re.findall(SMILES, text)) for each in texts for text in each)
        rows = [vocabulary.rows(each, length).numpy().astype(np.uint8) for each in texts]
        runs.mkdir(parents=True, exist_ok=True)
        temporary = stored.with_suffix(".tmp.npz")
        np.savez(temporary, train=rows[0], test=rows[1], symbols=np.array(vocabulary.symbols))
        temporary.replace(stored)
    found = np.load(stored)
    symbols = found["symbols"].tolist()
    vocabulary = Pieces(symbols, symbols[-1])
    train = found["train"]
    length = train.shape[1]
    size = f"at most {length} tokens"
    if notation != "smiles":
        size = f"at most {longest or 57} tokens, as {notation.upper()} {length}"
    return Dataset(
        train[:-_VALID],
        train[-_VALID:],
        found["test"],
        vocabulary,
        f"MOSES: {len(train):,} molecules of {size} ({vocabulary.size} kinds)",
    )


def given_parts(data: Dataset, parts: str) -> tuple[Tensor, Tensor]:
    """Tokens (L,), and which are given: all but those at _. The molecule ends behind them.

    Raises:
        ValueError: for parts longer than a sequence.
    """
    vocabulary = data.vocabulary
    assert isinstance(vocabulary, Pieces)
    assert vocabulary.padding is not None
    pieces = re.split("(_)", parts)
    gap = [piece == "_" for piece in pieces for _ in vocabulary.encode(piece.replace("_", "C"))]
    prompt = vocabulary.rows([parts.replace("_", "C")], data.length)
    fixed = torch.ones(data.length, dtype=torch.bool)
    fixed[: len(gap)] = ~torch.tensor(gap)
    return prompt[0], fixed


def _short(file: Path, longest: int | None) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        texts = [row["SMILES"] for row in csv.DictReader(lines)]
    if longest is None:
        return texts
    return [text for text in texts if len(re.findall(SMILES, text)) <= longest]
