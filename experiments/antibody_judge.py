"""What antibody sequences are worth: AntPack's numbering, and statistics against a reference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.harness import ROOT, ask_judge, with_ends
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.random import generator_for

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
#: IMGT numbers of the three loops.
LOOPS = {"CDR1": range(27, 39), "CDR2": range(56, 66), "CDR3": range(105, 118)}
_SCRIPT = ROOT / "experiments" / "antibody_numbering.py"

Verdicts = list[dict[str, Any]]


def numbered(python: Path, sequences: Sequence[str]) -> Verdicts:
    """AntPack's verdict on each sequence.

    ``valid`` says that it had no complaint, ``identity`` is that with the nearest germline genes,
    ``chain`` is H, K or L, ``numbers`` are the IMGT numbers of the residues, 0 outside the domain.

    Args:
        python: interpreter of an environment with ``antpack``.
        sequences: amino-acid letters.

    Raises:
        RuntimeError: with what the interpreter said, where it failed.
    """
    return json.loads(ask_judge(python, [str(_SCRIPT)], json.dumps(sequences), "antpack"))


def verdict_row(sequences: Sequence[str], verdicts: Verdicts) -> dict[str, Any]:
    """Shares of valid and of different sequences, germline identity, chains."""
    row: dict[str, Any] = {"n": len(sequences)}
    for name in ("valid", "identity"):
        values = torch.tensor([float(verdict[name]) for verdict in verdicts])
        row |= with_ends(name, bootstrap(values, mean, generator_for(1)))
    row["unique"] = len(set(sequences)) / len(sequences)
    row["chains"] = dict(sorted(Counter(verdict["chain"] for verdict in verdicts).items()))
    return row


def frequency_row(sequences: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    """Total variation of amino acids, and of pairs side by side, from those of a reference."""
    row: dict[str, Any] = {}
    for name, count in (("letters", letter_counts), ("pairs", pair_counts)):
        target = count(reference).sum(0)
        target = target / target.sum()

        def distance(counts: Tensor, weights: Tensor, target: Tensor = target) -> Tensor:
            found = weights @ counts
            found = found / found.sum(-1, keepdim=True)
            return (found - target).abs().sum(-1) / 2

        row |= with_ends(f"{name}_tv", bootstrap(count(sequences), distance, generator_for(1)))
    return row


def spread_row(sequences: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    """Edit distances: to the nearest sequence of a reference, and between two of the sample.

    The latter are the sample's diversity, of its first 128 sequences: an average over pairs,
    which does not depend on how many there are.
    """
    nearest = edit_distances(sequences, reference).amin(1)
    first = sequences[:128]
    between = edit_distances(first, first).double()

    def average(rows: Tensor, weights: Tensor) -> Tensor:
        total = ((weights @ between) * weights).sum(-1)
        return total / (1 - (weights**2).sum(-1))

    return {
        **with_ends("nearest", bootstrap(nearest.double(), mean, generator_for(1))),
        "copies": float((nearest == 0).double().mean()),
        **with_ends("between", bootstrap(torch.arange(len(first)), average, generator_for(1))),
    }


def leave_one_out(sequences: Sequence[str]) -> float:
    """Mean edit distance of a sequence to the nearest of the others."""
    between = edit_distances(sequences, sequences)
    between.fill_diagonal_(int(between.max()) + 1)
    return float(between.amin(1).double().mean())


def letter_counts(sequences: Sequence[str]) -> Tensor:
    """How often each amino acid stands in each sequence: (N, 20) float64."""
    rows = [[sequence.count(letter) for letter in LETTERS] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.float64)


def pair_counts(sequences: Sequence[str]) -> Tensor:
    """How often each two amino acids stand side by side: (N, 400) float64."""
    out = torch.zeros(len(sequences), len(LETTERS) ** 2, dtype=torch.float64)
    for row, sequence in enumerate(sequences):
        at = torch.tensor([LETTERS.index(letter) for letter in sequence], dtype=torch.int64)
        pair = at[:-1] * len(LETTERS) + at[1:]
        out[row].index_add_(0, pair, torch.ones(len(pair), dtype=torch.float64))
    return out


def edit_distances(first: Sequence[str], second: Sequence[str]) -> Tensor:
    """Levenshtein distance of every sequence to every other: (N, M) int16.

    Row by row of the usual table, for all pairs at once. Along a row the insertions are a running
    minimum: d_j = min_k≤j (e_k + j − k), with e the better of deletion and substitution.
    """
    one, two = _codes(first), _codes(second).T.copy()
    steps = np.arange(len(two) + 1, dtype=np.int16)[:, None]
    ends = np.array([len(sequence) for sequence in second]), np.arange(len(second))
    out = np.empty((len(first), len(second)), dtype=np.int16)
    for i, sequence in enumerate(first):
        row = np.repeat(steps, len(second), 1)
        for letter in one[i, : len(sequence)]:
            best = np.empty_like(row)
            best[0] = row[0] + 1
            np.minimum(row[1:] + 1, row[:-1] + (two != letter), out=best[1:])
            row = np.minimum.accumulate(best - steps, axis=0) + steps
        out[i] = row[ends]
    return torch.from_numpy(out)


def _codes(sequences: Sequence[str]) -> np.ndarray:
    """(N, longest) int16, −1 behind the end."""
    longest = max(map(len, sequences))
    rows = [[ord(c) for c in s] + [-1] * (longest - len(s)) for s in sequences]
    return np.array(rows, dtype=np.int16)
