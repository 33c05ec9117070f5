"""What the named checks distil: a small chain with its teacher, or a user's own model and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import CrossEntropyELBO, Objective, freeze
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import fold_seed, generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

VOCAB, LENGTH = 8, 8
_TIMES = tuple(k / 8 for k in range(1, 9))
_SAMPLES = 128


class Saved(NamedTuple):
    """A denoiser, and the description of its vocabulary (None where none was saved)."""

    denoiser: Denoiser
    vocabulary: dict[str, Any] | None
    folder: Path


def open_saved(path: Path, reading: Mapping[str, Any] | None = None) -> Saved:
    """Load a saved model (the folder itself, or ``model`` inside a run's folder) or an original.

    Args:
        path: of the model.
        reading: options of :func:`fewjump.load` for a checkpoint of the originals.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for ``reading`` of a model that is no original, and what is wrong with it.
    """
    from fewjump.checkpoint.opening import open_model, place_of
    from fewjump.checkpoint.originals import Reading

    place = place_of(path)
    denoiser, _ = open_model(place, Reading(**(reading or {})))
    return Saved(denoiser, denoiser.vocabulary_config, place)


def tokens_for(model: Saved, source: str | None, count: int, seed: int, steps: int = 64) -> Tensor:
    """Clean tokens (count, L) for a model: rows of its data's test part, or its own samples.

    Args:
        model: what they are for.
        source: as for :func:`fewjump.data.load_data`; None for samples of ``steps`` steps.
        count: how many; fewer if the data have fewer.
        seed: of the choice, or of the sampling.
        steps: of the ancestral sampler.

    Raises:
        ValueError: for data in another vocabulary.
    """
    from fewjump.data import Characters, Vocabulary, load_data
    from fewjump.data.load import BUILTIN
    from fewjump.sampler import sample

    if source is None:
        return sample(model.denoiser, count, steps, generator=seed)
    known = None if model.vocabulary is None else Vocabulary.from_config(model.vocabulary)
    alphabet = None
    if isinstance(known, Characters) and source not in BUILTIN and not source.endswith(".npy"):
        alphabet = known.symbols.replace(known.padding or "", "")
    data = load_data(source, model.denoiser.length, alphabet=alphabet)
    if known is not None and data.vocabulary != known:
        raise ValueError(
            f"the model in {model.folder} speaks {known.name} of {known.size} symbols, but "
            f"{source} has {data.vocabulary.name} of {data.vocabulary.size}; give the data it was "
            "trained on"
        )
    rows = torch.randperm(len(data.test), generator=generator_for(seed, 3))[:count]
    return data.batch(rows, "test")


def judged(process: Process, x_t: Tensor) -> Tensor:
    """The positions that count: masked ones, where a visible one is known; boolean, as ``x_t``."""
    return x_t == process.mask if isinstance(process, Absorbing) else torch.ones_like(x_t) > 0


@torch.no_grad()
def surprise(denoiser: Denoiser, data: Tensor, seed: int, batch_size: int = 128) -> float:
    """−log p(x₀ⁱ|x_t), nats per position, over t = 0.2 … 1 and all of ``data``; less is better.

    Where there is a mask, over masked positions. The noise depends on the seed alone, so that two
    denoisers are judged on the same states.

    Args:
        denoiser: its per-position marginals are judged.
        data: (N, L) clean tokens that it was not trained on.
        seed: of the noise.
        batch_size: rows at a time.
    """
    process, total, count = denoiser.process, 0.0, 0
    for number in range(1, 6):
        generator = generator_for(seed, 20 + number)
        for first in range(0, data.shape[0], batch_size):
            x0, t = data[first : first + batch_size], number / 5
            x_t = process.corrupt(x0, 0.0, t, generator)
            picked = denoiser(x_t, t).marginals().gather(-1, x0[..., None])[..., 0]
            keep = judged(process, x_t)
            total -= float(picked.double().clamp(min=1e-9).log()[keep].sum())
            count += int(keep.sum())
    return total / count


def chain_and_data(seed: int) -> tuple[MarkovChain, Tensor]:
    """A random Markov chain of 8 tokens and 8 positions, and 20,000 of its sequences."""
    chain = MarkovChain.random(VOCAB, LENGTH, concentration=0.4, generator=generator_for(seed, 1))
    return chain, chain.sample(20_000, generator_for(seed, 2))


def small_network(process: Process) -> dict[str, Any]:
    """Description of a small transformer for the chain."""
    trunk = {"hidden": 32, "blocks": 2, "heads": 2, "conv_kernel": 3}
    return {"process": process.config(), "trunk": trunk, "length": LENGTH}


def small_training(steps: int, batch_size: int, seed: int) -> TrainConfig:
    """How such a network is trained."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=3e-3,
        ema=0.98,
        seed=seed,
        log_every=steps,
        progress=False,
    )


class Subject(NamedTuple):
    """What is distilled.

    Attributes:
        teacher: frozen; its ``as_student`` makes a student that starts at it.
        cold: makes a student of the teacher's sizes with random weights.
        data: (N, L) clean tokens to train on.
        judge: quality of a denoiser with the noise of a seed; less is better.
        unit: of the judgement.
        lr: of the students' training.
    """

    teacher: Denoiser
    cold: Callable[[], Denoiser]
    data: Tensor
    judge: Callable[[Denoiser, int], float]
    unit: str
    lr: float


def chain_subject(seed: int, teacher_steps: int) -> Subject:
    """A small transformer trained on a Markov chain, judged by the chain's exact posterior."""
    chain, data = chain_and_data(seed)
    process = Uniform(VOCAB, LogLinear())

    def fresh(part: int) -> NetworkDenoiser:
        torch.manual_seed(fold_seed(seed, part))
        model = NetworkDenoiser.from_config(small_network(process))
        model.process = process
        return model

    config = small_training(teacher_steps, 64, seed)
    teacher = freeze(train(fresh(5), CrossEntropyELBO(), data, config).averaged())
    exact = chain.denoiser(process)
    states = []
    for number, t in enumerate(_TIMES):
        generator = generator_for(seed, 30 + number)
        x_t = process.corrupt(chain.sample(_SAMPLES, generator), 0.0, t, generator)
        states.append((t, x_t, exact(x_t, t).marginals()))

    def judge(denoiser: Denoiser, _: int) -> float:
        total = 0.0
        for t, x_t, truth in states:
            guess = denoiser(x_t, t).marginals().double().clamp(min=1e-30)
            total += float((torch.xlogy(truth, truth) - truth * guess.log()).sum(-1).mean())
        return total / len(states)

    unit = "KL from the exact posterior, nats per position"
    return Subject(teacher, lambda: fresh(6), data, judge, unit, lr=1e-3)


def saved_subject(path: Path, source: str | None, seed: int, reading: Mapping[str, Any]) -> Subject:
    """A user's model on its own data or samples, judged on a quarter of them by :func:`surprise`.

    Arguments and errors as for :func:`open_saved` and :func:`tokens_for`; ``cold`` raises
    ValueError if the student's kind cannot be built from its description.
    """
    saved = open_saved(path, reading)
    model = saved.denoiser
    data = tokens_for(saved, source, count=1024, seed=seed)
    held_out, training = data[: len(data) // 4], data[len(data) // 4 :]

    def cold() -> Denoiser:
        warm = model.as_student()
        build, describe = (getattr(warm, name, None) for name in ("from_config", "config"))
        if build is None or describe is None:
            raise ValueError(
                f"a {type(model).__name__} cannot be built with random weights from its description"
            )
        torch.manual_seed(fold_seed(seed, 6))
        fresh = build(describe())
        fresh.process = model.process
        return fresh

    return Subject(
        freeze(copy.deepcopy(model)),
        cold,
        training,
        lambda denoiser, noise: surprise(denoiser, held_out, noise),
        "nats per position, of true tokens",
        lr=3e-4,
    )


def optimise(
    student: Denoiser,
    teacher: Denoiser,
    objective: Objective,
    data: Tensor,
    generator: torch.Generator,
    steps: int,
    lr: Callable[[int], float],
    batch_size: int,
    clip: float = float("inf"),
) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Train in place with Adam, without files or averages; loss and metrics after each step.

    Args:
        student, teacher, objective: as for :func:`fewjump.train.train`; the teacher frozen.
        data: (N, L) clean tokens, drawn with replacement.
        generator: of batches, times and noise.
        steps: of the optimiser.
        lr: step → learning rate.
        batch_size: rows a step.
        clip: largest norm of the gradient.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters)
    student.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr(step)
        batch = data[torch.randint(len(data), (batch_size,), generator=generator)]
        optimiser.zero_grad(set_to_none=True)
        loss, metrics = objective(student, teacher, batch, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
        yield float(loss.detach()), metrics
    student.eval()
