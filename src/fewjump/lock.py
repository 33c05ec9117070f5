"""One writer to a place: a lock of the operating system, which ends with the process."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from fewjump.files import check_writable, folder_made

NOTE_FILE = ".writer.json"

# Places that this process holds, and the thread that does.
_held: dict[str, int] = {}


class BusyError(ValueError):
    """Another process, or another thread of this one, writes to the place."""


def is_main() -> bool:
    """Whether this process speaks and writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def sole_writer(place: Path) -> Iterator[None]:
    """Hold a folder, or a file, while the block runs, so that no other process writes there.

    A folder is made if need be, and is gone again where the block fails without writing
    anything. The lock is ``flock`` on the place: a process that is killed lets go of it. While it
    lasts, ``.writer.json`` says who holds it. A thread may hold a place twice. Of the processes of
    torchrun only the first takes the lock. A file system without such locks (some network ones) is
    told of on stderr, and nothing then stops a second writer.

    Raises:
        BusyError: if another holds it; the message says which process, where and since when.
        PermissionError, NotADirectoryError: if the place cannot be written.
    """
    key = os.path.realpath(place)
    if not is_main() or _held.get(key) == threading.get_ident():
        yield
        return
    if place.is_file():
        check_writable(place.parent)
        made, note = nullcontext(), place.with_name(f".{place.name}{NOTE_FILE}")
    else:
        check_writable(place)
        made, note = folder_made(place), place / NOTE_FILE
    with made:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            if key in _held or not _lock(descriptor, place):
                raise BusyError(_busy(place, note))
            _held[key] = threading.get_ident()
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            holder = {"host": platform.node(), "pid": os.getpid(), "since": now}
            # A courtesy to others: a disk that is full is told of where it matters.
            with suppress(OSError):
                note.write_text(json.dumps(holder) + "\n", encoding="utf-8")
            try:
                yield
            finally:
                del _held[key]
                note.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, place: Path) -> bool:
    """Take the lock; False if another has it, True also where there are none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        reason = "this system has no flock"
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        reason = os.strerror(error.errno or errno.EIO)
    else:
        return True
    print(
        f"fewjump: {place} cannot be locked ({reason}): see to it that nothing else writes there",
        file=sys.stderr,
    )
    return True


def _busy(place: Path, note: Path) -> str:
    who = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(note.read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    return f"{place} is being written by {who}; wait for it to end, or choose another place"
