"""``fewjump train``: a teacher from data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewjump.commands.arguments import save_options
from fewjump.commands.choices import (
    DataKindName,
    ProcessName,
    ScheduleName,
    TeacherObjectiveName,
)
from fewjump.commands.documents import DocumentOptions, document_values
from fewjump.commands.training import TrainingOptions, is_main, training_values

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.process import Process
    from fewjump.schedule import Schedule


@dataclass
class Subject:
    """What to learn, and with which network."""

    data: str = "digits"
    """digits, text (Python's own documentation), a text file, documents (.jsonl, .parquet, a data
    set's folder, hf:owner/name), or an array of tokens (.npy, .bin)."""

    out: Path = Path("runs/teacher")
    """Folder of the run."""

    kind: DataKindName = "auto"
    """How to read a file. auto: by its name; text as characters, or documents with a tokenizer."""

    tokenizer: str | None = None
    """Documents and arrays: a tokenizer.json, a tokenizer's folder, hf:owner/name, or bytes."""

    variable_length: bool = False
    """Leave padding alone: it is never noised, learned or attended to, and `fewjump sample
    --length` says where samples end. Always so with a tokenizer."""

    length: int | None = None
    """Tokens per sequence. Default: 64 for text, the rows of an array, the longest line."""

    process: ProcessName = "masked"
    """How data are noised: tokens become a mask, or any other token."""

    schedule: ScheduleName = "log-linear"
    """How fast."""

    objective: TeacherObjectiveName = "cross-entropy"
    """What to minimise. score-entropy trains a network of concrete scores."""

    hidden: int = 128
    """Width of the network."""

    blocks: int = 4
    """Transformer blocks."""

    heads: int = 4
    """Attention heads."""

    dropout: float = 0.0
    """Share of the branches' entries dropped in training."""


@dataclass
class Options(TrainingOptions, DocumentOptions, Subject):
    """Train a teacher: a discrete diffusion model of your data.

    The run can be stopped at any moment; the same command on the same folder goes on where it was.
    The result is in the folder's model directory, and `fewjump sample` takes the folder itself.
    """


def run(options: Options) -> int:
    from fewjump.api import train_teacher
    from fewjump.commands.models import open_data

    data = open_data(
        options.data,
        options.length,
        options.kind,
        options.tokenizer,
        **document_values(options),
    )
    process = process_for(options, data)
    if is_main():
        save_options(options, options.out)
    train_teacher(
        data,
        process,
        network=network_options(options, data),
        objective=options.objective,
        out=options.out,
        **training_values(options),
    )
    if is_main():
        print(f"teacher: {options.out / 'model'}")
    return 0


def process_for(options: Options, data: Dataset) -> Process:
    """Noise that suits the data: the tokenizer's own mask, and special tokens left alone."""
    from fewjump.data import TokenizerVocabulary
    from fewjump.process import Absorbing, Uniform

    vocabulary, noise = data.vocabulary, build_schedule(options.schedule)
    if isinstance(vocabulary, TokenizerVocabulary):
        mask = vocabulary.mask
        kept = set(vocabulary.special) - {mask}
        if options.process == "uniform":
            return Uniform(data.vocab_size, noise, set(vocabulary.special))
        states = data.vocab_size + (mask is None)
        return Absorbing(states, noise, mask=mask, kept=kept)
    if not options.variable_length:
        return build_process(options.process, options.schedule, data.vocab_size)
    padding = vocabulary.padding_token
    if padding is None:
        raise ValueError(
            "--variable-length is for data with padding, and these have none; use --kind lines, "
            "or documents with --packing documents"
        )
    if options.process == "uniform":
        return Uniform(data.vocab_size, noise, kept=[padding])
    return Absorbing(data.vocab_size + 1, noise, kept=[padding])


def build_process(name: ProcessName, schedule: ScheduleName, vocab_size: int) -> Process:
    """The named process over ``vocab_size`` clean tokens; a mask comes on top."""
    from fewjump.process import Absorbing, Uniform

    noise = build_schedule(schedule)
    return Absorbing(vocab_size + 1, noise) if name == "masked" else Uniform(vocab_size, noise)


def build_schedule(name: ScheduleName) -> Schedule:
    """The named schedule with its default options."""
    from fewjump.schedule import Cosine, Geometric, Linear, LogLinear

    makers: dict[str, type[Schedule]] = {
        "log-linear": LogLinear,
        "cosine": Cosine,
        "geometric": Geometric,
        "linear": Linear,
    }
    return makers[name]()


def network_options(options: Options, data: Dataset) -> dict[str, Any]:
    """The transformer that suits the data: two-dimensional for images, blind to time for masks."""
    from fewjump.data import ImageLevels, TokenizerVocabulary

    network: dict[str, Any] = {
        "hidden": options.hidden,
        "blocks": options.blocks,
        "heads": options.heads,
        "dropout": options.dropout,
        # Given which tokens are masked, the posterior does not depend on the time; scores do.
        "time_conditioned": options.process != "masked" or options.objective == "score-entropy",
    }
    vocabulary = data.vocabulary
    if options.variable_length or isinstance(vocabulary, TokenizerVocabulary):
        network["padding"] = vocabulary.padding_token
    if isinstance(vocabulary, ImageLevels):
        network |= {"positions": "2d", "grid": (vocabulary.height, vocabulary.width)}
        network |= {"conv_kernel": 3}
    return network
