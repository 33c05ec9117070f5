"""The ``fewjump`` command: a table of verbs, and how a failure is told.

Nothing heavy is imported before a verb's arguments are accepted, so ``--help`` and usage errors
answer at once. Each verb is a file in :mod:`fewjump.commands`: a dataclass of options and a
function ``run(options)``; one whose options depend on its words has ``main(words)`` in their place.
"""

from __future__ import annotations

import codecs
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from io import TextIOWrapper
from typing import TextIO

from fewjump import __version__

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

VERBS: dict[str, str] = {
    "demo": "train, distil, sample and compare on a small problem; ends in a report page",
    "train": "train a teacher: a discrete diffusion model of your data",
    "distill": "distil a teacher into a student that needs few evaluations",
    "refine": "refine a student on its own samples, with its variety watched",
    "rollouts": "keep a teacher's samples on disk, to distil from without data",
    "inspect": "say what a checkpoint is, of this library or of SEDD, MDLM, UDLM or Duo",
    "sample": "draw samples from a saved model",
    "evaluate": "measure a saved model's samples at several numbers of evaluations",
    "compare": "train several students of one teacher under one budget, and judge all alike",
    "report": "turn the results of one or more runs into one HTML page",
    "verify": "check the mathematics by enumeration, or measure where the method breaks",
}

# What a user's own input can cause; anything else is a failure at run time.
_INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ModuleNotFoundError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; the process's own when None.

    Returns:
        The exit code: 0 fine, 1 a failure while running, 2 bad usage or input, 130 interrupted.
    """
    with _terminal(), _ended_by_signal():
        return _main(list(sys.argv[1:] if argv is None else argv))


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM, as a cluster sends it, ends a verb like Ctrl-C: what is half written is removed."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated")

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _main(words: list[str]) -> int:
    debug = "--debug" in words or bool(os.environ.get("FEWJUMP_DEBUG"))
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if words else USAGE
    if words[0] in ("-V", "--version", "version"):
        print(f"fewjump {__version__}")
        return OK
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
        return _complain(f"there is no verb {verb!r}; {hint}", USAGE)
    try:
        code = _run(verb, rest)
        # What does not get out is told of here, not by the interpreter at its end.
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
    except KeyboardInterrupt as stop:
        # A training run says here how to go on.
        return _complain(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: not worth a word.
        _to_nowhere(sys.stdout, sys.stderr)
        return OK
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            # Most likely the output itself, on a disk that is full.
            _to_nowhere(sys.stdout)
        if debug:
            traceback.print_exc()
        code = USAGE if isinstance(error, _INPUT_ERRORS) else FAILED
        return _complain(_in_flags(verb, _one_line(error)), code, hint=not debug)


def usage() -> str:
    """The top-level help."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{about}" for name, about in VERBS.items())
    return (
        "fewjump: distil a discrete diffusion model into a few-step sampler, and see what it cost\n"
        "\n"
        "usage: fewjump VERB [options]      fewjump VERB --help explains a verb\n"
        "\n"
        f"{verbs}\n"
        "\n"
        "options of every verb:\n"
        "  --config FILE  read options from a YAML file; flags given beside it win\n"
        "  --debug        show the whole traceback of an error\n"
        "  --version      print the version\n"
        "\n"
        "start here: fewjump demo"
    )


def _run(verb: str, words: list[str]) -> int:
    from fewjump.commands.arguments import parse

    command = importlib.import_module(f"fewjump.commands.{verb}")
    if hasattr(command, "main"):
        return command.main(words)
    return command.run(parse(command.Options, words, prog=f"fewjump {verb}"))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    elif isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "can't allocate memory" in text or "out of memory" in text:
        return "there is not enough memory; make the model or the batch smaller"
    if not isinstance(error, (*_INPUT_ERRORS, RuntimeError, OSError)) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text


def _in_flags(verb: str, message: str) -> str:
    """The message with the verb's flags in place of the library's arguments."""
    from fewjump.commands.arguments import in_flags

    with suppress(ImportError, AttributeError):
        return in_flags(message, importlib.import_module(f"fewjump.commands.{verb}").Options)
    return message


def _complain(message: str, code: int, hint: bool = False) -> int:
    more = " (--debug shows where)" if hint and code == FAILED else ""
    with suppress(OSError):
        print(f"fewjump: {message}{more}", file=sys.stderr, flush=True)
    return code


# -- the terminal -------------------------------------------------------------------------------

# What this library's own sentences hold beyond ASCII, as a terminal without it can show it.
_PLAIN = str.maketrans(
    {"≥": ">=", "≤": "<=", "→": "->", "–": "-", "−": "-", "×": "x", "…": "...", "’": "'", "²": "^2"}
)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Of :func:`codecs.register_error`: the nearest in ASCII, or an escape such as ``\\u2400``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("fewjump.plainly", _plainly)


@contextmanager
def _terminal() -> Iterator[None]:
    """Streams that take every character, and are there; warnings in one line.

    What an encoding has no letter for becomes an escape on stdout, so that no two samples look the
    same that are not, and something near it on stderr. A stream that was closed goes nowhere.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # A file that is opened later must not get the number of a stream.
            mode = "r" if name == "stdin" else "w"
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            with suppress(OSError):
                if stream.fileno() != descriptor:
                    os.dup2(stream.fileno(), descriptor)
            setattr(sys, name, stream)
    for stream, handler in ((sys.stdout, "backslashreplace"), (sys.stderr, "fewjump.plainly")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=handler)
    shown = warnings.formatwarning
    warnings.formatwarning = _warning
    try:
        yield
    finally:
        warnings.formatwarning = shown


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"fewjump: warning: {' '.join(str(message).split())}\n"


def _to_nowhere(*streams: TextIO) -> None:
    """Let what is still to be written, and what follows, go nowhere without an error."""
    for stream in streams:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
