"""Texts from files and data sets, one document after another, never all in memory."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from fewjump.config import check_count, optional
from fewjump.textfile import check_file, decoded, read_lines, read_text, refuse_unread
from fewjump.tokenizing import HUB, hub_name, is_hub

_ROWS = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_documents(source: str | Path) -> bool:
    """Whether a name alone says that it holds documents."""
    return is_hub(source) or Path(source).suffix.lower() in READERS or Path(source).is_dir()


def read_documents(
    source: str | Path, field: str = "text", split: str = "train", limit: int | None = None
) -> Iterator[str]:
    """The documents of a source, in its order; empty ones are left out.

    Args:
        source: ``.jsonl`` or ``.ndjson`` (an object a line), ``.json`` (the same, or one list),
            ``.csv``, ``.tsv``, ``.parquet``, a folder of ``datasets``' ``save_to_disk``,
            ``hf:owner/name`` or ``hf:owner/name:configuration`` (streamed from the hub), or a text
            file, whose documents are set apart by empty lines.
        field: where an object's or a row's text is.
        split: part of a data set that has several.
        limit: stop after this many documents.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: for a source that is missing, needs an
            extra, or has no such field; at the first document.
    """
    if limit is not None:
        check_count(limit, "the number of documents to read (limit=, --documents)")
    texts = _of_source(source, field, split)
    yield from islice((text for text in texts if text), limit)


def unused_by(source: str | Path) -> set[str]:
    """Those of ``field`` and ``split`` that say nothing of documents of this kind."""
    if is_hub(source) or Path(source).is_dir():
        return set()
    return {"split"} if Path(source).suffix.lower() in READERS else {"field", "split"}


def _of_source(source: str | Path, field: str, split: str) -> Iterator[str]:
    if is_hub(source):
        return _of_hub(source, field, split)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, field, split)
    check_file(path)
    refuse_unread(path)
    read = READERS.get(path.suffix.lower())
    return _of_text(path) if read is None else read(path, field)


def _of_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number} of {path} is not JSON, of which every line is to hold one object: "
                f"{error}"
            ) from error
        yield _of_record(record, field, f"line {number} of {path}")


def _of_json(path: Path, field: str) -> Iterator[str]:
    """One list, or an object a line."""
    start = next((piece.lstrip() for piece in decoded(path) if piece.strip()), "")
    if not start.startswith("["):
        yield from _of_lines(path, field)
        return
    try:
        records = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for number, record in enumerate(records, 1):
        yield _of_record(record, field, f"entry {number} of {path}")


def _of_record(record: Any, field: str, where: str) -> str:
    text = record
    if isinstance(record, dict) and field in record:
        text = _text(record[field], field, where)
    if not isinstance(text, str):
        known = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(
            f"{where} has no text in {field!r} (it has {known}); say which field holds it"
        )
    if (half := _SURROGATE.search(text)) is not None:
        raise ValueError(
            f"{where} holds half of a character, \\u{ord(half[0]):04x}, at place {half.start()} of "
            "its text, which was cut there; put the whole one in its place, or U+FFFD"
        )
    return text


def _of_table(path: Path, field: str, delimiter: str) -> Iterator[str]:
    rows = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        _check_field(field, names, str(path))
        if names.count(field) > 1:
            raise ValueError(f"{path} has several columns {field!r}; rename all but one")
        for row in rows:
            if row and len(row) != len(names):
                raise ValueError(
                    f"the row that ends in line {rows.line_num} of {path} has {len(row)} columns, "
                    f"its header {len(names)}; quote texts that hold a separator or a line end"
                )
            if row:
                yield row[names.index(field)]
    except csv.Error as error:
        raise ValueError(
            f"line {rows.line_num} of {path} is no row of a table: {error}; save the texts as "
            ".jsonl instead"
        ) from error


def _of_text(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for line in read_lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines).strip("\n")
            lines = []
    if lines:
        yield "".join(lines).strip("\n")


def _of_parquet(path: Path, field: str) -> Iterator[str]:
    optional("pyarrow", "reading Parquet", "train")
    from pyarrow import ArrowInvalid, parquet

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    _check_field(field, file.schema_arrow.names, str(path))
    for batch in file.iter_batches(_ROWS, columns=[field]):
        for text in batch.column(0).to_pylist():
            yield _text(text, field, str(path))


def _of_folder(path: Path, field: str, split: str) -> Iterator[str]:
    datasets = optional("datasets", "reading a data set's folder", "train")
    try:
        data = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{path} is no folder that datasets' save_to_disk wrote ({error}); give one file, such "
            "as a .jsonl"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        _check_field(split, list(data), str(path), "split")
        data = data[split]
    elif split != "train":
        raise ValueError(f"{path} has no parts; leave out the split {split!r} (--split)")
    _check_field(field, data.column_names, str(path))
    return _of_rows(data.select_columns([field]), field, str(path))


def _of_hub(source: str | Path, field: str, split: str) -> Iterator[str]:
    datasets = optional("datasets", "reading a data set of the hub", "train")
    place, _, configuration = str(source).removeprefix(HUB).partition(":")
    name, revision = hub_name(place)
    data = datasets.load_dataset(
        name, configuration or None, split=split, revision=revision, streaming=True
    )
    return _of_rows(data, field, name)


def _of_rows(rows: Any, field: str, where: str) -> Iterator[str]:
    for row in rows:
        if field not in row:
            _check_field(field, list(row), where)
        yield _text(row[field], field, where)


def _check_field(name: str, known: list[str], where: str, what: str = "field") -> None:
    if name not in known:
        raise ValueError(f"{where} has no {what} {name!r}; it has {', '.join(known)}")


def _text(value: Any, field: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{field!r} of {where} holds {type(value).__name__}, not text")
    return value


#: Readers of documents by the end of a file's name.
READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".jsonl": _of_lines,
    ".ndjson": _of_lines,
    ".json": _of_json,
    ".csv": partial(_of_table, delimiter=","),
    ".tsv": partial(_of_table, delimiter="\t"),
    ".parquet": _of_parquet,
}
