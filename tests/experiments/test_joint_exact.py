"""The exact law of masked samplers by patterns, and the joint experiments at toy size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from experiments import joint_exact
from experiments.masked_law import MaskedTables, masked_output_law, one_step_law
from fewjump.denoiser import NetworkDenoiser
from fewjump.problem import EnumeratedJoint, ising
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear


@pytest.fixture(scope="module")
def problem() -> EnumeratedJoint:
    return EnumeratedJoint.random(2, 3, generator=generator_for(1))


def network(problem: EnumeratedJoint, kind: str) -> NetworkDenoiser:
    model = joint_exact.build(kind, joint_exact.WORLDS["copy V=4 L=4"], problem, 0)
    torch.manual_seed(1)
    for parameter in model.parameters():  # away from the product law it starts at
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double()


@pytest.mark.parametrize("kind", ["teacher", *joint_exact.KINDS])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_law_by_patterns_equals_the_law_by_states(problem, kind, steps):
    if kind == "teacher":
        denoiser = problem.denoiser(Absorbing(3, LogLinear()))
    else:
        denoiser = network(problem, kind)
    expected = exact_output_law(denoiser, steps, "ancestral")
    law = masked_output_law(MaskedTables(denoiser), steps)
    torch.testing.assert_close(law, expected, atol=1e-10, rtol=1e-8)
    if steps == 1:
        torch.testing.assert_close(one_step_law(denoiser), expected, atol=1e-10, rtol=1e-8)


def test_what_the_law_by_patterns_refuses(problem):
    with pytest.raises(ValueError, match="absorbing"):
        MaskedTables(problem.denoiser(Uniform(2, LogLinear())))
    timed = NetworkDenoiser.from_config(
        {
            "process": Absorbing(3, LogLinear()).config(),
            "trunk": {"hidden": 8, "blocks": 1, "heads": 2},
            "length": 3,
        }
    )
    with pytest.raises(ValueError, match="time_conditioned=False"):
        MaskedTables(timed)
    large = ising(4, 4).denoiser(Absorbing(3, LogLinear()))
    with pytest.raises(ValueError, match="one_step_law"):
        masked_output_law(MaskedTables(large), 2)


def test_sampled_numbers_of_exact_samples_are_near_zero_and_notice_a_product(monkeypatch):
    problem = ising(3, 3, 0.44)
    row = joint_exact.sampled(problem, problem.sample(20_000, generator_for(1)))
    assert abs(row["excess_nll"]) < 2 * row["excess_nll_half_width"]
    assert row["energy_tv"] < 0.02
    product = problem.denoiser(Absorbing(3, LogLinear()))
    rows = joint_exact.judge(problem, product, 0, samples=5_000)
    assert rows[0]["kl"] == pytest.approx(problem.one_step_floor())
    monkeypatch.setattr(joint_exact, "EXACT_ENTRIES", 1)
    rows = joint_exact.judge(problem, product, 0, samples=5_000)
    assert rows[0]["kl"] == pytest.approx(problem.one_step_floor())
    assert "kl" not in rows[1]
    assert rows[0]["excess_nll"] > rows[2]["excess_nll"] > 3 * rows[2]["excess_nll_half_width"]
    assert joint_exact.sampled(problem, torch.zeros(10, 9, dtype=torch.int64))["energy_tv"] > 0.5


def test_a_joint_student_goes_under_the_floor_and_is_remembered(tmp_path, monkeypatch):
    world = joint_exact.WORLDS["copy V=4 L=4"]
    small = dataclasses.replace(
        world,
        make=lambda: joint_exact.copy(3, 2),
        steps=150,
        batch_size=64,
        states=8,
        samples=5_000,
    )
    monkeypatch.setitem(joint_exact.WORLDS, "tiny", small)
    rows = joint_exact.rows_of("tiny", "mixture", 0, tmp_path)
    assert [row["steps"] for row in rows] == [1, 2, 4]
    assert all("kl" in row and "samples" not in row for row in rows)
    assert joint_exact.rows_of("tiny", "mixture", 0, tmp_path) == rows
    (line,) = [r for r in joint_exact.summary(rows) if r["problem"] == "tiny"]
    assert line["floor"] == pytest.approx(small.make().one_step_floor())
    assert line["removed"] > 0.9
