"""``fewjump verify step-size``: how far may x_s lie from x_t before its draw does harm?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewjump.reading import ReadingOptions, reading_values
from fewjump.verify.checks import CheckOptions, refuse_without_model

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult


@dataclass
class Options(ReadingOptions, CheckOptions):
    """Distil at several step sizes, with Euler, exact and second-order student draws of x_s.

    A long step lets a student learn from much cleaner states; a short one keeps the draw of x_s
    right. On a problem of 4³ states with an imperfect teacher every error is exact. The break point
    of a draw is the step from which its student is worse than the teacher it learned from. With
    --model, the same on a saved teacher, judged by how surprised it is by true tokens.
    """

    processes: list[str] = field(default_factory=lambda: ["uniform", "absorbing"])
    """Processes of the problem."""

    gaps: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.35, 0.5])
    """Largest t − s, as shares of the whole time."""

    grids: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Few-step forms: numbers of equal jumps that a student is trained for, and sampled with."""

    seeds: int = 3
    """Repetitions, for the intervals."""

    steps: int = 400
    """Optimiser steps of each student."""

    teacher_error: float = 0.5
    """Standard deviation of the teacher's logits at t = 1; it grows linearly from 0."""

    model: Path | None = None
    """A saved teacher, the run folder that holds it, or a checkpoint of SEDD, MDLM, UDLM or Duo, in
    place of the problem."""

    data: str | None = None
    """What the model was trained on: a file, `digits` or `text`. Default: its own samples."""


def run(options: Options) -> CheckResult:
    """Distil, judge, and say where each draw breaks.

    Raises:
        ValueError: for options outside their range.
        FileNotFoundError: if there is no model.
    """
    unknown = [name for name in options.processes if name not in ("uniform", "absorbing")]
    if unknown:
        raise ValueError(f"unknown process {unknown[0]!r}; known: uniform, absorbing")
    if len(options.gaps) < 2 or not all(0 < gap <= 1 for gap in options.gaps):
        raise ValueError("--gaps needs two numbers or more, each in (0, 1]")
    if any(k < 1 for k in options.grids) or options.seeds < 1 or options.steps < 1:
        raise ValueError("--grids, --seeds and --steps must be at least 1")
    refuse_without_model(options)

    from fewjump.verify.step_size_words import answer

    if options.model is not None:
        return answer(_saved(options), options, "nats per position, of true tokens")
    from fewjump.verify.step_size_measure import measure

    seeds = [options.seed + k for k in range(options.seeds)]
    rows = []
    for number, family in enumerate(options.processes):
        # One process is enough to compare grids.
        grids = options.grids if number == 0 else []
        rows += measure(family, options.gaps, grids, seeds, options.steps, options.teacher_error)
    return answer(rows, options, "KL of the posterior, nats per position")


def _saved(options: Options) -> list[dict[str, Any]]:
    import copy

    from fewjump.objective import freeze
    from fewjump.verify.saved_model import open_saved, surprise, tokens_for
    from fewjump.verify.step_size_measure import measure_saved

    assert options.model is not None
    saved = open_saved(options.model, reading_values(options))
    data = tokens_for(saved, options.data, count=1024, seed=options.seed)
    held_out, training = data[: len(data) // 4], data[len(data) // 4 :]

    return measure_saved(
        freeze(copy.deepcopy(saved.denoiser)),
        training,
        options.gaps,
        [options.seed + k for k in range(options.seeds)],
        options.steps,
        lambda denoiser, seed: surprise(denoiser, held_out, seed),
        saved.denoiser.as_student,
    )


def main() -> None:
    """The committed result: ``python -m fewjump.verify.step_size``; about 4 CPU minutes."""
    from fewjump.verify.committed import commit_check

    commit_check("step-size", Options())


if __name__ == "__main__":
    main()
