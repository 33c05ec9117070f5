"""Files as people bring them: read as what they are, or refused with the way out."""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewjump.data import Bytes, Tokens, load_data
from fewjump.data import cache as cache_module
from fewjump.data.cache import default_folders
from fewjump.textfile import UNREAD

TEXTS = ["the cat sat", "a dog ran, fast", 'big "red" mat', "one\ntwo"] * 10
WHOLE: dict[str, Any] = {"valid_fraction": 0, "test_fraction": 0}
MARK = b"\xef\xbb\xbf"


def rows(path: Path, **options: Any) -> list[str]:
    data = load_data(path, 20, **WHOLE, **options)
    return data.vocabulary.decode(data.all())


def json_lines(texts: list[str], field: str = "text") -> str:
    return "".join(json.dumps({field: text, "n": 1}) + "\n" for text in texts)


def table(texts: list[str], delimiter: str) -> str:
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    return delimiter.join(["n", "text"]) + "\n" + "".join(f"1{delimiter}{t}\n" for t in quoted)


# -- containers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", json_lines(TEXTS)),
        ("D.JSONL", json_lines(TEXTS)),
        ("d.json", json_lines(TEXTS)),
        ("d.json", json.dumps([{"text": text} for text in TEXTS], indent=1)),
        ("d.JSON", json.dumps(TEXTS)),
        ("d.csv", table(TEXTS, ",")),
        ("d.TSV", table(TEXTS, "\t")),
    ],
)
def test_documents_of_every_container(
    name: str, content: str, ends: str, mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(mark + content.replace("\n", ends).encode())
    assert rows(path) == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.json", '{"a": ["x"]}', "has no text in 'text'"),
        ("d.json", '{\n "text": "x"\n}', "every line is to hold one object"),
        ("d.json", '[{"text": "x"}', "is not JSON"),
        ("d.json", "[1, 2]", "entry 1 of .* has no text"),
        ("d.csv", "a,b\n1,2\n", "no field 'text'; it has a, b"),
        ("d.csv", "text,b\none, two, three\n", "line 2 .* has 3 columns, its header 2"),
        ("d.csv", "text,text\none,two\n", "several columns 'text'; rename all but one"),
        ("d.json", '[{"text": 5}]', "'text' of entry 1 of .* holds int, not text"),
        ("d.csv", 'text\n"open\n', "no row of a table"),
        ("d.csv", "text\n" + "x" * 200_000 + "\n", "save the texts as .jsonl"),
        ("d.jsonl", "\n \n", "holds no documents"),
        (
            "d.jsonl",
            '{"text": "a"}\n{"text": "b \\ud83d"}\n',
            "line 2 .*half of a character",
        ),
    ],
)
def test_documents_that_cannot_be_read(name: str, content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        load_data(path, 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json_lines(TEXTS), "holds JSON: name it .jsonl"),
        (json.dumps({"data": TEXTS}, indent=1), "holds JSON"),
        (json.dumps([{"text": text} for text in TEXTS], indent=1), "holds JSON"),
        (json.dumps(TEXTS), "holds JSON"),
        ("\n" + json.dumps([list(range(20))] * 9), "holds JSON"),
        (table(TEXTS, ","), "table of 2 columns: name it .csv"),
        (table(TEXTS, "\t"), "table of 2 columns: name it .tsv"),
        (table(TEXTS, ";"), "table of 2 columns: save it with commas"),
        ("Emma,F,20355\nOlivia,F,19674\n" * 99, "table of 3 columns"),
        (r"{\rtf1\ansi the cat sat\par}" * 9, "holds RTF: export its text"),
        ("<!DOCTYPE html>\n<p>the cat sat" * 9, "holds HTML or XML"),
        ("<?xml version='1.0'?><t>the cat sat</t>" * 9, "holds HTML or XML"),
        ('<doc id="1" title="Cat">\nthe cat sat\n</doc>\n' * 9, "holds HTML or XML"),
    ],
)
def test_structures_under_the_name_of_a_text(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text(content)
    for options in ({}, {"vocabulary": Bytes()}):
        with pytest.raises(ValueError, match=said + ".*--kind characters"):
            load_data(path, 4, **options)  # type: ignore[arg-type]
    assert load_data(path, 4, kind="characters").vocabulary.decode(
        load_data(path, 4, kind="characters").train[:1]
    ) == [content[:4]]


@pytest.mark.parametrize(
    "content",
    [
        "[1] The first note, with commas, is here.\n[2] Another.\n",
        "[1, 2] showed that cats, dogs and birds sit.\n",
        "[Enter HAMLET, reading]\nHAMLET: Words, words, words.\n",
        "[[Link]] to a page, and more.\n",
        '["What?" he said, "who?"]\n',
        '{curly} braces, and "quotes": both.\n',
        "<s> the cat sat </s>\n<s> a dog ran </s>\n",
        "<|endoftext|>the cat sat, a dog ran\n",
        "the cat, the dog\na tree, a mat\nbig, small\non, under\n",
        "cats,dogs\nthe end\n",
        "\tone, two\n\tthree, four\n",
        "# Title\n\n- one; two\n- three; four\n",
    ],
)
def test_prose_with_brackets_and_commas_is_read(content: str, tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text(content * 9)
    data = load_data(path, len(content), **WHOLE)
    assert data.vocabulary.decode(data.train[:1]) == [content]


@pytest.mark.parametrize("kind", ["auto", "documents", "lines"])
def test_formats_that_are_not_read_say_how_to_convert(kind: Any, tmp_path: Path) -> None:
    for suffix, advice in UNREAD.items():
        path = tmp_path / f"d{suffix.upper()}"
        path.write_bytes(b"some content that is text")
        with pytest.raises(ValueError, match=re.escape(advice)):
            load_data(path, 4, kind=kind)


def test_binary_files_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    for content, said in (
        (gzip.compress(b"text " * 99), "is gzip, not text; unpack"),
        (b"PAR1" + b"\1" * 50, "Parquet, not text; name it .parquet"),
        (b"PK\3\4" + b"\0" * 26 + b"[Content_Types].xml", "an Office document, not text; save it"),
        (b"abc\0def" * 50, "zero byte at offset 3"),
        ("hello".encode("utf-16") * 9, "iconv -f UTF-16 -t UTF-8"),
        ("hello".encode("utf-16-le") * 9, "zero byte"),
        ("hello".encode("utf-32") * 9, "iconv"),
        ("naïve ".encode("latin-1") * 99, "not UTF-8: byte 0xef at offset 2"),
    ):
        path.write_bytes(content)
        for kind in ("auto", "characters", "lines", "documents"):
            with pytest.raises(ValueError, match=said):
                load_data(path, 4, kind=kind)  # type: ignore[arg-type]
        assert load_data(path, 4, kind="bytes").train[0].tolist() == list(content[:4])
    for name in ("d.bin", "d.npy"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x", "y" * 99)
        with pytest.raises(ValueError, match=r"zip|not a plain NumPy|archive"):
            load_data(tmp_path / name, 4)


@pytest.mark.parametrize("kind", ["characters", "lines", "documents"])
def test_byte_order_marks_are_no_text(kind: Any, tmp_path: Path) -> None:
    """At the beginning, and within, where marked files were joined."""
    plain, marked = tmp_path / "a.txt", tmp_path / "b.txt"
    plain.write_bytes(b"the cat\nsat\n\na dog\nran\n" * 20)
    marked.write_bytes((MARK + b"the cat\r\nsat\r\n\r\na dog\r\nran\r\n") * 20)
    one, two = (load_data(path, 13, kind=kind) for path in (plain, marked))
    assert one.vocabulary == two.vocabulary
    assert (one.all() == two.all()).all()


def test_the_symbol_of_padding_in_a_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text("the \u2400 cat\n\n" * 20)
    for options in ({"kind": "lines"}, {"kind": "documents"}):
        with pytest.raises(ValueError, match="fills short rows up; replace it"):
            load_data(path, 12, **options)  # type: ignore[arg-type]
    assert "\u2400" in load_data(path, 5).vocabulary.config()["symbols"]


# -- what is no file of data --------------------------------------------------------------------


def test_pipes_folders_and_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\t\n" * 40)
    for kind in ("auto", "characters", "bytes", "lines", "documents", "tokens"):
        with pytest.raises(ValueError, match=r"pipe or a device.*write them to a file"):
            load_data(pipe, 4, kind=kind)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is empty"):
            load_data(tmp_path / "empty.txt", 4, kind=kind)  # type: ignore[arg-type]
    for kind in ("auto", "characters", "lines", "documents"):
        with pytest.raises(ValueError, match=r"nothing but white|empty lines only|no documents"):
            load_data(tmp_path / "blank.txt", 4, kind=kind)  # type: ignore[arg-type]
    for kind in ("characters", "bytes", "lines", "tokens"):
        with pytest.raises(ValueError, match="is a folder; give a file in it"):
            load_data(tmp_path, 4, kind=kind)  # type: ignore[arg-type]


def test_standard_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("hello world\n" * 40)
    kept, pipe = os.dup(0), os.pipe()
    try:
        with (tmp_path / "t.txt").open() as file:
            for given in (file.fileno(), pipe[0]):
                os.dup2(given, 0)
                with pytest.raises(ValueError, match="/dev/stdin is a pipe or a device"):
                    load_data("/dev/stdin", 4)
    finally:
        os.dup2(kept, 0)
        for number in (kept, *pipe):
            os.close(number)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([0.5, np.nan]), "float64, not integer"),
        (np.array([True, False]), "bool, not integer"),
        (np.array([1, "x"], dtype=object), "array of Python objects"),
        (np.array(["a", "b"]), "<U1, not integer"),
        (np.array([3, -1, 2]), "holds token -1; tokens must be"),
        (np.array(3), r"shape \(\)"),
        (np.zeros((2, 2, 2, 2), int), "shape"),
        (np.zeros(0, int), "not empty"),
        (np.array([1, 2**63], np.uint64), "which no vocabulary has"),
    ],
)
def test_arrays_that_are_no_tokens(array: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        load_data(tmp_path / "d.npy", 1)


@pytest.mark.parametrize(("token", "what"), [(4, "the mask"), (2, "a number that no token has")])
def test_numbers_that_no_text_has_are_refused(token: int, what: str, tmp_path: Path) -> None:
    tokens = np.tile([0, 1, 3, 1], 20)
    vocabulary = Tokens(5)
    vocabulary.mask, vocabulary.unused = 4, (2,)
    for name in ("d.npy", "d.bin"):
        path = tmp_path / name
        for given in (tokens, np.append(tokens, token)):
            np.save(path, given) if name == "d.npy" else given.astype("<u2").tofile(path)
            if given is tokens:
                assert load_data(path, 4, vocabulary=vocabulary).vocabulary is vocabulary
                continue
            with pytest.raises(ValueError, match=f"holds {token}, which is {what}"):
                load_data(path, 4, vocabulary=vocabulary)


# -- raw numbers --------------------------------------------------------------------------------


def raw(folder: Path, dtype: str, high: int, header: bytes = b"") -> tuple[Path, list[int]]:
    tokens = np.random.default_rng(0).integers(1, high, 400)
    path = folder / "d.bin"
    path.write_bytes(header + tokens.astype(dtype).tobytes())
    return path, tokens[:8].tolist()


@pytest.mark.parametrize("high", [200, 50_000, 120_000])
def test_wider_numbers_are_not_read_as_halves(high: int, tmp_path: Path) -> None:
    path, tokens = raw(tmp_path, "<u4", high)
    with pytest.raises(ValueError, match="--token-bits 32"):
        load_data(path, 8)
    assert load_data(path, 8, token_bits=32, **WHOLE).train[0].tolist() == tokens
    big = Bytes()
    big.size = 150_000
    assert load_data(path, 8, vocabulary=big, **WHOLE).train[0].tolist() == tokens


@pytest.mark.parametrize(("dtype", "bits"), [("<u1", 8), ("<u2", 16), ("<u4", 32), ("<u8", 64)])
def test_the_width_can_be_said(dtype: str, bits: Any, tmp_path: Path) -> None:
    path, tokens = raw(tmp_path, dtype, 250)
    assert load_data(path, 8, token_bits=bits, **WHOLE).train[0].tolist() == tokens
    with pytest.raises(ValueError, match=r"token_bits .* is one of 8, 16, 32, 64"):
        load_data(path, 8, token_bits=12)  # type: ignore[arg-type]


def test_raw_numbers_that_do_not_fit(tmp_path: Path) -> None:
    path, _ = raw(tmp_path, "<u2", 50_000)
    with pytest.raises(ValueError, match=r"outside 0..255.*not 16 bits wide\? \(--token-bits"):
        load_data(path, 8, vocabulary=Bytes())
    big = Bytes()
    big.size = 100_000
    with pytest.raises(ValueError, match=r"outside 0..99999.*not 32 bits wide"):
        load_data(path, 8, vocabulary=big)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="no whole number of 16-bit ones"):
        load_data(path, 1)


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_the_header_of_llm_c_says_the_width(magic: int, dtype: str, tmp_path: Path) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, 400
    path, tokens = raw(tmp_path, dtype, 50_000, header.tobytes())
    assert load_data(path, 8, **WHOLE).train[0].tolist() == tokens
    header[2] = 500
    raw(tmp_path, dtype, 50_000, header.tobytes())
    with pytest.raises(ValueError, match=r"of 500 tokens .* has room for 400"):
        load_data(path, 8)


def test_the_index_of_megatron_says_the_width(tmp_path: Path) -> None:
    path, tokens = raw(tmp_path, "<i4", 50_000)
    index = b"MMIDIDX\0\0" + (1).to_bytes(8, "little")
    (tmp_path / "d.idx").write_bytes(index + b"\x04")
    assert load_data(path, 8, **WHOLE).train[0].tolist() == tokens
    with pytest.raises(ValueError, match="have 32 bits, not 16"):
        load_data(path, 8, token_bits=16)
    (tmp_path / "d.idx").write_bytes(index + b"\x06")
    with pytest.raises(ValueError, match="type 6, which is no token"):
        load_data(path, 8)


# -- options that a source ignores --------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "field": "body",
    "split": "test",
    "limit": 3,
    "packing": "fit",
    "vocabulary": Bytes(),
    "alphabet": "abc",
    "normalise": True,
    "vocab_size": 40,
    "image_shape": (2, 2),
    "token_bits": 32,
    "cache_folder": "cache",
}
USED = {
    "digits": set(),
    "text": {"normalise"},
    "d.npy": {"vocab_size", "image_shape", "vocabulary"},
    "d.jsonl": {"field", "limit", "packing", "vocabulary", "cache_folder"},
}


@pytest.mark.parametrize("source", sorted(USED))
def test_options_that_say_nothing_of_a_source_are_refused(source: str, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((40, 4), int))
    (tmp_path / "d.jsonl").write_text(json_lines(TEXTS))
    path = source if source in ("digits", "text") else tmp_path / source
    for option in OPTIONS.keys() - USED[source]:
        with pytest.raises(ValueError, match=option):
            load_data(path, **{option: OPTIONS[option]})


@pytest.mark.parametrize("value", [True, 2.5, "8", 0, -1])
def test_a_length_is_a_whole_number(value: Any, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("the cat sat\n\n" * 40)
    (tmp_path / "d.jsonl").write_text(json_lines(TEXTS))
    for name in ("d.txt", "d.jsonl", "text"):
        path = name if name == "text" else tmp_path / name
        with pytest.raises(ValueError, match=r"length must be (a whole number|at least 1)"):
            load_data(path, value)
    with pytest.raises(ValueError, match=r"documents to read .*must be"):
        load_data(tmp_path / "d.jsonl", 8, limit=value)
    np.save(tmp_path / "d.npy", np.arange(40))
    with pytest.raises(ValueError, match="vocab_size must be"):
        load_data(tmp_path / "d.npy", 4, vocab_size=value)
    assert len(load_data(tmp_path / "d.npy", np.int64(4), **WHOLE)) == 10  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["characters", "bytes", "lines", "documents"])
def test_a_text_file_has_no_fields_and_no_parts(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text("hello\n\nworld\n" * 40)
    for option in ("field", "split"):
        with pytest.raises(ValueError, match=f"{option} .*: not for .*read as {kind}"):
            load_data(path, 8, kind=kind, **{option: OPTIONS[option]})
    with pytest.raises(ValueError, match=r"documents to read .*at least 1"):
        load_data(path, 8, kind="documents", limit=-1)


# -- the cache ----------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


def test_a_cache_that_is_not_whole_or_anothers_is_made_again(tmp_path: Path) -> None:
    path, place = tmp_path / "d.jsonl", tmp_path / "c"
    path.write_text(json_lines(TEXTS))

    def tokens() -> Any:
        return load_data(path, 8, vocabulary=Bytes(), cache_folder=place, **WHOLE).all().tolist()

    right = tokens()
    (file,) = files(place)
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole[:90], whole + b"x", b"no"):
        file.write_bytes(broken)
        assert tokens() == right
        assert file.read_bytes() == whole
    load_data(path, 9, vocabulary=Bytes(), cache_folder=place)
    (other,) = set(files(place)) - {file}
    file.write_bytes(other.read_bytes())
    assert tokens() == right


def test_a_file_of_the_same_size_and_date_is_another(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    found = []
    for text in ("abcdefgh", "ijklmnop"):
        path.write_text(json_lines([text] * 9))
        os.utime(path, ns=(1, 1))
        found.append(load_data(path, 8, **WHOLE).vocabulary.decode(load_data(path, 8).all())[0])
    assert found == ["abcdefgh", "ijklmnop"]


def test_cache_files_have_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json_lines(TEXTS))
    before = os.umask(0o027)
    try:
        load_data(tmp_path / "d.jsonl", 8)
    finally:
        os.umask(before)
    (file,) = (tmp_path / ".fewjump-cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o640


def test_read_only_data_are_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    data.mkdir()
    path = data / "d.jsonl"
    path.write_text(json_lines(TEXTS))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    assert default_folders(path)[1] == home / ".cache" / "fewjump"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    writable = cache_module._writable
    # The tests may be run by one who may write everywhere.
    monkeypatch.setattr(cache_module, "_writable", lambda f: data not in f.parents and writable(f))
    assert rows(path) == TEXTS
    assert len(files(home / "xdg" / "fewjump")) == 1
    assert not (data / ".fewjump-cache").exists()
    monkeypatch.setattr(cache_module, "_writable", lambda f: False)
    assert rows(path) == TEXTS, "what is there is used"
    with pytest.warns(UserWarning, match=r"for this run only.*--cache"):
        assert len(load_data(path, 21, **WHOLE)) == len(TEXTS)
    with pytest.raises(PermissionError, match=r"nothing can be written in .*--cache"):
        load_data(path, 20, cache_folder=tmp_path / "no")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "d.jsonl").write_text(json_lines(TEXTS))
    data.chmod(0o555)
    try:
        assert rows(data / "d.jsonl") == TEXTS
    finally:
        data.chmod(0o755)
    assert len(files(tmp_path / "xdg" / "fewjump")) == 1


@pytest.mark.parametrize(
    ("said", "dtype", "wider"), [(None, "<u8", 64), (32, "<u8", 64), (8, "<u4", 32)]
)
def test_pieces_of_wider_numbers_are_refused(
    said: Any, dtype: str, wider: int, tmp_path: Path
) -> None:
    path, tokens = raw(tmp_path, dtype, 250)
    with pytest.raises(ValueError, match=f"--token-bits {wider}"):
        load_data(path, 8, token_bits=said)
    assert load_data(path, 8, token_bits=wider, **WHOLE).train[0].tolist() == tokens


@pytest.mark.parametrize("index", [b"", b"MMIDIDX\0\0\1", b"something else, of eighteen bytes"])
def test_a_damaged_index_of_megatron_is_refused(index: bytes, tmp_path: Path) -> None:
    path, tokens = raw(tmp_path, "<u2", 250)
    Path(path).with_suffix(".idx").write_bytes(index)
    with pytest.raises(ValueError, match="no whole index of Megatron's"):
        load_data(path, 8)
    assert load_data(path, 8, token_bits=16, **WHOLE).train[0].tolist() == tokens
