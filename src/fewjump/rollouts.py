"""A teacher's samples as a file of tokens, from which students are distilled without data.

Distillation from rollouts runs the teacher for every batch; this runs it once. The file grows by
whole batches and can be gone on with after any interruption: sample i depends on the seed and on i
alone.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.checkpoint.folder import plain
from fewjump.data import Vocabulary
from fewjump.data.cache import narrowed, token_dtype
from fewjump.denoiser import Denoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.files import check_file_writable, folder_made, naming, write_text
from fewjump.lock import sole_writer
from fewjump.progress import Progress
from fewjump.sampler import Sampler, get_sampler, run
from fewjump.sampler.prompt import make_prompt
from fewjump.sampler.run import check_options
from fewjump.sampler.time_grid import GridSpec, check_spec

# Of NumPy, for an array of two axes.
_HEADER_BYTES = 128


def rollouts(
    teacher: Denoiser,
    path: str | Path,
    num_samples: int,
    steps: int,
    *,
    sampler: str | Sampler = "ancestral",
    grid: GridSpec | None = None,
    seed: int = 0,
    length: int | None = None,
    batch_size: int = 256,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool = False,
) -> Path:
    """Draw samples of a teacher into a ``.npy`` file of tokens (N, L).

    The samples lie in ``NAME.npy.part`` until all are there, with what they are in ``NAME.json``.
    The same call goes on where an earlier one stopped; asked for more than a finished file holds,
    it goes on from there.

    Args:
        teacher: any denoiser.
        path: the file, ending in ``.npy``.
        num_samples: N.
        steps, sampler, grid, length: see :func:`fewjump.sampler.run`.
        seed: of all samples.
        batch_size: samples between two writes.
        prompt, fixed: (M, L) given tokens, and which they are; sample i takes row i mod M.
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
    if path.suffix != ".npy":
        raise ValueError(f"rollouts are kept in a .npy file, got {path}")
    length = teacher.length if length is None else length
    if length is None or min(length, num_samples, batch_size) < 1:
        raise ValueError(
            "length, num_samples and batch_size must be at least 1; got "
            f"{length}, {num_samples} and {batch_size}"
        )
    method = get_sampler(sampler)
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
    }
    told = {"samples_of": plain(identity), "data": vocabulary and vocabulary.config()}
    part = path.with_name(path.name + ".part")
    dtype = token_dtype(teacher.process.vocab_size)
    check_file_writable(path)
    _check_same(path, part, told)
    done = _whole_rows(path if path.is_file() else part, dtype, length)
    if done > num_samples:
        raise ValueError(f"{path} holds {done} samples already, more than {num_samples}")
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
                        first=done,
                    )
                    file.write(narrowed(result.samples.cpu().numpy(), dtype).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                    done += count
                    bar.update(count)
        part.replace(path)
    return path


@contextmanager
def _held_part(path: Path, part: Path, notes: Path) -> Iterator[None]:
    """Hold the file that samples are added to; a new one is gone again if none was added."""
    new = not (path.is_file() or part.is_file())
    if path.is_file():
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
