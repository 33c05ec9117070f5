"""Adaptive times: unbiased draws, the statistics they come from, and exact resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewjump.denoiser import Denoiser, NetworkDenoiser
from fewjump.objective import (
    ConditionalMatching,
    JointConditionalMatching,
    TimeSampling,
    freeze,
)
from fewjump.problem import EnumeratedJoint
from fewjump.process import Uniform
from fewjump.random import SampleStreams
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.enumeration import random_joint

PROBLEM = EnumeratedJoint(random_joint(4, 3, 1))
PROCESS = Uniform(4, LogLinear())
TEACHER = freeze(PROBLEM.denoiser(PROCESS))
DATA = PROBLEM.sample(256, torch.Generator().manual_seed(0))


def informed(**options) -> TimeSampling:
    """Four bins that have seen losses 1, 2, 3 and 6."""
    times = TimeSampling(bins=4, floor=0.2, **options)
    times.see(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 6.0]))
    times.begin_step(1)
    return times


def student() -> NetworkDenoiser:
    torch.manual_seed(0)
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    return NetworkDenoiser.from_config({"process": PROCESS.config(), "trunk": trunk, "length": 3})


def test_bins_are_drawn_by_their_root_mean_square() -> None:
    times = informed(importance=True)
    expected = 0.8 * torch.tensor([1, 2, 3, 6], dtype=torch.float64) / 12 + 0.05
    assert torch.allclose(times.probabilities(), expected)
    drawn = times.draw((torch.arange(100_000).double() + 0.5) / 100_000)
    frequency = torch.bincount(drawn.bins, minlength=4) / 100_000
    assert torch.allclose(frequency.double(), expected, atol=2e-5)
    assert torch.equal((drawn.first * 4).long(), drawn.bins)


def test_reweighted_draws_leave_every_expectation_as_it_was() -> None:
    drawn = informed(importance=True).draw((torch.arange(400_000).double() + 0.5) / 400_000)
    for function in (torch.ones_like, torch.square, lambda u: torch.sin(9 * u)):
        line = (torch.arange(400_000).double() + 0.5) / 400_000
        value = float((drawn.weight * function(drawn.first)).mean())
        assert value == pytest.approx(float(function(line).mean()), abs=1e-4)
    assert float(drawn.weight.std()) > 0.2


def informed_pairs() -> TimeSampling:
    """Four bins of t by two of the gap that have seen losses 1 to 8."""
    times = TimeSampling(importance=True, bins=4, gap_bins=2, floor=0.2)
    times.see(torch.arange(8), torch.arange(1.0, 9.0))
    times.begin_step(1)
    return times


def test_pairs_are_drawn_by_their_root_mean_square_and_reweighted() -> None:
    """Over a fine lattice of both uniforms: frequencies, and the mean of a function of both."""
    times, n = informed_pairs(), 800
    line = (torch.arange(n).double() + 0.5) / n
    first, second = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    drawn = times.draw(first, second)
    expected = 0.8 * torch.arange(1, 9, dtype=torch.float64) / 36 + 0.2 / 8
    frequency = torch.bincount(drawn.bins, minlength=8).double() / n**2
    assert torch.allclose(frequency, expected, atol=2 / n)
    assert drawn.second is not None
    cell = 2 * (drawn.first * 4).long() + (drawn.second * 2).long()
    assert torch.equal(cell, drawn.bins)

    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.sin(5 * a) * (1 + b**2)

    value = float((drawn.weight * function(drawn.first, drawn.second)).mean())
    assert value == pytest.approx(float(function(first, second).mean()), abs=2e-3)
    assert float(drawn.weight.std()) > 0.2


@pytest.mark.parametrize("grid", [None, (1.0, 0.7, 0.3, 0.0)])
@pytest.mark.parametrize(
    ("objective", "informed"),
    [
        (ConditionalMatching, lambda: informed(importance=True)),
        (ConditionalMatching, informed_pairs),
        (JointConditionalMatching, lambda: informed(importance=True)),
    ],
)
def test_expected_loss_is_that_of_uniform_times(objective, informed, grid) -> None:
    network, batch = student(), DATA.repeat(8, 1)
    for other in (None, informed()):
        loss = objective("forward", grid=grid, times=other)
        draws = []
        for seed in range(12):
            streams = SampleStreams(seed, torch.arange(len(batch)))
            draws.append(float(loss(network, TEACHER, batch, streams)[0].detach()))
        values = torch.tensor(draws, dtype=torch.float64)
        mean, error = float(values.mean()), float(values.std()) / 12**0.5
        if other is None:
            uniform, its_error = mean, error
    assert abs(mean - uniform) < 4 * (error**2 + its_error**2) ** 0.5
    assert error < 0.02 * uniform


def test_learned_weights_even_out_the_loss() -> None:
    weights = informed(learned_weight=True).weights()
    assert float(weights.mean()) == pytest.approx(1)
    product = weights * torch.tensor([1, 2, 3, 6])
    assert torch.allclose(product, product[0].expand(4))


def test_running_means_and_a_fresh_start() -> None:
    times = informed(importance=True, decay=0.75)
    times.see(torch.tensor([0, 0]), torch.tensor([3.0, 5.0]))
    before = times.probabilities()
    # What was seen counts from the next step on, and only in the bin it was seen in.
    assert torch.equal(times.probabilities(), before)
    times.begin_step(2)
    square = torch.tensor([0.75 * 1 + 0.25 * 17, 4, 9, 36], dtype=torch.float64)
    expected = 0.8 * square.sqrt() / square.sqrt().sum() + 0.05
    assert torch.allclose(times.probabilities(), expected)
    times.take_up({})
    assert torch.allclose(times.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))


def test_curricula() -> None:
    for name, expected in (("doubling", [0.1, 0.2, 0.4, 0.8]), ("halving", [0.8, 0.4, 0.2, 0.1])):
        times = TimeSampling(curriculum=name, curriculum_steps=8)  # type: ignore[arg-type]
        found = []
        for step in (0, 1, 2, 4, 6, 7, 100):
            times.begin_step(step)
            found.append(times.max_gap(0.8))
        assert found == pytest.approx([expected[k] for k in (0, 0, 1, 2, 3, 3, 3)])


def config(**options) -> TrainConfig:
    return TrainConfig(batch_size=16, lr=1e-2, log_every=10, device="cpu", **options)


class Stopping(ConditionalMatching):
    """Ends the run as it saves after some step."""

    _stop: int | None = None

    def before_save(self, step: int, student: Denoiser) -> dict[str, float]:
        if self._stop is not None and step > self._stop:
            raise InterruptedError
        return {}


def trained(out: Path | None = None, accumulate: int = 1, stop: int | None = None) -> Denoiser:
    times = TimeSampling(importance=True, learned_weight=True, bins=3, gap_bins=2)
    objective = Stopping("forward", times=times)
    objective._stop = stop
    options = config(steps=7, accumulate=accumulate, save_every=3)
    network = student()
    train(network, objective, DATA, options, teacher=TEACHER, out=out)
    return network


def test_resume_is_exact(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        trained(tmp_path, stop=3)
    whole, resumed = trained(), trained(tmp_path)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accumulation_changes_rounding_only() -> None:
    whole, split = trained(), trained(accumulate=4)
    for ours, theirs in zip(whole.parameters(), split.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_options_identify_the_run_and_nonsense_is_refused() -> None:
    named = ConditionalMatching(times=TimeSampling(importance=True))
    assert "importance=True" in vars(named)["times"].describe()
    assert ConditionalMatching().times is None
    for options in ({"curriculum_steps": 3}, {"curriculum": "doubling", "curriculum_steps": -1}):
        with pytest.raises(ValueError, match="curriculum_steps"):
            TimeSampling(**options)
    with pytest.raises(ValueError, match="floor"):
        TimeSampling(floor=0.0)
    with pytest.raises(ValueError, match="gap_bins"):
        TimeSampling(gap_bins=2)
    with pytest.raises(ValueError, match="pairs"):
        TimeSampling(importance=True, gap_bins=2).draw(torch.rand(3))
    with pytest.raises(ValueError, match="by near"):
        JointConditionalMatching(times=TimeSampling(importance=True, gap_bins=2))
    assert "gap_bins" not in TimeSampling(importance=True).describe()
    assert "gap_bins=2" in TimeSampling(importance=True, gap_bins=2).describe()
    with pytest.raises(ValueError, match="by near"):
        JointConditionalMatching(times=TimeSampling(curriculum="halving", curriculum_steps=5))
