"""What the named checks distil: a small chain with its teacher, or a user's own model and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import CrossEntropyELBO, Objective, freeze
from fewjump.problem import MarkovChain
from fewjump.process import Process, Uniform
from fewjump.publish.conditions import read_conditions
from fewjump.publish.models import Model, open_data_like, open_model
from fewjump.random import generator_for, initial_weights
from fewjump.reading import reading_values
from fewjump.sampler import sample
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

if TYPE_CHECKING:
    from fewjump.verify.checks import ModelCheck

VOCAB, LENGTH = 8, 8
_TIMES = tuple(k / 8 for k in range(1, 9))
_SAMPLES = 128


def open_saved(check: ModelCheck) -> Model:
    """The model of a check; errors are those of :func:`fewjump.publish.models.open_model`."""
    assert check.model is not None
    model = open_model(check.model, reading=reading_values(check))
    if model.denoiser.classes is not None:
        raise ValueError(f"named checks are of models without classes; {check.model} has some")
    return model


def tokens_for(model: Model, source: str | None, count: int, seed: int) -> Tensor:
    """Clean tokens (count, L) for a model: rows of its data's test part, or its own samples.

    Args:
        model: what they are for.
        source: as for :func:`fewjump.data.load_data`; None for samples of 64 ancestral steps.
        count: how many; fewer if the data have fewer.
        seed: of the choice, or of the sampling.

    Raises:
        ValueError: for data in another vocabulary.
    """
    if source is None:
        given = read_conditions(model.vocabulary, count, model.denoiser.length)
        return sample(model.denoiser, count, 64, generator=seed, **vars(given))
    data = open_data_like(model, source)
    rows = torch.randperm(len(data.test), generator=generator_for(seed, 3))[:count]
    return data.batch(rows, "test")


@torch.no_grad()
def surprise(denoiser: Denoiser, data: Tensor, seed: int) -> float:
    """−log p(x₀ⁱ|x_t), nats per position, over t = 0.2 … 1 and all of ``data``; less is better.

    Where there is a mask, over masked positions. The noise depends on the seed alone, so that two
    denoisers are judged on the same states.

    Args:
        denoiser: its per-position marginals are judged.
        data: (N, L) clean tokens that it was not trained on.
        seed: of the noise.
    """
    process, total, count = denoiser.process, 0.0, 0
    for number in range(1, 6):
        generator = generator_for(seed, 20 + number)
        for x0 in data.split(128):
            t = number / 5
            x_t = process.corrupt(x0, 0.0, t, generator)
            picked = denoiser(x_t, t).marginals().gather(-1, x0[..., None])[..., 0]
            keep = process.hidden(x_t)
            total -= float(picked.double().clamp(min=1e-9).log()[keep].sum())
            count += int(keep.sum())
    return total / count


def chain_and_data(seed: int) -> tuple[MarkovChain, Tensor]:
    """A random Markov chain of 8 tokens and 8 positions, and 20,000 of its sequences."""
    chain = MarkovChain.random(VOCAB, LENGTH, concentration=0.4, generator=generator_for(seed, 1))
    return chain, chain.sample(20_000, generator_for(seed, 2))


def small_network(process: Process, length: int = LENGTH, **trunk: Any) -> dict[str, Any]:
    """Description of a transformer of width 32 with 2 heads, unless ``trunk`` says otherwise."""
    trunk = {"hidden": 32, "blocks": 2, "heads": 2, "conv_kernel": 3, **trunk}
    return {"process": process.config(), "trunk": trunk, "length": length}


def trained(
    model: Denoiser, objective: Objective, data: Tensor, steps: int, batch_size: int, seed: int
) -> Denoiser:
    """A small network after ``steps`` of training on the data: averaged weights, frozen."""
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=3e-3,
        ema=0.98,
        seed=seed,
        log_every=steps,
        progress=False,
    )
    return freeze(train(model, objective, data, config).averaged())


class Subject(NamedTuple):
    """What is distilled.

    Attributes:
        teacher: frozen.
        warm: makes a student that starts at the teacher.
        cold: makes a student of the teacher's sizes with random weights.
        data: (N, L) clean tokens to train on.
        judge: quality of a denoiser with the noise of a seed; less is better.
        unit: of the judgement.
        lr, batch_size: of the students' training.
    """

    teacher: Denoiser
    warm: Callable[[], Denoiser]
    cold: Callable[[], Denoiser]
    data: Tensor
    judge: Callable[[Denoiser, int], float]
    unit: str
    lr: float
    batch_size: int = 64

    def distil(
        self,
        student: Denoiser,
        objective: Objective,
        generator: torch.Generator,
        steps: int,
        lr: Callable[[int], float],
        clip: float = float("inf"),
    ) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """Train in place with Adam, without files or averages; loss and metrics after each step.

        Args:
            student: of :attr:`warm` or :attr:`cold`.
            objective: as for :func:`fewjump.train.train`.
            generator: of batches (drawn with replacement), times and noise.
            steps: of the optimiser.
            lr: step → learning rate, as a share of :attr:`lr`.
            clip: largest norm of the gradient.
        """
        parameters = [p for p in student.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(parameters)
        student.train()
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = self.lr * lr(step)
            rows = torch.randint(len(self.data), (self.batch_size,), generator=generator)
            optimiser.zero_grad(set_to_none=True)
            loss, metrics = objective(student, self.teacher, self.data[rows], generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            yield float(loss.detach()), metrics
        student.eval()


def chain_subject(seed: int, teacher_steps: int) -> Subject:
    """A small transformer trained on a Markov chain, judged by the chain's exact posterior."""
    chain, data = chain_and_data(seed)
    process = Uniform(VOCAB, LogLinear())

    def fresh(part: int) -> NetworkDenoiser:
        with initial_weights(seed, part):
            model = NetworkDenoiser.from_config(small_network(process))
        model.process = process
        return model

    teacher = trained(fresh(5), CrossEntropyELBO(), data, teacher_steps, 64, seed)
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
    return Subject(teacher, teacher.as_student, lambda: fresh(6), data, judge, unit, lr=1e-3)


def saved_subject(check: ModelCheck, seed: int) -> Subject:
    """The model of a check on its own data or samples, judged on a quarter of them by
    :func:`surprise`.

    Errors as for :func:`open_saved` and :func:`tokens_for`; ``cold`` raises ValueError if the
    student's kind cannot be built from its description.
    """
    saved = open_saved(check)
    model, data = saved.denoiser, tokens_for(saved, check.data, count=1024, seed=seed)
    held_out, training = data[: len(data) // 4], data[len(data) // 4 :]
    teacher = freeze(copy.deepcopy(model))

    def cold() -> Denoiser:
        warm = model.as_student()
        build, describe = (getattr(warm, name, None) for name in ("from_config", "config"))
        if build is None or describe is None:
            raise ValueError(
                f"a {type(model).__name__} cannot be built with random weights from its description"
            )
        with initial_weights(seed, 6):
            fresh = build(describe())
        fresh.process = model.process
        return fresh

    def judge(denoiser: Denoiser, noise: int) -> float:
        return surprise(denoiser, held_out, noise)

    unit = "nats per position, of true tokens"
    return Subject(teacher, teacher.as_student, cold, training, judge, unit, lr=3e-4)
