"""Texts from files and data sets, one document after another, never all in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fewjump.tokenizing import HUB, require

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
_ROWS = 1024


def is_documents(source: str | Path) -> bool:
    """Whether a name alone says that it holds documents."""
    path = Path(source)
    return str(source).startswith(HUB) or path.suffix in SUFFIXES or path.is_dir()


def read_documents(
    source: str | Path, field: str = "text", split: str = "train", limit: int | None = None
) -> Iterator[str]:
    """The documents of a source, in its order; empty ones are left out.

    Args:
        source: ``.jsonl`` (an object a line), ``.parquet``, a folder of ``datasets``'
            ``save_to_disk``, ``hf:owner/name`` or ``hf:owner/name:configuration`` (streamed from
            the hub), or a text file, whose documents are set apart by empty lines.
        field: where an object's or a row's text is.
        split: part of a data set that has several.
        limit: stop after this many documents.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: for a source that is missing, needs an
            extra, or has no such field; at the first document.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 (or None), got {limit}")
    texts = _of_source(source, field, split)
    yield from islice((text for text in texts if text), limit)


def _of_source(source: str | Path, field: str, split: str) -> Iterator[str]:
    if str(source).startswith(HUB):
        return _of_hub(str(source).removeprefix(HUB), field, split)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, field, split)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder at {path}")
    if path.suffix == ".parquet":
        return _of_parquet(path, field)
    if path.suffix in (".jsonl", ".ndjson"):
        return _of_lines(path, field)
    return _of_text(path)


def _of_lines(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
            text = record.get(field) if isinstance(record, dict) else record
            if not isinstance(text, str):
                known = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise ValueError(
                    f"line {number} of {path} has no text in {field!r} (it has {known}); say which "
                    "field holds it"
                )
            yield text


def _of_text(path: Path) -> Iterator[str]:
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines).strip("\n")
                    lines = []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}; convert it") from error
    if lines:
        yield "".join(lines).strip("\n")


def _of_parquet(path: Path, field: str) -> Iterator[str]:
    require("pyarrow", "reading Parquet", "train")
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
    datasets = require("datasets", "reading a data set's folder", "train")
    try:
        data = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{path} is no folder that datasets' save_to_disk wrote: {error}"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        _check_field(split, list(data), str(path), "split")
        data = data[split]
    _check_field(field, data.column_names, str(path))
    return _of_rows(data.select_columns([field]), field, str(path))


def _of_hub(name: str, field: str, split: str) -> Iterator[str]:
    datasets = require("datasets", "reading a data set of the hub", "train")
    name, _, configuration = name.partition(":")
    data = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
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
