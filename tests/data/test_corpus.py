"""Documents in every container become the same rows, once, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewjump.data import Bytes, Characters, Vocabulary
from fewjump.data.corpus import corpus
from fewjump.data.documents import is_documents, read_documents

TEXTS = ["the cat sat", "a dog ran under the tree", "big mat", "the small cat ran on a big mat"]


def containers(folder: Path) -> dict[str, Path]:
    """The same documents as lines of JSON, as Parquet, as a data set's folder and as text."""
    out = {"jsonl": folder / "d.jsonl", "text": folder / "d.txt"}
    lines = [json.dumps({"text": text, "n": i}) for i, text in enumerate(TEXTS)]
    out["jsonl"].write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    out["text"].write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8")
    return out


def test_lines_and_texts_are_read_in_order(tmp_path: Path) -> None:
    for path in containers(tmp_path).values():
        assert list(read_documents(path)) == TEXTS
        assert list(read_documents(path, limit=2)) == TEXTS[:2]
    assert [is_documents(p) for p in ("a.jsonl", "a.parquet", "hf:me/x", "a.txt", "a.npy")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_parquet_and_folders_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the train extra")
    data = datasets.Dataset.from_dict({"text": [*TEXTS, None, ""], "n": list(range(6))})
    data.to_parquet(str(tmp_path / "d.parquet"))
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(
        str(tmp_path / "two")
    )
    assert list(read_documents(tmp_path / "d.parquet")) == TEXTS
    assert list(read_documents(tmp_path / "one")) == TEXTS
    assert list(read_documents(tmp_path / "two")) == TEXTS
    assert list(read_documents(tmp_path / "two", split="test")) == TEXTS[:1]
    with pytest.raises(ValueError, match="no split 'valid'; it has train, test"):
        list(read_documents(tmp_path / "two", split="valid"))
    for name in ("d.parquet", "one"):
        with pytest.raises(ValueError, match=r"no field 'body'; it has text, n"):
            list(read_documents(tmp_path / name, "body"))
        with pytest.raises(ValueError, match="not text"):
            list(read_documents(tmp_path / name, "n"))


def test_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the train extra")
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None, **options: Any) -> Any:
        asked.append((name, configuration, options))
        return ({"text": text} for text in TEXTS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_documents("hf:me/data:small", split="test", limit=3)) == TEXTS[:3]
    assert list(read_documents("hf:me/data@v1")) == TEXTS
    train, test = ({"split": name, "streaming": True} for name in ("train", "test"))
    assert asked == [
        ("me/data", "small", {**test, "revision": None}),
        ("me/data", None, {**train, "revision": "v1"}),
    ]


def test_characters_are_found_and_short_documents_padded(tmp_path: Path) -> None:
    data = corpus(containers(tmp_path)["jsonl"], 30, valid_fraction=0, test_fraction=0)
    assert isinstance(data.vocabulary, Characters)
    assert data.vocabulary.decode(data.all()) == TEXTS
    assert data.vocabulary.padding_token == data.vocab_size - 1
    assert "rows of 30 characters, packed as documents" in data.description
    # A saved model's characters are those of its data: the same documents are the same rows.
    again = corpus(
        containers(tmp_path)["jsonl"], 30, data.vocabulary, valid_fraction=0, test_fraction=0
    )
    assert torch.equal(again.all(), data.all())


def test_a_stream_of_bytes_needs_no_padding(tmp_path: Path) -> None:
    path = containers(tmp_path)["text"]
    data = corpus(path, 8, Bytes(), valid_fraction=0, test_fraction=0)
    whole = "".join(TEXTS)
    assert "".join(Bytes().decode(data.all())) == whole[: len(whole) // 8 * 8]
    with pytest.raises(ValueError, match="use packing='stream'"):
        corpus(path, 8, Bytes(), packing="documents")


def test_rows_are_made_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    path = containers(tmp_path)["jsonl"]

    def files() -> set[str]:
        return {p.name for p in (tmp_path / ".fewjump-cache").iterdir()}

    data = corpus(path, 8, Bytes(), valid_fraction=0, test_fraction=0)
    assert isinstance(data.train, np.ndarray)
    assert data.train.dtype == np.uint8
    first = files()
    assert len(first) == 1
    corpus(path, 8, Bytes())
    assert files() == first
    corpus(path, 9, Bytes())
    corpus(path, 8, Bytes(), limit=3)
    assert len(files()) == 3
    path.write_text(path.read_text() + json.dumps({"text": "more"}) + "\n")
    corpus(path, 8, Bytes())
    assert len(files()) == 4


def test_nonsense_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        corpus(tmp_path / "x.jsonl", 4)
    path = tmp_path / "d.jsonl"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .* has no text in 'text' \(it has body\)"):
        corpus(path, 4)
    path.write_text('{"text": "x"}\nnonsense\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        corpus(path, 4)
    path.write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match="has no row of 4"):
        corpus(path, 4, Bytes())
    (tmp_path / "x.parquet").write_bytes(b"no")
    if pytest.importorskip("pyarrow", reason="needs the train extra"):
        with pytest.raises(ValueError, match="not a Parquet file"):
            list(read_documents(tmp_path / "x.parquet"))


# -- a tokenizer --------------------------------------------------------------------------------


def test_a_tokenizer_packs_and_frames(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    path = containers(tmp_path)["jsonl"]
    hub.tokenizer().save_pretrained(tmp_path / "tok")
    options = {"valid_fraction": 0, "test_fraction": 0}
    whole = corpus(path, 8, tmp_path / "tok", packing="documents", **options)
    rows = whole.all()
    assert (rows[:, 0] == hub.CLS).all()
    assert whole.vocabulary.decode(rows)[0] == TEXTS[0]
    assert rows[0].tolist() == [hub.CLS, 5, 6, 8, hub.SEP, hub.PAD, hub.PAD, hub.PAD]
    stream = corpus(path, 8, tmp_path / "tok" / "tokenizer.json", **options)
    inside = stream.all()[:, 1:-1]
    assert hub.PAD not in stream.all()
    assert (stream.all()[:, -1] == hub.SEP).all()
    assert hub.SEP in inside
    fitted = corpus(path, 14, hub.tokenizer(), packing="fit", **options)
    assert len(fitted) < len(TEXTS)
    again = Vocabulary.from_config(json.loads(json.dumps(fitted.vocabulary.config())))
    assert again == fitted.vocabulary
    assert torch.equal(again.encode("a cat"), torch.tensor([14, 6]))
    assert again.show(torch.tensor([hub.CLS, 5, hub.MASK, 8]), hub.MASK) in ("the_sat", "the _ sat")


def test_a_tokenizer_is_described_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    import sys

    from denoiser import tiny_hub as hub
    from fewjump.data import TokenizerVocabulary

    config = TokenizerVocabulary.from_tokenizer(hub.tokenizer()).config()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    plain = Vocabulary.from_config(config)
    assert plain.config() == config
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fewjump\[hub\]'"):
        plain.encode("a")
