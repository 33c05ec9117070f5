"""Scripts in processes of their own that begin with torch imported, which takes seconds.

They are forked from a server that has imported it and nothing of the library. A test of what a new
interpreter does, such as its order of sets or its streams, needs :mod:`subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
# Optimisers import the second one when the first of them is made.
_SERVER.set_forkserver_preload(["torch", "torch._dynamo"])


def start(script: Path, *words: str, errors: Path, **environment: str) -> BaseProcess:
    """Begin a script as ``python script words…``; what it says goes to the file ``errors``."""
    process = _SERVER.Process(target=_run, args=(str(script), words, str(errors), environment))
    process.start()
    return process


def finish(process: BaseProcess, errors: Path, timeout: float) -> None:
    """Wait for a script, which must end well."""
    process.join(timeout)
    assert process.exitcode == 0, errors.read_text()


def _run(script: str, words: tuple[str, ...], errors: str, environment: dict[str, str]) -> None:
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    sys.argv = [script, *words]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
