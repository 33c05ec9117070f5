"""A teacher's samples as a file of tokens, from which students are distilled without data.

Distillation from rollouts runs the teacher for every batch; this runs it once. The file grows by
whole batches and can be gone on with after any interruption: sample i depends on the seed and on i
alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fewjump.checkpoint.plain import plain
from fewjump.data import Vocabulary
from fewjump.data.cache import token_dtype
from fewjump.denoiser import Denoiser
from fewjump.progress import Progress
from fewjump.sampler import Sampler, get_sampler, run
from fewjump.sampler.grid import GridSpec, check_spec
from fewjump.sampler.trajectory import check_options
from fewjump.train.state import weights_checksum


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
    identity = {
        "teacher": weights_checksum(teacher),
        "process": teacher.process.config(),
        "steps": steps,
        "sampler": method.name,
        "grid": grid if grid is None or isinstance(grid, str) else list(map(float, grid)),
        "seed": seed,
        "length": length,
        "prompt": _given(prompt, fixed),
    }
    told = {"samples_of": plain(identity), "data": vocabulary and vocabulary.config()}
    part = path.with_name(path.name + ".part")
    _take_up(path, part, told)
    dtype = token_dtype(teacher.process.vocab_size)
    with part.open("r+b" if part.is_file() else "w+b") as file:
        done = _prepare(file, dtype, num_samples, length)
        if done > num_samples:
            raise ValueError(f"{path} holds {done} samples already, more than {num_samples}")
        with Progress(progress, num_samples, done, unit="sample") as bar:
            while done < num_samples:
                count = min(batch_size, num_samples - done)
                rows = None if prompt is None else torch.arange(done, done + count) % len(prompt)
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
                file.write(result.samples.cpu().numpy().astype(dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
                done += count
                bar.update(count)
    part.replace(path)
    return path


def _given(prompt: Tensor | None, fixed: Tensor | None) -> list[Any] | None:
    if prompt is None and fixed is None:
        return None
    if prompt is None or fixed is None or prompt.dim() != 2 or prompt.shape != fixed.shape:
        raise ValueError("prompt and fixed are both (M, L), or neither is given")
    return torch.where(fixed, prompt, -1).tolist()


def _take_up(path: Path, part: Path, told: dict[str, Any]) -> None:
    """Write down what the samples are; a finished file becomes one to go on with.

    Raises:
        ValueError: if what lies there are other samples.
    """
    notes = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() or part.is_file():
        found = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        other = found.get("samples_of") or {}
        differing = [k for k, v in told["samples_of"].items() if other.get(k) != v]
        if differing:
            raise ValueError(
                f"{path} holds samples of another run (they differ in {', '.join(differing)}); "
                "give another name, or remove it"
            )
        if path.is_file():
            path.replace(part)
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    notes.write_text(text, encoding="utf-8")


def _prepare(file: IO[bytes], dtype: np.dtype, num_samples: int, length: int) -> int:
    """Write the header for all samples; returns how many whole ones follow, and goes behind."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    # NumPy leaves room in the header for the first axis to grow.
    np.lib.format.write_array_header_1_0(file, {**described, "shape": (num_samples, length)})
    start, size = file.tell(), length * dtype.itemsize
    done = max(0, file.seek(0, os.SEEK_END) - start) // size
    file.truncate(start + done * size)
    file.seek(start + done * size)
    return done
