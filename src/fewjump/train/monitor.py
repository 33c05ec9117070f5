"""Watches a distillation for the two ways it quietly goes wrong, and says so once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping


class TrainingWarning(UserWarning):
    """Training goes on, but its result should not be trusted unseen."""


class Monitor:
    """Warn once for each kind of trouble that a line of metrics shows.

    * ``collapse``: the student's entropy is below half the teacher's. The student sees less
      (time t > s), so it should be the *less* certain of the two.
    * ``clipping``: Euler steps were asked for probabilities above 1 by more than 5% on average:
      the step is too long for Euler's formula.
    """

    collapse_share = 0.5
    entropy_floor = 0.02
    clipping_limit = 0.05

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, line: Mapping[str, float]) -> list[str]:
        """Kinds of trouble in this line; each is reported as a warning the first time."""
        found: dict[str, str] = {}
        student, teacher = line.get("student_entropy"), line.get("teacher_entropy")
        if (
            student is not None
            and teacher is not None
            and teacher > self.entropy_floor
            and student < self.collapse_share * teacher
        ):
            found["collapse"] = (
                f"the student's entropy ({student:.3g} nats per position) has fallen far below "
                f"the teacher's ({teacher:.3g}): it is collapsing; lower lr, or use "
                "intermediate='forward'"
            )
        clipped = line.get("clipped_mass")
        if clipped is not None and clipped > self.clipping_limit:
            found["clipping"] = (
                f"Euler steps overshoot: mass {clipped:.3g} above 1 per position was clipped; "
                "lower max_gap, use more grid steps, or intermediate='student-exact' or 'forward'"
            )
        for kind, message in found.items():
            if kind not in self.seen:
                self.seen.add(kind)
                warnings.warn(f"step {line.get('step')}: {message}", TrainingWarning, stacklevel=3)
        return sorted(found)
