"""The ``fewjump`` command: a table of verbs, and how a failure is told.

Nothing heavy is imported before a verb's arguments are accepted, so ``--help`` and usage errors
answer at once. Each verb is a file in :mod:`fewjump.commands`: a dataclass of options and a
function ``run(options)``; one whose options depend on its words has ``main(words)`` in their place.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

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
    words = list(sys.argv[1:] if argv is None else argv)
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
        return _run(verb, rest)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
    except KeyboardInterrupt as stop:
        # A training run says here how to go on.
        return _complain(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: not worth a word, and stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = USAGE if isinstance(error, _INPUT_ERRORS) else FAILED
        return _complain(_one_line(error), code, hint=not debug)


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
    if not isinstance(error, (*_INPUT_ERRORS, RuntimeError, OSError)) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text


def _complain(message: str, code: int, hint: bool = False) -> int:
    more = " (--debug shows where)" if hint and code == FAILED else ""
    print(f"fewjump: {message}{more}", file=sys.stderr)
    return code
