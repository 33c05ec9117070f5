"""Typed options from flags and YAML: the file's values are read as flags, then overridden.

A value from a file passes the same type check as one from the command line, because it takes the
same way in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from fewjump.files import write_text
from fewjump.textfile import read_text

T = TypeVar("T")


def parse(options: type[T], words: Sequence[str], prog: str) -> T:
    """Options of a verb.

    Args:
        options: a dataclass; its docstring and its fields' docstrings are the help.
        words: command-line words after the verb. ``--config FILE`` names a YAML file of options.
        prog: how the help names the verb.

    Raises:
        ValueError: if the file is not a mapping of known options.
        SystemExit: code 0 after ``--help``, 2 after a usage error, which tyro explains.
    """
    import tyro

    words, path = _take_config(list(words))
    from_file = flags_from_yaml(options, path) if path is not None else []
    return tyro.cli(
        options,
        prog=prog,
        args=[*from_file, *words],
    )


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
    positional = positional_names(options)
    words: list[str] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{path}: there is no option {key!r}; {hint}")
        if name in positional:
            raise ValueError(f"{path}: {key!r} belongs on the command line, not in the file")
        words += _flag(name, value)
    return words


def positional_names(options: type) -> set[str]:
    """Names of the options given by position."""
    import tyro

    marker = get_args(tyro.conf.Positional[int])[1]
    hints = get_type_hints(options, include_extras=True)
    return {name for name, hint in hints.items() if marker in get_args(hint)[1:]}


def as_mapping(options: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """Options as plain YAML values, such that ``--config`` reads them back."""
    return {
        field.name: _plain(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name not in without and field.name not in positional_names(type(options))
    }


def save_options(options: Any, folder: Path, without: Sequence[str] = ()) -> Path:
    """Write every option, defaults included, to ``options.yaml`` in a run's folder."""
    import yaml

    path = folder / "options.yaml"
    text = yaml.safe_dump(as_mapping(options, without), sort_keys=False, allow_unicode=True)
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
