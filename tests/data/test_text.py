from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import fewjump.data.text as text_module
from fewjump.data import (
    builtin_text,
    line_file,
    load_data,
    normalise_text,
    text_file,
    text_stream,
)
from fewjump.data.vocabulary import PADDING


def test_normalised_text_is_letters_and_single_spaces():
    assert normalise_text("Héllo,\n\tWorld! 42  ok") == "hello world ok"


def test_windows_are_contiguous_blocks_in_order(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefghij" * 10)
    data = text_file(path, 10, valid_fraction=0.2, test_fraction=0.1)
    assert [len(data.train), len(data.valid), len(data.test)] == [7, 2, 1]
    assert data.vocabulary.decode(data.test) == ["abcdefghij"]
    assert data.train.dtype == torch.int64
    assert (data.length, data.vocab_size) == (10, 10)


def test_the_parts_join_to_the_text(tmp_path):
    path = tmp_path / "a.txt"
    text = "".join(chr(ord("a") + i * i % 23) for i in range(1003))
    path.write_text(text)
    data = text_file(path, 7)
    joined = "".join(
        "".join(data.vocabulary.decode(part)) for part in (data.train, data.valid, data.test)
    )
    assert joined == text[: 1003 // 7 * 7]


def test_line_ends_are_translated_and_bytes_are_not(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\r\ncd\r\n" * 3)
    data = text_file(path, 6, valid_fraction=0, test_fraction=0)
    assert data.vocabulary.decode(data.train)[0] == "ab\ncd\n"
    raw = text_file(path, 8, unit="bytes", valid_fraction=0, test_fraction=0)
    assert raw.vocab_size == 256
    assert raw.train[0].tolist() == list(b"ab\r\ncd\r\n")


@pytest.mark.parametrize(
    ("unit", "normalise"), [("characters", False), ("characters", True), ("bytes", False)]
)
def test_a_large_file_is_cached_and_equals_the_small_path(tmp_path, monkeypatch, unit, normalise):
    # A piece of 7 bytes cuts characters, line ends and runs of spaces in two.
    monkeypatch.setattr(text_module, "_CHUNK_BYTES", 7)
    path = tmp_path / "a.txt"
    path.write_bytes("Zoë said:  «no»\r\n\r\n 12 😀 times ".encode() * 20)
    options = {"unit": unit, "normalise": normalise, "cache_folder": tmp_path / "cache"}
    small = text_file(path, 8, **options)
    large = text_file(path, 8, memory_limit=10, **options)
    assert isinstance(large.train, np.ndarray)
    for name in ("train", "valid", "test"):
        assert torch.equal(small.all(name), large.all(name))
    assert large.vocabulary == small.vocabulary
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = text_file(path, 8, memory_limit=10, **options)
    assert torch.equal(again.all(), large.all())
    assert len(list((tmp_path / "cache").iterdir())) == 1
    text = path.read_text(encoding="utf-8")
    if unit == "characters":
        whole = normalise_text(text) if normalise else text
        joined = "".join(
            "".join(small.vocabulary.decode(p)) for p in (small.train, small.valid, small.test)
        )
        assert whole.startswith(joined)
        assert len(whole) - len(joined) < 8


def test_a_changed_file_is_encoded_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ab" * 50)
    first = text_file(path, 5, memory_limit=1, alphabet="abc")
    path.write_text("ac" * 50)
    os.utime(path, ns=(1, 1))
    second = text_file(path, 5, memory_limit=1, alphabet="abc")
    assert first.all().max() == 1
    assert second.all().max() == 2


def test_an_interrupted_encoding_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc" * 50)
    with pytest.raises(ValueError, match="'c' at place 2"):
        text_file(path, 5, memory_limit=1, alphabet="ab")
    assert list((tmp_path / ".fewjump-cache").iterdir()) == []


def test_errors_name_the_cause(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        text_file(path, 4)
    path.write_text("")
    with pytest.raises(ValueError, match="empty"):
        text_file(path, 4)
    path.write_text("abc")
    with pytest.raises(ValueError, match="3 tokens: too short for one window of length 4"):
        text_file(path, 4)
    with pytest.raises(ValueError, match="too few for a train"):
        text_file(path, 2)
    path.write_bytes(b"abcdef\xff")
    with pytest.raises(ValueError, match="byte 0xff at offset 6"):
        text_file(path, 2)
    with pytest.raises(ValueError, match="not normalised"):
        text_file(path, 2, unit="bytes", normalise=True)
    with pytest.raises(ValueError, match="sum below 1"):
        text_file(path, 2, valid_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize("piece", [3, 4, 5, 100])
def test_the_offset_of_a_broken_byte_does_not_depend_on_pieces(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(text_module, "_CHUNK_BYTES", piece)
    path = tmp_path / "a.txt"
    path.write_bytes("éé\r\né".encode() + b"\xe9xyz")
    with pytest.raises(ValueError, match="byte 0xe9 at offset 8"):
        text_file(path, 2)


def test_lines(tmp_path):
    path = tmp_path / "names.txt"
    names = [f"{a}{b}{'n' * (i % 3)}" for i, (a, b) in enumerate(zip("abcdefgh" * 5, "xyz" * 14))]
    path.write_text("\n".join(names[:20]) + "\n\n" + "\n".join(names[20:]))
    data = line_file(path, valid_fraction=0.1, test_fraction=0.1)
    assert data.length == 4
    rows = [
        line
        for part in (data.train, data.valid, data.test)
        for line in data.vocabulary.decode(part)
    ]
    assert sorted(rows) == sorted(names)
    assert rows != names, "lines are shuffled"
    assert data.vocabulary.config()["padding"] == PADDING
    assert torch.equal(line_file(path).all(), line_file(path).all())
    with pytest.raises(ValueError, match="longest has 4"):
        line_file(path, 3)


def test_built_in_text_has_27_symbols():
    data = builtin_text(64)
    assert data.vocab_size == 27
    assert len(data) > 3000
    assert len(data.test) > 200
    assert "the " in "".join(data.vocabulary.decode(data.all(limit=50)))


def test_text_stream_of_nothing():
    with pytest.raises(ValueError, match="notes is empty"):
        text_stream("", 4, name="notes")


def test_load_data_dispatches(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello\nworld\n" * 40)
    assert load_data(path, valid_fraction=0.2, test_fraction=0.2).length == 64
    assert load_data(path, 10).vocab_size == 8
    assert load_data(path, 10, kind="bytes").vocab_size == 256
    assert load_data(path, kind="lines").length == 5
    assert load_data(path, 10, normalise=True).vocab_size == 27
    assert load_data("text", 32).length == 32
    with pytest.raises(FileNotFoundError, match="built-in data sets: digits, text"):
        load_data("digitz")
    with pytest.raises(ValueError, match="64 pixels"):
        load_data("digits", 32)
    with pytest.raises(ValueError, match="unknown kind"):
        load_data(path, kind="words")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"vocab_size: not for .*, which is read as char"):
        load_data(path, vocab_size=4)
