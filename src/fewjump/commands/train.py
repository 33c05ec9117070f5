"""``fewjump train``: a teacher from data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewjump.commands.arguments import save_options
from fewjump.commands.shared import DocumentOptions, document_values, named_values
from fewjump.config import Source
from fewjump.lock import is_main
from fewjump.options.matching import DataOptions
from fewjump.options.training import TEACHER_TRAINING, TrainConfig
from fewjump.reading import DataKind

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.process import Process
    from fewjump.schedule import Schedule

ProcessName = Literal["masked", "uniform", "mask-to-uniform", "uniform-to-mask", "gidd"]
ScheduleName = Literal["log-linear", "cosine", "geometric", "linear"]
TeacherObjectiveName = Literal["cross-entropy", "elbo", "score-entropy"]
UNIFORM_SHARE = 0.1
LABEL_DROPOUT = 0.1


@dataclass
class Subject:
    """What to learn, and with which network.

    Attributes:
        data: digits, text (Python's own documentation), a text file,
            documents (.jsonl, .json, .csv, .tsv, .parquet, a data set's folder, hf:owner/name), or
            an array of tokens (.npy, .npz, .bin).
        out: folder of the run.
        kind: how to read a file. auto: by its name; text as characters, or documents with a
            tokenizer.
        tokenizer: documents and arrays: a tokenizer.json, a tokenizer's folder, hf:owner/name, or
            bytes.
        variable_length: leave padding alone: it is never noised, learned or attended to,
            and `fewjump sample --length` says where samples end. Always so with a tokenizer.
        cut_documents: documents that share a row do not see each other: attention and local mixing
            end at the tokenizer's separator. So in every student of the teacher.
        length: tokens per sequence. Default: 64 for text, the rows of an array, the longest line.
        process: how data are noised: tokens become a mask, or any other token; or one of the two
            near the data and the other later; or GIDD's hybrid, uniform at first and masks at last.
        uniform_share: gidd: the share of uniform noise where it is largest.
        process_file: any process, as JSON that Process.config() gives, in place of --process
            and --schedule.
        schedule: how fast.
        objective: what to minimise. score-entropy trains a network of concrete scores.
        classes: number of classes, for data with labels (digits, .npz): the model is told the class
            of a sequence, 0 to this minus 1, and can be sampled by it (--label, --guidance).
        label_dropout: with --classes: share of sequences that are shown without their class.
        hidden: width of the network.
        blocks: transformer blocks.
        heads: attention heads.
        dropout: share of the branches' entries dropped in training.
        network: further options of the network as name=value, such as mlp_ratio=4 or conv_kernel=0.
            The error for an unknown name lists those that there are.
        learning: what is learned of each sequence.
        training: how to optimise.
    """

    data: Source = "digits"
    out: Path = Path("runs/teacher")
    kind: DataKind = "auto"
    tokenizer: Source | None = None
    variable_length: bool = False
    cut_documents: bool = False
    length: int | None = None
    process: ProcessName = "masked"
    uniform_share: float = UNIFORM_SHARE
    process_file: Path | None = None
    schedule: ScheduleName = "log-linear"
    objective: TeacherObjectiveName = "cross-entropy"
    classes: int | None = None
    label_dropout: float = LABEL_DROPOUT
    hidden: int = 128
    blocks: int = 4
    heads: int = 4
    dropout: float = 0.0
    network: tuple[str, ...] = ()
    learning: DataOptions = field(default_factory=DataOptions)
    training: TrainConfig = TEACHER_TRAINING


@dataclass
class Options(DocumentOptions, Subject):
    """Train a teacher: a discrete diffusion model of your data.

    The run can be stopped at any moment; the same command on the same folder goes on where it was.
    The result is in the folder's model directory, and `fewjump sample` takes the folder itself.
    """


def run(options: Options) -> int:
    from fewjump.api import train_teacher
    from fewjump.assembly import data_objective
    from fewjump.data import Bytes, load_data

    if options.classes is None and options.label_dropout != LABEL_DROPOUT:
        raise ValueError("--label-dropout is for models with classes: give --classes")
    if options.process != "gidd" and options.uniform_share != UNIFORM_SHARE:
        raise ValueError("--uniform-share is for --process gidd")
    if not 0 < options.uniform_share < 1:
        raise ValueError(
            f"--uniform-share must lie between 0 and 1, got {options.uniform_share:g}; without "
            "uniform noise gidd is --process masked"
        )
    named = (options.process, options.schedule)
    if options.process_file is not None and named != (Subject.process, Subject.schedule):
        raise ValueError(
            "--process-file takes the place of --process and --schedule; leave them out"
        )
    data = load_data(
        options.data,
        options.length,
        kind=options.kind,
        vocabulary=Bytes() if options.tokenizer == "bytes" else options.tokenizer,
        **document_values(options),
    )
    if options.process == "uniform" and data.vocab_size < 2:
        raise ValueError(
            "the data hold one kind of token, between which uniform noise cannot choose: use "
            "--process masked, or other data"
        )
    process = process_for(options, data)
    train_teacher(
        data,
        process,
        network=network_options(options, data),
        objective=data_objective(options.objective, options.learning),
        classes=options.classes,
        label_dropout=options.label_dropout,
        out=options.out,
        accepted=partial(save_options, options),
        config=options.training,
    )
    if is_main():
        print(f"teacher: {options.out / 'model'}")
    return 0


def process_for(options: Options, data: Dataset) -> Process:
    """Noise that suits the data: the tokenizer's own mask, and special tokens left alone."""
    from fewjump.data import TokenizerVocabulary

    if options.process_file is not None:
        return read_process(options.process_file, data.vocab_size)
    build = partial(
        build_process, options.process, options.schedule, data.vocab_size, options.uniform_share
    )
    vocabulary = data.vocabulary
    if isinstance(vocabulary, TokenizerVocabulary):
        mask = vocabulary.mask
        # The loss teaches nothing of a number that no token has, so that samples could hold it.
        special = {*vocabulary.special, *vocabulary.unused}
        return build(special if options.process == "uniform" else special - {mask}, mask)
    if not options.variable_length:
        return build()
    padding = vocabulary.padding_token
    if padding is None:
        raise ValueError(
            "--variable-length is for data with padding, and these have none; use --kind lines, "
            "or documents with --packing documents"
        )
    return build([padding])


def build_process(
    name: ProcessName,
    schedule: ScheduleName,
    vocab_size: int,
    uniform_share: float = UNIFORM_SHARE,
    kept: Iterable[int] = (),
    mask: int | None = None,
) -> Process:
    """The named process over ``vocab_size`` tokens; a mask comes on top, if it is none of them."""
    from fewjump.process import Absorbing, Uniform, gidd, mask_to_uniform, uniform_to_mask

    noise = build_schedule(schedule)
    states = vocab_size + (mask is None)
    if name == "uniform":
        return Uniform(vocab_size, noise, kept)
    if name == "gidd":
        return gidd(states, noise, uniform_share, mask, kept)
    makers = {"mask-to-uniform": mask_to_uniform, "uniform-to-mask": uniform_to_mask}
    return makers.get(name, Absorbing)(states, noise, mask, kept)


def read_process(path: Path, vocab_size: int) -> Process:
    """A process from a JSON file, over ``vocab_size`` clean tokens.

    Raises:
        ValueError: if the file holds none, or one over another vocabulary.
        FileNotFoundError: if there is no such file.
    """
    from fewjump.checkpoint.folder import process_in

    process = process_in(path)
    clean = process.vocab_size - (process.mask == process.vocab_size - 1)
    if vocab_size not in (clean, process.vocab_size):
        raise ValueError(
            f"the process of {path} has {process.vocab_size} states for {clean} clean tokens, the "
            f"data {vocab_size} tokens; they must agree (a mask is one state more, and the last)"
        )
    return process


def build_schedule(name: ScheduleName) -> Schedule:
    """The named schedule with its default options."""
    from fewjump.schedule import SCHEDULES

    return SCHEDULES[name.title().replace("-", "")]()


def network_options(options: Options, data: Dataset) -> dict[str, Any]:
    """The transformer that suits the data: two-dimensional for images, blind to time for masks."""
    from fewjump.data import ImageLevels, TokenizerVocabulary

    network: dict[str, Any] = {
        "hidden": options.hidden,
        "blocks": options.blocks,
        "heads": options.heads,
        "dropout": options.dropout,
        # Given which tokens are masked, the posterior does not depend on the time; scores do.
        "time_conditioned": options.process != "masked"
        or options.process_file is not None
        or options.objective == "score-entropy",
    }
    vocabulary = data.vocabulary
    if options.variable_length or isinstance(vocabulary, TokenizerVocabulary):
        network["padding"] = vocabulary.padding_token
    if options.cut_documents:
        if vocabulary.separator is None:
            raise ValueError(
                "--cut-documents needs a separator between documents, and these data have none; "
                "give --tokenizer, or leave it out"
            )
        network["separator"] = vocabulary.separator
    if isinstance(vocabulary, ImageLevels):
        network |= {"positions": "2d", "grid": (vocabulary.height, vocabulary.width)}
        network |= {"conv_kernel": 3}
    return network | _further(options.network)


def _further(words: Sequence[str]) -> dict[str, Any]:
    """What ``--network`` says, by the options of the transformer that have no flag.

    Raises:
        ValueError: for others, or values of another type.
    """
    from fewjump.config import convert, options_of
    from fewjump.denoiser import TransformerConfig

    flags = ("hidden", "blocks", "heads", "dropout", "classes", "guidance")
    known = {one.name: one.hint for one in options_of(TransformerConfig)}
    known = {name: hint for name, hint in known.items() if name not in ("vocab_size", *flags)}
    given = named_values("network", words)
    for name in given:
        if name not in known:
            raise ValueError(f"--network has no {name!r}; it has {', '.join(known)}")
    return {name: convert(known[name], value, f"--network {name}") for name, value in given.items()}
