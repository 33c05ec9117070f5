"""A teacher's samples as a file of tokens, from which students are distilled without data.

Distillation from rollouts runs the teacher for every batch; this runs it once. The file grows by
whole batches and can be gone on with after any interruption: sample i depends on the seed and on i
alone.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.checkpoint.folder import plain
from fewjump.data import Dataset, Vocabulary, token_file
from fewjump.data.cache import narrowed, token_dtype
from fewjump.denoiser import Denoiser
from fewjump.denoiser.condition import make_condition
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.files import check_file_writable, folder_made, naming, whole_file, write_text
from fewjump.lock import sole_writer
from fewjump.progress import Progress
from fewjump.random import SampleStreams, fold_seed, uniform
from fewjump.sampler import Sampler, run
from fewjump.sampler.arguments import check_options, for_grid
from fewjump.sampler.carried import chosen_sampler
from fewjump.sampler.prompt import make_prompt
from fewjump.sampler.time_grid import GridSpec, check_spec, is_fitted, times_for

# Of NumPy, for an array of two axes.
_HEADER_BYTES = 128
# Purpose of a seed: the guidance scales of the samples.
_SCALES = 1


def rollouts(
    teacher: Denoiser,
    path: str | Path,
    num_samples: int,
    steps: int,
    *,
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    seed: int = 0,
    length: int | None = None,
    batch_size: int = 256,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
    label: Tensor | None = None,
    guidance: float | tuple[float, float] | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool = False,
) -> Path:
    """Draw samples of a teacher into a ``.npy`` file of tokens (N, L), or with classes an ``.npz``.

    The archive holds ``tokens``, ``labels`` and, where they were guided, ``guidance``, as
    :func:`fewjump.data.token_file` reads them: to distil a student that takes the scale.

    The samples lie in ``NAME.part`` until all are there, with what they are in ``NAME.json``.
    The same call goes on where an earlier one stopped; asked for more than a finished file holds,
    it goes on from there.

    Args:
        teacher: any denoiser.
        path: the file, ending in ``.npy``, or in ``.npz`` for a teacher with classes.
        num_samples: N.
        steps, sampler, grid, length: see :func:`fewjump.sampler.run`.
        seed: of all samples.
        batch_size: samples between two writes.
        prompt, fixed: (M, L) given tokens, and which they are; sample i takes row i mod M.
        label: (M,) classes; sample i is of class ``label[i mod M]``. By default all, in turn.
        guidance: scale of classifier-free guidance; or (low, high), from which each sample has a
            scale of its own, drawn uniformly. None for the class's own law.
        vocabulary: what the tokens stand for, to be written down.
        progress: show progress on stderr (:mod:`fewjump.progress`).

    Returns:
        The path.

    Raises:
        ValueError: for arguments that make no sense, or a file of other samples.
        BusyError: if another process writes the file.
        OSError: naming the file, where the disk is full: what is there can be gone on with.
    """
    path = Path(path)
    if label is None and teacher.classes is not None:
        label = torch.arange(teacher.classes)
    pair = _pair(guidance)
    for scale in pair or (None,):
        make_condition(teacher, label, scale)
    classes = teacher.classes
    if label is not None and classes is not None and int(label.max()) == classes:
        raise ValueError(
            f"label must be a class here, 0 to {classes - 1}: students learn from samples "
            "of a class, and are shown some of them without it"
        )
    suffix = ".npy" if label is None else ".npz"
    if path.suffix != suffix:
        what = "rollouts" if label is None else "rollouts by class"
        raise ValueError(f"{what} are kept in a {suffix} file, got {path}")
    length = teacher.length if length is None else length
    if length is None or min(length, num_samples, batch_size) < 1:
        raise ValueError(
            "length, num_samples and batch_size must be at least 1; got "
            f"{length}, {num_samples} and {batch_size}"
        )
    method, grid = chosen_sampler(teacher, sampler, steps, grid)
    check_spec(grid, steps, teacher.process.schedule)
    check_options(method, teacher, grid, True)
    teacher.check_length(length)
    vocab_size, mask = teacher.clean_vocab_size, teacher.process.mask
    rows = 1 if prompt is None else len(prompt)
    make_prompt(prompt, fixed, rows, length, vocab_size, torch.device("cpu"), mask)
    identity = {
        "teacher": weights_checksum(teacher),
        "process": teacher.process.config(),
        "steps": steps,
        "sampler": method.label,
        "grid": grid if grid is None or isinstance(grid, str) else list(map(float, grid)),
        "seed": seed,
        "length": length,
        "prompt": _given(prompt, fixed),
        **({} if label is None else {"label": label.tolist(), "guidance": pair}),
    }
    told = {"samples_of": plain(identity), "data": vocabulary and vocabulary.config()}
    part = path.with_name(path.name + ".part")
    dtype = token_dtype(teacher.process.vocab_size)
    check_file_writable(path)
    _check_same(path, part, told)
    if path.is_file() and label is not None:
        with np.load(path) as archive:
            done = len(archive["tokens"])
    else:
        done = _whole_rows(path if path.is_file() else part, dtype, length)
    if done > num_samples:
        raise ValueError(f"{path} holds {done} samples already, more than {num_samples}")
    if path.is_file() and done == num_samples:
        return path
    if is_fitted(grid):
        # One for all samples, wherever batches end.
        labels = None if label is None else label[:1]
        first = make_condition(teacher, labels, _scales(pair, seed, 0, 1))
        grid = times_for(grid, steps, for_grid(teacher, first), length)
    notes = path.with_suffix(".json")
    with folder_made(path.parent), _held_part(path, part, notes):
        with part.open("r+b") as file:
            write_text(notes, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            file.write(_header(dtype, num_samples, length))
            file.truncate(file.tell() + done * length * dtype.itemsize)
            file.seek(0, os.SEEK_END)
            with Progress(progress, num_samples, done, unit="sample") as bar:
                while done < num_samples:
                    count = min(batch_size, num_samples - done)
                    rows = (
                        None if prompt is None else torch.arange(done, done + count) % len(prompt)
                    )
                    result = run(
                        teacher,
                        count,
                        steps,
                        method,
                        grid,
                        seed,
                        length=length,
                        batch_size=batch_size,
                        prompt=None if prompt is None else prompt[rows],
                        fixed=None if fixed is None else fixed[rows],
                        label=None if label is None else _labels(label, done, count),
                        guidance=_scales(pair, seed, done, count),
                        first=done,
                    )
                    file.write(narrowed(result.samples.cpu().numpy(), dtype).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                    done += count
                    bar.update(count)
        if label is None:
            part.replace(path)
        else:
            arrays: dict[str, Any] = {"labels": _labels(label, 0, num_samples).numpy()}
            scales = _scales(pair, seed, 0, num_samples)
            if scales is not None:
                arrays["guidance"] = scales.numpy()
            with whole_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, tokens=np.load(part), **arrays)
            part.unlink()
    return path


def coupled(
    teacher: Denoiser,
    path: str | Path | None,
    num_samples: int,
    steps: int,
    *,
    seed: int,
    length: int | None = None,
    guidance: float | tuple[float, float] | None = None,
    progress: bool = False,
) -> Dataset:
    """Samples beside the noise that they began from: rows (x₀, x₁) of 2L tokens, all to train on.

    They are drawn by the sampler ``flow-matching``, whose steps redraw nothing. The file holds the
    samples alone, and is made and gone on with as by :func:`rollouts`: what sample i began from
    depends on the seed and on i only.

    Args:
        teacher, num_samples, steps, seed, length, guidance, progress: see :func:`rollouts`.
        path: the file, without its ending; None keeps none.

    Returns:
        The pairs, with the classes and guidance scales of a teacher that has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".npy" if teacher.classes is None else ".npz"
        file = rollouts(
            teacher,
            (Path(folder) / "pairs" if path is None else Path(path)).with_suffix(suffix),
            num_samples,
            steps,
            sampler="flow-matching",
            seed=seed,
            length=length,
            guidance=guidance,
            progress=progress,
        )
        size = teacher.process.vocab_size
        samples = token_file(
            file, vocab_size=size, valid_fraction=0, test_fraction=0, memory_limit=0
        )
        x0 = np.asarray(samples.train)
        # The sampler's first draw from each sample's stream.
        x1 = teacher.process.prior_sample(x0.shape, SampleStreams(seed, torch.arange(len(x0))))
        pairs = np.concatenate([x0, narrowed(x1.numpy(), token_dtype(size))], -1)
    return replace(samples, train=pairs)


def _labels(label: Tensor, first: int, count: int) -> Tensor:
    """Classes of samples ``first`` to ``first`` + ``count`` − 1."""
    return label[torch.arange(first, first + count) % len(label)].cpu()


def _pair(guidance: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """Least and largest scale."""
    if guidance is None:
        return None
    low, high = (guidance, guidance) if isinstance(guidance, int | float) else guidance
    if not low <= high:
        raise ValueError(f"guidance must be (low, high) with low ≤ high, got {low} and {high}")
    return low, high


def _scales(pair: tuple[float, float] | None, seed: int, first: int, count: int) -> Tensor | None:
    """Guidance scales of the same samples: each a function of the seed and its number."""
    if pair is None:
        return None
    streams = SampleStreams(fold_seed(seed, _SCALES), torch.arange(first, first + count))
    return pair[0] + (pair[1] - pair[0]) * uniform((count,), streams)


@contextmanager
def _held_part(path: Path, part: Path, notes: Path) -> Iterator[None]:
    """Hold the file that samples are added to; a new one is gone again if none was added."""
    new = not (path.is_file() or part.is_file())
    if path.is_file() and path.suffix == ".npz":
        with np.load(path) as archive:
            tokens = archive["tokens"]
        with part.open("wb") as file:
            file.write(_header(tokens.dtype, *tokens.shape) + tokens.tobytes())
        path.unlink()
    elif path.is_file():
        path.replace(part)
    part.touch()
    with sole_writer(part), naming(part):
        try:
            yield
        except BaseException:
            if new and part.stat().st_size <= _HEADER_BYTES:
                part.unlink()
                notes.unlink(missing_ok=True)
            raise


def _given(prompt: Tensor | None, fixed: Tensor | None) -> list[Any] | None:
    if prompt is None and fixed is None:
        return None
    if prompt is None or fixed is None or prompt.dim() != 2 or prompt.shape != fixed.shape:
        raise ValueError("prompt and fixed are both (M, L), or neither is given")
    return torch.where(fixed, prompt, -1).tolist()


def _check_same(path: Path, part: Path, told: dict[str, Any]) -> None:
    """Raise ValueError if what lies there are other samples, or nothing says which they are."""
    notes = path.with_suffix(".json")
    if not (path.is_file() or part.is_file()):
        return
    try:
        found = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        other = found.get("samples_of") or {}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{notes}, which says what the samples in {path} are, is damaged ({error}); remove "
            "both, or give another name"
        ) from None
    differing = [k for k, v in told["samples_of"].items() if other.get(k) != v]
    if differing:
        raise ValueError(
            f"{path} holds samples of another run (they differ in {', '.join(differing)}); "
            "give another name, or remove it"
        )


def _header(dtype: np.dtype, num_samples: int, length: int) -> bytes:
    """NumPy's header; it leaves room for the first axis to grow, so its length stays."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {**described, "shape": (num_samples, length)})
    return file.getvalue()


def _whole_rows(file: Path, dtype: np.dtype, length: int) -> int:
    """How many whole samples a file holds; a write that was cut short leaves a part of one."""
    size = file.stat().st_size if file.is_file() else 0
    return max(0, size - len(_header(dtype, 1, length))) // (length * dtype.itemsize)
