"""``fewjump verify times``: do times that adapt beat uniform ones, in sampling and in training?"""

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
    """Compare time grids at equal evaluations, and ways to draw training times at equal steps.

    Grids: uniform, cosine, log-linear, and one that is fitted to the teacher (--grid fitted of
    sample). Training: product students whose times are drawn and weighed in each of the ways of
    distill --times. Both are judged by a bound on -log p of unseen sequences under the few-step
    sampler, on the same sequences and noise. A small transformer teacher is trained on a Markov
    chain; with --model, your own is taken.
    """

    steps: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Numbers of evaluations; each divides 32."""

    training: int = 150
    """Optimiser steps of each student; 0 leaves the training out."""

    sequences: int = 512
    """Sequences that a grid is fitted to, and as many unseen ones that all are judged on."""

    teacher_steps: int = 400
    """Optimiser steps of the teacher."""

    seeds: int = 3
    """Repetitions, for the intervals."""

    model: Path | None = None
    """A saved teacher, the run folder that holds it, or a checkpoint of SEDD, MDLM, UDLM or Duo, in
    place of the problem."""

    data: str | None = None
    """What the model was trained on: a file, `digits` or `text`. Default: its own samples."""


def run(options: Options) -> CheckResult:
    """Fit, train, judge, and say what to use.

    Raises:
        ValueError: for options outside their range, or a model whose sampler has no such bound.
        FileNotFoundError: if there is no model.
    """
    if not options.steps or any(step < 1 or 32 % step for step in options.steps):
        raise ValueError(f"--steps must be divisors of 32, got {options.steps}")
    if options.training < 0 or options.teacher_steps < 1 or options.seeds < 1:
        raise ValueError("--training must be at least 0, --teacher-steps and --seeds at least 1")
    if options.sequences < 8:
        raise ValueError(f"--sequences must be at least 8, got {options.sequences}")
    refuse_without_model(options)

    from fewjump.verify.times_measure import (
        chain_bench,
        grid_rows,
        saved_bench,
        training_rows,
    )
    from fewjump.verify.times_words import answer

    steps = sorted(set(options.steps))
    rows: list[dict[str, Any]] = []
    for seed in (options.seed + k for k in range(options.seeds)):
        bench = (
            chain_bench(seed, options.teacher_steps, options.sequences)
            if options.model is None
            else saved_bench(
                options.model, options.data, options.sequences, seed, reading_values(options)
            )
        )
        rows += grid_rows(bench, steps, seed)
        if options.training:
            rows += training_rows(bench, steps, options.training, seed)
    return answer(rows, options)


def main() -> None:
    """The committed result: ``python -m fewjump.verify.times``; about 4 CPU minutes."""
    from fewjump.verify.committed import commit_check

    commit_check("times", Options(seeds=5, sequences=2048))


if __name__ == "__main__":
    main()
