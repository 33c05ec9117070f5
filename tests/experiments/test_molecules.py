"""The experiment on molecules: what it learns from, what it measures, and that it resumes."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import molecule_data, molecules
from experiments.molecule_data import Judge, given_parts
from experiments.pages import molecules as pages
from fewjump import load
from fewjump.data import Dataset, Vocabulary
from fewjump.denoiser import NetworkDenoiser, parameter_counts
from fewjump.objective import CrossEntropyELBO

TEXTS = ["CCO", "ClCC", "C1CC1", "CC(C)O", "c1ccccc1", "CCCCCCCCCCCC", "C=CC", "CC#N"]
#: Stands for an interpreter with the benchmark: a molecule is what closes all that it opens.
_JUDGE = """#!{python}
import json, re, sys
asked = json.load(sys.stdin)
valid = [s if s and s.count("(") == s.count(")") else None for s in asked["smiles"]]
if asked.get("translation") == "selfies":
    valid = ["".join("[" + atom + "]" for atom in re.findall("Cl|.", s)) for s in asked["smiles"]]
elif "translation" in asked:
    valid = [s.replace("[", "").replace("]", "") or None for s in asked["smiles"]]
elif "drawing" in asked:
    valid = " ".join(asked["smiles"])
elif "statistics" in asked:
    found = [s for s in valid if s]
    valid = {{"valid": len(found) / len(valid), "FCD/Test": 1.0, "longest": asked["longest"]}}
json.dump(valid, sys.stdout)
"""
TINY = molecules.Sizes(
    hidden=8,
    blocks=1,
    heads=2,
    batch_size=4,
    every=2,
    curve=4,
    student_steps=2,
    product_steps=1,
    designs=4,
    heads_of={
        "any-order": {"width": 8},
        "shared-chain": {"states": 8},
        "autoregressive": {"width": 8, "lookahead": True},
        "product": {},
    },
)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    file = tmp_path / "judge"
    file.write_text(_JUDGE.format(python=sys.executable))
    file.chmod(0o755)
    return file


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(molecule_data, "_VALID", 2)
    for name, count in (("train", 5), ("test", 1)):
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([["SMILES"], *([text] for text in TEXTS * count)])
    return tmp_path / "train.csv.gz"


def short_ones(
    data: Path, tmp_path: Path, judge: Path = Path(), notation: Any = "smiles"
) -> Dataset:
    """The molecules of ``data`` of at most 8 tokens."""
    runs = tmp_path / "runs"
    return molecule_data.molecules(data, 8, runs, notation, Judge(judge, 8, runs))


def test_longer_molecules_are_left_out(data: Path, tmp_path: Path) -> None:
    found = short_ones(data, tmp_path)
    short = [text for text in TEXTS if text != "CCCCCCCCCCCC"]
    assert found.length == 8
    assert found.vocabulary.decode(found.test) == short
    assert found.vocabulary.decode(found.train) == (short * 5)[:-2]
    # Read from the file that was written, and the same.
    again = short_ones(data, tmp_path)
    assert again.vocabulary == found.vocabulary
    assert (again.train == found.train).all()
    nobody = Judge(Path(), None, tmp_path)
    with pytest.raises(ValueError, match="holds 0 molecules of 2 tokens"):
        molecule_data.molecules(data, 2, tmp_path / "runs", "smiles", nobody)
    with pytest.raises(FileNotFoundError, match="--judge or --data"):
        molecule_data.molecules(tmp_path / "none.csv.gz", 8, tmp_path / "runs", "smiles", nobody)


def test_the_same_molecules_are_learned_as_selfies(data: Path, judge: Path, tmp_path: Path) -> None:
    smiles = short_ones(data, tmp_path)
    found = short_ones(data, tmp_path, judge, "selfies")
    rows = found.vocabulary.decode(found.train)
    assert rows[:3] == ["[C][C][O]", "[Cl][C][C]", "[C][1][C][C][1]"]
    assert Judge(judge, 8, tmp_path).translated(rows, "smiles") == smiles.vocabulary.decode(
        smiles.train
    )
    assert found.description.startswith("MOSES: 35 molecules of at most 8 tokens, as SELFIES 8 (")
    config = molecules.Config(judge=judge, data=data, longest=8, notation="selfies",
                              runs=tmp_path / "runs", teacher_steps=2, samples=6, steps=(1,),
                              students=("any-order",), walked=(1,), judged=(1,), network=False,
                              precision="float32", compile=False)  # fmt: skip
    content = molecules.measure(config, TINY)
    # What is judged are SMILES, and nothing that was made of the one notation serves the other.
    judged = [text for row in content["rows"] for text in row["examples"]]
    assert judged
    assert not any("[" in text for text in judged)
    assert content["designs"] == []
    made = [folder.name for folder in (tmp_path / "runs" / "molecules").glob("*/")]
    assert made
    assert all(name.startswith("selfies-") for name in made)


def test_parts_of_molecules_are_given(data: Path, tmp_path: Path) -> None:
    found = short_ones(data, tmp_path)
    prompt, fixed = given_parts(found, "Cl_(__)O")
    assert fixed.tolist() == [True, False, True, False, False, True, True, True]
    assert found.vocabulary.decode(prompt) == ["ClC(CC)O"]
    with pytest.raises(ValueError, match="longer than 8"):
        given_parts(found, "_" * 9)


def test_a_judge_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be run"):
        Judge(tmp_path / "nothing", None, tmp_path).canonical(["C"])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no rdkit >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"no rdkit.*molsets==0\.3\.1"):
        Judge(broken, None, tmp_path).canonical(["C"])


def test_selfies_and_back() -> None:
    pytest.importorskip("rdkit", reason="the judge's environment has it")
    pytest.importorskip("selfies", reason="the judge's environment has it")
    judge = Judge(Path(sys.executable), None, Path())
    texts = ["CCO", "c1ccccc1", "not one"]
    there = judge.translated(texts, "selfies")
    assert (there[0], there[2]) == ("[C][C][O]", None)
    back = judge.translated([text or "" for text in there], "smiles")
    assert judge.canonical([text or "" for text in back]) == ["CCO", "c1ccccc1", None]


def test_rdkit_says_what_a_molecule_is() -> None:
    pytest.importorskip("rdkit", reason="the judge's environment has it")
    found = Judge(Path(sys.executable), None, Path()).canonical(["OCC", "C1CC", "", "c1ccccc1"])
    assert found == ["CCO", None, None, "c1ccccc1"]
    picture = Judge(Path(sys.executable), None, Path()).picture(["CCO", "c1ccccc1"])
    assert "<svg" in picture


def test_the_experiment_goes_on_where_it_was(
    data: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(molecules, "DESIGNS", {"two": "C__C"})
    config = molecules.Config(
        judge=judge,
        data=data,
        longest=8,
        runs=tmp_path / "runs",
        teacher_steps=2,
        samples=12,
        steps=(1, 2),
        walked=(1, 2),
        judged=(1,),
        precision="float32",
        compile=False,
    )
    first = molecules.measure(config, TINY)
    kinds = set(TINY.heads_of)
    cells = {(row["student"], row["steps"]) for row in first["rows"]}
    assert cells == {(name, k) for name in {"teacher", *kinds} for k in (1, 2)} | {
        ("teacher", 8),
        (molecules.ONE_BY_ONE, 8),
        (molecules.ALONE, 1),
    }
    for row in first["rows"]:
        assert row["n"] == 12
        asked = row["steps"] in (1, 8) and row["valid"] == 1
        assert row.get("moses", {}).get("valid") == (row["valid"] if asked else None)
    designs = {(row["student"], row["steps"]) for row in first["designs"]}
    assert designs == {(name, 1) for name in {"teacher", *kinds}} | {(molecules.ONE_BY_ONE, 2)}
    for row in first["designs"]:
        assert all((text[0], text[-1]) == ("C", "C") for text in row["examples"])
        assert row.get("picture", "").split() == row["examples"]
    assert [row["teacher_steps"] for row in first["curve"]] == [2]
    assert set(first["trained"]) == {"teacher", molecules.ALONE, *kinds}
    again = molecules.measure(config, TINY)
    assert again["rows"] == first["rows"]
    assert again["designs"] == first["designs"]
    few = dataclasses.replace(config, teacher_steps=4, students=(), network=False)
    further = molecules.measure(few, TINY)
    assert further["curve"][:1] == first["curve"]
    assert {row["student"] for row in further["rows"]} == {"teacher", molecules.ONE_BY_ONE}
    with pytest.raises(ValueError, match="at least 2"):
        molecules.measure(dataclasses.replace(config, teacher_steps=1), TINY)


def test_the_network_without_a_teacher_sees_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objective is −log p of whole molecules, whatever it is called."""
    found = short_ones(data, tmp_path)
    config = molecules.Config(judge=tmp_path, longest=8, runs=tmp_path / "runs", teacher_steps=1,
                              precision="float32", compile=False)  # fmt: skip
    judge = Judge(tmp_path, 8, tmp_path)
    laboratory = molecules.Laboratory(config, TINY, found, judge, molecules.Clock())
    teacher = NetworkDenoiser.from_config(
        {"process": laboratory.process.config(), "trunk": {"hidden": 16, "heads": 2, "blocks": 1}}
    )
    model = laboratory.alone(teacher)
    size = parameter_counts(teacher)["total"]
    assert 0.8 * size < parameter_counts(model)["total"] <= size
    folder = next((tmp_path / "runs" / "molecules").glob("autoregressive*"))
    kept = load(folder / "model")
    assert kept.vocabulary_config is not None
    assert Vocabulary.from_config(kept.vocabulary_config) == found.vocabulary
    x0 = torch.from_numpy(found.test).long()
    mask = torch.full_like(x0, model.process.mask or 0)
    law = model(mask, torch.ones(len(x0), dtype=torch.float64))
    loss, _ = CrossEntropyELBO(min_time=0.999)(model, None, x0, None)
    expected = -law.log_prob(x0).mean() / x0.shape[1]
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)
    # However often it is drawn from, a model is compiled once.
    compiled: list[NetworkDenoiser] = []
    monkeypatch.setattr(molecules, "compile_network", compiled.append)
    quick = dataclasses.replace(laboratory, config=dataclasses.replace(config, compile=True))
    for drawn in (model, model, teacher):
        assert len(quick.drawn(drawn, 2, 1, length=8)["smiles"]) == 2
    assert compiled == [model, teacher]


def test_pages_read_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"valid": 0.5, "valid_low": 0.4, "valid_high": 0.6, "n": 10, "different": 0.4}
    row = {"student": "teacher", "steps": 30, "core_seconds": 2.0, **ends}
    judged = {**row, "student": "any-order", "steps": 1, "moses": {"valid": 0.5, "FCD/Test": 3.0}}
    design = {
        **judged,
        "design": "linker",
        "a_second": 2.0,
        "picture": "<svg></svg>",
        "examples": ["CC", "CO"],
    }
    found = {
        "curve": [{"teacher_steps": 500, **ends}],
        "trained": {"teacher": {"parameters": 1234, "steps": 500, "seconds": 60.0}},
        "rows": [judged, row],
        "designs": [design],
    }
    monkeypatch.setattr(pages, "load", {"molecules_smiles_30": found}.__getitem__)
    assert pages.cells("smiles_30").splitlines()[2:] == [
        "| teacher, 30 | 10 | 0.500 ± 0.100 | 0.400 | 200.0 |",
        "| any-order, 1 | 10 | 0.500 ± 0.100 | 0.400 | 200.0 |",
    ]
    first, *published = pages.benchmark("smiles_30").splitlines()[2:]
    assert first.startswith("| any-order, 1 | 10 | 0.500 | – | – | 3.000 | – |")
    assert published[0].startswith(
        "| CharRNN, published | 30,000 | 0.975 | 1.000 | 0.999 | 0.073 |"
    )
    assert "| 500 | 0.50 ± 0.10 | 0.40 |" in pages.curve("smiles_30")
    assert "| teacher | 1,234 | 500 | 1 |" in pages.training("smiles_30")
    assert "| linker | any-order, 1 | 10 | 0.50 ± 0.10 | 0.40 | 2.0 |" in pages.designs("smiles_30")
    assert pages.cell("smiles_30", "any-order", "1", "valid") == "0.500 ± 0.100"
    assert pages.pictures("smiles_30", "linker", "any-order").endswith(
        "(experiments/smiles_30-linker-any-order.svg)"
    )
    assert pages.pictures_drawing("smiles_30", "linker", "any-order") == (
        "<svg><title>linker by any-order</title><desc>CC, CO</desc></svg>"
    )
