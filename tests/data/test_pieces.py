"""Molecules as tokens: SMILES are cut where chemists cut them, and end where they end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewjump.api import train_teacher
from fewjump.data import Pieces, Vocabulary, load_data
from fewjump.data.vocabulary import PADDING
from fewjump.process import Absorbing
from fewjump.publish.models import open_data_like, open_model
from fewjump.schedule import LogLinear

MOLECULES = [
    "ClCc1ccc(Br)cc1",
    "C[C@@H](N)C(=O)O",
    "CC(C)c1ccc%12c(c1)OC=C%12",
    "O=c1[nH]cnc2c1ncn2C",
    "F/C=C/F",
    "[Na+].[Cl-]",
]
CUT = ["Cl C c 1 c c c ( Br ) c c 1", "C [C@@H] ( N ) C ( = O ) O"]


def test_atoms_brackets_and_ring_numbers_are_one_symbol() -> None:
    vocabulary = Pieces.found_in(MOLECULES)
    assert {"Cl", "Br", "[C@@H]", "%12", "[nH]", "[Na+]", "[Cl-]"} <= set(vocabulary.symbols)
    assert vocabulary.symbols[-1] == PADDING
    for text, cut in zip(MOLECULES, CUT):
        assert [vocabulary.symbols[i] for i in vocabulary.encode(text)] == cut.split()
    rows = vocabulary.rows(MOLECULES)
    assert rows.shape == (6, max(map(len, vocabulary.encode_batch(MOLECULES))))
    assert vocabulary.decode(rows) == MOLECULES
    assert Vocabulary.from_config(vocabulary.config()) == vocabulary


def test_a_text_ends_at_its_first_padding() -> None:
    vocabulary = Pieces(["C", "Cl", PADDING], PADDING)
    assert vocabulary.decode(torch.tensor([[1, 0, 2, 0, 1], [2, 0, 0, 0, 0]])) == ["ClC", ""]
    assert vocabulary.decode(np.array([0, 1, 0])) == ["CClC"]
    assert vocabulary.show(torch.tensor([0, 3, 3, 1, 2]), 3) == "C__Cl"


def test_what_is_no_symbol_is_named() -> None:
    with pytest.raises(ValueError, match=r"'CCO,train' holds ','"):
        Pieces.found_in(["CC", "CCO,train"])
    with pytest.raises(ValueError, match=r"'\[' at place 1 of 'C\[nH\]'"):
        Pieces(["C", "n"]).encode("C[nH]")
    with pytest.raises(ValueError, match="holds '␀'"):
        Pieces.found_in([f"C{PADDING}"])
    for wrong in ([], ["C", "C"], ["C", ""]):
        with pytest.raises(ValueError, match="distinct"):
            Pieces(wrong)
    with pytest.raises(ValueError, match=r"1 text.* longer than 2; the longest has 3"):
        Pieces(["C", PADDING], PADDING).rows(["C", "CCC"], 2)


def test_a_model_speaks_smiles_and_reads_them(tmp_path: Path) -> None:
    """A file of molecules with names is read, and read alike for a model that was made of it."""
    file = tmp_path / "few.smi"
    file.write_text("".join(f"{text} number {i}\n" for i, text in enumerate(MOLECULES)))
    data = load_data(file, kind="smiles", valid_fraction=0, test_fraction=0)
    assert sorted(data.vocabulary.decode(data.train)) == sorted(MOLECULES)
    process = Absorbing(data.vocab_size + 1, LogLinear())
    network = {"hidden": 8, "blocks": 1, "heads": 2}
    train_teacher(data, process, network=network, steps=1, batch_size=2, out=tmp_path / "run",
                  progress=False)  # fmt: skip
    model = open_model(tmp_path / "run")
    assert model.vocabulary == data.vocabulary
    file.write_text("CC\nF/C=C/F some name\n\nClCBr\n")
    fewer = open_data_like(model, str(file), valid_fraction=0, test_fraction=0)
    assert fewer.length == data.length
    assert sorted(fewer.vocabulary.decode(fewer.train)) == ["CC", "ClCBr", "F/C=C/F"]
