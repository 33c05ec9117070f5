"""A run that goes wrong: warnings where it does so quietly, its end where numbers overflow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewjump.checkpoint.originals import LARGEST_WEIGHT
from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.objective.elbo import nelbo
from fewjump.random import SampleStreams, fold_seed
from fewjump.sampler import sample
from fewjump.sampler.run import prompt_of_kept
from fewjump.train.diagnostics import entropy_of, pure_noise, rows_of, runs_of
from fewjump.train.distributed import local
from fewjump.train.state import STATE_FILE

Line = Mapping[str, Any]
_BATCH = 256
_STATES, _TIMES = 1, 2


class TrainingWarning(UserWarning):
    """Training goes on, but its result should not be trusted unseen."""


class Monitor:
    """Warn once for each kind of trouble that a line of metrics shows.

    * ``collapse``: the student's entropy, the number of tokens its draws really use, or the share
      of distinct runs in them, is below half the teacher's. The student sees less (time t > s), so
      it should be the *less* certain of the two.
    * ``clipping``: the student's draw of x_s asked for probabilities outside [0, 1] by more than 5%
      on average: the step is too long for its formula (Euler's, mostly).
    * ``ill-conditioned``: recovery of posteriors from ratios put more than a tenth of its mass
      below zero: the kernel's inverse turned the network's error into noise.
    * ``miscalibrated``: in some bin of time the teacher's surprise at true tokens is not what it
      predicts: by more than 15% (and 0.05 nats) and four standard errors. Twice as much where it
      had to be judged on its own samples.

    The numbers that it reads are those of the objective and of
    :class:`fewjump.train.diagnostics.Diagnostics`.
    """

    collapse_share = 0.5
    entropy_floor = 0.02
    support_floor = 1.5
    clipping_limit = 0.05
    recovery_limit = 0.1
    calibration_share, calibration_floor, calibration_errors = 0.15, 0.05, 4.0

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, line: Line) -> dict[str, str]:
        """Kinds of trouble in this line, and what each says; a warning the first time."""
        rules: dict[str, Callable[[Line], str | None]] = {
            "clipping": self._clipping,
            "collapse": self._collapse,
            "ill-conditioned": self._conditioning,
            "miscalibrated": self._calibration,
        }
        found = {kind: text for kind, rule in rules.items() if (text := rule(line)) is not None}
        for kind, message in found.items():
            if kind not in self.seen:
                self.seen.add(kind)
                warnings.warn(f"step {line.get('step')}: {message}", TrainingWarning, stacklevel=3)
        return found

    def _collapse(self, line: Line) -> str | None:
        parts = []
        for name, words, floor in (
            ("entropy", "entropy ({:.3g} nats per position, the teacher's {:.3g})", None),
            ("support", "draws use {:.3g} tokens (the teacher's {:.3g})", self.support_floor),
            ("distinct", "draws hold {:.3g} distinct runs in each (the teacher's {:.3g})", 0.0),
        ):
            student, teacher = line.get(f"student_{name}"), line.get(f"teacher_{name}")
            if student is None or teacher is None:
                continue
            low = self.entropy_floor if floor is None else floor
            if teacher > low and student < self.collapse_share * teacher:
                parts.append(words.format(student, teacher))
        if not parts:
            return None
        return (
            f"the student is collapsing, far below its teacher: {'; '.join(parts)}. Lower lr, "
            "lower max_gap, or match forward (objective='forward', --matching forward); for a "
            "joint student raise data_weight"
        )

    def _clipping(self, line: Line) -> str | None:
        clipped = line.get("clipped_mass")
        if clipped is None or not clipped > self.clipping_limit:
            return None
        return (
            f"the student's draw of x_s overshoots: mass {clipped:.3g} per position was outside "
            "[0, 1] and clipped, so Euler's formula no longer holds; lower max_gap, use more grid "
            "steps, or match student-exact or forward (objective=, --matching)"
        )

    def _conditioning(self, line: Line) -> str | None:
        parts = [
            f"{who}: {line[key]:.3g} on average"
            for who in ("teacher", "student")
            if (line.get(key := f"{who}_recovery_clipped") or 0.0) > self.recovery_limit
        ]
        bins: Sequence[Line] = line.get("calibration") or ()
        parts += [
            f"teacher: {one['clipped']:.3g} at t = {one['t']:g}, condition number "
            f"{one['condition']:.2g}"
            for one in bins
            if one.get("clipped", 0.0) > self.recovery_limit
        ]
        if not parts:
            return None
        return (
            "recovery of posteriors from ratios is ill-conditioned, it put mass below zero "
            f"({'; '.join(parts)}). Keep away from such t (a schedule that ends with less noise), "
            "try method='project', or train a network that gives posteriors; `fewjump verify "
            "recovery --model` shows where it breaks"
        )

    def _calibration(self, line: Line) -> str | None:
        bins: Sequence[Line] = line.get("calibration") or ()
        scale = 2.0 if line.get("calibrated_on") == "own samples" else 1.0
        parts = []
        for one in bins:
            gap = one["realised"] - one["predicted"]
            allowed = max(self.calibration_floor, self.calibration_share * one["predicted"])
            if abs(gap) > max(scale * allowed, self.calibration_errors * one["error"]):
                word = "too sure" if gap > 0 else "too unsure"
                parts.append(
                    f"at t = {one['t']:g} {word} by {abs(gap):.3g} nats per position "
                    f"({one['realised']:.3g} in place of {one['predicted']:.3g})"
                )
        if not parts:
            return None
        return (
            f"the teacher is miscalibrated: {'; '.join(parts)}. A student learns this as it is; "
            "train the teacher longer at these times, give it the data that it was trained on, or "
            "keep the student's grid away from them"
        )


class DivergenceError(RuntimeError):
    """Loss, gradient or weights are no longer finite; the last checkpoint is untouched."""


def not_finite(parameters: Sequence[Tensor]) -> bool:
    """Whether some entry (of this process's part) is NaN, infinite, or what no file may hold."""
    parts = (local(p).detach() for p in parameters)
    return not all(bool((part.abs() <= LARGEST_WEIGHT).all()) for part in parts)


def diagnosis(
    step: int, loss: float, norm: float, parameters: Sequence[Tensor], folder: Path | None
) -> str:
    """What is not finite after a step, why that is likely, and where the last good state lies."""
    if not_finite(parameters):
        what = f"some weights are above {LARGEST_WEIGHT:g} or"
        cause = "the last updates were too large; lower lr or weight_decay, or set clip"
    elif loss == float("inf"):
        what = "the loss is +inf, it is"
        cause = (
            "the student gives probability 0 to a token that the target holds; check that "
            "data and process share their tokens, or lower lr"
        )
    elif loss - loss != 0:
        what = f"the loss is {loss}, it is"
        cause = "the network's output overflowed; lower lr, or use precision='float32'"
    else:
        what = f"the gradient norm is {norm}, it is"
        cause = "the loss is too steep here; lower lr, or raise the objective's min_time"
    return f"step {step}: {what} not finite. Likely cause: {cause}.{kept_in(folder)}"


def kept_in(folder: Path | None) -> str:
    """Where the last good state of a run lies, in a sentence."""
    return "" if folder is None else f" The last good checkpoint is {folder / STATE_FILE}."


class DiversityError(RuntimeError):
    """The student's entropy left the band; the last saved state is untouched."""


class DiversityGuard:
    """Entropies of a student's samples, and the band they must stay in.

    Three numbers in nats per position, always from the same number of sequences and the same seed:

    * ``token``: plug-in entropy of single tokens over the whole set;
    * ``ngram``: plug-in entropy of three neighbouring tokens (fewer if L < 3), divided by three;
    * ``joint``: −log p(x₀)/L. Student: of one step from pure noise, E[−log p^φ(x₀|x_1)], exact
      but for the draws. Teacher: the variational bound on its own samples.

    Each must stay within [low·min(start, teacher), high·max(start, teacher)], start being the
    student's own value before training: a student may go to its teacher, but not past it. Without a
    teacher the band is about the start.

    Args:
        student: as it is before training: its values are the start.
        teacher: sampled with ``teacher_steps`` ancestral steps; or None.
        grid: the times that the student is sampled with.
        samples: sequences in each set.
        rows: (n, L) clean tokens, from which draws have those that the process keeps.
        band: (low, high), 0 ≤ low < 1 < high.

    Attributes:
        start, teacher: the three numbers of either; without a teacher both are the start's.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser | None,
        *,
        grid: Sequence[float],
        length: int,
        samples: int = 256,
        rows: Tensor | None = None,
        band: tuple[float, float] = (0.7, 1.3),
        teacher_steps: int = 64,
        seed: int = 0,
    ) -> None:
        self.band, self.grid, self.length = band, tuple(grid), length
        self.samples, self.seed = samples, seed
        self.rows = rows_of(rows, samples)
        self.start = self.teacher = self.measure(student)
        if teacher is None:
            return
        given = prompt_of_kept(teacher.process, self.rows)
        drawn = sample(teacher, samples, teacher_steps, generator=seed, length=length, **given)
        self.teacher = {**_plug_in(drawn), "joint": self._bound(teacher, drawn)}

    @torch.no_grad()
    def measure(self, student: Denoiser) -> dict[str, float]:
        """``token``, ``ngram`` and ``joint`` of a student. Its mode and streams are left alone."""
        drawn = sample(
            student,
            self.samples,
            None,
            grid=self.grid,
            generator=self.seed,
            length=self.length,
            **prompt_of_kept(student.process, self.rows),
        )
        total = 0.0
        with eval_mode(student):
            for first in range(0, self.samples, _BATCH):
                streams = self._streams(first, _STATES)
                shape = (streams.batch_size, self.length)
                rows = None if self.rows is None else self.rows[first : first + shape[0]]
                x = pure_noise(student, rows, shape, streams)
                law = student(x, 1.0)
                total -= float(law.log_prob(law.sample(streams)).double().sum())
        return {**_plug_in(drawn), "joint": total / self.samples / self.length}

    def __call__(self, step: int, student: Denoiser) -> Mapping[str, float]:
        """Measure, and return every number for the log.

        Raises:
            DiversityError: if one is outside its band; the message says which, and what to do.
        """
        now = self.measure(student)
        for name, value in now.items():
            start, teacher = self.start[name], self.teacher[name]
            low = self.band[0] * min(start, teacher)
            high = self.band[1] * max(start, teacher)
            if not low <= value <= high:
                raise DiversityError(
                    f"step {step}: the student's {name} entropy is {value:.4g} nats per position, "
                    f"outside [{low:.4g}, {high:.4g}] (at the start {start:.4g}, teacher "
                    f"{teacher:.4g}): it is {'collapsing' if value < low else 'falling apart'}. "
                    "Lower lr, raise data_weight, the auxiliary's lr or a reward's anchor, or "
                    "widen the band"
                )
        teacher = {f"teacher_{k}_entropy": v for k, v in self.teacher.items()}
        return {**{f"student_{k}_entropy": v for k, v in now.items()}, **teacher}

    def _bound(self, teacher: Denoiser, drawn: Tensor) -> float:
        total = 0.0
        for first in range(0, self.samples, _BATCH):
            part = drawn[first : first + _BATCH]
            total += float(nelbo(teacher, part, generator=self._streams(first, _TIMES)).sum())
        return total / self.samples / self.length

    def _streams(self, first: int, purpose: int) -> SampleStreams:
        last = min(first + _BATCH, self.samples)
        return SampleStreams(fold_seed(self.seed, purpose), torch.arange(first, last))


def _plug_in(tokens: Tensor) -> dict[str, float]:
    size = min(3, tokens.shape[1])
    token, ngram = (float(entropy_of(runs_of(tokens, width))) for width in (1, size))
    return {"token": token, "ngram": ngram / size}
