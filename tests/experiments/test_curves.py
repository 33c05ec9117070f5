"""The experiments' own arithmetic: slopes, intervals, comparisons, and a tiny run of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import error_terms, markov_curve, sampler_order
from fewjump.problem import reference_markov_chain
from fewjump.process import Uniform
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import processes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("order", [1, 2])
def test_slope_of_a_power_law(order: int) -> None:
    steps = (8, 16, 32, 64)
    errors = [3.0 * k**-order for k in steps]
    assert sampler_order.slope(steps, errors) == pytest.approx(order, abs=1e-6)


def test_orders_of_two_samplers() -> None:
    process = sampler_order.with_schedule(processes(4)["absorbing"])
    assert process.schedule == sampler_order.SCHEDULE
    steps = (16, 32, 64)
    for name, order in (("ancestral", 1), ("theta-trapezoidal", 2)):
        errors = sampler_order.total_variation_curve(process, 0.1, name, steps)
        assert abs(sampler_order.slope(steps, errors) - order) < 0.25


def test_bigram_interval_covers_the_floor() -> None:
    chain = reference_markov_chain(16)
    samples = chain.sample(8000, generator_for(1))
    value, low, high = markov_curve.bigram_interval(chain, samples, seed=0)
    assert value == pytest.approx(chain.bigram_tv(samples), abs=1e-12)
    assert low < value < high
    floor = float(chain.bigram_tv_floor(8000, generator=generator_for(2)).value)
    # Twice an interval of 95%: one seed in 10,000 is outside, where one in 20 is outside of it.
    assert value - 2 * (value - low) < floor < value + 2 * (high - value)


def test_teacher_in_one_step_misses_the_closed_form() -> None:
    chain = reference_markov_chain(32)
    process = Uniform(chain.vocab_size, LogLinear())
    result = draw(chain.denoiser(process), 4096, 1, generator=3)
    independent = chain.bigram_law().sum(0)
    exact = 0.5 * float((torch.outer(independent, independent) - chain.bigram_law()).abs().sum())
    _, low, high = markov_curve.bigram_interval(chain, result.samples, seed=0)
    assert low - 0.01 < exact < high + 0.01


def test_comparison_is_paired_by_seed_and_can_say_below() -> None:
    def row(model: str, value: float) -> dict[str, object]:
        return {
            "model": model,
            "steps": 1,
            "bigram_tv": value,
            "low": value - 0.02,
            "high": value + 0.02,
        }

    teacher = row(markov_curve.TEACHER, 0.4)
    for value, below, within in ((0.41, False, True), (0.3, True, False), (0.5, False, False)):
        table = markov_curve.against_teacher([teacher, row("student", value)], "student")
        assert (table[0]["below"], table[0]["within"]) == (below, within)
        assert table[0]["difference"] == pytest.approx(value - 0.4)


def test_error_terms_add_up() -> None:
    config = error_terms.Config(training_steps=3, steps=(1, 4))
    rows = error_terms.measure(config)["rows"]
    assert {r["sampler"] for r in rows} == set(error_terms.SAMPLERS)
    for r in rows:
        assert r["factorization"] + r["euler"] + r["network"] == pytest.approx(r["total"], abs=1e-9)
        if r["sampler"] == "ancestral":
            assert r["euler"] == pytest.approx(0, abs=1e-12)


def test_committed_orders_hold() -> None:
    """Docs quote this file: each mild-joint slope within 0.25 of the stated order."""
    rows = json.loads((RESULTS / "sampler_order.json").read_text())["rows"]
    mild = [r for r in rows if r["roughness"] == min(sampler_order.ROUGHNESS)]
    assert len(mild) == 4 * 5
    assert all(abs(r["slope"] - r["order"]) < 0.25 for r in mild)
