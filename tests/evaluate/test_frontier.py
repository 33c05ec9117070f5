from __future__ import annotations

import json

import pytest
import torch

from fewjump.evaluate import FrontierPoint, Interval, as_result, quality_at_entropy
from fewjump.evaluate.text import LADDER, enclosing, matched
from fewjump.results import Row, read_results, write_results


def interval(value: float, spread: float = 0.0) -> Interval:
    return Interval.from_replicates(
        value, value + spread * torch.linspace(-1, 1, 101, dtype=torch.float64)
    )


def test_quality_is_read_off_at_the_entropy_asked_for():
    points = [FrontierPoint(t, interval(2 * t), interval(t**2)) for t in (0.5, 2.0, 1.0)]
    # Entropies 1, 4, 2; qualities 0.25, 4, 1.
    assert quality_at_entropy(points, 1.5).value == pytest.approx((0.25 + 1) / 2)
    assert quality_at_entropy(points, 3.0).value == pytest.approx(2.5)
    assert quality_at_entropy(points, 1.0).value == pytest.approx(0.25)
    assert quality_at_entropy(points, 4.0).value == pytest.approx(4.0)


def test_the_interval_holds_the_uncertainty_of_entropy_too():
    sharp = [FrontierPoint(t, interval(t), interval(3 * t)) for t in (1.0, 2.0)]
    assert quality_at_entropy(sharp, 1.4).high == pytest.approx(4.2)
    # Entropies off by ±0.1 move a curve of slope 3 by ∓0.3 (95% of that range: 0.285).
    vague = [FrontierPoint(t, interval(t, 0.1), interval(3 * t)) for t in (1.0, 2.0)]
    found = quality_at_entropy(vague, 1.4)
    assert (found.high - found.low) / 2 == pytest.approx(0.285, abs=0.002)


def test_two_points_of_one_entropy():
    points = [FrontierPoint(t, interval(1.0), interval(t)) for t in (1.0, 2.0)]
    assert quality_at_entropy(points, 1.0).value == pytest.approx(1.5)


def test_no_extrapolation():
    points = [FrontierPoint(t, interval(t), interval(t)) for t in (1.0, 2.0)]
    with pytest.raises(ValueError, match=r"1\.\.2: add higher temperatures"):
        quality_at_entropy(points, 2.1)
    with pytest.raises(ValueError, match="lower temperatures"):
        quality_at_entropy(points, 0.9)
    with pytest.raises(ValueError, match="two temperatures"):
        quality_at_entropy(points[:1], 1.0)


def test_rows_survive_the_results_file(tmp_path):
    rows = [
        as_result(interval(1.5, 0.2), "frechet", "student", "ancestral", 4, 4, 0.25),
        as_result(interval(0.1), "frechet", "test data"),
    ]
    path = write_results(tmp_path, rows, {"seed": 3})
    content = json.loads(path.read_text())
    keys = ["model", "sampler", "steps", "nfe", "metric", "value", "low", "high", "seconds"]
    assert list(content["rows"][0]) == keys
    again, facts = read_results(tmp_path)
    assert again == rows
    assert facts == {"seed": 3}
    assert isinstance(again[0], Row)
    assert again[1].is_reference


def test_nearly_equal_entropies_do_not_blow_up_the_interval():
    """Entropies 0.01 apart and each known to 0.1: a replicate's own slope would be any number."""
    noise = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = [
        FrontierPoint(
            t,
            Interval.from_replicates(1 + t / 100, 1 + t / 100 + 0.1 * noise[t]),
            Interval.from_replicates(2 + t / 50, 2 + t / 50 + 0.0 * noise[t]),
        )
        for t in (0, 1)
    ]
    found = quality_at_entropy(points, 1.005)
    assert found.value == pytest.approx(2.01)
    # Slope 2; the mean of two independent entropies has deviation 0.1/√2.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 2 * 0.1 / 2**0.5, rel=0.15)


def narrow(value: float) -> Interval:
    replicates = torch.tensor([value - 0.01, value, value + 0.01], dtype=torch.float64)
    return Interval.from_replicates(value, replicates)


class Made:
    """A sampler whose entropy is 4·temperature and whose NLL is 10·temperature."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, temperature: float) -> dict[str, Interval]:
        self.asked.append(temperature)
        return {"entropy": narrow(4 * temperature), "nll": narrow(10 * temperature)}


@pytest.mark.parametrize(
    ("target", "asked"),
    [(3.4, [1.0, 0.9, 0.8]), (4.2, [1.0, 1.1]), (3.6, [1.0, 0.9]), (4.0, [1.0, 1.1])],
)
def test_walks_from_one_until_the_target_is_enclosed(target: float, asked: list[float]) -> None:
    made = Made()
    found = enclosing(made, target)
    assert made.asked == asked
    value = matched(found, target, "nll")
    assert value is not None
    assert value.value == pytest.approx(2.5 * target)


def test_a_target_that_no_temperature_reaches_has_no_value() -> None:
    for target, end in ((0.1, LADDER[0]), (20.0, LADDER[-1])):
        made = Made()
        found = enclosing(made, target)
        assert made.asked[-1] == end
        assert matched(found, target, "nll") is None
