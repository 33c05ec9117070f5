"""Typed options: fields of dataclasses, changed by name and strictly; YAML, read and written.

What is not known is refused: an unknown key is an error that lists the valid ones and the nearest
match, and a wrong type is an error that names the option.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from inspect import Parameter, signature
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

from fewjump.textfile import read_text

T = TypeVar("T")

#: Marks text that names a file or a folder, unless there is none and it means something else.
PLACE = "a place"
Source = Annotated[str, PLACE]
#: Of a sampler. More is a slip: the times alone would take gigabytes.
MOST_STEPS = 1_000_000


_KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
_KINDS |= {bool: "no value", type(None): "None"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and the fix."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A field of a dataclass, as the user knows it.

    Attributes:
        field: its name in Python.
        name: what the user calls it, with underscores; another word where the field says so by
            ``tyro.conf.arg(name=...)``.
        hint: its type, without what is annotated.
        marks: what is annotated.
    """

    field: str
    name: str
    hint: Any
    marks: tuple[Any, ...]


@lru_cache
def options_of(cls: type) -> tuple[Option, ...]:
    """The fields of a dataclass as options."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        hint, marks = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        named = [mark.name for mark in marks if getattr(mark, "name", None)]
        name = named[0].replace("-", "_") if named else field.name
        found.append(Option(field.name, name, hint, tuple(marks)))
    return tuple(found)


def check_count(value: Any, name: str) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_counts(**values: Any) -> None:
    """:func:`check_count` of each, by its name."""
    for name, value in values.items():
        check_count(value, name)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def optional(name: str, what: str, extra: str = "hub") -> Any:
    """An optional module; ModuleNotFoundError naming the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} needs {name}: pip install 'fewjump[{extra}]'") from error


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError, which lists what there is, unless an option's value is known."""
    known = list(known)
    require(value in known, f"unknown {name} {value!r}; known: {', '.join(map(str, known))}")


def changed(options: Mapping[str, Any], *groups: Any) -> tuple[Any, ...]:
    """Dataclasses with some of their options changed.

    Args:
        options: values by the options' names; every one belongs to one of the groups.
        *groups: instances of dataclasses.

    Raises:
        ConfigError: unknown name, or a value of another type.
        ValueError: for a value outside its range.
    """
    known = {one.name: one for group in groups for one in options_of(type(group))}
    for name in options:
        if name not in known:
            raise ConfigError(unknown_key(name, known))
    return tuple(
        dataclasses.replace(
            group,
            **{
                one.field: convert(one.hint, options[one.name], one.name)
                for one in options_of(type(group))
                if one.name in options
            },
        )
        for group in groups
    )


@cache
def parameters_of(cls: type) -> Mapping[str, Parameter]:
    """A constructor's arguments, which take Python a third of a millisecond to find."""
    return signature(cls).parameters


def checked_options(
    cls: type, options: Mapping[str, Any], what: str, given: Iterable[str] = ()
) -> dict[str, Any]:
    """Options of a class's constructor in the types that it declares.

    Args:
        cls: the class.
        options: by name.
        what: the class in words, for messages: ``the chain head``.
        given: arguments that are not the user's to choose.

    Raises:
        ValueError: for an option that it has not, lacks, or of another type.
    """
    say = f"options do not fit {what}"
    parameters = parameters_of(cls)
    own = [name for name in parameters if name not in given]
    known = f"it has {', '.join(own)}" if own else "it has none"
    for name in options:
        if name not in parameters:
            near = difflib.get_close_matches(name, own, n=1)
            hint = f"did you mean {near[0]!r}? ({known})" if near else known
            raise ValueError(f"{say}: there is no {name!r}; {hint}")
    lacking = [n for n, p in parameters.items() if p.default is p.empty and n not in options]
    if lacking:
        raise ValueError(f"{say}: it needs {' and '.join(lacking)}")
    hints = get_type_hints(cls.__init__)
    out = {}
    for name, value in options.items():
        try:
            out[name] = convert(hints[name], value, name) if name in hints else value
        except ConfigError:
            asked = "true or false" if hints[name] is bool else type_in_words(hints[name])
            kinds = (hints[name], *get_args(hints[name]))
            origins = [get_origin(kind) for kind in kinds]
            if (list in origins or tuple in origins) and Literal not in origins:
                asked = f"a list, such as [1, 8] ({asked})"
            raise ValueError(f"{say}: {name} takes {asked}; got {value!r}") from None
    return out


def dump_config(config: Mapping[str, Any]) -> str:
    """The YAML of a configuration."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out |= flatten(value, name + ".")
        else:
            out[name] = value
    return out


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for every leaf in which two plain configurations differ.

    None is as good as absent: an option that there was not yet is one that nobody used.
    """
    before, after = flatten(old), flatten(new)
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)!r} → {after.get(key, absent)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def type_in_words(hint: Any) -> str:
    """What an option of this type takes, as a message says it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_in_words(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_in_words(one) for one in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (list, tuple):
        each = [one for one in inner if one is not Ellipsis]
        if origin is tuple and Ellipsis not in inner:
            return " and ".join(map(type_in_words, each))
        return f"one or more, each {type_in_words(each[0])}"
    return _KINDS.get(hint, str(hint))


# -- reading ------------------------------------------------------------------------------------


def unknown_key(key: str, fields: Iterable[str]) -> str:
    """What to say of a name that is none of the options."""
    names = list(fields)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}{hint} (valid keys: {', '.join(names)})"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which no key is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise ConfigError(f"{key!r} is given twice (in the group from line {line} on)")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file says.

    Raises:
        ConfigError: if it is not valid, or gives a key twice.
        OSError: if it cannot be read.
    """
    try:
        return yaml.load(read_text(path), _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def convert(hint: Any, value: Any, where: str) -> Any:
    """A plain value as one of a type, such as a list for ``tuple[int, ...]``.

    Raises:
        ConfigError: if it is none; ``where`` begins the message.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (origin is Callable and callable(value)):
        return value
    if origin is Annotated:
        return convert(arguments[0], value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            known = ", ".join(repr(a) for a in arguments)
            raise ConfigError(f"{where}: must be one of {known}, got {value!r}")
        return value
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(option, value, where)
        except ConfigError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise ConfigError(problems[0])
    raise ConfigError(f"{where}: {value!r} fits none of the allowed types ({'; '.join(problems)})")


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be a list, got {value!r}")
    items = list(value)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(items) != len(arguments):
            raise ConfigError(f"{where}: must hold {len(arguments)} values, got {len(items)}")
        inner = list(arguments)
    else:
        inner = [arguments[0] if arguments else Any] * len(items)
    out = [convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, items))]
    return tuple(out) if origin is tuple else out


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint in (int, float):
        # To Python True is a number; to the user it is not. And YAML 1.1 reads 1e-3 as text.
        number = None if isinstance(value, bool) else _number(value)
        if number is not None and not math.isfinite(number):
            raise ConfigError(f"{where}: must be a finite number, got {value!r}")
        if number is not None and hint is float:
            return number
        if number is not None and number.is_integer():
            return value if isinstance(value, int) else int(number)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: must be {name}, got {value!r}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(value):
        return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
    return str(value)
