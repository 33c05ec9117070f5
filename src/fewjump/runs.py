"""What every verb does around its training: set the teacher aside, write models down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewjump.checkpoint.folder import CONFIG_FILE, MODEL_FILES, save
from fewjump.data import Dataset
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.denoiser.lora import is_low_rank, merged
from fewjump.files import check_replaceable
from fewjump.lock import is_main, sole_writer
from fewjump.objective import Objective, freeze
from fewjump.options.sampled import CouplingOptions
from fewjump.options.training import TrainConfig
from fewjump.rollouts import coupled
from fewjump.train import TrainResult
from fewjump.train.data import Tokens
from fewjump.train.distributed import join_world
from fewjump.train.setup import describe
from fewjump.train.state import CONFIG_FILE as RUN_CONFIG
from fewjump.train.state import begun_as, check_fresh, check_identity, read_config

#: Folder, in that of a run, of the trainings before its last.
ROUNDS = "rounds"
#: Name, without its ending, of the file of a round's pairs of samples and noise.
PAIRS = "pairs"


@contextmanager
def set_aside(teacher: Denoiser) -> Iterator[None]:
    """Freeze a teacher while the block runs, and leave it as it was found."""
    was_training = teacher.training
    trained = [p for p in teacher.parameters() if p.requires_grad]
    freeze(teacher)
    try:
        yield
    finally:
        teacher.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def run_folder(out: str | Path | None) -> Iterator[None]:
    """Hold a run's folder for a verb, once what it will replace at its end can be replaced.

    Raises:
        ValueError: if the folder is that of a saved model, or ``model`` and ``teacher`` in it hold
            files of someone else's.
        BusyError, PermissionError, NotADirectoryError: see :func:`fewjump.lock.sole_writer`.
    """
    if out is None:
        yield
        return
    with sole_writer(Path(out)):
        if (Path(out) / CONFIG_FILE).exists():
            raise ValueError(
                f"{out} is the folder of a saved model; give a folder of the run's own"
            )
        for name in ("model", "teacher"):
            check_replaceable(Path(out) / name, MODEL_FILES)
        yield


def keeping(
    teacher: Denoiser, data: Dataset | Tokens | None, accepted: Callable[[Path], object] | None
) -> Callable[[Path], None]:
    """What a run does with its folder once it is accepted: the teacher, and then ``accepted``.

    The teacher is written to the folder's ``teacher``, if a folder can hold it.
    """

    def keep(folder: Path) -> None:
        if teacher.described() is not None:
            save(teacher, folder / "teacher", vocabulary=vocabulary_of(data, teacher))
        if accepted is not None:
            accepted(folder)

    return keep


@dataclass(frozen=True)
class Round:
    """One training of a distillation.

    Attributes:
        number: counted from 1.
        objective, config: of this training.
        folder: of its run; None keeps nothing on disk.
        label: shown with progress.
    """

    number: int
    objective: Objective
    config: TrainConfig
    folder: Path | None
    label: str


def plan_rounds(objective: Objective, config: TrainConfig, out: str | Path | None) -> list[Round]:
    """The trainings of a distillation: equal shares of the optimiser steps.

    The last is in ``out`` itself, the others in ``out/rounds/1`` and so on. Each goes on where it
    was; what it learned from is part of what a run is known by.

    Raises:
        ValueError: for fewer steps than rounds, or where ``out`` holds a run of another kind.
    """
    objectives = objective.in_rounds()
    count = len(objectives)
    folder = None if out is None else Path(out)
    if config.steps < count:
        raise ValueError(f"{count} rounds need at least {count} steps, got steps={config.steps}")
    if folder is not None:
        begun, in_rounds = (folder / RUN_CONFIG).exists(), (folder / ROUNDS).exists()
        if (begun and count > 1 and not in_rounds) or (in_rounds and count == 1):
            raise ValueError(
                f"{folder} holds another run, {'with' if in_rounds else 'without'} rounds; choose "
                "a new output folder"
            )
        if count > 1 and not in_rounds:
            # The last training would be refused what lies here, after all the others.
            check_fresh(folder, {})
        first = read_config(folder / ROUNDS / "1") if in_rounds else None
        before = None if first is None else first.get("free", {}).get("steps")
        if before not in (None, config.steps // count):
            raise ValueError(
                f"{folder} was begun with {before} steps for its first round, and a run in rounds "
                "cannot be made longer or shorter; give the same steps, or a new output folder"
            )
    share = config.steps // count
    return [
        Round(
            number,
            one,
            replace(
                config,
                steps=share if number < count else config.steps - share * (count - 1),
                seed=config.seed + number - 1,
            ),
            folder if number == count or folder is None else folder / ROUNDS / str(number),
            "distill" if count == 1 else f"distill, round {number} of {count}",
        )
        for number, one in enumerate(objectives, 1)
    ]


def coupled_with_noise(
    teacher: Denoiser,
    each: Round,
    student: Denoiser,
    length: int | None,
    guidance: tuple[float, float] | None,
) -> Dataset:
    """A round's pairs of the teacher's samples and their noise, kept in its folder.

    Of several processes the first draws them, and the others wait.

    Raises:
        ValueError: before anything is drawn, where the student cannot be trained so, or the folder
            holds another run.
    """
    objective, folder = each.objective, each.folder
    assert isinstance(objective, CouplingOptions)
    objective.check(student, teacher)
    found = begun_as(folder).get("objective")
    if folder is not None and found is not None:
        mine = {"objective": describe(objective), "train": {}}
        check_identity(folder, {"objective": found}, mine)

    def draw() -> Dataset:
        return coupled(
            teacher,
            None if folder is None else folder / PAIRS,
            objective.pairs,
            objective.pair_steps,
            seed=each.config.seed,
            length=length,
            guidance=guidance,
            progress=each.config.progress and is_main(),
        )

    with join_world(each.config.device) as world:
        teacher.to(world.device)
        if world.is_main or folder is None:
            pairs = draw()
            world.barrier()
        else:
            world.barrier()
            pairs = draw()
    return pairs


def finish(
    result: TrainResult,
    out: str | Path | None,
    data: Dataset | Tokens | None,
    objective: Objective,
    config: TrainConfig,
    **more: Any,
) -> Denoiser:
    """The end of every verb of training: the averaged model, an ordinary denoiser in eval mode.

    With ``out`` it is also written to ``out/model``, with how it was trained, if a folder can hold
    it.
    """
    model = objective.delivered(result.averaged())
    if not objective.keeps_network:
        # They were learned for other weights.
        model.samplers = None
    if isinstance(model, NetworkDenoiser | ScoreDenoiser) and is_low_rank(model):
        model = merged(model)
    if out is None or not is_main() or model.described() is None:
        return model
    training = {
        "objective": describe(objective),
        "steps": result.step,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "ema": config.ema,
        "seed": config.seed,
        "stopped_by_time": result.stopped_by_time,
        "seconds": result.metrics.get("seconds"),
        **more,
    }
    vocabulary = vocabulary_of(data, model)
    save(model.for_sampling(), Path(out) / "model", vocabulary=vocabulary, training=training)
    return model


def describe_model(model: Denoiser) -> dict[str, Any]:
    """The denoiser's own configuration, or for foreign networks its class and process."""
    foreign = {"class": type(model).__qualname__, "process": model.process.config()}
    return model.described() or foreign


def vocabulary_of(data: Dataset | Tokens | None, model: Denoiser | None = None) -> Any:
    """What the data say of their tokens; else what the model does, which may be nothing."""
    if isinstance(data, Dataset):
        return data.vocabulary
    return None if model is None else model.vocabulary_config
