"""What every sampler must satisfy: it draws its exact output law, and converges as it says."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import (
    Absorbing,
    FixedRate,
    Process,
    ResetToPrior,
    SummedRates,
    TimeVaryingRate,
    Uniform,
    gidd,
)
from fewjump.sampler import SAMPLERS, exact_output_law, run
from fewjump.schedule import Cosine, LogLinear
from laws.registry import PROCESSES, random_rate
from laws.registry_samplers import SAMPLER_CASES
from sampler.oracle import (
    chi_square_p,
    problem_for,
    random_joint,
    slope,
    total_variation,
)

# Some registered chains keep some of the data at t = 1; nothing here depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode")

SMOOTH = Cosine(eps=1e-4)
PROCESS_CASES = {
    "uniform": Uniform(3, SMOOTH),
    "absorbing": Absorbing(4, SMOOTH),
    "random prior": ResetToPrior(torch.tensor([0.2, 0.3, 0.5]), SMOOTH),
    "random rate": FixedRate(random_rate(3), SMOOTH),
}


def test_every_sampler_is_tested_and_registered() -> None:
    assert SAMPLER_CASES.missing() == set()
    assert set(SAMPLERS.values()) == SAMPLER_CASES.concrete()
    assert {sampler.name for sampler in SAMPLERS.values()} == set(SAMPLERS)


# What has no grid to stop at goes to the end.
DRAWS = [
    pytest.param(*param.values, process_name, denoise, id=f"{param.id}-{process_name}-{denoise}")
    for param in SAMPLER_CASES.params()
    for process_name in PROCESSES.names()
    for denoise in (True, False)
    if (denoise or param.values[0]().uses_grid)
    and (process_name.startswith("Absorbing") or not param.values[0]().masked_only)
]


@pytest.mark.parametrize(("make", "process_name", "denoise"), DRAWS)
def test_draws_its_exact_output_law(make, process_name: str, denoise: bool) -> None:
    process = PROCESSES.make(process_name, LogLinear(eps=0.05))
    sampler = make()
    denoiser = problem_for(process, 2).denoiser(process)
    grid = None if denoise else [1.0, 0.5, 0.1]
    steps = 2
    law = exact_output_law(denoiser, steps, sampler, grid, denoise)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    assert bool((law >= 0).all())
    result = run(denoiser, 6000, steps, sampler, grid, 11, batch_size=6000, denoise=denoise)
    assert chi_square_p(result.samples, law, law.shape[0]) > 1e-4


CONVERGING = [name for name, cls in SAMPLERS.items() if cls.uses_grid and cls.order >= 1]


def errors(
    sampler, process: Process, roughness: float, counts: tuple[int, ...], length: int = 3
) -> list[float]:
    problem = random_joint(3, length, roughness)
    denoiser = problem.denoiser(process)
    return [total_variation(exact_output_law(denoiser, k, sampler), problem.probs) for k in counts]


@pytest.mark.parametrize("process_name", PROCESS_CASES)
@pytest.mark.parametrize("name", CONVERGING)
def test_converges_at_its_order(name: str, process_name: str) -> None:
    """On a mild joint: a rough one makes theta-trapezoidal clamp (measured below)."""
    sampler = SAMPLERS[name]()
    counts = (32, 64) if sampler.order == 2 else (16, 32, 64)
    found = errors(sampler, PROCESS_CASES[process_name], 0.1, counts)
    assert abs(slope(counts, found) - sampler.order) < 0.25, found


def remembering(process: TimeVaryingRate) -> TimeVaryingRate:
    """Its kernels kept: enumerating a step asks for the same few times at every replay."""
    flow = process.flow
    compute, kept = flow.matrices, {}

    def matrices(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        times = (*start.tolist(), *end.tolist())
        if times not in kept:
            kept[times] = compute(start, end)
        return kept[times]

    flow.matrices = matrices
    return process


MOVING_CASES = {
    "GIDD hybrid": gidd(4, SMOOTH, 0.3),
    "moving rate": remembering(
        TimeVaryingRate(
            SummedRates([random_rate(3, 1), random_rate(3, 2)], [0, 1], [[1, 0], [0.2, 0.8]]),
            SMOOTH,
        )
    ),
}


@pytest.mark.parametrize("process_name", MOVING_CASES)
@pytest.mark.parametrize("name", CONVERGING)
def test_converges_at_its_order_when_generators_do_not_commute(
    name: str, process_name: str
) -> None:
    sampler = SAMPLERS[name]()
    counts = (16, 32, 64)
    found = errors(sampler, MOVING_CASES[process_name], 0.1, counts, length=2)
    assert abs(slope(counts, found) - sampler.order) < 0.25, found


@pytest.mark.parametrize("process_name", MOVING_CASES)
def test_a_joint_law_is_exact_in_any_number_of_steps(process_name: str) -> None:
    process = MOVING_CASES[process_name]
    problem = random_joint(3, 2, 1.0)
    denoiser = problem.denoiser(process, joint=True)
    for steps in (1, 3):
        law = exact_output_law(denoiser, steps)
        assert total_variation(law, problem.probs) < 1e-11


def test_clamping_costs_the_second_order_and_is_reported() -> None:
    process = PROCESS_CASES["uniform"]
    sampler = SAMPLERS["theta-trapezoidal"]()
    counts = (32, 64, 128)
    assert slope(counts, errors(sampler, process, 1.0, counts)) < 1.75
    rough = random_joint(3, 3, 1.0).denoiser(process)
    mild = random_joint(3, 3, 0.1).denoiser(process)
    assert run(rough, 500, 32, sampler, generator=1).clamped_mass > 1e-4
    assert run(mild, 500, 32, sampler, generator=1).clamped_mass == 0
