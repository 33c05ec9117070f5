"""LSD: its losses by enumeration, what is learned, and the model that carries it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fewjump
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.evaluate.exact import kl
from fewjump.law.base import enumerate_states
from fewjump.objective import SamplerDistillation, freeze
from fewjump.objective.learned_sampler import LearnedSampler
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.sampler import Scaled, exact_output_law, run
from fewjump.sampler.reverse import reverse_rates
from fewjump.schedule import Cosine, LogLinear
from fewjump.train import read_metrics
from sampler.oracle import random_joint

V = 3
PROCESSES = {
    "uniform": Uniform(V, LogLinear(eps=1e-2)),
    "absorbing": Absorbing(V + 1, Cosine(eps=1e-3)),
}
every_process = pytest.mark.parametrize("name", PROCESSES)


def teacher_of(process: Process, length: int = 2) -> Denoiser:
    return freeze(random_joint(V, length, 2.0, seed=1).denoiser(process))


def streams(rows: int, seed: int = 0) -> SampleStreams:
    return SampleStreams(seed, torch.arange(rows))


def loss_of(objective: SamplerDistillation, learned: Denoiser, rows: int = 200, seed: int = 0):
    teacher = learned._teacher[0]
    batch = torch.zeros(rows, teacher.length, dtype=torch.int64)
    return objective(learned, teacher, batch, streams(rows, seed))


def step_table(process: Process, law, states: Tensor, t: float, s: float, base, factor=1.0):
    times = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
    return Scaled(base=base).jump(law, process, states, *times, factor).table()


def chain(teacher: Denoiser, times: list[float]) -> tuple[list[Tensor], list[Tensor]]:
    """Laws of the state at each time of ancestral steps, and the steps' tables, by enumeration."""
    process, length = teacher.process, teacher.length or 0
    states = enumerate_states(process.vocab_size, length)
    law = process.prior().expand(length, -1)[torch.arange(length), states].prod(-1)
    laws, tables = [law], []
    for t, s in pairwise(times):
        tables.append(step_table(process, teacher(states, t), states, t, s, "ancestral"))
        laws.append(laws[-1] @ tables[-1])
    return laws, tables


@every_process
@pytest.mark.parametrize("align", ["transitions", "scores"])
def test_gradients_are_those_of_differences(name: str, align) -> None:
    """The draws do not depend on the coefficients, but for scores of the later steps."""
    options = {"base": "tau-leaping", "align": align, "path_steps": 9}
    objective = SamplerDistillation(steps=3, **options)
    teacher = teacher_of(PROCESSES[name])
    learned = LearnedSampler(teacher, objective)
    source = generator_for(3)
    parameters = [p for p in learned.parameters() if p.requires_grad]
    for parameter in parameters:
        noise = 0.3 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        parameter.data.add_(noise)
    assert len(parameters) == (2 if align == "transitions" else 1)
    gradients = torch.autograd.grad(loss_of(objective, learned)[0], parameters)
    for parameter, gradient in zip(parameters, gradients):
        for index in range(len(parameter)):
            found = []
            for step in (1e-6, -1e-6):
                parameter.data[index] += step
                found.append(float(loss_of(objective, learned)[0].detach()))
                parameter.data[index] -= step
            slope = (found[0] - found[1]) / 2e-6
            assert float(gradient[index]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
        assert float(gradient.abs().max()) > 1e-3


@every_process
def test_the_loss_is_the_divergence_of_paths(name: str) -> None:
    """One position moves independently of others: the exact step loses nothing, and J is a
    difference of entropies, whatever the times; to it comes what the scaled steps lose."""
    process, rows = PROCESSES[name], 20_000
    teacher = teacher_of(process, 1)
    states = enumerate_states(process.vocab_size, 1)
    factors = torch.tensor([0.6, 1.5], dtype=torch.float64)
    for grid in ((1.0, 0.75, 0.25, 0.0), (1.0, 0.5, 0.25, 0.0)):
        objective = SamplerDistillation(
            grid=grid, base="tau-leaping", path_steps=12, learn_times=False
        )
        learned = LearnedSampler(teacher, objective)
        learned.log_multipliers.data = factors.log()
        loss, metrics = loss_of(objective, learned, rows)
        laws, exact = chain(teacher, list(grid[:-1]))
        excess = 0.0
        for k, (t, s) in enumerate(pairwise(grid[:-1])):
            scaled = step_table(
                process, teacher(states, t), states, t, s, "tau-leaping", factors[k]
            )
            ratio = exact[k].clamp(min=1e-12).log() - scaled.clamp(min=1e-12).log()
            excess += float(laws[k] @ (exact[k] * ratio).sum(-1))
        assert float(metrics["excess"]) == pytest.approx(excess, rel=0.06)
        clean = teacher.problem.probs
        ends = [float(torch.special.entr(law).sum()) for law in (clean, laws[0])]
        rest = float(loss.detach() - metrics["excess"])
        assert rest == pytest.approx(ends[0] - ends[1], abs=0.02)
        assert excess > 0.1


@every_process
def test_a_time_between_two_places_counts_as_both(name: str) -> None:
    objective = SamplerDistillation(steps=2, base="tau-leaping", path_steps=12)
    learned = LearnedSampler(teacher_of(PROCESSES[name]), objective)
    learned.log_multipliers.data.fill_(math.log(1.3))

    def loss(place: float) -> float:
        share = torch.tensor([place, 12 - place], dtype=torch.float64) / 12
        learned.log_shares.data = (share - learned.shortest).log()
        assert float(learned.times()[1].detach()) == pytest.approx(1 - place / 12, abs=1e-12)
        return float(loss_of(objective, learned)[0].detach())

    low, high = loss(5.0), loss(6.0)
    assert abs(low - high) > 1e-3
    for share in (0.25, 0.9):
        expected = (1 - share) * low + share * high
        assert loss(5 + share) == pytest.approx(expected, abs=1e-12)


@every_process
def test_scores_shrink_multipliers_and_that_takes_the_law_away(name: str) -> None:
    """The minimum in closed form, given noise in common; below 1, and the law is worse for it."""
    process = PROCESSES[name]
    teacher = teacher_of(process)
    states = enumerate_states(process.vocab_size, 2)
    t = torch.tensor(2 / 3, dtype=torch.float64)
    index = torch.arange(states.numel())
    rates = reverse_rates(teacher(states, t), process, states, t).values(index)
    rates = rates.double().reshape(len(states), -1)
    start, own = chain(teacher, [1.0, 2 / 3])
    many = torch.linalg.multi_dot(chain(teacher, [1 - k / 9 for k in range(4)])[1])
    square = float(start[0] @ own[0] @ rates.square().sum(-1))
    both = float(start[0] @ ((own[0] @ rates) * (many @ rates)).sum(-1))

    objective = SamplerDistillation(steps=3, align="scores", path_steps=9)
    learned = LearnedSampler(teacher, objective)

    def loss(multiplier: float) -> float:
        learned.log_multipliers.data[1] = math.log(multiplier)
        return float(loss_of(objective, learned, 20_000)[0].detach())

    at = [loss(m) for m in (1.0, 2.0, 3.0)]
    # The first step starts where the teacher does: L(Φ) = c + Φ²·E‖R‖² − 2Φ·E⟨R, R*⟩.
    found_square = (at[2] - 2 * at[1] + at[0]) / 2
    found_both = (3 * found_square - at[1] + at[0]) / 2
    assert found_square * 2 == pytest.approx(square, rel=0.05)
    assert found_both * 2 == pytest.approx(both, rel=0.05)
    assert both / square < 0.9
    target = exact_output_law(teacher, 64)
    plain, shrunk = (exact_output_law(teacher, 3, Scaled((1.0, m))) for m in (1.0, both / square))
    assert kl(target, shrunk) > 1.03 * kl(target, plain)


@pytest.mark.parametrize("base", ["euler", "tau-leaping"])
@every_process
def test_multipliers_alone_pay_under_a_mask_only(name: str, base) -> None:
    """The best of each step along the teacher's path, found on a list: under a mask what is drawn
    is closer to the teacher, if not as close as by the exact step; under uniform noise farther."""
    process = PROCESSES[name]
    teacher = teacher_of(process)
    states, grid = enumerate_states(process.vocab_size, 2), [1.0, 0.75, 0.5, 0.25, 0.0]
    found = []
    for t, s in pairwise(grid[:-1]):
        start = chain(teacher, [1 - k / 16 for k in range(round(16 * (1 - t)) + 1)])[0][-1]
        path = torch.linalg.multi_dot(chain(teacher, [t - k / 16 for k in range(5)])[1])

        def unlikely(factor: float, t=t, s=s, start=start, path=path) -> float:
            table = step_table(process, teacher(states, t), states, t, s, base, factor)
            return -float(start @ (path * table.clamp(min=1e-12).log()).sum(-1))

        factors = [2 ** (k / 4) for k in range(-12, 20)]
        found.append(min(factors, key=unlikely))
        assert unlikely(found[-1]) <= unlikely(1.0)
    target = exact_output_law(teacher, 64)
    samplers = (Scaled(tuple(found), base), Scaled(base=base), "ancestral")
    learned, plain, exact = (kl(target, exact_output_law(teacher, 4, one)) for one in samplers)
    if process.absorbing:
        assert exact < learned < 0.9 * plain
    else:
        assert learned > 1.05 * plain


def test_relaxed_noise_is_redrawn_for_the_few_step_sampler_alone() -> None:
    """Then the first states differ: under a mask some tokens are visible, and have no rates."""
    process, share = PROCESSES["absorbing"], 0.25
    teacher = teacher_of(process)
    states, t = enumerate_states(V + 1, 2), torch.tensor(1.0, dtype=torch.float64)
    rates = reverse_rates(teacher(states, t), process, states, t)
    table = rates.values(torch.arange(states.numel())).double().reshape(len(states), -1)
    chance = torch.where(states == V, 1 - share, share / V).double().prod(-1)
    away = chance @ (table - table[-1]).square().sum(-1) / table[-1].square().sum()
    for relaxed, expected in ((0.0, 0.0), (share, float(away))):
        objective = SamplerDistillation(steps=2, align="scores", path_steps=6, relaxed=relaxed)
        learned = LearnedSampler(teacher, objective)
        found = float(loss_of(objective, learned, 20_000)[1]["relative_error"])
        assert found == pytest.approx(expected, rel=0.03)


QUICK = {"batch_size": 512, "lr": 4e-3, "warmup": 2, "ema": 0.9, "monitor": False}
QUIET = {"progress": False, "device": "cpu"}


@every_process
def test_the_trained_sampler_is_closer_to_the_many_step_law(name: str) -> None:
    teacher = teacher_of(PROCESSES[name])
    objective = SamplerDistillation(steps=2, path_steps=8)
    student = fewjump.distill(teacher, objective=objective, steps=24, **QUICK, **QUIET)
    target = exact_output_law(teacher, 64)
    before, after = (kl(target, exact_output_law(model, 2)) for model in (teacher, student))
    assert after < 0.85 * before
    assert student.samplers is not None
    (sampler,) = student.samplers
    times = sampler["times"]
    assert (times[0], times[-1], len(times)) == (1, 0, 3)
    assert min(a - b for a, b in pairwise(times)) > 2 / 8
    assert teacher.samplers is None


def test_times_stay_apart_whatever_is_learned() -> None:
    learned = LearnedSampler(
        teacher_of(PROCESSES["uniform"]), SamplerDistillation(steps=5, path_steps=16)
    )
    assert learned.times().tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    for seed in range(20):
        learned.log_shares.data = 8 * torch.randn(5, generator=generator_for(seed)).double()
        times = learned.times().detach()
        assert (float(times[0]), float(times[-1])) == (1, 0)
        assert float(-times.diff().max()) > 2 / 16 * (1 - 1e-9)


@pytest.fixture(scope="module")
def network() -> Denoiser:
    """A network that has learned next to nothing."""
    tokens = torch.randint(3, (64, 1), generator=generator_for(0)).repeat(1, 4)
    small = {"hidden": 16, "blocks": 1, "heads": 2}
    process = Absorbing(4, Cosine())
    return fewjump.train_teacher(tokens, process, network=small, steps=2, batch_size=8, **QUIET)


SHORT = {"batch_size": 8, "warmup": 1, "decay": "constant", "lr": 1e-2, "log_every": 2}


def test_a_resumed_run_is_the_uninterrupted_one_and_its_model_carries_the_sampler(
    network: Denoiser, tmp_path: Path
) -> None:
    def distilled(out: str, steps: int) -> Denoiser:
        objective = SamplerDistillation(steps=3, path_steps=8)
        folder = tmp_path / out
        return fewjump.distill(
            network, objective=objective, steps=steps, out=folder, **SHORT, **QUIET
        )

    whole = distilled("whole", 6)
    distilled("parts", 3)
    parts = distilled("parts", 6)
    assert parts.samplers == whole.samplers
    states = [torch.load(tmp_path / out / "training_state.pt") for out in ("whole", "parts")]
    assert len(states[0]["student"]) == 2
    for name, value in states[0]["student"].items():
        assert torch.equal(value, states[1]["student"][name])
    # N for the trajectory; then K − 1 intervals from both places around a time, one from noise.
    asked = {line["teacher_evaluations"] for line in read_metrics(tmp_path / "whole")}
    assert asked == {8 + 2 * 3 - 1}

    assert whole is not network
    assert weights_checksum(whole) == weights_checksum(network)
    assert network.samplers is None
    loaded = fewjump.load(tmp_path / "parts" / "model")
    assert whole.samplers is not None
    assert loaded.samplers == whole.samplers
    drawn, again = (run(model, 20, 3, generator=1) for model in (whole, loaded))
    assert drawn.times.tolist() == whole.samplers[0]["times"]
    assert drawn.sampler.startswith("scaled(ancestral: ")
    assert torch.equal(drawn.samples, again.samples)
    # Another number of steps joins it.
    more = SamplerDistillation(steps=2, path_steps=6, align="scores")
    both = fewjump.distill(loaded, objective=more, steps=1, **SHORT, **QUIET)
    assert [one["steps"] for one in both.samplers or ()] == [3, 2]


def test_classes_are_drawn_and_evaluations_of_scores_are_counted(tmp_path: Path) -> None:
    tokens, labels = torch.arange(2).repeat(16)[:, None].repeat(1, 4), torch.arange(2).repeat(16)
    teacher = fewjump.train_teacher(
        tokens,
        Absorbing(3, LogLinear()),
        network={"hidden": 16, "blocks": 1, "heads": 2},
        labels=labels,
        classes=2,
        steps=2,
        batch_size=8,
        **QUIET,
    )
    objective = SamplerDistillation(steps=2, path_steps=6, align="scores", relaxed=0.1)
    student = fewjump.distill(
        teacher, objective=objective, steps=2, out=tmp_path / "r", **SHORT, **QUIET
    )
    assert {line["teacher_evaluations"] for line in read_metrics(tmp_path / "r")} == {6 + 2}
    drawn = run(student, 4, 2, generator=0, label=1)
    assert drawn.sampler == f"scaled(ancestral: {student.samplers[0]['multipliers'][0]:.6g})"


def test_what_it_cannot_do_is_refused(network: Denoiser) -> None:
    objective = SamplerDistillation(steps=3, path_steps=8)
    for options in (
        {"student": "mixture"},
        {"head": {"components": 2}},
        {"network": {"hidden": 8}},
        {"warm_start": False},
        {"lora": 2},
    ):
        with pytest.raises(ValueError, match="keeps the teacher's network"):
            fewjump.distill(network, objective=objective, steps=1, **options, **SHORT, **QUIET)
    joint = random_joint(V, 2).denoiser(PROCESSES["uniform"], joint=True)
    with pytest.raises(ValueError, match="draws them jointly"):
        fewjump.distill(joint, objective=objective, steps=1, **SHORT, **QUIET)
    other = random_joint(V, 2).denoiser(PROCESSES["uniform"])
    with pytest.raises(ValueError, match="trains the coefficients of a sampler, no network"):
        objective.check(other, teacher_of(other.process))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "nothing can be learned"),
        ({"base": "psi"}, "unknown base"),
        ({"align": "laws"}, "unknown align"),
        ({"align": "scores", "learn_times": True}, "cannot be learned"),
        ({"align": "scores", "steps": 5}, "multiple of the jumps"),
        ({"relaxed": 0.1}, "relaxed is for align='scores'"),
        ({"align": "scores", "relaxed": 1.0}, "relaxed must lie"),
        ({"path_steps": 0}, "path_steps must be at least 1"),
        ({"path_steps": 16}, "raise path_steps"),
        ({"grid": (1.0, 0.02, 0.0)}, "raise path_steps"),
        ({"grid": (0.9, 0.5, 0.0)}, "must run from 1 to 0"),
        ({"min_time": 0.0}, "min_time"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerDistillation(**options)
