"""Typed options from flags and YAML: the file's values are read as flags, then overridden.

A value from a file passes the same type check as one from the command line, because it takes the
same way in.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fewjump.config import type_in_words
from fewjump.files import write_text
from fewjump.textfile import read_text

T = TypeVar("T")

# Sizes and counts beyond this are slips of the hand; only seeds are larger.
_MOST = 2**31 - 1
# Arguments of the library's functions that the command line gives another name.
_OTHER_NAMES = {"field": "text_field", "limit": "documents", "intermediate": "matching"}


def parse(options: type[T], words: Sequence[str], prog: str) -> T:
    """Options of a verb.

    Args:
        options: a dataclass; its docstring and its fields' docstrings are the help.
        words: command-line words after the verb. ``--config FILE`` names a YAML file of options.
        prog: how the help names the verb.

    Raises:
        ValueError: if the file is not a mapping of known options, a number is not finite, or the
            device is not there.
        SystemExit: code 0 after ``--help``, 2 after a usage error, which one line explains.
    """
    import tyro

    words, path = _take_config(list(words))
    for before, word in pairwise(["", *words]):
        if word == "" or (word.startswith("--") and word.endswith("=")):
            raise ValueError(
                f"{before or word or 'an option'} was given nothing (a variable that is not set?)"
            )
    from_file = flags_from_yaml(options, path) if path is not None else []
    words = [*from_file, *words]
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            parsed = tyro.cli(options, prog=prog, args=words)
    except SystemExit as stop:
        if stop.code:
            problem = _explain(options, words, told.getvalue())
            more = f"`{prog} --help` lists the options"
            print(f"fewjump: {problem}; {more}", file=sys.stderr)
        raise
    refuse_unusable(parsed)
    return parsed


def refuse_unusable(options: Any) -> None:
    """Refuse what has the right type and no meaning: numbers without a value, absent devices.

    Raises:
        ValueError: naming the flag.
    """
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), flag_of(field.name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{flag} must be a finite number, got {one}")
            large = isinstance(one, int) and abs(one) > _MOST and not field.name.startswith("seed")
            if large:
                raise ValueError(f"{flag} must be at most {_MOST}, got {one}")
        if field.name == "device" and isinstance(value, str):
            from fewjump.device import usable_device

            try:
                usable_device(value)
            except ValueError as error:
                # "device 'cuda:9' is …", which is how the flag is called, too.
                raise ValueError(f"--{error}") from None


def flag_of(name: str) -> str:
    """``batch_size`` as it is typed: ``--batch-size``."""
    return f"--{name.replace('_', '-')}"


def in_flags(text: str, options: type) -> str:
    """A message of the library, with its arguments as the flags that a verb has for them.

    ``batch_size`` becomes ``--batch-size``, ``matching='forward'`` becomes ``--matching forward``,
    and ``steps must be …`` becomes ``--steps must be …``. A plain word is left alone anywhere else.
    """
    if re.search(r"\bhead\b", text):
        # A head has options of its own, some of the same names.
        return text
    own = {field.name for field in dataclasses.fields(options)} - positional_names(options)
    names = {name: flag_of(name) for name in own}
    names |= {name: flag_of(other) for name, other in _OTHER_NAMES.items() if other in own}
    known = "|".join(sorted(names, key=len, reverse=True))
    listed = rf"(?<![\w.\-/])(?:{known})(?:(?:, | and |, and )(?:{known}))*"
    said = re.sub(
        rf"(?<![\w.\-/])({known})=(?:'([^']*)'|([\w.]+))",
        lambda m: f"{names[m[1]]} {m[2] or m[3]}",
        text,
    )
    said = re.sub(
        rf"{listed}(?= (?:must|lie|are for|is for|belongs? to)\b)",
        lambda m: re.sub(rf"\b(?:{known})\b", lambda n: names[n[0]], m[0]),
        said,
    )
    return re.sub(
        rf"(?<![\w.\-/'])({known})(?![\w/.=']|\.\w)",
        lambda m: names[m[1]] if "_" in m[1] else m[1],
        said,
    )


def _explain(options: type, words: Sequence[str], told: str) -> str:
    """A usage error in one line: which word, what is asked, and what is near."""
    hints = get_type_hints(options, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(options)}
    positional = positional_names(options)
    flags = {flag_of(name): name for name in fields if name not in positional}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag.replace("--no-", "--", 1) not in flags:
            near = get_close_matches(flag, flags, n=1)
            return f"there is no option {flag}" + (f"; did you mean {near[0]}?" if near else "")
    message = _without_box(told)
    for flag in re.findall(r"--[a-z][a-z-]*", message):
        if flag in flags:
            asked = type_in_words(hints[flags[flag]])
            given = _values_of(flag, words)
            return f"{flag} takes {asked}; got {' '.join(given) or 'nothing'}" + _near(
                given, hints[flags[flag]]
            )
    for name in positional:
        if re.search(rf"\b{re.escape(name)}\b", message, re.IGNORECASE):
            asked = f"{name.upper()} takes {type_in_words(hints[name])}"
            if "Missing" in message:
                return f"{name.upper()} is missing: {asked}"
            return f"{asked}; got {words[0]}{_near(words, hints[name])}"
    return message.replace("Unrecognized options:", "nothing takes the words")


def _without_box(told: str) -> str:
    """The first paragraph of what stands in tyro's box, in one line."""
    paragraphs: list[list[str]] = [[]]
    for line in told.splitlines():
        text = line.strip().strip("│|").strip()
        if set(text) <= set("─-╭╮╰╯+"):
            paragraphs.append([])
        elif not text.startswith("╭"):
            paragraphs[-1].append(text)
    found = [lines for lines in paragraphs if lines]
    # Without letters for a frame, the box's title is a paragraph of its own.
    titled = "╭" not in told and len(found) > 1
    return " ".join(found[titled] if found else []).rstrip(".")


def _values_of(flag: str, words: Sequence[str]) -> list[str]:
    """The words that follow a flag; those of its last use, which is the one that counts."""
    found: list[str] = []
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = [value] if equals else []
            for following in words[index + 1 :]:
                if following.startswith("--"):
                    break
                found.append(following)
    return found


def _near(words: Sequence[str], hint: Any) -> str:
    """The choice that a word is nearest to, as a question."""
    choices = list(_choices(hint))
    for word in words:
        if word not in choices and (near := get_close_matches(word, choices, n=1)):
            return f"; did you mean {near[0]}?"
    return ""


def _choices(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
        return
    for inner in get_args(hint):
        yield from _choices(inner)


def flags_from_yaml(options: type, path: Path) -> list[str]:
    """The flags that say what a YAML file says.

    Keys are option names, with ``-`` or ``_``. Positional options belong on the command line.
    """
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return []
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold options as 'name: value' lines")
    known = {field.name: field for field in dataclasses.fields(options)}
    positional, hints = positional_names(options), get_type_hints(options)
    words: list[str] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{path}: there is no option {key!r}; {hint}")
        if name in positional:
            raise ValueError(f"{path}: {key!r} belongs on the command line, not in the file")
        hint = hints[name]
        listed = get_origin(hint) in (list, tuple)
        if isinstance(value, bool) != (hint is bool) or (
            isinstance(value, dict | list) and not (listed and isinstance(value, list))
        ):
            asked = "true or false" if hint is bool else type_in_words(hint)
            raise ValueError(f"{path}: {key!r} takes {asked}; got {value!r}")
        words += _flag(name, value)
    return words


def positional_names(options: type) -> set[str]:
    """Names of the options given by position."""
    import tyro

    marker = get_args(tyro.conf.Positional[int])[1]
    hints = get_type_hints(options, include_extras=True)
    return {name for name, hint in hints.items() if marker in get_args(hint)[1:]}


def as_mapping(options: Any) -> dict[str, Any]:
    """Options as plain YAML values, such that ``--config`` reads them back."""
    positional = positional_names(type(options))
    return {
        field.name: _plain(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name not in positional
    }


def save_options(options: Any, folder: Path) -> Path:
    """Write every option, defaults included, to ``options.yaml`` in a run's folder."""
    import yaml

    path = folder / "options.yaml"
    text = yaml.safe_dump(as_mapping(options), sort_keys=False, allow_unicode=True)
    write_text(path, "# Read again with --config\n" + text)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *(str(v) for v in values)]


def _take_config(words: list[str]) -> tuple[list[str], Path | None]:
    """Remove ``--config FILE`` (or ``--config=FILE``) from the words."""
    for index, word in enumerate(words):
        if word == "--config":
            if index + 1 == len(words):
                raise ValueError("--config needs the name of a YAML file")
            return words[:index] + words[index + 2 :], Path(words[index + 1])
        if word.startswith("--config="):
            return words[:index] + words[index + 1 :], Path(word.partition("=")[2])
    return words, None
