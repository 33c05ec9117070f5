"""Where samples go: printed, or written in the format that a name asks for."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from fewjump.files import (
    check_file_writable,
    check_replaceable,
    whole_file,
    whole_folder,
    write_bytes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.data import ImageLevels, Vocabulary

FORMATS = (".txt", ".jsonl", ".npy", ".png")
_OF_A_FOLDER = re.compile(r"\d{5,}\.(png|txt)")


class Writer:
    """Takes batches of tokens in order; a context manager that finishes what it wrote.

    This one prints. The others write beside what is there, and replace it once all samples are
    drawn.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.count = 0
        self.stack = ExitStack()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def add(self, tokens: Tensor) -> None:
        """Take a batch (B, L)."""
        texts = self.vocabulary.decode(tokens)
        print(("\n" if self.count else "") + "\n\n".join(texts), flush=True)
        self.count += len(texts)


class LineWriter(Writer):
    """A text file, or lines of JSON."""

    def __init__(self, vocabulary: Vocabulary, path: Path) -> None:
        super().__init__(vocabulary)
        self.path = path
        self.file: IO[str] | None = None

    def add(self, tokens: Tensor) -> None:
        texts = self.vocabulary.decode(tokens)
        if self.file is None:
            temporary = self.stack.enter_context(whole_file(self.path))
            self.file = self.stack.enter_context(temporary.open("w", encoding="utf-8"))
        if _form(self.path) == ".txt":
            self.file.write(("\n" if self.count else "") + "\n\n".join(texts) + "\n")
        else:
            for number, (text, row) in enumerate(zip(texts, tokens.tolist()), self.count):
                line = {"index": number, "text": text, "tokens": row}
                self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()
        self.count += len(texts)


class WholeWriter(Writer):
    """An array, or a sheet of images, which is written at the end."""

    def __init__(self, vocabulary: Vocabulary, path: Path, scale: int) -> None:
        super().__init__(vocabulary)
        self.path, self.scale = path, scale
        self.batches: list[Tensor] = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self.batches:
            return
        import numpy as np
        import torch

        tokens = torch.cat(self.batches)
        if _form(self.path) == ".npy":
            with whole_file(self.path) as temporary, temporary.open("wb") as file:
                np.save(file, tokens.numpy())
        else:
            write_bytes(self.path, _sheet(_images(self.vocabulary), tokens, self.scale))

    def add(self, tokens: Tensor) -> None:
        self.batches.append(tokens)


class FolderWriter(Writer):
    """A file for each sample: ``00000.png`` for images, ``00000.txt`` for texts."""

    def __init__(self, vocabulary: Vocabulary, folder: Path, scale: int) -> None:
        super().__init__(vocabulary)
        self.path, self.scale = folder, scale
        self.folder: Path | None = None

    def add(self, tokens: Tensor) -> None:
        from fewjump.data import ImageLevels

        if self.folder is None:
            self.folder = self.stack.enter_context(whole_folder(self.path))
        for row in tokens:
            name = self.folder / f"{self.count:05d}"
            if isinstance(self.vocabulary, ImageLevels):
                sheet = _sheet(self.vocabulary, row[None], self.scale)
                name.with_suffix(".png").write_bytes(sheet)
            else:
                (text,) = self.vocabulary.decode(row)
                name.with_suffix(".txt").write_text(text, encoding="utf-8")
            self.count += 1


def check_out(out: Path | None) -> None:
    """Raise if samples cannot be written to ``out``, a file or a folder of samples and no more.

    Raises:
        ValueError: for another kind of file, or a folder that holds other files.
        PermissionError, NotADirectoryError, IsADirectoryError: if it cannot be written.
    """
    if out is None:
        return
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise ValueError(
            f"--out {out} is a device or a pipe, and what is written is replaced whole; leave "
            "--out out to print, and send that where it should go"
        )
    if _form(out) in FORMATS:
        check_file_writable(out)
    elif out.suffix or out.is_file():
        raise ValueError(
            f"--out must end in one of {', '.join(FORMATS)}, or name a folder; got {out}"
        )
    else:
        own = [path.name for path in out.glob("*") if _OF_A_FOLDER.fullmatch(path.name)]
        check_replaceable(out, own)


def _form(path: Path) -> str:
    """The suffix that says how to write, in whatever case it is typed."""
    return path.suffix.lower()


def open_writer(out: Path | None, vocabulary: Vocabulary, scale: int) -> Writer:
    """The writer for ``out``.

    Raises:
        ValueError: if it asks for what the vocabulary has not.
        ModuleNotFoundError: for pictures without Pillow, naming the extra.
    """
    from fewjump.data import ImageLevels

    if out is None:
        return Writer(vocabulary)
    if _form(out) in (".txt", ".jsonl"):
        return LineWriter(vocabulary, out)
    if _form(out) in (".npy", ".png"):
        if _form(out) == ".png":
            _images(vocabulary)
        return WholeWriter(vocabulary, out, scale)
    if isinstance(vocabulary, ImageLevels):
        _images(vocabulary)
    return FolderWriter(vocabulary, out, scale)


def _images(vocabulary: Vocabulary) -> ImageLevels:
    """The vocabulary, if pictures can be made of it here."""
    from fewjump.data import ImageLevels
    from fewjump.tokenizing import require

    if not isinstance(vocabulary, ImageLevels):
        raise ValueError(f".png is for models of images; this one makes {vocabulary.name}")
    require("PIL.Image", "a picture", "report")
    return vocabulary


def _sheet(vocabulary: ImageLevels, tokens: Tensor, scale: int) -> bytes:
    from fewjump.report import contact_sheet, encode_png

    pictures = vocabulary.images(tokens).numpy()
    return encode_png(contact_sheet(pictures, scale=scale, paper=128))
