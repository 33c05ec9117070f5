"""What a distillation's monitors look at beside the loss: draws of the student, and the teacher.

Everything here draws from streams of its own and records no gradient, so that a training's numbers
are the same with it and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.law.product import as_product
from fewjump.random import SampleStreams, fold_seed
from fewjump.sampler import sample
from fewjump.sampler.run import prompt_of_kept

#: Middles of the bins of time in which the teacher is judged.
BINS = (0.125, 0.375, 0.625, 0.875)
TEACHER_STEPS = 32
_STUDENT, _TEACHER, _NOISE = 1, 2, 3


class Diagnostics:
    """Looks at a student while it is distilled, and once at its teacher.

    Args:
        student: as it is trained; its mode is put back after every look.
        teacher: frozen.
        length: L.
        seed: of every draw.
        data: (N, L) clean tokens for the teacher's calibration; None uses its own samples.
        rows: (N, L) clean tokens, from which draws have those that the process keeps.
        samples: sequences in every set that is compared.
        batch_size: sequences at a time, which changes no number; all by default.

    Raises:
        ValueError: for fewer than 2 samples, or an empty batch.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        *,
        length: int,
        seed: int,
        data: Tensor | None = None,
        rows: Tensor | None = None,
        samples: int = 32,
        batch_size: int | None = None,
    ) -> None:
        self.batch_size = samples if batch_size is None else batch_size
        if samples < 2 or self.batch_size < 1:
            raise ValueError(
                f"samples must be at least 2 and batch_size 1, got {samples} and {batch_size}"
            )
        self.student, self.teacher = student, teacher
        self.length, self.seed, self.samples = length, seed, samples
        self.data = data
        self.rows = rows_of(rows, samples)
        self._drawn: Tensor | None = None
        self._reference: dict[str, float] | None = None

    def look(self) -> dict[str, float]:
        """Variety of the student's one-step draws beside that of the teacher's samples.

        ``student_support`` and ``teacher_support``: e^H of a token's frequencies, the number of
        tokens that are really used. ``student_distinct`` and ``teacher_distinct``: distinct runs of
        three tokens (fewer if L < 3) as a share of all runs. Both sides from equally many
        sequences. The teacher's are of its 32-step ancestral sampler, and drawn once.
        """
        drawn = []
        with _watching(self.student) as student:
            for index in torch.arange(self.samples).split(self.batch_size):
                streams = SampleStreams(fold_seed(self.seed, _STUDENT), index)
                rows = None if self.rows is None else self.rows[index]
                x = pure_noise(student, rows, (index.shape[0], self.length), streams)
                drawn.append(student(x, 1.0).sample(streams))
        mine = variety(torch.cat(drawn))
        if self._reference is None:
            self._reference = variety(self._own_samples())
        out = {f"student_{name}": value for name, value in mine.items()}
        return out | {f"teacher_{name}": value for name, value in self._reference.items()}

    def calibration(self) -> list[dict[str, Any]]:
        """The teacher's surprise at true tokens, as it predicts it and as it is, by bin of time.

        For each bin: ``t``; ``predicted``, the mean entropy of its marginals; ``realised``, the
        mean of −log p(x₀ⁱ|x_t), at least 1e-9 each; ``error``, the standard error of their
        difference over sequences; in nats per position, over the masked ones where there is a
        mask. For score networks also ``clipped`` and ``condition``, of the recovery.
        """
        x0 = self._own_samples() if self.data is None else self.data[: 4 * self.samples]
        return [self._bin(x0, number, t) for number, t in enumerate(BINS)]

    def _bin(self, x0: Tensor, number: int, t: float) -> dict[str, Any]:
        process, gaps, predicted, positions = self.teacher.process, [], 0.0, 0
        recovered: list[Any] = []
        with _watching(self.teacher) as teacher:
            for index in torch.arange(x0.shape[0]).split(self.batch_size):
                part = x0[index.to(x0.device)].to(teacher.device)
                streams = SampleStreams(fold_seed(self.seed, _NOISE, number), index)
                x_t = process.corrupt(part, 0.0, t, streams)
                entropy, surprise = _entropy_and_surprise(teacher, x_t, part, t)
                keep = process.hidden(x_t)
                gaps.append(((surprise - entropy) * keep).sum(-1))
                predicted += float((entropy * keep).sum())
                positions += int(keep.sum())
                recovered.append(getattr(teacher, "last_recovery", None))
        gap, count = torch.cat(gaps), max(1, positions)
        out: dict[str, Any] = {
            "t": t,
            "predicted": predicted / count,
            "realised": (predicted + float(gap.sum())) / count,
            "error": float(gap.std()) * gap.shape[0] ** 0.5 / count,
        }
        if recovered[-1] is not None:
            clipped = torch.cat([r.clipped_mass.flatten() for r in recovered])
            out["clipped"] = float(clipped.mean())
            out["condition"] = float(recovered[-1].condition_number.max())
        return out

    def _own_samples(self) -> Tensor:
        if self._drawn is None:
            with _watching(self.teacher) as teacher:
                seed = fold_seed(self.seed, _TEACHER)
                self._drawn = sample(
                    teacher,
                    self.samples,
                    TEACHER_STEPS,
                    generator=seed,
                    length=self.length,
                    batch_size=self.batch_size,
                    **prompt_of_kept(teacher.process, self.rows),
                )
        return self._drawn


def pure_noise(
    denoiser: Denoiser, rows: Tensor | None, shape: tuple[int, int], streams: SampleStreams
) -> Tensor:
    """States (B, L) at time 1, which show what the process keeps of clean ``rows``, if any."""
    if rows is None:
        return denoiser.process.prior_sample(shape, streams, denoiser.device)
    return denoiser.process.noise_for(rows.to(denoiser.device), streams)


def rows_of(data: Tensor | None, count: int) -> Tensor | None:
    """So many rows of data (N, L), in order and over again."""
    return None if data is None else data[torch.arange(count, device=data.device) % len(data)]


def variety(tokens: Tensor) -> dict[str, float]:
    """``support`` and ``distinct`` of a set of sequences (N, L)."""
    runs = runs_of(tokens, min(3, tokens.shape[1]))
    return {
        "support": float(entropy_of(runs_of(tokens, 1)).exp()),
        "distinct": runs.unique(dim=0).shape[0] / runs.shape[0],
    }


def runs_of(tokens: Tensor, size: int) -> Tensor:
    """Every ``size`` neighbouring tokens of sequences (N, L), all positions together: (n, size)."""
    return tokens.unfold(1, size, 1).reshape(-1, size)


def entropy_of(runs: Tensor) -> Tensor:
    """Plug-in entropy of rows (n, size) in nats, a scalar in float64."""
    counts = runs.unique(dim=0, return_counts=True)[1].double()
    share = counts / counts.sum()
    return -(share * share.log()).sum()


def _entropy_and_surprise(
    teacher: Denoiser, x_t: Tensor, x0: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """Entropy of each position's marginal, and −log of what it gives x₀: (B, L) float64 each."""
    law = as_product(teacher(x_t, t))
    surprise = -law.token_log_prob(x0).double()
    return law.entropy().double(), surprise.clamp(max=20.7)


@contextmanager
def _watching(denoiser: Denoiser) -> Iterator[Denoiser]:
    """The denoiser in eval mode and without gradients; mode and counters as before, afterwards."""
    counts = {m: m.evaluations for m in denoiser.modules() if isinstance(m, Denoiser)}
    report = getattr(denoiser, "last_recovery", None)
    try:
        with eval_mode(denoiser), torch.no_grad():
            yield denoiser
    finally:
        for module, count in counts.items():
            module.evaluations = count
        if hasattr(denoiser, "last_recovery"):
            denoiser.last_recovery = report  # type: ignore[assignment]
