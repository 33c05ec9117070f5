"""What the matching objectives share about training times that adapt."""

from __future__ import annotations

from collections.abc import Mapping

from fewjump.objective.base import Objective
from fewjump.objective.time_sampling import TimeSampling


class TimedObjective(Objective):
    """An objective whose times and weights may come from a :class:`TimeSampling`."""

    _times_of: TimeSampling | None = None

    def _set_times(self, times: TimeSampling | None) -> None:
        self._times_of = times
        if times is not None:
            # Public, and so a part of the run's identity.
            self.times = times.describe()

    def begin_step(self, step: int) -> None:
        if self._times_of is not None:
            self._times_of.begin_step(step)

    def state(self) -> dict[str, list[float]]:
        return {} if self._times_of is None else self._times_of.state()

    def take_up(self, state: Mapping[str, list[float]]) -> None:
        if self._times_of is not None:
            self._times_of.take_up(state)
