"""The experiment on names and text: its bookkeeping, and a tiny run from files to verdicts."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import Content
from experiments.text_sizes import SIZES, STUDENTS, Sizes, heads_for, load_corpus
from experiments.text_students import Config, Workshop, measure, seconds_of_parts, verdicts
from fewjump.demo.parts import Clock


def tiny(length: int, anchored: bool, steps: tuple[int, ...], extra: tuple[int, ...]) -> Sizes:
    return Sizes(
        length=length,
        seeds=1,
        hidden=16,
        blocks=1,
        teacher_steps=120,
        product_steps=2,
        joint_steps=2,
        batch_size=16,
        samples=30,
        heads=heads_for(length, anchored, states=4, many=8, components=3, size=4, width=8),
        steps=steps,
        teacher_extra=extra,
        replicates=3,
    )


TINY = {"names": tiny(8, True, (1,), (10,)), "text": tiny(6, False, (1,), ())}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    pick = random.Random(0)
    syllables = ["an", "be", "lo", "ra", "mi"]
    names = ["".join(pick.choices(syllables, k=pick.randint(1, 4))) for _ in range(400)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    words = ["the", "dog", "barks", "at", "cats"]
    (tmp_path / "book.txt").write_text(" ".join(pick.choices(words, k=1500)))
    return {"names": tmp_path / "names.txt", "text": tmp_path / "book.txt", "out": tmp_path}


def run(corpus: Any, files: dict[str, Path], **options: Any) -> Content:
    given = {corpus: files[corpus], "runs": files["out"] / "runs", **options}
    return measure(Config(corpus=corpus, **given), TINY[corpus])


@pytest.mark.parametrize("corpus", list(TINY))
def test_a_corpus_from_its_file_to_verdicts_and_again(corpus, files):
    size = TINY[corpus]
    result = run(corpus, files)
    written = {p: p.stat().st_mtime_ns for p in (files["out"] / "runs").rglob("*") if p.is_file()}
    more = [10] if corpus == "names" else []
    assert size.steps_of("chain") == [1]
    assert size.steps_of("teacher") == [1, size.length, *more]
    rows = result["rows"]
    assert {r["student"] for r in rows} == {"teacher", *STUDENTS}
    for name in ("teacher", *STUDENTS):
        mine = [r["steps"] for r in rows if r["student"] == name]
        assert mine == size.steps_of(name)
    for row in rows:
        assert row["nfe"] == row["steps"]
        assert row["trunk_seconds"] + row["head_seconds"] == pytest.approx(row["seconds"])
        assert row["samples_per_second"] == pytest.approx(30 / row["seconds"])
        assert 1.0 in row["temperatures"]
        assert row["training_seconds"] > 0
        assert 0 <= row["dictionary_words"] <= 1
        if row["matched_nll"] is not None:
            assert row["matched_nll_low"] <= row["matched_nll"] <= row["matched_nll_high"]
    assert any(row["matched_nll"] is not None for row in rows)
    assert result["reference"]["samples"] == 30
    assert result["matched_entropy"] == result["reference"]["entropy"]
    assert set(result["seconds_of_parts"]) == {
        f"{part} {name}" for part in ("training", "measuring") for name in ("teacher", *STUDENTS)
    }
    again = run(corpus, files)
    found = {p: p.stat().st_mtime_ns for p in (files["out"] / "runs").rglob("*") if p.is_file()}
    assert found == written
    for key in ("rows", "verdicts", "seconds_of_parts", "matched_entropy"):
        assert again[key] == result[key]
    fewer = run(corpus, files, students=("chain",))
    assert {r["student"] for r in fewer["rows"]} == {"teacher", "chain"}


def test_data_of_27_symbols(files):
    names = load_corpus("names", SIZES["names"], files["names"], None)
    text = load_corpus("text", SIZES["text"], None, files["text"])
    assert (names.vocab_size, names.length) == (27, 16)
    assert (text.vocab_size, text.length) == (27, 64)
    assert "book.txt" in text.description
    assert "Python documentation" in load_corpus("text", SIZES["text"], None, None).description
    with pytest.raises(ValueError, match="give --names"):
        load_corpus("names", SIZES["names"], None, None)


def test_committed_sizes_are_whole():
    for size in SIZES.values():
        assert set(size.heads) == set(STUDENTS)
        assert set(size.seconds) == {"teacher", "product", "joint students", "sampling"}
        assert size.steps_of("chain") == [1, 2, 4, 8, 16]
        assert max(size.steps_of("teacher")) == 64
    assert SIZES["names"].seeds == 3


def test_folders_change_with_what_their_content_depends_on(files, tmp_path):
    size = TINY["names"]
    data = load_corpus("names", size, files["names"], None)

    def folders(sizes: Sizes = size, data=data) -> dict[str, Path]:
        shop = Workshop("names", data, sizes, 0, tmp_path, Clock({}))
        return {name: shop.folder(name) for name in ("teacher", *STUDENTS)}

    def changed(**options: Any) -> set[str]:
        other = folders(dataclasses.replace(size, **options))
        return {name for name, folder in folders().items() if other[name] != folder}

    joint = set(STUDENTS) - {"product"}
    assert changed() == set()
    assert changed(samples=7, seeds=3, seconds={"teacher": 1}) == set()
    assert changed(joint_steps=3) == joint
    assert changed(longer={"chain": 3}) == {"chain"}
    assert changed(product_steps=3) == {"product"}
    assert changed(heads={**size.heads, "chain": {"states": 5}}) == {"chain"}
    assert changed(teacher_steps=7) == changed(hidden=32) == {"teacher", *STUDENTS}
    shorter = dataclasses.replace(data, train=data.train[1:])
    assert not set(folders().values()) & set(folders(data=shorter).values())


def row(student: str, steps: int, nll: float | None) -> dict[str, Any]:
    ends = {} if nll is None else {"matched_nll_low": nll - 0.1, "matched_nll_high": nll + 0.1}
    return {"student": student, "steps": steps, "seed": 0, "matched_nll": nll, **ends}


def test_the_three_questions():
    rows = [row("teacher", 16, 2.0), row("teacher", 64, 1.8), row("autoregressive", 1, 1.5)]
    rows += [row("product", 1, 0.1), row("chain", 1, 2.5), row("mixture", 1, 3.0)]
    rows += [row("chain", 4, 1.9), row("mixture", 4, 1.85), row("latent", 4, None)]
    one, two, three = verdicts(rows, 64)
    assert (one.challenger, one.standard) == (("autoregressive", 1), ("teacher", 64))
    assert one.better
    assert (two.challenger, two.standard) == (("chain", 1), ("teacher", 16))
    assert not two.no_worse
    assert (three.challenger, three.standard) == (("mixture", 4), ("teacher", 64))
    assert three.no_worse
    assert not three.better
    assert [v.question for v in verdicts(rows[1:], 64)] == [one.question, three.question]


def test_a_kind_trained_once_is_not_elected_over_one_of_every_seed():
    rows = [row("teacher", 16, 2.0), row("chain", 1, 1.0), row("shared-chain", 1, 1.5)]
    rows += [{**row("teacher", 16, 2.0), "seed": 1}, {**row("shared-chain", 1, 1.6), "seed": 1}]
    (verdict,) = verdicts(rows, 16)
    assert verdict.challenger == ("shared-chain", 1)
    assert verdict.by_seed == pytest.approx((-0.5, -0.4))


def test_comparisons_are_trained_once():
    size = dataclasses.replace(TINY["names"], once=("chain", "latent"))
    assert size.kinds(True) == list(STUDENTS)
    assert set(size.kinds(False)) == set(STUDENTS) - {"chain", "latent"}


def test_seconds_count_a_training_once():
    rows = [
        {
            "student": "chain",
            "seed": seed,
            "training_seconds": 100.0 + seed,
            "measuring_seconds": 2.0,
        }
        for seed in (0, 0, 1)
    ]
    assert seconds_of_parts(rows) == {"training chain": 201.0, "measuring chain": 6.0}
