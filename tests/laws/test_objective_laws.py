"""What holds for every objective: an exact teacher and student are a fixed point, or the order of
the bias is stated and measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.objective import OBJECTIVES, freeze
from fewjump.objective import latent as latent_matching
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams
from fewjump.schedule import Linear, LogLinear
from laws.registry_objectives import CASES, OBJECTIVE_CASES, V, World
from objective.tabular import gradient_at_teacher

PROCESSES = {"absorbing": Absorbing(V + 1, LogLinear()), "uniform": Uniform(V, Linear(4.0))}
BATCHES, ROWS = 24, 256
PAIRS = [
    pytest.param(name, process, id=f"{name}-{noise}")
    for name, case in CASES.items()
    for noise, process in PROCESSES.items()
    if not (case.unmasked if process.absorbing else case.masked)
]


def test_every_objective_is_tested_and_registered() -> None:
    assert OBJECTIVE_CASES.missing() == set()
    assert set(OBJECTIVES.values()) == OBJECTIVE_CASES.concrete()


def scores(name: str, process: Process, away: float) -> Tensor:
    """Mean gradient of every offset over its standard error, at offsets of size ``away``."""
    case = CASES[name]
    world, objective = World(process, case.length), case.make()
    student = case.student(world)
    source = torch.Generator().manual_seed(1)
    for offset in student.parameters():
        noise = torch.randn(offset.shape, generator=source, dtype=torch.float64)
        offset.data.copy_(away * noise)
    teacher = freeze(world.problem.denoiser(process)) if objective.needs_teacher else None
    objective.check(student, teacher)
    found = []
    for seed in range(BATCHES):
        batch = world.problem.sample(ROWS, generator=source)
        if objective.coupled:
            # The coupling of the forward process, of which its posterior is the student.
            batch = torch.cat([batch, process.prior_sample(batch.shape, source)], -1)
        student.zero_grad()
        loss, _ = objective(student, teacher, batch, SampleStreams(seed, torch.arange(ROWS)))
        loss.backward()
        found.append(
            torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        )
    gradients = torch.stack(found)
    mean, error = gradients.mean(0), gradients.std(0) / BATCHES**0.5
    # What is zero in every batch is rounded differently in each.
    return (mean / error.clamp(min=1e-12)).abs()


@pytest.fixture(autouse=True)
def _any_latent_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact latent student is no network."""
    monkeypatch.setattr(latent_matching, "latent_head", lambda student: student.head)


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_the_exact_posterior_is_a_fixed_point(name: str, process: Process) -> None:
    assert scores(name, process, 0.0).max() < 5.5


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_another_law_is_none(name: str, process: Process) -> None:
    assert scores(name, process, 0.5).max() > 7


@pytest.mark.parametrize(("how", "order"), [("student-euler", 2)])
def test_a_biased_draw_has_the_order_it_states(how: str, order: int) -> None:
    """The gradient at the exact posterior, by enumeration, as the step is halved; the trapezoidal
    draw's third order is measured in tests/objective/test_second_order.py."""
    process = PROCESSES["uniform"]
    wide, narrow = (gradient_at_teacher(1, process, V, how, gap) for gap in (0.02, 0.01))
    assert narrow > 1e-6
    assert wide / narrow == pytest.approx(2**order, abs=0.3)
