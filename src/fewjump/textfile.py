"""Files that people bring, before anything is learned from them: what they are, and their text."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import runpy
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 22

_UNPACK = "unpack it first, and give the file inside"
_TABLE = "save the table as .csv or .parquet"
_ARRAY = "save the array of tokens with numpy.save as .npy"
_PICTURES = "save pictures as one integer array (N, height, width) with numpy.save"
_PRINTED = "export its text as .txt"
_DATABASE = "export the texts as .jsonl or .csv"
#: How to bring what is in a file of a format that is not read, by the end of its name.
UNREAD = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z"), _UNPACK),
    **dict.fromkeys((".rar", ".br", ".z"), _UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".feather", ".orc", ".avro"), _TABLE),
    ".arrow": "give the folder that datasets' save_to_disk wrote, or save the table as .parquet",
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle", ".safetensors", ".ckpt", ".mat"), _ARRAY),
    **dict.fromkeys((".h5", ".hdf5"), _ARRAY),
    ".idx": "give the .bin beside it",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"), _PICTURES),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub"), _PRINTED),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), _DATABASE),
    **dict.fromkeys((".tfrecord", ".mds"), "export the texts as .jsonl, or the tokens as .npy"),
}
_ZIP = b"PK\x03\x04"
# What the archives of Word, Excel, OpenDocument and EPUB hold first.
_OFFICE_FILES = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"mimetype")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    _ZIP: "a zip archive",
    b"7z\xbc\xaf": "7z",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "PDF",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"SQLite format 3": "a database",
}
_NAMED = {
    "Parquet": "name it .parquet",
    "Arrow": UNREAD[".arrow"],
    "a NumPy array": "name it .npy",
    "HDF5": _ARRAY,
    "a picture": _PICTURES,
    "PDF": _PRINTED,
    "an Office document": "save it as .csv or .txt",
    "a database": _DATABASE,
}
_START_BYTES = 1 << 16
_WORD = r'"(?:[^"\\\n]|\\.)*"'
# An object; a list of objects, of words, or of numbers. Prose may begin with a bracket or "[1]".
_JSON = re.compile(
    rf"\s*(?:\{{\s*{_WORD}\s*:|\[\s*(?:\{{\s*{_WORD}\s*:|{_WORD}\s*,\s*\"|"
    r"\[?\s*-?\d+(?:\s*,\s*-?\d+){7}))"
)
_MARKUP = re.compile(
    r"\s*(?:(?P<rtf>\{\\rtf)|<\?xml|<!doctype|<html\b|<[\w:.-]+\s+[\w:.-]+\s*=\s*[\"'])",
    re.IGNORECASE,
)
_SEPARATORS = {
    "\t": "name it .tsv, with a header, so that one column is read (--text-field)",
    ",": "name it .csv, with a header, so that one column is read (--text-field)",
    ";": "save it with commas as .csv, so that one column is read (--text-field)",
}
_ROWS = 64
_LEAST_ROWS = 4
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def check_file(path: Path, what: str = "file") -> None:
    """Refuse what is no plain file with something in it.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: for a folder, a pipe or device, or an empty file.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no {what} at {path}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder; give a file in it")
    # A redirected /dev/stdin is a plain file, whose name says nothing to the next run.
    if not stat.S_ISREG(mode) or path.parts[:2] in (("/", "dev"), ("/", "proc")):
        raise ValueError(
            f"{path} is a pipe or a device, and data are read more than once; write them to a file "
            "and give that"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")


def format_of(path: Path) -> str | None:
    """The name of the binary format that a file's first bytes tell, None for none that is known."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_ZIP) and any(name in start for name in _OFFICE_FILES):
        return "an Office document"
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def refuse_unread(path: Path) -> None:
    """Raise ValueError, naming the way to convert it, for a format that is not read."""
    advice = UNREAD.get(path.suffix.lower())
    if advice is not None:
        raise ValueError(f"{path.suffix} files are not read: {advice} ({path})")


def refuse_structured(path: Path) -> None:
    """Refuse a text that begins as JSON, markup or a table does: its signs would be learned.

    Raises:
        ValueError: naming how to have it read, and how to learn it as it is.
    """
    start = next(decoded(path, _START_BYTES), "")
    if _JSON.match(start):
        what, advice = "JSON", "name it .jsonl (.json for one list), so that its texts are read"
    elif found := _MARKUP.match(start):
        what, advice = ("RTF" if found["rtf"] else "HTML or XML"), _PRINTED
    elif table := _table(start):
        what, advice = table
    else:
        return
    raise ValueError(
        f"{path} holds {what}: {advice}; or, to learn it as it is, say kind='characters' (--kind "
        "characters)"
    )


def _table(start: str) -> tuple[str, str] | None:
    """What a text is, and how to bring it, if its lines are alike as a table's rows are.

    Prose has a space after its commas, and not as many of them in every line.
    """
    for separator, advice in _SEPARATORS.items():
        rows: list[list[str]] = []
        with suppress(csv.Error):
            for row in csv.reader(start.splitlines(True), delimiter=separator, strict=True):
                if row:
                    rows.append(row)
                if len(rows) == _ROWS:
                    break
        # The last one may have been cut.
        rows = rows[:-1] if 1 < len(rows) < _ROWS else rows
        columns = len(rows[0]) if rows else 0
        if columns < 2 or len(rows) < _LEAST_ROWS or any(len(row) != columns for row in rows):
            continue
        if all(cell and not cell[0].isspace() for cell in rows[0]):
            return f"a table of {columns} columns", advice
    return None


def decoded(path: Path, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[str]:
    """A UTF-8 file in pieces: line ends become ``\\n``, and byte-order marks are dropped.

    Raises:
        ValueError: for a file that is not UTF-8, or not text.
    """
    with path.open("rb") as file:
        first = file.read(4)
    if first.startswith(_WIDE):
        raise ValueError(
            f"{path} is UTF-16 or UTF-32; convert it: iconv -f UTF-16 -t UTF-8 {path} > new.txt"
        )
    found = format_of(path)
    if found is not None:
        raise ValueError(f"{path} is {found}, not text; {_NAMED.get(found, _UNPACK)}")
    utf8 = codecs.getincrementaldecoder("utf-8")()
    lines = io.IncrementalNewlineDecoder(utf8, translate=True)
    read = 0
    with path.open("rb") as file:
        while True:
            raw = file.read(chunk_bytes)
            if b"\0" in raw:
                raise ValueError(
                    f"{path} holds a zero byte at offset {read + raw.index(0)}: it is no text, or "
                    "text in UTF-16; convert it to UTF-8, or read it as bytes (kind='bytes')"
                )
            pending = len(utf8.getstate()[0])
            try:
                text = lines.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                offset = read - pending + error.start
                raise ValueError(
                    f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{offset}; convert it (iconv -f ENCODING -t UTF-8), or read it as bytes"
                ) from error
            read += len(raw)
            # Also within: files with marks may have been joined.
            text = text.replace("\ufeff", "")
            if text:
                yield text
            if not raw:
                return


def read_lines(path: Path) -> Iterator[str]:
    """The lines of :func:`decoded`, each with its end."""
    rest = ""
    for piece in decoded(path):
        *whole, rest = (rest + piece).split("\n")
        yield from (line + "\n" for line in whole)
    if rest:
        yield rest


def read_text(path: Path) -> str:
    """All of :func:`decoded`, for a file that may be empty."""
    return "".join(decoded(path))


def function_at(place: str, form: str) -> tuple[Callable[..., Any], str]:
    """The function that ``FILE.py:NAME`` names, and what it is known by. The file is run.

    Args:
        place: the words.
        form: what is expected of them, for the error.

    Returns:
        The function; and the names of file and function with a digest of the file's content, the
        same wherever the file is.

    Raises:
        ValueError: for words of another form, or a file without that function.
        FileNotFoundError: if there is no such file.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py":
        raise ValueError(f"{form}; got {place!r}")
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    found = runpy.run_path(str(path)).get(name)
    if not callable(found):
        raise ValueError(f"{path} holds no function {name!r}")
    return found, f"{path.name}:{name} ({content[:16]})"
