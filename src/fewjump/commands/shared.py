"""Options that several verbs have, and the names that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from fewjump.config import MOST_STEPS
from fewjump.lock import is_main
from fewjump.progress import tell
from fewjump.reading import EndsName, Packing, TokenBits
from fewjump.registry import DECODINGS, SAMPLERS

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.sampler import Sampler

    SamplerName: TypeAlias = str
    DecodingName: TypeAlias = str
else:
    SamplerName = Literal[*SAMPLERS]
    DecodingName = Literal["sequential", *DECODINGS]
GridName = Literal["uniform", "cosine", "log-linear", "fitted"]

# Each step is a time that is written down, and an evaluation.
_MOST_SAMPLES = 100_000_000


@contextmanager
def told_of(where: str) -> Iterator[None]:
    """Begin what a ValueError, or that of a missing file, says with the place it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from None


def tell_of_lengths(model: Denoiser, how: str) -> None:
    """Say that states which no data stand behind are never padded, to a model that knows shorter
    sequences.

    Args:
        model: whose own samples are learned from.
        how: what draws them, and what to do about it.
    """
    if model.padding is not None and is_main():
        tell(f"this model knows sequences of several lengths: {how}")


@dataclass
class DocumentOptions:
    """How to read documents (.jsonl, .json, .csv, .tsv, .parquet, a data set's folder,
    hf:owner/name, or text) and tokens (.bin).

    Attributes:
        field: documents: where the text of an object or a row is.
        split: documents: which part of a data set.
        limit: documents: read this many of them. Default: all.
        packing: documents: stream cuts them as one stream; documents gives each rows of its own,
            padded; fit lets whole ones share a row. Default: stream for a tokenizer, documents for
            characters.
        token_bits: tokens of a .bin file: how wide they are. Default: what a header of llm.c or a
            Megatron .idx beside it says, else 16, or 32 for a tokenizer of more than 65536 tokens.
        cache_folder: where the tokens of documents are kept for the next run.
            Default: .fewjump-cache beside the data, or fewjump in $XDG_CACHE_HOME (~/.cache) where
            nothing may be written there.
    """

    field: Annotated[str, tyro.conf.arg(name="text-field")] = "text"
    split: str = "train"
    limit: Annotated[int | None, tyro.conf.arg(name="documents")] = None
    packing: Packing | None = None
    token_bits: TokenBits | None = None
    cache_folder: Annotated[Path | None, tyro.conf.arg(name="cache")] = None


def document_values(options: Any) -> dict[str, Any]:
    """The options of :class:`DocumentOptions`, which :func:`fewjump.data.load_data` takes."""
    return {option.name: getattr(options, option.name) for option in fields(DocumentOptions)}


def refuse_without_data(options: Any) -> None:
    """Raise ValueError for an option that says how to read data where there are none."""
    from fewjump.commands.arguments import arguments, flag_of

    names = {option.path[-1]: option.name for option in arguments(DocumentOptions).values()}
    defaults = {option.name: option.default for option in fields(DocumentOptions)}
    for name, default in {"kind": "auto", **defaults}.items():
        if getattr(options, name) != default:
            flag = flag_of(names.get(name, name))
            raise ValueError(f"{flag} says how to read data: give --data")


@dataclass
class JudgeOptions:
    """A language model that reads samples as text.

    Attributes:
        judge: texts and tokens: a causal language model of transformers, as a folder or
            hf:owner/name such as hf:openai-community/gpt2-large. Samples are decoded, read anew by
            its tokenizer, and their generative perplexity and MAUVE reported.
        judge_tokenizer: its tokenizer, where it is not beside it.
        judge_length: tokens of the judge that are read of a sample. Default: 1024, or as many as it
            can.
        judge_ends: several documents in one sample: first reads the first alone, keep all with the
            judge's end of text between them, drop all with nothing between them.
        judge_precision: of the judge's computation.
    """

    judge: str | None = None
    judge_tokenizer: str | None = None
    judge_length: int | None = None
    judge_ends: EndsName = "first"
    judge_precision: Literal["float32", "bfloat16"] = "float32"


@dataclass
class GridOptions:
    """How the steps from noise to data lie in time.

    Attributes:
        grid: how the steps are spread over time. fitted finds the times that lose the least, from
            samples of the model itself, which must not be joint, unless the model carries them.
            Default: uniform; first-hitting draws its own times.
    """

    grid: GridName | None = None


@dataclass
class SamplerOptions(GridOptions):
    """How to step from noise to data.

    Attributes:
        sampler: how to step. Default: what the model has learned for as many steps (distill
            --method lsd), with its own times; else ancestral, which is exact up to drawing
            positions independently, from left to right (block=1) of a masked student that draws
            them one after another.
        sampler_options: options of the sampler as name=value, such as gamma=0.1 of entropy-bounded,
            kappa=0.9 of psi or theta=0.3 of theta-trapezoidal.
    """

    sampler: SamplerName | None = None
    sampler_options: list[str] = field(default_factory=list)


def make_sampler(name: str | None, words: Sequence[str]) -> Sampler | None:
    """The sampler of ``--sampler`` and ``--sampler-options``, before a model is opened.

    None where none is named: the model's default.

    Raises:
        ValueError: for options that it has not, or that are out of their range.
    """
    from fewjump.sampler import get_sampler

    if name is None:
        if words:
            raise ValueError("--sampler-options are of a sampler: name it by --sampler")
        return None
    try:
        return get_sampler(name, **named_values("sampler-options", words))
    except ValueError as error:
        # Its options are none of the verb's, though some may be called alike.
        raise ValueError(f"--sampler {name}: {error}") from None


def check_draws(
    steps: Sequence[int],
    samples: int | None,
    names: tuple[str, str] = ("--steps", "--num-samples"),
) -> None:
    """Refuse numbers of steps and samples that are slips of the hand, before a model is opened.

    Args:
        steps: of the first name.
        samples: of the second; None where it was not given.
        names: of both, as the user gave them.

    Raises:
        ValueError: with the name.
    """
    asked = [(names[0], count, MOST_STEPS) for count in steps]
    if samples is not None:
        asked.append((names[1], samples, _MOST_SAMPLES))
    for name, count, most in asked:
        if not 1 <= count <= most:
            raise ValueError(f"{name} must be at least 1 and at most {most}, got {count}")


def labels_in_turn(labels: Sequence[int], count: int) -> list[int] | None:
    """The class of each of so many samples; None where none was said."""
    return [labels[i % len(labels)] for i in range(count)] if labels else None


def named_values(option: str, words: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as a mapping; values as YAML reads them.

    Args:
        option: which takes them.
        words: as they were typed.

    Raises:
        ValueError: for a word of another form.
    """
    import yaml

    out: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"--{option} takes name=value words; got {word!r}")
        try:
            out[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(
                f"--{option} {name}: {value!r} is neither a value nor a list"
            ) from None
    return out
