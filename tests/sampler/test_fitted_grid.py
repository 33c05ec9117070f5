"""Fitted grids: costs against enumeration, and the result."""

from __future__ import annotations

import sys
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import NetworkDenoiser
from fewjump.evaluate.exact import data_law, kl
from fewjump.law import ProductLaw
from fewjump.law.base import enumerate_states
from fewjump.problem import EnumeratedJoint, MarkovChain
from fewjump.process import (
    Absorbing,
    Kernel,
    LowRankDiagonalRate,
    Process,
    ResetToPrior,
    Uniform,
)
from fewjump.sampler import exact_output_law, fitted_grid, interval_costs, run, time_grid
from fewjump.sampler.fitted_grid import IntervalCosts, _StratifiedStreams
from fewjump.sampler.interval_cost import forward_entropies, reverse_entropies
from fewjump.schedule import Cosine, LogLinear
from fewjump.verify.enumeration import (
    pad_for_mask,
    position_marginals,
    processes,
    random_joint,
    tables,
)

JOINT = random_joint(4, 3, 1)
TIMES = (0.0, 0.2, 0.5, 0.75, 1.0)


def low_rank(vocab_size: int = 4) -> LowRankDiagonalRate:
    source = torch.Generator().manual_seed(2)
    left, right = (
        torch.rand(s, generator=source, dtype=torch.float64)
        for s in ((vocab_size, 2), (2, vocab_size))
    )
    return LowRankDiagonalRate(left, right, LogLinear())


FAMILIES = {**processes(), "low-rank and diagonal": low_rank()}


def path_parts(process: Process, s: float, t: float) -> tuple[float, float, float]:
    """TC(x_s|x_t), H(x_s) and H(x_t) by enumeration."""
    wide = pad_for_mask(JOINT, process.vocab_size)
    truth = tables(process, wide, s, t)
    alone = position_marginals(truth.reverse, truth.states, process.vocab_size)
    entropies = torch.special.entr(alone).sum((-1, -2)) - torch.special.entr(truth.reverse).sum(-1)
    whole = [float(torch.special.entr(law).sum()) for law in (truth.law_s, truth.law_t)]
    return float(truth.law_t @ entropies), whole[0], whole[1]


def exact_cost(process: Process, s: float, t: float) -> float:
    """What the two terms average to, over all states with their probabilities."""
    problem = EnumeratedJoint(JOINT)
    states = enumerate_states(process.vocab_size, 3)
    law_t = problem.noised(process, t).reshape(-1)
    states, law_t = states[law_t > 0], law_t[law_t > 0]
    law = problem.denoiser(process)(states, t)
    assert isinstance(law, ProductLaw)
    clean = enumerate_states(4, 3)
    counts = torch.zeros(len(clean), process.vocab_size, dtype=torch.float64)
    counts.scatter_add_(1, clean, torch.ones(len(clean), 3, dtype=torch.float64))
    forward = JOINT.reshape(-1) @ forward_entropies(process, counts, t, [s])[:, 0]
    return float(law_t @ reverse_entropies(law, process, states, t, [s])[:, 0] - forward)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.4), (0.0, 1.0), (0.3, 0.35), (0.2, 0.8), (0.5, 1.0)])
def test_costs_are_total_correlations_up_to_what_telescopes(name: str, s: float, t: float) -> None:
    process = FAMILIES[name]
    correlation, before, after = path_parts(process, s, t)
    assert exact_cost(process, s, t) == pytest.approx(correlation + before - after, abs=1e-10)


def test_kernels_serve_all_rows_and_give_what_the_products_without_them_do(monkeypatch) -> None:
    process, times, positions = low_rank(12), [0.0, 0.1, 0.3, 0.6], (40, 3)
    source = torch.Generator().manual_seed(0)
    law = ProductLaw(torch.randn(*positions, 12, generator=source))
    x_t = torch.randint(12, positions, generator=source)
    counts = torch.rand(3, 12, generator=source, dtype=torch.float64)
    asked: list[int] = []
    form = type(process.kernel(0.0, 0.5))
    dense = form.dense

    def counted(self: Kernel) -> Tensor:
        found = dense(self)
        asked.append(found.numel() // 144)
        return found

    monkeypatch.setattr(form, "dense", counted)
    module = sys.modules[reverse_entropies.__module__]
    results = []
    # All four times at once; two at a time; rows in several parts; and the backward ones without.
    for owner, name, value, made in (
        (form, "dense_up_to", 1024, [1, 4, 4, 4]),
        (module, "_KERNEL_ELEMENTS", 2 * 144, [1, 2, 2] * 2 + [2] * 2),
        (module, "rows_per_chunk", lambda width, device: 7, [1, 2, 2] * 2 + [2] * 2),
        (form, "dense_up_to", 0, [2] * 2),
    ):
        monkeypatch.setattr(owner, name, value)
        asked.clear()
        backward = reverse_entropies(law, process, x_t, 0.8, times)
        results.append((backward, forward_entropies(process, counts, 0.8, times)))
        assert sorted(asked) == sorted(made)
    for found in results[1:]:
        for a, b in zip(results[0], found):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def exact_table(process: Process) -> IntervalCosts:
    costs = torch.full((1, len(TIMES), len(TIMES)), torch.inf, dtype=torch.float64)
    for i, j in combinations(range(len(TIMES)), 2):
        costs[0, i, j] = exact_cost(process, TIMES[i], TIMES[j])
    return IntervalCosts(torch.tensor(TIMES, dtype=torch.float64), costs)


@pytest.mark.parametrize("name", ["uniform", "absorbing", "random prior"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_best_grid_is_the_one_of_least_path_divergence(name: str, steps: int) -> None:
    process = FAMILIES[name]
    divergence = {}
    for inner in combinations(TIMES[1:-1], steps - 1):
        grid = (1.0, *sorted(inner, reverse=True), 0.0)
        divergence[grid] = sum(path_parts(process, s, t)[0] for t, s in pairwise(grid))
    best = min(divergence, key=lambda grid: divergence[grid])
    table = exact_table(process)
    assert tuple(table.best(steps).tolist()) == best
    # Differences of path divergences are differences of costs.
    other = max(divergence, key=lambda grid: divergence[grid])
    apart = float(table.total(other) - table.total(best))
    assert apart == pytest.approx(divergence[other] - divergence[best], abs=1e-10)


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()])
def test_forward_entropies_of_structured_kernels_match_dense_ones(schedule) -> None:
    from fewjump.process import TimeVaryingPrior

    prior = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    moving = TimeVaryingPrior(lambda t: torch.stack([t, 1 - t, t, 1 - t], -1) / 2, schedule)
    counts = torch.tensor([[3.0, 1.0, 0.0, 2.0], [0.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    kept = ResetToPrior(prior, schedule, kept=[1])
    for process in (Uniform(4, schedule), kept, Absorbing(4, schedule), moving):
        for t, earlier in ((0.3, [0.0]), (0.9, [0.0, 0.2, 0.8]), (1.0, [0.6])):
            dense = []
            for s in earlier:
                rows = torch.special.entr(process.kernel(s, t).dense()).sum(-1)
                dense.append(counts @ (process.kernel(0.0, s).dense() @ rows))
            found = forward_entropies(process, counts, t, earlier)
            assert torch.allclose(found, torch.stack(dense, -1), atol=1e-9)


@pytest.mark.parametrize("name", ["uniform", "absorbing"])
def test_estimates_are_unbiased(name: str) -> None:
    process, problem = FAMILIES[name], EnumeratedJoint(JOINT)
    denoiser, candidates = problem.denoiser(process), [0.0, 0.4, 1.0]
    tables_ = []
    for seed in range(60):
        x0 = problem.sample(16, torch.Generator().manual_seed(1000 + seed))
        tables_.append(interval_costs(denoiser, x0, candidates, seed).costs.mean(0))
    stack = torch.stack(tables_)
    for i, j in combinations(range(3), 2):
        draws = stack[:, i, j]
        error = float(draws.std()) / len(draws) ** 0.5
        truth = exact_cost(process, candidates[i], candidates[j])
        assert abs(float(draws.mean()) - truth) < 4 * error + 1e-9
        assert error < 0.04


def test_stratified_noise_is_even_over_samples_and_uniform_alone() -> None:
    sizes = torch.tensor([5, 7])
    draws = torch.stack([_StratifiedStreams(s, sizes).uniform((12, 3)) for s in range(200)])
    for part, n in ((draws[:, :5], 5), (draws[:, 5:], 7)):
        assert bool(((part * n).long().sort(1).values == torch.arange(n)[:, None]).all())
    first = draws[:, 0, 0].sort().values
    distance = (first - torch.arange(200) / 200).abs().max()
    assert float(distance) < 1.95 / 200**0.5
    # Entries of one sample know nothing of each other.
    assert abs(float(torch.corrcoef(draws[:, 2].T)[0, 1])) < 0.25


def test_fitted_grid_emits_a_better_law() -> None:
    problem = EnumeratedJoint(JOINT)
    denoiser = problem.denoiser(Uniform(4, LogLinear()))
    x0 = problem.sample(6000, torch.Generator().manual_seed(0))
    fit = fitted_grid(denoiser, x0, 3, samples=6000, candidates=8, batch_size=6000)
    law = data_law(problem)
    uniform = kl(law, exact_output_law(denoiser, 3))
    assert kl(law, exact_output_law(denoiser, None, grid=fit.times)) < 0.7 * uniform
    assert fit.saving > 2 * fit.saving_error > 0


def test_batches_do_not_matter() -> None:
    problem = EnumeratedJoint(JOINT)
    denoiser = problem.denoiser(FAMILIES["absorbing"])
    x0 = problem.sample(20, torch.Generator().manual_seed(0))
    whole = interval_costs(denoiser, x0, TIMES, 3)
    parts = interval_costs(denoiser, x0, TIMES, 3, batch_size=7)
    assert torch.allclose(whole.costs, parts.costs, atol=1e-12)
    assert denoiser.evaluations == 0


def small_network() -> NetworkDenoiser:
    torch.manual_seed(0)
    process = Absorbing(5, LogLinear())
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    return NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})


def test_by_name_it_is_fitted_to_the_denoisers_own_samples_once(monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[fitted_grid.__module__], "_ROLLOUT_STEPS", 4)
    denoiser = small_network().eval()
    result = run(denoiser, 3, 3, grid="fitted", generator=1)
    fit = fitted_grid(denoiser, None, 3)
    assert result.nfe == 3
    assert torch.equal(result.times, fit.times)
    before = denoiser.evaluations
    assert torch.equal(run(denoiser, 3, 3, grid="fitted", generator=1).samples, result.samples)
    assert denoiser.evaluations == before + 3
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(0.5)
    assert torch.equal(
        run(denoiser, 3, 3, grid="fitted").times, fitted_grid(denoiser, None, 3).times
    )


def test_joint_laws_and_nonsense_are_refused() -> None:
    chain = MarkovChain(torch.full((3,), 1 / 3), torch.eye(3) * 0.7 + 0.1, 4)
    process = Uniform(3, LogLinear())
    x0 = chain.sample(8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="jointly"):
        fitted_grid(chain.denoiser(process, joint=True), x0, 2)
    denoiser = chain.denoiser(process)
    with pytest.raises(ValueError, match="at least 1"):
        fitted_grid(denoiser, x0, 0)
    with pytest.raises(ValueError, match="increase from 0 to 1"):
        fitted_grid(denoiser, x0, 2, candidates=[0.0, 0.5, 1.2])
    with pytest.raises(ValueError, match="clean tokens"):
        fitted_grid(denoiser, x0 + 3, 2)
    with pytest.raises(ValueError, match="candidate"):
        interval_costs(denoiser, x0, [0.0, 0.5, 1.0]).best(3)
    with pytest.raises(ValueError, match="fitted_grid"):
        time_grid("fitted", 2, LogLinear())


def test_a_kept_token_costs_nothing() -> None:
    prior = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    process = ResetToPrior(prior, LogLinear(), kept=[2])

    class Certain(NetworkDenoiser):
        """Not trained: what it says of kept tokens is certain by construction."""

    config = {
        "process": process.config(),
        "trunk": {"hidden": 16, "blocks": 1, "heads": 2},
        "length": 4,
    }
    torch.manual_seed(0)
    denoiser = Certain.from_config(config)
    kept: Tensor = torch.full((8, 4), 2)
    costs = interval_costs(denoiser, kept, [0.0, 0.5, 1.0], 0).costs
    finite = costs[costs.isfinite()]
    assert torch.allclose(finite, torch.zeros_like(finite), atol=1e-12)
