"""``fewjump sample``: draw from a saved model."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Annotated

import tyro

from fewjump.commands.shared import (
    DecodingName,
    SamplerOptions,
    check_draws,
    labels_in_turn,
    make_sampler,
)
from fewjump.files import (
    check_file_writable,
    check_replaceable,
    whole_file,
    whole_folder,
    write_bytes,
)
from fewjump.reading import ReadingOptions, reading_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewjump.data import ImageLevels, Vocabulary
    from fewjump.denoiser import Denoiser
    from fewjump.publish import Pipeline
    from fewjump.sampler import RunProgress, Sampler

FORMATS = (".txt", ".jsonl", ".npy", ".png")
_OF_A_FOLDER = re.compile(r"\d{5,}\.(png|txt)")


@dataclass
class Subject:
    """What to draw, and how.

    Attributes:
        path: folder of a run or of a saved model; a checkpoint of SEDD, MDLM, UDLM or Duo; folder
            of a masked language model of transformers; or hf:owner/name, a repository of the hub.
        num_samples: how many samples.
        steps: steps from noise to data. Each costs one network evaluation, or two (theta-...).
        keep_grid: with --grid fitted: write the times into the model's folder, where --grid fitted
            finds them the next time, for as long as the model is the same.
        seed: the same seed gives the same samples, whatever the batch size.
        prompt: text the samples begin with (for a model of tokens: integers separated by spaces).
        infill: text with holes: every [MASK] is one token to draw, the rest is kept. What comes
            after its end, up to the length, is drawn too.
        length: tokens per sample. Several numbers are taken in turn, and the shorter samples
            padded, if the model has padding. Default: what the model was trained on.
        label: class of the samples, for a model with classes; several are taken in turn. The number
            after the last class asks for none in particular.
        guidance: scale of classifier-free guidance: above 1 sharper towards the class, at two
            evaluations a step, unless the student takes the scale as an input. Default: 1.
        temperature: below 1 sharpens every draw, at the price of variety.
        top_p: draw only from the most likely tokens of this total probability.
        decoding: how a student that draws token after token (autoregressive, any-order) draws: one
            after the other; or all side by side, by fixed-point iteration (the same samples) or by
            draft and verification (of the same law).
        draft: with --decoding draft, and implying it: the model that drafts, such as a shared-chain
            student of the same teacher. Default: what the student's own network says of each token.
        batch_size: samples per batch. Default: what fits.
        out: file or folder to write.
        show_steps: show, on the error stream, how the first sample of each batch comes about.
        scale: side of a pixel in a .png.
        device: where to compute, for example cuda.
        progress: show progress, if it takes a while.
    """

    path: Annotated[Path, tyro.conf.Positional]
    num_samples: int = 8
    steps: int = 8
    keep_grid: bool = False
    seed: int = 0
    prompt: str | None = None
    infill: str | None = None
    length: tuple[int, ...] = ()
    label: tuple[int, ...] = ()
    guidance: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    decoding: DecodingName = "sequential"
    draft: Path | None = None
    batch_size: int | None = None
    out: Path | None = None
    show_steps: bool = False
    scale: int = 4
    device: str = "cpu"
    progress: bool = True


@dataclass
class Options(ReadingOptions, SamplerOptions, Subject):
    """Draw samples from a saved model, a teacher or a student.

    Without --out they are printed, each batch as soon as it is done: texts as text, images as
    shades of characters. The suffix of --out chooses the format: .txt, .jsonl (one object per
    sample, with its tokens), .npy (tokens) or .png (a sheet of images); a name without a suffix is
    a folder with a file for each sample.
    """


def run(options: Options) -> int:
    check_draws([options.steps], options.num_samples)
    check_out(options.out)
    for flag, values in (("--label", options.label), ("--length", options.length)):
        if len(values) > options.num_samples:
            raise ValueError(
                f"{flag} has {len(values)} values, which samples take in turn, and there are "
                f"{options.num_samples} samples: give a larger --num-samples, or fewer values"
            )
    if options.scale < 1:
        raise ValueError(f"--scale must be at least 1, got {options.scale}")
    if options.keep_grid:
        _check_can_keep(options)
    sampler = make_sampler(options.sampler, options.sampler_options)

    from fewjump.progress import tell
    from fewjump.publish import Pipeline
    from fewjump.publish.models import open_model
    from fewjump.sampler.carried import not_learned

    denoiser, vocabulary, folder = open_model(options.path, options.device, reading_values(options))
    draft = _draft(options, denoiser, vocabulary)
    if options.keep_grid:
        _keep_grid(denoiser, sampler, options, folder)
    if note := not_learned(denoiser, sampler, options.steps, options.grid):
        tell(note)
    pipe = Pipeline(denoiser, vocabulary)
    writer = open_writer(options.out, vocabulary, options.scale)
    with writer:
        result = pipe(
            options.num_samples,
            options.steps,
            generator=options.seed,
            prompt=options.prompt,
            infill=options.infill,
            length=options.length or None,
            label=labels_in_turn(options.label, options.num_samples),
            guidance=options.guidance,
            sampler=sampler,
            grid=options.grid,
            temperature=options.temperature,
            top_p=options.top_p,
            decoding=options.decoding,
            draft=draft,
            batch_size=options.batch_size,
            progress=options.progress and not options.show_steps,
            callback=_observer(pipe, writer, options.show_steps),
        )
    if options.out is not None:
        print(
            f"{options.out}: {options.num_samples} samples, {result.nfe} network evaluations each, "
            f"{result.seconds:.2f} s"
        )
    if result.decoding is not None:
        tell(str(result.decoding))
    return 0


def _draft(options: Options, denoiser: Denoiser, vocabulary: Vocabulary) -> Denoiser | None:
    """The model that drafts; what it is for is checked before it is opened."""
    from fewjump.checkpoint.opening import is_original, place_of
    from fewjump.data import Tokens
    from fewjump.publish.models import open_model
    from fewjump.sampler.arguments import SEQUENTIAL, make_decoding

    decoding = options.decoding
    if options.draft is not None and decoding == SEQUENTIAL:
        decoding = "draft"
    if options.draft is not None and decoding != "draft":
        raise ValueError(f"--draft is for --decoding draft, not --decoding {decoding}")
    make_decoding(denoiser, decoding, None, 1)
    if options.draft is None:
        return None
    # What an original does not say; a saved model says it.
    place = place_of(options.draft)
    reading = reading_values(options) if is_original(place) else None
    draft, said, _ = open_model(place, options.device, reading)
    if said != vocabulary and not any(isinstance(one, Tokens) for one in (said, vocabulary)):
        raise ValueError(
            f"--draft {options.draft} and the model have different vocabularies; draft with a "
            "model of the same data"
        )
    return draft


def _check_can_keep(options: Options) -> None:
    from fewjump.checkpoint.folder import check_can_keep
    from fewjump.checkpoint.opening import place_of
    from fewjump.tokenizing import is_hub

    if options.grid != "fitted" or len(options.length) > 1:
        raise ValueError("--keep-grid needs --grid fitted, and one --length at most")
    if is_hub(options.path):
        raise ValueError(
            "--keep-grid writes into the model's folder, and a hub repository is none of yours; "
            "save it first: fewjump.load(name).save_pretrained(folder)"
        )
    check_can_keep(place_of(options.path))


def _keep_grid(denoiser: Denoiser, sampler: Sampler | None, options: Options, folder: Path) -> None:
    from fewjump.checkpoint.folder import write_grids
    from fewjump.denoiser.condition import make_condition
    from fewjump.progress import tell
    from fewjump.sampler import FITTED, carry_grid
    from fewjump.sampler.arguments import check_options, for_grid
    from fewjump.sampler.time_grid import times_for

    length = options.length[0] if options.length else denoiser.length
    labels = labels_in_turn(options.label, options.num_samples)
    condition = make_condition(denoiser, labels, options.guidance, options.num_samples)
    check_options(sampler, denoiser, FITTED, True)
    times = times_for(FITTED, options.steps, for_grid(denoiser, condition), length)
    carry_grid(denoiser, times, length)
    write_grids(denoiser, folder)
    listed = " ".join(f"{t:.4g}" for t in times.tolist())
    fitted = "" if condition is None else ", fitted to the first sample's class and used for all"
    tell(f"{folder}: keeps the times {listed} for {options.steps} steps{fitted}")


def _observer(pipe: Pipeline, writer: Writer, show_steps: bool) -> Callable[[RunProgress], None]:
    """Hands finished batches to ``writer``, and shows the way there."""
    from fewjump.progress import tell

    def watch(seen: RunProgress) -> None:
        if show_steps:
            text = pipe.vocabulary.show(seen.x[0], pipe.mask)
            title = f"sample {int(seen.indices[0])}, step {seen.step} of {seen.steps}"
            tell(f"{title}:{chr(10) if chr(10) in text else ' '}{text}")
        if seen.step == seen.steps:
            writer.add(seen.x.cpu())

    return watch


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
    from fewjump.config import optional
    from fewjump.data import ImageLevels

    if not isinstance(vocabulary, ImageLevels):
        raise ValueError(f".png is for models of images; this one makes {vocabulary.name}")
    optional("PIL.Image", "a picture", "report")
    return vocabulary


def _sheet(vocabulary: ImageLevels, tokens: Tensor, scale: int) -> bytes:
    from fewjump.report import contact_sheet, encode_png

    pictures = vocabulary.images(tokens).numpy()
    return encode_png(contact_sheet(pictures, scale=scale, paper=128))
