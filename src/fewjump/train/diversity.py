"""The guard of on-policy training: a student that gives up variety is stopped, not saved.

Reverse KL forgives a student that leaves modes out, and every judge of single samples rewards it.
So the variety of what the student's sampler emits is measured as the training goes, against the
teacher's and against its own at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective.elbo import nelbo
from fewjump.random import SampleStreams, fold_seed
from fewjump.sampler import sample

_BATCH = 256
_STATES, _TIMES = 1, 2


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
    student's own value before training: a student may go to its teacher, but not past it.

    Args:
        student: as it is before training: its values are the start.
        teacher: sampled with ``teacher_steps`` steps.
        grid: the times that the student is sampled with.
        length: L.
        samples: sequences in each set.
        band: (low, high), 0 ≤ low < 1 < high.
        teacher_steps: of the ancestral sampler.
        seed: of every draw.

    Attributes:
        start, teacher: the three numbers of either.

    Raises:
        ValueError: for options outside their range.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        *,
        grid: Sequence[float],
        length: int,
        samples: int = 256,
        band: tuple[float, float] = (0.7, 1.3),
        teacher_steps: int = 64,
        seed: int = 0,
    ) -> None:
        low, high = band
        if not 0 <= low < 1 < high < math.inf:
            raise ValueError(f"the band must satisfy 0 ≤ low < 1 < high, got {band}")
        if samples < 2 or teacher_steps < 1:
            raise ValueError(
                f"samples must be at least 2 and teacher_steps 1: {samples} and {teacher_steps}"
            )
        self.band, self.grid, self.length = (low, high), tuple(grid), length
        self.samples, self.seed = samples, seed
        self.start = self.measure(student)
        drawn = sample(teacher, samples, teacher_steps, generator=seed, length=length)
        self.teacher = {**_plug_in(drawn), "joint": self._bound(teacher, drawn)}

    @torch.no_grad()
    def measure(self, student: Denoiser) -> dict[str, float]:
        """``token``, ``ngram`` and ``joint`` of a student. Its mode and streams are left alone."""
        drawn = sample(
            student, self.samples, None, grid=self.grid, generator=self.seed, length=self.length
        )
        training = student.training
        student.eval()
        total = 0.0
        for first in range(0, self.samples, _BATCH):
            streams = self._streams(first, _STATES)
            shape = (streams.batch_size, self.length)
            x = student.process.prior_sample(shape, streams, student.device)
            law = student(x, 1.0)
            total -= float(law.log_prob(law.sample(streams)).double().sum())
        student.train(training)
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
                    "Lower lr, raise data_weight or the auxiliary's lr, or widen the band"
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
    return {"token": _entropy(tokens, 1), "ngram": _entropy(tokens, size) / size}


def _entropy(tokens: Tensor, size: int) -> float:
    """Plug-in entropy in nats of ``size`` neighbouring tokens, all positions together."""
    runs = tokens.unfold(1, size, 1).reshape(-1, size)
    counts = runs.unique(dim=0, return_counts=True)[1].double()
    share = counts / counts.sum()
    return -float((share * share.log()).sum())
