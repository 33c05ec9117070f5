"""``fewjump verify warm-start``: what starting the student at the teacher is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewjump.reading import ReadingOptions, reading_values
from fewjump.verify.checks import CheckOptions, refuse_without_model

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult


@dataclass
class Options(ReadingOptions, CheckOptions):
    """Distil from the teacher's weights and from random ones: loss and quality as they train.

    A small transformer teacher is trained on a Markov chain whose posterior is known, then
    distilled twice with the same data and noise. With --model, a saved teacher is distilled
    instead, judged by how surprised its student is by true tokens.
    """

    matching: Literal["forward", "student-euler", "student-exact", "student-trapezoidal"] = (
        "forward"
    )
    """How x_s is drawn."""

    steps: int = 320
    """Optimiser steps of the students."""

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
    """Train both, judge as they go, say what the warm start saved.

    Raises:
        ValueError: for options outside their range.
        FileNotFoundError: if there is no model.
    """
    if options.steps < 8 or options.teacher_steps < 1 or options.seeds < 1:
        raise ValueError("--steps must be at least 8, --teacher-steps and --seeds at least 1")
    refuse_without_model(options)

    from fewjump.verify.warm_start_measure import (
        Subject,
        chain_subject,
        measure,
        saved_subject,
    )
    from fewjump.verify.warm_start_words import answer

    seeds = [options.seed + k for k in range(options.seeds)]
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        subject: Subject = (
            chain_subject(seed, options.teacher_steps)
            if options.model is None
            else saved_subject(options.model, options.data, seed, reading_values(options))
        )
        rows += measure(subject, options.matching, options.steps, seed)
    return answer(rows, options)


def main() -> None:
    """The committed result: ``python -m fewjump.verify.warm_start``; about 3 CPU minutes."""
    from fewjump.verify.committed import commit_check

    commit_check("warm-start", Options())


if __name__ == "__main__":
    main()
