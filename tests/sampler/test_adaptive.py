"""Samplers that choose positions or noise again, against enumerations written here from scratch."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from fewjump.denoiser.network import NetworkDenoiser
from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.sampler import (
    Ancestral,
    Confidence,
    EntropyBounded,
    FirstHitting,
    Psi,
    ReMDM,
    Sampler,
    exact_output_law,
    get_sampler,
    run,
    sample,
)
from fewjump.schedule import Linear, LogLinear
from sampler.oracle import chi_square_p, random_joint, slope, total_variation

V, L, MASK = 3, 3, 3
SCHEDULE = LogLinear(eps=0.01)
State = tuple[int, ...]
Law = dict[State, float]
PROBLEM = random_joint(V, L, 1.0)
MASKED = PROBLEM.denoiser(Absorbing(V + 1, SCHEDULE))
CLEAN = list(itertools.product(range(V), repeat=L))


def data(x: State) -> float:
    return float(PROBLEM.probs[x])


def marginals(x: State) -> list[list[float]]:
    """p(x₀ⁱ | x) with masks, by summing the joint."""
    fits = [y for y in CLEAN if all(a in (MASK, b) for a, b in zip(x, y))]
    total = sum(data(y) for y in fits)
    return [[sum(data(y) for y in fits if y[i] == v) / total for v in range(V)] for i in range(L)]


def walked(start: Law, steps: list[Callable[[State], Law]]) -> torch.Tensor:
    """The law after some steps, each from a state to the law of the next."""
    law = start
    for step in steps:
        after: Law = defaultdict(float)
        for x, mass in law.items():
            for y, chance in step(x).items():
                after[y] += mass * chance
        law = after
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    return torch.tensor([law.get(y, 0.0) for y in CLEAN], dtype=torch.float64).reshape((V,) * L)


def positions(rows: list[list[float]]) -> Law:
    """Independent positions, from the law of each."""
    choices = itertools.product(*(range(len(row)) for row in rows))
    return {y: math.prod(row[v] for row, v in zip(rows, y)) for y in choices}


def certain(token: int) -> list[float]:
    return [float(v == token) for v in range(V + 1)]


def drawn(x: State, shown: set[int]) -> Law:
    """x with some positions drawn from their marginals."""
    p = marginals(x)
    return positions([[*p[i], 0.0] if i in shown else certain(x[i]) for i in range(L)])


def final(x: State) -> Law:
    return drawn(x, {i for i in range(L) if x[i] == MASK})


START: Law = {(MASK,) * L: 1.0}
DOUBT = {
    "entropy": lambda row: -sum(p * math.log(p) for p in row),
    "peak": lambda row: -max(row),
    "margin": lambda row: sorted(row)[-2] - sorted(row)[-1],
}


def in_turn(hidden: list[int], block: int | None) -> list[list[int]]:
    """Positions block by block."""
    size = block or L
    parts = ([i for i in hidden if i // size == number] for number in range(L))
    return [part for part in parts if part]


@pytest.mark.parametrize("block", [None, 1, 2])
@pytest.mark.parametrize("by", DOUBT)
@pytest.mark.parametrize(("gamma", "steps"), [(0.0, 3), (0.0, 2), (1.0, 3), (1.05, 2), (9.0, 3)])
def test_entropy_bounded_is_its_enumeration(
    by: str, gamma: float, steps: int, block: int | None
) -> None:
    def one(x: State, last: bool) -> Law:
        rows = marginals(x)
        hidden = sorted((i for i in range(L) if x[i] == MASK), key=lambda i: DOUBT[by](rows[i]))
        if not last and hidden:
            hidden = in_turn(hidden, block)[0]
            taken = 1
            while taken < len(hidden):
                h = [DOUBT["entropy"](rows[i]) for i in hidden[: taken + 1]]
                if sum(h) - max(h) > gamma:
                    break
                taken += 1
            hidden = hidden[:taken]
        return drawn(x, set(hidden))

    rounds = [lambda x, k=k: one(x, k == steps - 1) for k in range(steps)]
    expected = walked(START, rounds)
    law = exact_output_law(MASKED, steps, EntropyBounded(gamma, by, block))  # type: ignore[arg-type]
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("by", ["token", *DOUBT])
@pytest.mark.parametrize("noise", [0.0, 0.8])
@pytest.mark.parametrize("steps", [2, 3, 5])
@pytest.mark.parametrize("block", [None, 1, 2])
def test_confidence_is_its_enumeration(
    by: str, noise: float, steps: int, block: int | None
) -> None:
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()

    def one(x: State, t: float, s: float) -> Law:
        hidden = [i for i in range(L) if x[i] == MASK]
        if not hidden:
            return {x: 1.0}
        rows, out = marginals(x), defaultdict(float)
        forget_t, forget_s = (float(SCHEDULE.one_minus_alpha(v)) for v in (t, s))
        left = math.floor(len(hidden) * forget_s / forget_t + 1e-9)
        count = max(1, len(hidden) - left)
        for y, mass in final(x).items():
            if not mass:
                continue
            score = {
                i: math.log(rows[i][y[i]]) if by == "token" else -DOUBT[by](rows[i]) for i in hidden
            }
            for chosen in itertools.permutations(hidden, count):
                rest, chance = list(hidden), 1.0
                for i in chosen:
                    now = in_turn(rest, block)[0]
                    if noise:
                        weights = {j: math.exp(score[j] / (noise * forget_s)) for j in now}
                        chance *= weights.get(i, 0.0) / sum(weights.values())
                    else:
                        chance *= float(i == max(now, key=lambda j: score[j]))
                    rest.remove(i)
                z = tuple(y[i] if i in chosen else x[i] for i in range(L))
                out[z] += mass * chance
        return out

    walk = [lambda x, t=t, s=s: one(x, t, s) for t, s in itertools.pairwise(times[:-1])]
    expected = walked(START, [*walk, final])
    law = exact_output_law(MASKED, steps, Confidence(by, noise, block))  # type: ignore[arg-type]
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    ("head", "taken"),
    [
        ({"kind": "tensor-train"}, True),
        ({"kind": "latent", "categories": 3}, True),
        ({"kind": "latent", "categories": 0, "size": 2}, False),
        ({"kind": "any-order", "width": 8, "heads": 2}, False),
    ],
    ids=["tensor-train", "one category", "normal latent", "any-order"],
)
@pytest.mark.parametrize(
    "sampler", [EntropyBounded(0.1), Confidence("peak")], ids=["bounded", "surest"]
)
def test_positions_are_ranked_by_marginals_in_closed_form_alone(
    head: dict[str, Any], taken: bool, sampler: Sampler
) -> None:
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    process = Absorbing(V + 1, SCHEDULE)
    described = {"process": process.config(), "trunk": trunk, "length": L, "head": head}
    model = NetworkDenoiser.from_config(described).eval()
    assert model.closed_marginals == taken
    if taken:
        assert run(model, 4, 2, sampler, generator=0).samples.shape == (4, L)
        return
    with pytest.raises(ValueError, match="in no closed form"):
        run(model, 4, 2, sampler)


@pytest.mark.parametrize("block", [None, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_first_hitting_is_its_enumeration(steps: int, block: int | None) -> None:
    def one(x: State, left: int) -> Law:
        hidden = [i for i in range(L) if x[i] == MASK]
        count, out = -(-len(hidden) // left), defaultdict(float)
        size = block or L
        turns = sorted(i // size for i in hidden)
        orders = [o for o in itertools.permutations(hidden) if [i // size for i in o] == turns]
        for order in orders:
            for y, mass in drawn(x, set(order[:count])).items():
                out[y] += mass / len(orders)
        return out

    expected = walked(START, [lambda x, k=k: one(x, k) for k in range(steps, 0, -1)])
    law = exact_output_law(MASKED, steps, FirstHitting(block))
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)
    drawn_ones = run(MASKED, 20_000, steps, FirstHitting(block), generator=3).samples
    assert chi_square_p(drawn_ones, expected, V) > 1e-4


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_ancestral_in_blocks_is_its_enumeration(steps: int, block: int) -> None:
    """Every mask leaves by a coin of its own; as many positions as coins fell are drawn in turn."""

    def one(x: State, t: float, s: float) -> Law:
        hidden = [i for i in range(L) if x[i] == MASK]
        leave = 1 - float(SCHEDULE.one_minus_alpha(s)) / float(SCHEDULE.one_minus_alpha(t))
        turns, out = sorted(i // block for i in hidden), defaultdict(float)
        orders = [o for o in itertools.permutations(hidden) if [i // block for i in o] == turns]
        for coins in itertools.product((False, True), repeat=len(hidden)):
            chance = math.prod(leave if coin else 1 - leave for coin in coins)
            for order in orders:
                for y, mass in drawn(x, set(order[: sum(coins)])).items():
                    out[y] += chance * mass / len(orders)
        return out

    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    walk = [lambda x, t=t, s=s: one(x, t, s) for t, s in itertools.pairwise(times[:-1])]
    expected = walked(START, [*walk, final])
    law = exact_output_law(MASKED, steps, Ancestral(block))
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)
    drawn_ones = run(MASKED, 20_000, steps, Ancestral(block), generator=3).samples
    assert chi_square_p(drawn_ones, expected, V) > 1e-4


HEADS = [
    {"kind": "autoregressive", "width": 8},
    {"kind": "any-order", "width": 8, "heads": 2},
    {"kind": "any-order", "width": 8, "heads": 2, "order": [2, 0, 1]},
    {"kind": "any-order", "width": 8, "heads": 2, "order": "coarse-to-fine"},
]


@pytest.mark.parametrize("sampler", [FirstHitting(1), Ancestral(1), None])
@pytest.mark.parametrize("head", HEADS)
def test_blocks_of_one_let_a_law_go_on_in_its_order(
    head: dict[str, Any], sampler: Sampler | None
) -> None:
    """A law that knows each token given those before it alone: in any number of steps its own.

    Such laws are drawn so where no sampler is named.
    """
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4, "time_conditioned": False}
    process = Absorbing(V + 1, SCHEDULE)
    torch.manual_seed(1)
    described = {"process": process.config(), "trunk": trunk, "length": L, "head": head}
    model = NetworkDenoiser.from_config(described).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.35)
    for weight in model.trunk.parameters():
        torch.nn.init.zeros_(weight)
    model.eval()
    whole = exact_output_law(model, 1, FirstHitting())
    for steps in (1, 2, 3):
        torch.testing.assert_close(
            exact_output_law(model, steps, sampler), whole, atol=1e-12, rtol=0
        )
    for named in (FirstHitting(), "ancestral"):
        assert total_variation(exact_output_law(model, 3, named), whole) > 1e-3
    found = run(model, 20_000, 2, sampler, generator=0)
    assert chi_square_p(found.samples, whole, V) > 1e-4
    assert found.sampler == ("ancestral(block=1)" if sampler is None else sampler.label)
    ranks, one = model.drawn_in.ranks(L), torch.ones((), dtype=torch.float64)
    (move,) = Ancestral(1).moves(model, torch.full((400, L), MASK), one, one / 2)
    shown = (move.sample(generator_for(0)) != MASK).long()
    number = shown.sum(1, keepdim=True)
    assert set(number.flatten().tolist()) == set(range(L + 1))
    assert torch.equal(shown, (ranks < number).long())


def test_only_masked_walks_are_drawn_from_the_left_unasked() -> None:
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    for process, kind in (
        (Uniform(V, SCHEDULE), "autoregressive"),
        (Absorbing(V + 1, SCHEDULE), "chain"),
    ):
        model = NetworkDenoiser.from_config(
            {"process": process.config(), "trunk": trunk, "length": L, "head": {"kind": kind}}
        ).eval()
        assert run(model, 2, 2, generator=0).sampler == "ancestral"
    with pytest.raises(ValueError, match=r"ancestral\(block=1\) is about masks"):
        run(PROBLEM.denoiser(Uniform(V, SCHEDULE)), 2, 2, Ancestral(1))


@pytest.mark.parametrize("kind", ["any-order", "autoregressive"])
@pytest.mark.parametrize("steps", [2, 3])
def test_confidence_of_an_autoregressive_law_is_its_enumeration(kind: str, steps: int) -> None:
    """A token's score is given the tokens drawn before it; the density knows no more of the order
    than that visible tokens come first."""
    head = {"kind": kind, "width": 8} | ({"heads": 2} if kind == "any-order" else {})
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4, "time_conditioned": False}
    process = Absorbing(V + 1, SCHEDULE)
    torch.manual_seed(1)
    model = NetworkDenoiser.from_config(
        {"process": process.config(), "trunk": trunk, "length": L, "head": head}
    ).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.35)
    model.eval()
    one = torch.ones(1, dtype=torch.float64)

    @cache
    def joint(x: State) -> dict[State, float]:
        states = torch.tensor([x]).expand(len(CLEAN), L)
        with torch.no_grad():
            chances = model(states, one.expand(len(CLEAN))).log_prob(torch.tensor(CLEAN)).exp()
        return dict(zip(CLEAN, chances.tolist()))

    def step(x: State, t: float, s: float) -> Law:
        hidden = [i for i in range(L) if x[i] == MASK]
        if not hidden:
            return {x: 1.0}
        table, out = joint(x), defaultdict(float)
        forget_t, forget_s = (float(SCHEDULE.one_minus_alpha(v)) for v in (t, s))
        count = max(1, len(hidden) - math.floor(len(hidden) * forget_s / forget_t + 1e-9))
        for y, mass in table.items():
            score = {}
            for i in hidden:
                before = [j for j in range(L) if j < i]
                fits = {z: p for z, p in table.items() if all(z[j] == y[j] for j in before)}
                here = sum(p for z, p in fits.items() if z[i] == y[i])
                score[i] = math.log(here / sum(fits.values())) if mass else 0.0
            chosen = sorted(hidden, key=lambda i: -score[i])[:count]
            out[tuple(y[i] if i in chosen else x[i] for i in range(L))] += mass
        return out

    assert max(joint((MASK,) * L).values()) < 0.9
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    walk = [lambda x, t=t, s=s: step(x, t, s) for t, s in itertools.pairwise(times[:-1])]
    expected = walked(START, [*walk, joint])
    law = exact_output_law(model, steps, Confidence())
    torch.testing.assert_close(law[:V, :V, :V], expected, atol=1e-12, rtol=0)
    drawn = run(model, 4000, steps, Confidence(), generator=3).samples
    assert chi_square_p(drawn, expected, V) > 1e-4
    with pytest.raises(ValueError, match="'confidence' with by=token"):
        run(model, 2, steps, Confidence("entropy"))


@pytest.mark.parametrize(
    ("variant", "eta"), [("cap", 0.1), ("cap", 0.9), ("rescale", 0.1), ("rescale", 1.0)]
)
def test_remdm_is_its_enumeration(variant: str, eta: float) -> None:
    steps = 4
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()

    def one(x: State, t: float, s: float) -> Law:
        a_t, a_s = float(SCHEDULE.alpha(t)), float(SCHEDULE.alpha(s))
        most = min(1.0, (1 - a_s) / a_t)
        sigma = min(eta, most) if variant == "cap" else eta * most
        show = (a_s - (1 - sigma) * a_t) / (1 - a_t)
        p, rows = marginals(x), []
        for i in range(L):
            if x[i] == MASK:
                rows.append([*(show * q for q in p[i]), 1 - show])
            else:
                rows.append([(1 - sigma) * (v == x[i]) for v in range(V)] + [sigma])
        return positions(rows)

    walk = [lambda x, t=t, s=s: one(x, t, s) for t, s in itertools.pairwise(times[:-1])]
    expected = walked(START, [*walk, final])
    law = exact_output_law(MASKED, steps, ReMDM(eta, variant))  # type: ignore[arg-type]
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)


def test_psi_of_uniform_noise_is_its_enumeration() -> None:
    """κ·q(x_s|x_t, x₀) + (1 − κ)·q(x_s|x₀), from the forward kernels alone."""
    kappa, steps = 0.6, 3
    denoiser = PROBLEM.denoiser(Uniform(V, SCHEDULE))
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()

    def forward(a: int, b: int, alpha: float) -> float:
        return alpha * (a == b) + (1 - alpha) / V

    def posterior(x: State, t: float) -> list[list[float]]:
        alpha = float(SCHEDULE.alpha(t))
        weight = {y: data(y) * math.prod(forward(a, b, alpha) for a, b in zip(y, x)) for y in CLEAN}
        total = sum(weight.values())
        return [[sum(w for y, w in weight.items() if y[i] == v) / total for v in range(V)] for i in range(L)]  # fmt: skip # noqa: E501

    def one(x: State, t: float, s: float) -> Law:
        a_t, a_s = float(SCHEDULE.alpha(t)), float(SCHEDULE.alpha(s))
        p, rows = posterior(x, t), []
        for i in range(L):
            row = [0.0] * V
            for a in range(V):
                for b in range(V):
                    between = forward(b, x[i], a_t / a_s) / forward(a, x[i], a_t)
                    bridge = forward(a, b, a_s) * between
                    row[b] += p[i][a] * (kappa * bridge + (1 - kappa) * forward(a, b, a_s))
            rows.append(row)
        return positions(rows)

    start = dict.fromkeys(CLEAN, V**-L)
    walk = [lambda x, t=t, s=s: one(x, t, s) for t, s in itertools.pairwise(times[:-1])]
    last = times[-2]
    expected = walked(start, [*walk, lambda x: positions(posterior(x, last))])
    law = exact_output_law(denoiser, steps, Psi(kappa))
    torch.testing.assert_close(law, expected, atol=1e-13, rtol=0)


PROCESSES = {
    "masked": Absorbing(V + 1, Linear(30.0)),
    "uniform": Uniform(V, Linear(30.0)),
    "prior": ResetToPrior(torch.tensor([0.2, 0.3, 0.5]), Linear(30.0)),
}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("process", PROCESSES)
def test_without_fresh_noise_they_are_ancestral(process: str, joint: bool) -> None:
    denoiser = PROBLEM.denoiser(PROCESSES[process], joint=joint)
    expected = exact_output_law(denoiser, 4)
    for sampler in (Psi(1.0), Psi(0.0, 0.0, 0.0), ReMDM(0.0), ReMDM(0.0, "rescale")):
        if process == "masked" or not sampler.masked_only:
            law = exact_output_law(denoiser, 4, sampler)
            torch.testing.assert_close(law, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_joint_law_stays_exact_under_fresh_noise(process: str, steps: int) -> None:
    denoiser = PROBLEM.denoiser(PROCESSES[process], joint=True)
    for sampler in (Psi(0.5), Psi(0.0), Psi(0.3, 0.8, 0.2), ReMDM(0.5), ReMDM(1.0, "rescale")):
        if process == "masked" or not sampler.masked_only:
            law = exact_output_law(denoiser, steps, sampler)
            assert total_variation(law, PROBLEM.probs) < 1e-12


def test_remdm_is_psi_under_a_mask() -> None:
    """One step: κ = 1 − σ/(1 − α(s))."""
    a_s, a_t = float(SCHEDULE.alpha(0.3)), float(SCHEDULE.alpha(0.6))
    sigma = min(0.2, (1 - a_s) / a_t)
    x = torch.tensor([[MASK, 1, MASK]])
    t, s = torch.tensor([0.6, 0.3], dtype=torch.float64)
    tables = [
        next(sampler.moves(MASKED, x, t, s)).table()
        for sampler in (ReMDM(0.2), Psi(1 - sigma / (1 - a_s)), Psi())
    ]
    torch.testing.assert_close(tables[0], tables[1], atol=1e-14, rtol=0)
    assert not torch.allclose(tables[0], tables[2], atol=1e-3)


def test_one_position_at_a_time_is_the_data_law_where_positions_are_chosen_by_the_state() -> None:
    """An exact product posterior; not where the drawn token has a say."""
    for sampler in (
        EntropyBounded(0.0),
        EntropyBounded(0.0, "margin"),
        Confidence("entropy"),
        Confidence("peak", 0.5),
        EntropyBounded(0.0, block=2),
        Confidence("entropy", block=2),
        FirstHitting(1),
        FirstHitting(2),
    ):
        law = exact_output_law(MASKED, L, sampler)
        assert total_variation(law, PROBLEM.probs) < 1e-13, sampler.label
    assert total_variation(exact_output_law(MASKED, L, Confidence()), PROBLEM.probs) > 0.05


def test_fresh_noise_converges_at_order_one_half() -> None:
    """With an exact product law; the ancestral step at order one."""
    problem = random_joint(2, 2, 1.5)
    denoiser = problem.denoiser(Absorbing(3, LogLinear(eps=1e-3)))
    counts = (16, 32, 64)
    for sampler, order in ((Psi(0.0), 0.5), (ReMDM(1.0, "rescale"), 0.5), (Psi(1.0), 1.0)):
        laws = [exact_output_law(denoiser, k, sampler) for k in counts]
        found = [total_variation(law, problem.probs) for law in laws]
        assert abs(slope(counts, found) - order) < 0.15, (sampler.label, found)


def test_the_bound_on_entropy_is_one_on_the_loss() -> None:
    """KL(data ‖ output) ≤ γ for each of the rounds before the last, and 0 for single ones."""
    for gamma in (0.5, 0.9, 1.0, 1.05):
        law = exact_output_law(MASKED, L, EntropyBounded(gamma))
        away = law / PROBLEM.probs - 1
        # Every term is at least 0, rounded too, which those of Σ p log(p/q) are not.
        kl = float((PROBLEM.probs * (away - away.log1p())).sum())
        assert 0 <= kl <= gamma * (L - 1)
        assert (kl > 1e-2) == (gamma >= 1.0)


@pytest.mark.parametrize("sampler", [EntropyBounded(1.0), Confidence(), ReMDM(0.3), Psi(0.6)])
def test_draws_of_a_wide_problem_follow_the_law_whatever_the_batch(sampler: Sampler) -> None:
    law = exact_output_law(MASKED, 3, sampler)
    found = run(MASKED, 20_000, 3, sampler, generator=4, batch_size=20_000)
    assert chi_square_p(found.samples, law, V) > 1e-4
    assert found.sampler == sampler.label
    some = sample(MASKED, 40, 3, sampler, generator=4, batch_size=7)
    assert torch.equal(some, found.samples[:40])


@pytest.mark.parametrize("sampler", [EntropyBounded(1.0), Confidence()])
def test_positions_that_are_alike_are_chosen_alike_in_any_batch(sampler: Sampler) -> None:
    """Of a network that has learned nothing, in single precision: its scores differ by rounding."""
    torch.manual_seed(0)
    described = {
        "process": Absorbing(28, SCHEDULE).config(),
        "trunk": {"hidden": 16, "blocks": 1, "heads": 2},
        "head": {"kind": "chain"},
        "length": 12,
    }
    model = NetworkDenoiser.from_config(described).eval()
    whole = run(model, 64, 4, sampler, generator=3).samples
    for size in (1, 7):
        assert torch.equal(run(model, 64, 4, sampler, generator=3, batch_size=size).samples, whole)


def test_evaluations_end_with_the_masks() -> None:
    loose = run(MASKED, 50, 40, EntropyBounded(100.0), generator=0)
    assert loose.nfe == 1
    tight = run(MASKED, 50, 40, EntropyBounded(0.0), generator=0)
    assert tight.nfe == L
    assert run(MASKED, 50, 2, EntropyBounded(0.0), generator=0).nfe == 2
    # One position a step, then the last draw.
    assert run(MASKED, 50, 40, Confidence(), generator=0).nfe == L + 1


def test_positions_are_ranked_before_temperature() -> None:
    """At temperature 0 every drawn token is certain; the ranking still is the network's."""
    for sampler in (EntropyBounded(0.0), Confidence(), Confidence("peak")):
        out = sample(MASKED, 4, L, sampler, generator=0, temperature=0.0)
        assert len(out.unique(dim=0)) == 1
        x, order = [MASK] * L, []
        while MASK in x:
            rows = marginals(tuple(x))
            doubt = DOUBT["entropy"] if isinstance(sampler, EntropyBounded) else DOUBT["peak"]
            i = min((i for i in range(L) if x[i] == MASK), key=lambda i: doubt(rows[i]))
            x[i] = max(range(V), key=lambda v: rows[i][v])
            order.append(i)
        assert out[0].tolist() == x


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("entropy-bounded", {"gamma": -0.1}, "gamma must be at least 0"),
        ("entropy-bounded", {"by": "token"}, "by"),
        ("confidence", {"by": "luck"}, "by"),
        ("confidence", {"noise": -1}, "noise must be at least 0"),
        ("confidence", {"block": 0}, "block must be at least 1"),
        ("first-hitting", {"block": 1.5}, "block takes a whole number"),
        ("remdm", {"eta": 1.5}, r"eta must lie in \[0, 1\]"),
        ("remdm", {"variant": "loop"}, "variant"),
        ("psi", {"kappa": 2}, r"kappa must lie in \[0, 1\]"),
        ("psi", {"start": 0.2, "stop": 0.5}, "0 ≤ stop ≤ start ≤ 1"),
        ("psi", {"kapa": 1}, "there is no 'kapa'; did you mean 'kappa'"),
        ("euler", {"eta": 0.1}, "it has none"),
        ("remdm", {"eta": "much"}, "eta takes a number; got 'much'"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        get_sampler(name, **options)


def test_labels_say_what_is_not_the_default() -> None:
    assert get_sampler("psi").label == "psi"
    assert get_sampler("psi", kappa=0.5, stop=0.1).label == "psi(kappa=0.5, stop=0.1)"
    assert get_sampler("ancestral").label == "ancestral"


@pytest.mark.parametrize("sampler", [EntropyBounded(), Confidence(), ReMDM()])
def test_masks_are_needed(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="is about masks"):
        exact_output_law(PROBLEM.denoiser(PROCESSES["uniform"]), 2, sampler)
