"""The `problem:` of a comparison: a law that is known, whose exact posterior is the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewjump.commands.distill import Given
from fewjump.commands.shared import told_of
from fewjump.commands.train import ProcessName, ScheduleName, build_process
from fewjump.config import Source, changed, one_of
from fewjump.options.training import TrainConfig

if TYPE_CHECKING:
    from fewjump.data import Dataset, Vocabulary
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.problem import ProblemMeter
    from fewjump.problem import FiniteSupport, MarkovChain, Problem

EXACT, TEACHER = "exact posterior", "teacher"
_SAMPLES = 1000


@dataclass(frozen=True)
class Drawn:
    """What students and judges are given of a problem.

    Attributes:
        noise: that the exact posterior is of.
        schedule: of the noise.
        sequences: that students learn from.
        draws: seed of them, and of the exact samples that all are compared with.
    """

    noise: ProcessName = "masked"
    schedule: ScheduleName = "log-linear"
    sequences: int = 20_000
    draws: int = 0

    def __post_init__(self) -> None:
        if self.sequences < 2:
            raise ValueError(f"sequences must be at least 2, got {self.sequences}")


class Recipe(ABC):
    """A kind of problem, by its options."""

    @abstractmethod
    def make(self) -> Problem:
        """The problem.

        Raises:
            ValueError, FileNotFoundError: for options that make none.
        """

    def vocabulary(self, size: int) -> Vocabulary:
        """What its tokens mean."""
        from fewjump.data import Tokens

        return Tokens(size)


@dataclass(frozen=True)
class Markov(Recipe):
    """A chain with random transitions; by default that of the library's own curves."""

    vocab_size: int = 8
    length: int = 32
    concentration: float = 0.4
    seed: int = 482

    def make(self) -> MarkovChain:
        from fewjump.problem import MarkovChain
        from fewjump.random import generator_for

        source = generator_for(self.seed)
        return MarkovChain.random(self.vocab_size, self.length, self.concentration, source)


@dataclass(frozen=True)
class HiddenMarkov(Recipe):
    """A hidden chain with random transitions and emissions; by default the library's own."""

    states: int = 16
    vocab_size: int = 8
    length: int = 32
    concentration: float = 0.2
    seed: int = 0

    def make(self) -> Problem:
        from fewjump.problem import HiddenMarkovChain
        from fewjump.random import generator_for

        sizes = self.states, self.vocab_size, self.length, self.concentration
        return HiddenMarkovChain.random(*sizes, generator_for(self.seed))


@dataclass(frozen=True)
class OracleMarkov(Recipe):
    """A chain over a–z and space with the bigrams of a text (arXiv 2602.19619)."""

    text: Source = "text"
    length: int = 128

    def make(self) -> Problem:
        from fewjump.problem import MarkovChain

        data = self._data
        return MarkovChain.from_text(data.all("train"), data.vocab_size, self.length)

    def vocabulary(self, size: int) -> Vocabulary:
        return self._data.vocabulary

    @cached_property
    def _data(self) -> Dataset:
        from fewjump.data import load_data

        return load_data(self.text, self.length, normalise=True)


@dataclass(frozen=True)
class Joint(Recipe):
    """A law with a probability of its own for every sequence, ∝ exp(roughness·N(0, 1))."""

    vocab_size: int = 3
    length: int = 4
    roughness: float = 1.0
    seed: int = 0

    def make(self) -> Problem:
        from fewjump.problem import EnumeratedJoint
        from fewjump.random import generator_for

        sizes = self.vocab_size, self.length, self.roughness
        return EnumeratedJoint.random(*sizes, generator_for(self.seed))


@dataclass(frozen=True)
class Ising(Recipe):
    """Spins on a grid."""

    rows: int = 3
    cols: int = 3
    coupling: float = 0.4

    def make(self) -> Problem:
        from fewjump.problem import ising

        return ising(self.rows, self.cols, self.coupling)


@dataclass(frozen=True)
class Sudoku(Recipe):
    """All boards of 4×4 cells, or a number of random boards of base² × base² cells."""

    base: int = 2
    boards: int | None = None
    seed: int = 0

    def make(self) -> FiniteSupport:
        from fewjump.problem import FiniteSupport
        from fewjump.problem.sudoku import random_boards, sudoku

        if self.boards is None:
            if self.base != 2:
                raise ValueError(
                    f"boards of base {self.base} do not fit a list; give boards: how many random "
                    "ones are the law"
                )
            return sudoku(2)
        return FiniteSupport(random_boards(self.boards, self.seed, self.base))


@dataclass(frozen=True)
class Sequences(Recipe):
    """The sequences of a file: .npy of (N, L) tokens, or .npz of ``sequences`` and ``weights``."""

    file: Path | None = None
    vocab_size: int | None = None

    def make(self) -> FiniteSupport:
        import numpy as np
        import torch

        from fewjump.problem import FiniteSupport

        if self.file is None or not self.file.is_file():
            raise ValueError(f"file: must name a .npy or .npz file of sequences, got {self.file}")
        try:
            found = np.load(self.file, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise ValueError(f"{self.file} is no .npy or .npz file of numbers") from None
        parts = {"sequences": found} if isinstance(found, np.ndarray) else dict(found)
        if not {"sequences"} <= parts.keys() <= {"sequences", "weights"}:
            raise ValueError(
                f"{self.file} must hold arrays named sequences and, if need be, weights; it has "
                f"{', '.join(parts) or 'none'}"
            )
        if odd := [name for name, array in parts.items() if array.dtype.kind not in "iuf"]:
            raise ValueError(f"{self.file}: {', '.join(odd)} must be numbers")
        arrays = {name: torch.from_numpy(array) for name, array in parts.items()}
        return FiniteSupport(arrays["sequences"], arrays.get("weights"), self.vocab_size)


RECIPES: dict[str, type[Recipe]] = {
    "markov": Markov,
    "hidden-markov": HiddenMarkov,
    "oracle-markov": OracleMarkov,
    "joint": Joint,
    "ising": Ising,
    "sudoku": Sudoku,
    "sequences": Sequences,
}


class ProblemPlan(NamedTuple):
    """A problem as the plan file states it.

    Attributes:
        kind: of it.
        recipe: its law.
        drawn: what is drawn of it.
        network: options of the students' transformer, and of a trained teacher's.
        training: of a teacher that learns from draws; None for the exact posterior.
    """

    kind: str
    recipe: Recipe
    drawn: Drawn
    network: dict[str, Any]
    training: TrainConfig | None

    @property
    def posterior(self) -> str:
        """What the exact posterior is called: all that it depends on."""
        said = {**asdict(self.drawn), **asdict(self.recipe)}  # pyright: ignore[reportArgumentType]
        return f"{EXACT} of {self.kind} ({', '.join(f'{k} {v}' for k, v in said.items())})"


def read_problem(
    own: Mapping[str, Any],
    network: Mapping[str, Any],
    training: TrainConfig | None = None,
) -> ProblemPlan:
    """The content of `problem:` and `network:`, and the training of a teacher if it needs one.

    Raises:
        ValueError: for what is no problem.
    """
    from fewjump.denoiser import TransformerConfig

    rest = dict(own)
    kind = rest.pop("kind", None)
    if kind is None or "noise" not in rest:
        raise ValueError(
            f"problem: needs kind, one of {', '.join(RECIPES)}, and noise, masked or uniform or "
            "another of `fewjump train --process`"
        )
    with told_of("problem"):
        one_of("kind", kind, RECIPES)
        drawn, recipe = changed(rest, Drawn(), RECIPES[kind]())
    fixed = ("vocab_size", "time_conditioned", "classes", "guidance")
    if said := [name for name in network if name in fixed]:
        raise ValueError(f"network: {', '.join(said)} follows from the problem; leave it out")
    with told_of("network"):
        (config,) = changed(network, TransformerConfig(2))
    sizes = {name: getattr(config, name) for name in network}
    return ProblemPlan(kind, recipe, drawn, sizes, training)


class Opened(NamedTuple):
    """A problem, ready to be learned.

    Attributes:
        given: teacher, data and network of `fewjump distill`. A teacher that is to be trained is a
            network that has learned nothing yet.
        meter: the law as judge.
        exact: the exact posterior.
        student: a network of the students' size.
    """

    given: Given
    meter: ProblemMeter
    exact: Denoiser
    student: Denoiser


def open_problem(plan: ProblemPlan, samples: int | None) -> Opened:
    """Make a problem, draw from it, and make its exact posterior.

    Args:
        plan: what it is.
        samples: exact samples to compare with.

    Raises:
        ValueError: for options that make no problem, or that noise cannot be put on.
    """
    from fewjump.assembly import build_student
    from fewjump.data import Dataset
    from fewjump.evaluate.problem import ProblemMeter
    from fewjump.publish.models import Model
    from fewjump.random import generator_for

    drawn = plan.drawn
    problem = plan.recipe.make()
    process = build_process(drawn.noise, drawn.schedule, problem.vocab_size)
    vocabulary = plan.recipe.vocabulary(problem.vocab_size)
    data = Dataset(
        train=problem.sample(drawn.sequences, generator_for(drawn.draws, 0)),
        valid=problem.sample(2, generator_for(drawn.draws, 1)),
        test=problem.sample(samples or _SAMPLES, generator_for(drawn.draws, 2)),
        vocabulary=vocabulary,
        description=f"{drawn.sequences:,} draws of {problem!r}",
    )
    exact = problem.denoiser(process)
    # Given which tokens are masked, the posterior does not depend on the time.
    network = {"time_conditioned": not process.absorbing, **plan.network}
    student = build_student(exact, "product", network, None, False, problem.length, 0)
    if plan.training is None:
        given = Given(Model(exact, vocabulary, Path(EXACT)), data, network)
    else:
        given = Given(Model(deepcopy(student), vocabulary, Path(TEACHER)), data, None)
    return Opened(given, ProblemMeter(problem, data), exact, student)


def trained(given: Given, training: TrainConfig, folder: Path) -> Given:
    """With a teacher that has learned from the draws, in a folder that keeps it."""
    from fewjump.api import train_teacher

    network, data = given.teacher.denoiser, given.data
    teacher = train_teacher(data, network.process, network=network, config=training, out=folder)
    return given._replace(teacher=given.teacher._replace(denoiser=teacher, folder=folder))
