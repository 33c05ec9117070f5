"""``fewjump sample``: draw from a saved model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewjump.commands.sample_files import Writer, check_out, open_writer
from fewjump.commands.shared import SamplerOptions, check_draws, labels_in_turn
from fewjump.reading import ReadingOptions, reading_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from fewjump.denoiser import Denoiser
    from fewjump.publish import Pipeline
    from fewjump.sampler import RunProgress


@dataclass
class Subject:
    """What to draw, and how."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of a run or of a saved model; a checkpoint of SEDD, MDLM, UDLM or Duo; folder of a
    masked language model of transformers; or hf:owner/name, a repository of the hub."""

    num_samples: int = 8
    """How many samples."""

    steps: int = 8
    """Steps from noise to data. Each costs one network evaluation, or two (theta-...)."""

    keep_grid: bool = False
    """With --grid fitted: write the times into the model's folder, where --grid fitted finds them
    the next time, for as long as the model is the same."""

    seed: int = 0
    """The same seed gives the same samples, whatever the batch size."""

    prompt: str | None = None
    """Text the samples begin with (for a model of tokens: integers separated by spaces)."""

    infill: str | None = None
    """Text with holes: every [MASK] is one token to draw, the rest is kept. What comes after its
    end, up to the length, is drawn too."""

    length: tuple[int, ...] = ()
    """Tokens per sample. Several numbers are taken in turn, and the shorter samples padded, if the
    model has padding. Default: what the model was trained on."""

    label: tuple[int, ...] = ()
    """Class of the samples, for a model with classes; several are taken in turn. The number after
    the last class asks for none in particular."""

    guidance: float | None = None
    """Scale of classifier-free guidance: above 1 sharper towards the class, at two evaluations a
    step, unless the student takes the scale as an input. Default: 1."""

    temperature: float = 1.0
    """Below 1 sharpens every draw, at the price of variety."""

    top_p: float = 1.0
    """Draw only from the most likely tokens of this total probability."""

    batch_size: int | None = None
    """Samples per batch. Default: what fits."""

    out: Path | None = None
    """File or folder to write."""

    show_steps: bool = False
    """Show, on the error stream, how the first sample of each batch comes about."""

    scale: int = 4
    """Side of a pixel in a .png."""

    device: str = "cpu"
    """Where to compute, for example cuda."""

    progress: bool = True
    """Show progress, if it takes a while."""


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
    if options.scale < 1:
        raise ValueError(f"--scale must be at least 1, got {options.scale}")
    if options.keep_grid:
        _check_can_keep(options)

    from fewjump.commands.models import open_model
    from fewjump.publish import Pipeline

    denoiser, vocabulary, folder = open_model(options.path, options.device, reading_values(options))
    if options.keep_grid:
        _keep_grid(denoiser, options, folder)
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
            sampler=options.sampler,
            grid=options.grid,
            temperature=options.temperature,
            top_p=options.top_p,
            batch_size=options.batch_size,
            progress=options.progress and not options.show_steps,
            callback=_observer(pipe, writer, options.show_steps),
        )
    if options.out is not None:
        print(
            f"{options.out}: {options.num_samples} samples, {result.nfe} network evaluations each, "
            f"{result.seconds:.2f} s"
        )
    return 0


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


def _keep_grid(denoiser: Denoiser, options: Options, folder: Path) -> None:
    from fewjump.checkpoint.folder import write_grids
    from fewjump.progress import tell
    from fewjump.sampler import FITTED, carry_grid
    from fewjump.sampler.time_grid import times_for

    length = options.length[0] if options.length else denoiser.length
    times = times_for(FITTED, options.steps, denoiser, length)
    carry_grid(denoiser, times, length)
    write_grids(denoiser, folder)
    listed = " ".join(f"{t:.4g}" for t in times.tolist())
    tell(f"{folder}: keeps the times {listed} for {options.steps} steps")


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
