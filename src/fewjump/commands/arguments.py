"""Typed options from flags and YAML: the file's values are read as flags, then overridden.

A verb's options are a dataclass whose fields are options, or dataclasses of the library that hold
some. A flag has the name of its field, without those of the dataclasses around it. A value from a
file passes the same type check as one from the command line, because it takes the same way in.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from fewjump.config import PLACE, Source, options_of, read_yaml, type_in_words
from fewjump.files import write_text
from fewjump.tokenizing import HUB

T = TypeVar("T")

# Sizes and counts beyond this are slips of the hand; only seeds are larger.
_MOST, _MOST_SEED = 2**31 - 1, 2**63 - 1
# In front of the value of a flag while a message is rewritten: a value may be called like a flag.
_VALUE = "\0"


@dataclasses.dataclass(frozen=True)
class Argument:
    """An option of a verb.

    Attributes:
        name: as in a YAML file, with underscores.
        path: the fields that lead to it.
        home: the dataclass that has it.
        hint: its type.
        positional: whether it is given by its place.
        is_path: whether it may name a file or a folder.
    """

    name: str
    path: tuple[str, ...]
    home: type
    hint: Any
    positional: bool
    is_path: bool

    @property
    def flag(self) -> str:
        """As it is typed."""
        return flag_of(self.name)

    def value(self, options: Any) -> Any:
        """Its value in the options of its verb."""
        for name in self.path:
            options = getattr(options, name)
        return options


@lru_cache
def arguments(options: type) -> Mapping[str, Argument]:
    """The options of a verb by name, those of dataclasses inside it included."""
    import tyro

    positional = get_args(tyro.conf.Positional[int])[1]
    found: dict[str, Argument] = {}
    for option in options_of(options):
        if isinstance(option.hint, type) and dataclasses.is_dataclass(option.hint):
            for name, inner in arguments(option.hint).items():
                found[name] = dataclasses.replace(inner, path=(option.field, *inner.path))
            continue
        makers = [getattr(mark, "constructor_factory", None) for mark in option.marks]
        hint = next((make() for make in makers if make), option.hint)
        is_path = PLACE in option.marks or any(k in (Path, Source) for k in _kinds(hint))
        found[option.name] = Argument(
            option.name, (option.field,), options, hint, positional in option.marks, is_path
        )
    return found


def parse(options: type[T], words: Sequence[str], prog: str) -> T:
    """Options of a verb.

    Args:
        options: a dataclass; its docstring and its fields' docstrings are the help.
        words: command-line words after the verb. ``--config FILE`` names a YAML file of options.
        prog: how the help names the verb.

    Raises:
        ValueError: if the file is not a mapping of known options, a number is not finite or beyond
            all use, or the device is not there.
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
    refuse_unusable(options, words)
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(options, prog=prog, args=words, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if stop.code:
            problem = _explain(options, words, told.getvalue())
            more = f"`{prog} --help` lists the options"
            print(f"fewjump: {problem}; {more}", file=sys.stderr)
        raise


def refuse_unusable(options: type, words: Sequence[str]) -> None:
    """Refuse what has the right type and no meaning, before anything is made of it.

    These are numbers without a value or beyond all use, and devices that are not there.

    Raises:
        ValueError: naming the flag.
    """
    for argument in arguments(options).values():
        kinds, flag = list(_kinds(argument.hint)), argument.flag
        for word in _values_of(flag, words):
            if float in kinds and not math.isfinite(_number(word) or 0):
                raise ValueError(f"{flag} must be a finite number, got {float(word)}")
            if int in kinds and re.fullmatch(r"[+-]?\d+", word):
                is_seed = argument.name == "seed" or (argument.name == "seeds" and list in kinds)
                if is_seed and not 0 <= int(word) <= _MOST_SEED:
                    raise ValueError(f"{flag} must lie in [0, 2^63), got {word}")
                if not is_seed and abs(int(word)) > _MOST:
                    raise ValueError(f"{flag} must be at most {_MOST}, got {word}")
            if argument.name == "device" and word != "None":
                from fewjump.device import usable_device

                try:
                    usable_device(word)
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
    own = [one for one in arguments(options).values() if not one.positional]
    names = {one.path[-1]: one.flag for one in own} | {one.name: one.flag for one in own}
    switches = {one.flag for one in own if one.hint is bool}

    def with_value(flag: str, value: str) -> str:
        if flag in switches and value in ("True", "False"):
            return flag if value == "True" else flag.replace("--", "--no-", 1)
        return f"{flag} {_VALUE}{value}"

    known = "|".join(sorted(names, key=len, reverse=True))
    listed = rf"(?<![\w.\-/{_VALUE}])(?:{known})(?:(?:, | and |, and )(?:{known}))*"
    said = re.sub(
        rf"(?<![\w.\-/])({known})=(?:'([^']*)'|([\w.]+))",
        lambda m: with_value(names[m[1]], m[2] or m[3]),
        text,
    )
    said = re.sub(
        rf"{listed}(?= (?:must|lie|are for|is for|is not for|belongs? to)\b)",
        lambda m: re.sub(rf"\b(?:{known})\b", lambda n: names[n[0]], m[0]),
        said,
    )
    said = re.sub(
        rf"(?<![\w.\-/'{_VALUE}])({known})(?![\w/.=']|\.\w)",
        lambda m: names[m[1]] if "_" in m[1] else m[1],
        said,
    )
    # Where the library names the flag itself.
    return re.sub(
        r"([\w-]+) \((--[\w-]+)\)",
        lambda m: m[2] if m[2] in (m[1], names.get(m[1])) else m[0],
        said,
    ).replace(_VALUE, "")


def _explain(options: type, words: Sequence[str], told: str) -> str:
    """A usage error in one line: which word, what is asked, and what is near."""
    known = arguments(options)
    flags = {one.flag: one for one in known.values() if not one.positional}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag.replace("--no-", "--", 1) not in flags:
            near = get_close_matches(flag, flags, n=1)
            return f"there is no option {flag}" + (f"; did you mean {near[0]}?" if near else "")
    message = _without_box(told)
    if refused := re.match(r"Error parsing (?!-)([\w.-]*): (.*)", message):
        # The part that refused: what it calls steps may be another's jumps.
        part = refused[1].rpartition(".")[2].replace("-", "_")
        homes = [one.home for one in known.values() if part in one.path[:-1]]
        return in_flags(refused[2], homes[0] if homes else options)
    for flag in re.findall(r"--[a-z][a-z-]*", message):
        if flag in flags:
            asked = type_in_words(flags[flag].hint)
            given = _values_of(flag, words)
            return f"{flag} takes {asked}; got {' '.join(given) or 'nothing'}" + _near(
                given, flags[flag].hint
            )
    for name, one in known.items():
        if one.positional and re.search(rf"\b{re.escape(name)}\b", message, re.IGNORECASE):
            asked = f"{name.upper()} takes {type_in_words(one.hint)}"
            if "Missing" in message:
                return f"{name.upper()} is missing: {asked}"
            return f"{asked}; got {words[0]}{_near(words, one.hint)}"
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


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a type is made of, ``list`` for one of lists."""
    if get_origin(hint) in (list, tuple):
        yield get_origin(hint)
    if hint == Source or not get_args(hint):
        yield hint
    elif get_origin(hint) is not Literal:
        for inner in get_args(hint):
            yield from _kinds(inner)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def flags_from_yaml(options: type, path: Path) -> list[str]:
    """The flags that say what a YAML file says.

    Keys are option names, with ``-`` or ``_``. Positional options belong on the command line.

    Raises:
        ValueError: for a file that is none of options, or names one that there is not.
    """
    content = read_yaml(path)
    if content is None:
        return []
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold options as 'name: value' lines")
    return flags_of(options, content, str(path))


def flags_of(options: type, content: Mapping[str, Any], where: str) -> list[str]:
    """The flags that say what a mapping says.

    Args:
        options: of a verb.
        content: values by option names, with ``-`` or ``_``.
        where: it stands, for messages.

    Raises:
        ValueError: naming an option that there is not, or a value that it does not take.
    """
    known = arguments(options)
    words: list[str] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: there is no option {key!r}; {hint}")
        if known[name].positional:
            raise ValueError(f"{where}: {key!r} belongs on the command line, not in the file")
        hint = known[name].hint
        listed = bool({list, tuple} & set(_kinds(hint)))
        if isinstance(value, bool) != (hint is bool) or (
            isinstance(value, dict | list) and not (listed and isinstance(value, list))
        ):
            asked = "true or false" if hint is bool else type_in_words(hint)
            raise ValueError(f"{where}: {key!r} takes {asked}; got {value!r}")
        words += _words(known[name].flag, value)
    return words


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    values = value if isinstance(value, list) else [value]
    return [flag, *(str(v) for v in values)]


def as_mapping(options: Any) -> dict[str, Any]:
    """Options as plain YAML values, such that ``--config`` reads them back in any folder."""
    return {
        name: _plain(one.value(options), one.is_path)
        for name, one in arguments(type(options)).items()
        if not one.positional
    }


def save_options(options: Any, folder: Path) -> Path:
    """Write every option, defaults included, to ``options.yaml`` in a run's folder."""
    import yaml

    path = folder / "options.yaml"
    text = yaml.safe_dump(as_mapping(options), sort_keys=False, allow_unicode=True)
    write_text(path, "# Read again with --config\n" + text)
    return path


def _plain(value: Any, is_path: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v, is_path) for v in value]
    if isinstance(value, Path):
        # A hub repository is no path, though typed as one.
        is_name = value.as_posix().startswith(HUB)
        return value.as_posix() if is_name else str(value.absolute())
    if is_path and isinstance(value, str):
        # A path, or FILE.py:NAME.
        file, colon, name = value.rpartition(":")
        if Path(value).exists():
            return str(Path(value).absolute())
        if Path(file).is_file():
            return f"{Path(file).absolute()}{colon}{name}"
    return value


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
