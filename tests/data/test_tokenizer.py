"""What a tokenizer says of its tokens, whatever it looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewjump import cli
from fewjump.checkpoint import load
from fewjump.data import TokenizerVocabulary, Vocabulary, load_data
from fewjump.data.cache import narrowed
from fewjump.tokenizing import describe_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="needs the hub extra")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "under",
    "big",
    "red",
    "tree",
    "while",
    "birds",
    "sang",
]


def words(first: int = 5, special: list[str] | None = None) -> Any:
    """A tokenizer of whole words; special tokens come first, the words from ``first`` on."""
    special = SPECIAL if special is None else special
    vocab = {symbol: number for number, symbol in enumerate(special)}
    vocab |= {word: first + number for number, word in enumerate(WORDS)}
    out = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    out.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    out.add_special_tokens(special)
    return out


def lines(folder: Path, texts: list[str]) -> Path:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


# -- numbers with holes -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [250, 256, 65536])
def test_tokens_beyond_the_count_keep_their_numbers(first: int, tmp_path: Path) -> None:
    vocabulary = TokenizerVocabulary.from_tokenizer(words(first))
    assert vocabulary.size == first + len(WORDS)
    assert vocabulary.unused == tuple(range(5, first))
    assert Vocabulary.from_config(json.loads(json.dumps(vocabulary.config()))) == vocabulary
    path = lines(tmp_path, [" ".join(WORDS)] * 40)
    row = load_data(path, len(WORDS) + 1, vocabulary=words(first)).train[0]
    assert row.tolist() == [*range(first, first + len(WORDS)), 3]


def test_a_hole_within_the_words_is_unused() -> None:
    vocab = {"[UNK]": 0, "a": 2, "b": 5}
    described = describe_tokenizer(
        tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    )
    assert (described["size"], described["unused"]) == (6, [1, 3, 4])
    assert TokenizerVocabulary.from_tokenizer(words()).unused == ()


def test_a_teacher_keeps_the_numbers_that_no_token_has(tmp_path: Path) -> None:
    words(300).save(str(tmp_path / "holes.json"))
    path = lines(tmp_path, [" ".join(WORDS)] * 40)
    given = ["train", "--data", str(path), "--tokenizer", str(tmp_path / "holes.json")]
    given += ["--length", "8", "--hidden", "8", "--blocks", "1", "--heads", "2", "--steps", "2"]
    given += ["--batch-size", "2", "--no-progress", "--device", "cpu"]
    for process in ("masked", "uniform"):
        out = tmp_path / process
        assert cli.main([*given, "--process", process, "--out", str(out)]) == cli.OK
        model = load(out / "model")
        assert model.process.vocab_size == 300 + len(WORDS)
        kept = set(range(300)) - ({4} if process == "masked" else set())
        assert set(model.process.kept) == kept
        sampled = ["sample", str(out), "--steps", "3", "--num-samples", "8"]
        assert cli.main([*sampled, "--out", str(tmp_path / "s.jsonl")]) == cli.OK
        rows = [json.loads(line)["tokens"] for line in (tmp_path / "s.jsonl").open()]
        assert np.array(rows).min() >= 300


def test_numbers_that_leave_out_millions_are_refused() -> None:
    vocab = {"[UNK]": 0, "a": 4_000_000_000}
    with pytest.raises(ValueError, match="numbers its 2 tokens up to 4000000000"):
        describe_tokenizer(
            tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
        )
    with pytest.raises(ValueError, match="no tokens"):
        describe_tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_a_narrow_type_refuses_what_it_cannot_hold() -> None:
    assert narrowed(np.array([0, 255]), np.dtype(np.uint8)).tolist() == [0, 255]
    for wrong in (256, -1):
        with pytest.raises(ValueError, match=f"{wrong}.* do not fit uint8"):
            narrowed(np.array([3, wrong]), np.dtype(np.uint8))
