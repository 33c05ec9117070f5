"""What the two matching objectives share: known positions, and training times that adapt."""

from __future__ import annotations

from collections.abc import Mapping

from fewjump.objective.base import Objective
from fewjump.objective.known import KnownName, check_known
from fewjump.objective.time_sampling import TimeSampling


class MatchingObjective(Objective):
    """A teacher's objective that may show a part of every sequence, and choose its times."""

    # Options only of runs that use them: what identifies the others stays as it was.
    known: KnownName | None = None
    known_share: float = 0.5
    times: str | None = None
    _times_of: TimeSampling | None = None

    def _set_shared(
        self, known: KnownName | None, known_share: float, times: TimeSampling | None
    ) -> None:
        """Check and keep the shared options.

        Raises:
            ValueError: for an unknown rule of known positions, or a share outside (0, 1).
        """
        check_known(known, known_share)
        if known is not None:
            self.known, self.known_share = known, known_share
            # The given part of a sequence comes from the data.
            self.needs_data = True
        if times is not None:
            self._times_of, self.times = times, times.describe()

    def begin_step(self, step: int) -> None:
        if self._times_of is not None:
            self._times_of.begin_step(step)

    def state(self) -> dict[str, list[float]]:
        return {} if self._times_of is None else self._times_of.state()

    def take_up(self, state: Mapping[str, list[float]]) -> None:
        if self._times_of is not None:
            self._times_of.take_up(state)
