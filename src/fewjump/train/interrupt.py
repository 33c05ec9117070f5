"""Ctrl-C and SIGTERM as a request to finish the step, save and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """Training was asked to stop; its state is saved and the message says how to go on."""


class StopRequest:
    """Set once a signal arrived; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM within the block (in the main thread; elsewhere nothing is set)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = {kind: signal.signal(kind, request._handle) for kind in kinds}
    try:
        yield request
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
