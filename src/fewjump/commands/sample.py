"""``fewjump sample``: draw from a saved model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewjump.commands.choices import GridName, SamplerName

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.data import Vocabulary

FORMATS = (".txt", ".jsonl", ".npy", ".png")


@dataclass
class Options:
    """Draw samples from a saved model, a teacher or a student.

    Without --out they are printed: texts as text, images as shades of characters. The suffix of
    --out chooses the format: .txt, .jsonl (one object per sample, with its tokens), .npy (tokens)
    or .png (a sheet of images).
    """

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, or of a saved model."""

    num_samples: int = 8
    """How many samples."""

    steps: int = 8
    """Steps from noise to data. Each costs one network evaluation, or two (theta-...)."""

    sampler: SamplerName = "ancestral"
    """How to step. ancestral is exact up to drawing positions independently."""

    grid: GridName | None = None
    """How the steps are spread over time. Default: uniform; first-hitting draws its own times."""

    seed: int = 0
    """The same seed gives the same samples, whatever the batch size."""

    prompt: str | None = None
    """Text the samples begin with (for a model of tokens: integers separated by spaces)."""

    length: int | None = None
    """Tokens per sample. Default: what the model was trained on."""

    temperature: float = 1.0
    """Below 1 sharpens every draw, at the price of variety."""

    top_p: float = 1.0
    """Draw only from the most likely tokens of this total probability."""

    batch_size: int | None = None
    """Samples per batch. Default: what fits."""

    out: Path | None = None
    """File to write."""

    scale: int = 4
    """Side of a pixel in a .png sheet."""

    device: str = "cpu"
    """Where to compute, for example cuda."""


def run(options: Options) -> int:
    if options.out is not None and options.out.suffix not in FORMATS:
        raise ValueError(f"--out must end in one of {', '.join(FORMATS)}, got {options.out}")

    import fewjump.sampler
    from fewjump.commands.models import open_model
    from fewjump.data import ImageLevels

    denoiser, vocabulary, _ = open_model(options.path, options.device)
    if options.out is not None and options.out.suffix == ".png":
        if not isinstance(vocabulary, ImageLevels):
            raise ValueError(f".png is for models of images; this one makes {vocabulary.name}")
        if options.scale < 1:
            raise ValueError(f"--scale must be at least 1, got {options.scale}")
    prompt = None
    if options.prompt is not None:
        if isinstance(vocabulary, ImageLevels):
            raise ValueError("--prompt is for models of text; this one makes images")
        prompt = vocabulary.encode(options.prompt)
    result = fewjump.sampler.run(
        denoiser,
        options.num_samples,
        options.steps,
        options.sampler,
        options.grid,
        options.seed,
        length=options.length,
        batch_size=options.batch_size,
        prompt=prompt,
        temperature=options.temperature,
        top_p=options.top_p,
        progress=sys.stderr.isatty(),
    )
    tokens = result.samples.cpu()
    if options.out is None:
        print("\n\n".join(vocabulary.decode(tokens)))
    else:
        save_samples(options.out, tokens, vocabulary, options.scale)
        print(
            f"{options.out}: {len(tokens)} samples, {result.nfe} network evaluations each, "
            f"{result.seconds:.2f} s"
        )
    return 0


def save_samples(path: Path, tokens: Tensor, vocabulary: Vocabulary, scale: int = 4) -> None:
    """Write (N, L) tokens in the format that the suffix of ``path`` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        import numpy as np

        np.save(path, tokens.numpy())
    elif path.suffix == ".png":
        from fewjump.data import ImageLevels
        from fewjump.report import contact_sheet, encode_png

        assert isinstance(vocabulary, ImageLevels)
        sheet = contact_sheet(vocabulary.images(tokens).numpy(), scale=scale, paper=128)
        path.write_bytes(encode_png(sheet))
    else:
        texts = vocabulary.decode(tokens)
        if path.suffix == ".txt":
            content = "\n\n".join(texts) + "\n"
        else:
            lines = [
                json.dumps({"text": text, "tokens": row}, ensure_ascii=False)
                for text, row in zip(texts, tokens.tolist())
            ]
            content = "\n".join(lines) + "\n"
        path.write_text(content, encoding="utf-8")
