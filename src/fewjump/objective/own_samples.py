"""What the methods share that train a student on its own samples, for the steps of one sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from fewjump.config import one_of
from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Given, Objective
from fewjump.options.sampled import OwnSamplesOptions, StatesName
from fewjump.random import Generator

Inspect = Callable[[int, Denoiser], Mapping[str, float]]


@dataclass(eq=False)
class OwnSamples(Objective, OwnSamplesOptions):
    """A loss of a student's own samples at the states that its sampler meets.

    Attributes:
        source: x_t from data noised to t_k (``forward``), or from pure noise by the student's own
            k steps (``student``; no data).
        grid: decreasing times from 1 to 0: those the student is sampled with.
    """

    source: StatesName = "student"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("source", self.source, get_args(StatesName))
        if self.data_weight and self.source != "forward":
            raise ValueError("data_weight needs x_t from data: use source='forward'")
        self.grid, self.steps = self.few_step_times(), None
        self.needs_data = self.source == "forward"
        self._inspect: Inspect | None = None

    def watch(self, inspect: Inspect) -> None:
        """Have ``inspect(step, student)`` called before a state is saved.

        It returns numbers for the log, or raises to end the run without saving: see
        :mod:`fewjump.train.monitor`.
        """
        self._inspect = inspect

    def rehearse(self, few: Callable[[], Tensor]) -> None:
        """Try what the loss asks of samples, (N, L) from ``few``, before anything is written."""

    def before_save(self, step: int, student: Denoiser) -> Mapping[str, float]:
        return {} if self._inspect is None else self._inspect(step, self.own(student))

    def own(self, model: Denoiser) -> Denoiser:
        """The student in what is trained."""
        return model

    def _states(
        self,
        student: Denoiser,
        batch: Tensor,
        k: Tensor,
        t: Tensor,
        generator: Generator,
        given: Given | None = None,
    ) -> Tensor:
        """x_t, (B, L), where the sampler of the grid meets it, or would if it were exact.

        Args:
            student: whose sampler it is.
            batch: (B, L) clean tokens; from the student's own steps those are read that are kept.
            k: (B,) step of the grid at which each row is wanted.
            t: (B,) its time.
            generator: source of randomness.
            given: positions that are shown clean.
        """
        process, grid = student.process, self.few_step_times()
        given = Given(batch, None, process) if given is None else given
        # At the noisiest time too, data show what noise never touches: where they end, say.
        x = given.pin(process.noise_for(batch, generator))
        if self.source == "forward":
            noised = given.pin(process.corrupt(batch, 0.0, t, generator))
            return torch.where((k == 0)[:, None], x, noised)
        for now, after, step in zip(grid, grid[1:-1], range(len(grid))):
            drawn = given.condition(student(x, now)).sample(generator)
            moved = given.pin(process.bridge(x, drawn, after, now, generator))
            x = torch.where((k > step)[:, None], moved, x)
        return x
