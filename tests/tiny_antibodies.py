"""A random masked language model of amino acids, as AntiBERTy's wheel holds one, and a judge."""

from __future__ import annotations

import sys
from pathlib import Path

from denoiser import tiny_hub

LETTERS = "ACDEFGHIKLMNPQRSTVWY"

_JUDGE = """#!{python}
import json, sys
json.dump(
    [
        {{
            "valid": s.count("A") < 2,
            "identity": s.count("G") / len(s),
            "chain": "HKL"["ACD".find(s[0])],
            "numbers": [1 + i * 128 // len(s) for i in range(len(s))],
        }}
        for s in json.load(sys.stdin)
    ],
    sys.stdout,
)
"""


def teacher(folder: Path) -> Path:
    """Weights, config.json and a plain vocab.txt."""
    symbols = [*tiny_hub.SYMBOLS[:5], *LETTERS]
    tiny_hub.masked_lm("bert", len(symbols), max_position_embeddings=64).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(symbols) + "\n")
    return folder


def judge(file: Path) -> Path:
    """What stands for an interpreter with AntPack: it numbers evenly and counts letters."""
    file.write_text(_JUDGE.format(python=sys.executable))
    file.chmod(0o755)
    return file
