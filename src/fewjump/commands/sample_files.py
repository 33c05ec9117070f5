"""Where samples go: printed, or written in the format that a name asks for, batch by batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.data import ImageLevels, Vocabulary

FORMATS = (".txt", ".jsonl", ".npy", ".png")


class Writer:
    """Takes batches of tokens in order; a context manager that finishes what it wrote.

    This one prints. Nothing is opened before the first batch: a run that is refused leaves a file
    of that name alone.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.count = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def add(self, tokens: Tensor) -> None:
        """Take a batch (B, L)."""
        texts = self.vocabulary.decode(tokens)
        print(("\n" if self.count else "") + "\n\n".join(texts), flush=True)
        self.count += len(texts)


class LineWriter(Writer):
    """A text file, or lines of JSON, that grows with every batch."""

    def __init__(self, vocabulary: Vocabulary, path: Path) -> None:
        super().__init__(vocabulary)
        self.path = path
        self.file: IO[str] | None = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, tokens: Tensor) -> None:
        texts = self.vocabulary.decode(tokens)
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("w", encoding="utf-8")
        if self.path.suffix == ".txt":
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".npy":
            np.save(self.path, tokens.numpy())
        else:
            self.path.write_bytes(_sheet(_images(self.vocabulary), tokens, self.scale))

    def add(self, tokens: Tensor) -> None:
        self.batches.append(tokens)


class FolderWriter(Writer):
    """A file for each sample: ``00000.png`` for images, ``00000.txt`` for texts."""

    def __init__(self, vocabulary: Vocabulary, folder: Path, scale: int) -> None:
        super().__init__(vocabulary)
        self.folder, self.scale = folder, scale

    def add(self, tokens: Tensor) -> None:
        from fewjump.data import ImageLevels

        self.folder.mkdir(parents=True, exist_ok=True)
        for row in tokens:
            name = self.folder / f"{self.count:05d}"
            if isinstance(self.vocabulary, ImageLevels):
                sheet = _sheet(self.vocabulary, row[None], self.scale)
                name.with_suffix(".png").write_bytes(sheet)
            else:
                (text,) = self.vocabulary.decode(row)
                name.with_suffix(".txt").write_text(text, encoding="utf-8")
            self.count += 1


def open_writer(out: Path | None, vocabulary: Vocabulary, scale: int) -> Writer:
    """The writer for ``out``.

    Raises:
        ValueError: if it asks for what the vocabulary has not.
        ModuleNotFoundError: for pictures without Pillow, naming the extra.
    """
    from fewjump.data import ImageLevels

    if out is None:
        return Writer(vocabulary)
    if out.suffix in (".txt", ".jsonl"):
        return LineWriter(vocabulary, out)
    if out.suffix in (".npy", ".png"):
        if out.suffix == ".png":
            _images(vocabulary)
        return WholeWriter(vocabulary, out, scale)
    if out.is_file():
        raise ValueError(f"{out} is a file; give a folder, or a name with a suffix")
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
