"""Progress on stderr: a bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from types import TracebackType

from tqdm import tqdm

#: Seconds between two lines where there is no terminal; what takes less says nothing.
LINE_SECONDS = 10.0


def on_terminal() -> bool:
    """Whether stderr is a terminal that a line can be written on again."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def tell(text: str) -> None:
    """A line on stderr. Work does not end because nobody reads it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as ``1:05:09``, or ``5:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts what is done of ``total``.

    Args:
        enabled: say anything at all.
        total: how much there is to do; may be set later.
        done: how much of it was there at the start.
        unit: what is counted.
        label: what is being done.
    """

    def __init__(
        self,
        enabled: bool,
        total: int | None = None,
        done: int = 0,
        unit: str = "step",
        label: str = "",
    ) -> None:
        self.total, self.done, self.unit, self.label = total, done, unit, label
        self.enabled = enabled
        self.begun = self.spoke = time.monotonic()
        self._before = done
        self._bar: tqdm | None = None
        if enabled and on_terminal():
            self._bar = tqdm(
                total=total, initial=done, unit=unit, desc=label or None, dynamic_ncols=True
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(count)
        elif self.enabled and time.monotonic() - self.spoke >= LINE_SECONDS:
            self.spoke = time.monotonic()
            left = self.left()
            eta = "" if left is None else f"  {left} left"
            label = f"{self.label} " if self.label else ""
            tell(f"{label}{self.unit} {self.done}/{self.total}{eta}")

    def left(self) -> str | None:
        """The time that the rest takes at the pace so far; None while nothing can be said."""
        made = self.done - self._before
        if self.total is None or not made:
            return None
        return duration((time.monotonic() - self.begun) / made * (self.total - self.done))

    def note(self, **values: str) -> None:
        """Show values at the end of the bar."""
        if self._bar is not None:
            self._bar.set_postfix(values)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.close()
