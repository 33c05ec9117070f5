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
from fewjump.commands.training import TrainingOptions, is_main, training_values

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.process import Process
    from fewjump.schedule import Schedule


@dataclass
class Subject:
    """What to learn, and with which network."""

    data: str = "digits"
    """digits, text (Python's own documentation), a text file, or a .npy file of tokens (N, L)."""

    out: Path = Path("runs/teacher")
    """Folder of the run."""

    kind: DataKindName = "auto"
    """How to read a file. auto: .npy as tokens, anything else as characters."""

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
class Options(TrainingOptions, Subject):
    """Train a teacher: a discrete diffusion model of your data.

    The run can be stopped at any moment; the same command on the same folder goes on where it was.
    The result is in the folder's model directory, and `fewjump sample` takes the folder itself.
    """


def run(options: Options) -> int:
    from fewjump.api import train_teacher
    from fewjump.commands.models import open_data

    data = open_data(options.data, options.length, options.kind)
    process = build_process(options.process, options.schedule, data.vocab_size)
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
    from fewjump.data import ImageLevels

    network: dict[str, Any] = {
        "hidden": options.hidden,
        "blocks": options.blocks,
        "heads": options.heads,
        "dropout": options.dropout,
        # Given which tokens are masked, the posterior does not depend on the time; scores do.
        "time_conditioned": options.process != "masked" or options.objective == "score-entropy",
    }
    vocabulary = data.vocabulary
    if isinstance(vocabulary, ImageLevels):
        network |= {"positions": "2d", "grid": (vocabulary.height, vocabulary.width)}
        network |= {"conv_kernel": 3}
    return network
