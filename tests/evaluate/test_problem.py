"""The law of a problem as judge, against sums over all sequences in float64."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fewjump.data import Dataset, Tokens
from fewjump.denoiser import NetworkDenoiser
from fewjump.evaluate.meter import as_result, quality
from fewjump.evaluate.problem import ProblemMeter
from fewjump.law.base import enumerate_states
from fewjump.problem import EnumeratedJoint, FiniteSupport, MarkovChain, Problem
from fewjump.problem.sudoku import sudoku
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.report.verdicts import suspects, verdicts
from fewjump.results import Row
from fewjump.schedule import LogLinear

V, L = 3, 3
MASKED, UNIFORM = Absorbing(V + 1, LogLinear()), Uniform(V, LogLinear())


def meter_of(problem: Problem, samples: int = 200, sequences: int = 1000) -> ProblemMeter:
    train, valid, test = (
        problem.sample(n, generator_for(0, i)) for i, n in enumerate((sequences, 2, samples))
    )
    return ProblemMeter(problem, Dataset(train, valid, test, Tokens(problem.vocab_size), "toy"))


def joint(seed: int = 3) -> EnumeratedJoint:
    return EnumeratedJoint.random(V, L, generator=generator_for(seed))


def of_two_steps(problem: Problem, process: Process) -> dict[tuple[int, ...], float]:
    """What two ancestral steps of the exact product draw: over all paths, one by one."""
    denoiser = problem.denoiser(process)
    states = enumerate_states(process.vocab_size, L)
    clean = enumerate_states(V, L)
    prior = process.prior().double()
    half = torch.tensor(0.5, dtype=torch.float64)
    last = denoiser(states, half.expand(len(states))).marginals().tolist()
    first = denoiser(states, torch.ones(len(states), dtype=torch.float64)).marginals()
    out = dict.fromkeys(map(tuple, clean.tolist()), 0.0)
    for n, x1 in enumerate(states):
        begin = math.prod(float(prior[x]) for x in x1)
        if begin == 0:
            continue
        rows = process.reverse_marginals(first[[n]], x1[None], half, 2 * half)[0]
        for k, x in enumerate(states):
            middle = begin * math.prod(float(rows[i, x[i]]) for i in range(L))
            if middle > 0:
                for y in out:
                    out[y] += middle * math.prod(last[k][i][y[i]] for i in range(L))
    return out


@pytest.mark.parametrize("process", [MASKED, UNIFORM], ids=["masked", "uniform"])
def test_kl_and_tv_are_those_of_all_paths_added_up(process: Process) -> None:
    problem = joint()
    found = meter_of(problem).of_law(problem.denoiser(process), 2)
    law = of_two_steps(problem, process)
    truth = {x: float(problem.log_prob(torch.tensor([x])).exp()) for x in law}
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    kl = sum(p * math.log(p / law[x]) for x, p in truth.items())
    tv = sum(abs(p - law[x]) for x, p in truth.items()) / 2
    assert found["kl"].value == pytest.approx(kl, abs=1e-12)
    assert found["tv"].value == pytest.approx(tv, abs=1e-12)
    assert kl > 0.01
    assert found["kl"].low == found["kl"].high
    assert found["missed"].value == 0


def test_what_is_never_drawn_is_counted_in_place_of_an_infinite_divergence() -> None:
    """A model of one half of a list: of the other half it draws nothing."""
    listed = torch.tensor([[0, 0, 1], [1, 1, 1], [2, 0, 2]])
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    law = FiniteSupport(listed, weights, vocab_size=V)
    half = FiniteSupport(listed[:2], torch.tensor([0.5, 0.5]), vocab_size=V)
    found = meter_of(law).of_law(half.denoiser(MASKED, joint=True), 2)
    assert set(found) == {"tv", "missed"}
    assert found["missed"].value == pytest.approx(0.3, abs=1e-12)


def test_exact_samples_that_a_model_never_draws_are_counted() -> None:
    chain = MarkovChain.random(4, 16, 0.4, generator_for(1))
    meter = meter_of(chain, 200)
    samples = meter.dataset.all("test")
    seen = FiniteSupport(samples[:50].unique(dim=0), vocab_size=4)
    found = meter.of_law(seen.denoiser(Absorbing(5, LogLinear()), joint=True), 1)
    assert set(found) == {"missed"}
    never = seen.log_prob(samples) == -torch.inf
    assert found["missed"].value == pytest.approx(float(never.double().mean()), abs=1e-12)
    assert found["missed"].value > 0.5


def test_one_evaluation_is_judged_on_a_list_that_is_too_long_to_enumerate() -> None:
    """The exact product at full noise is uniform over 4¹⁶ fillings, of which 288 are boards."""
    boards = sudoku()
    denoiser = boards.denoiser(Absorbing(5, LogLinear()))
    meter = meter_of(boards, 20)
    found = meter.of_law(denoiser, 1)
    assert found["kl"].value == pytest.approx(math.log(4**16 / 288), rel=1e-12)
    assert found["tv"].value == pytest.approx(1 - 288 / 4**16, rel=1e-12)
    assert meter.of_law(denoiser, 2) == {}
    (exact,) = (row for row in meter.reference() if row.metric == "valid")
    assert [exact.value, exact.low, exact.high] == pytest.approx([1, 1, 1])
    spoilt = boards.sample(20, generator_for(5))
    spoilt[:5, 0] = (spoilt[:5, 0] + 1) % 4
    # Sums round as memory lies.
    assert meter.measure(spoilt)["valid"].value == pytest.approx(0.75, rel=1e-12)


def test_the_rate_of_a_chain_is_that_of_exact_densities() -> None:
    chain = MarkovChain.random(4, 16, 0.4, generator_for(1))
    meter = meter_of(chain, 400)
    exact = chain.denoiser(Absorbing(5, LogLinear()))
    found = meter.of_law(exact, 1)["kl_rate"]
    samples, marginals = meter.dataset.all("test"), chain.marginals()
    terms = [
        float(chain.log_prob(x[None])) - sum(math.log(marginals[i, t]) for i, t in enumerate(x))
        for x in samples
    ]
    assert found.value == pytest.approx(sum(terms) / len(terms) / 16, abs=1e-12)
    assert found.low < chain.one_step_floor() / 16 < found.high
    both = meter.of_law(exact, 1, "first-hitting")
    assert both["kl_rate"] == found
    assert both["missed"].value == 0
    # In more steps, to a time above 0, and from noise that is not one state, there is no density.
    assert meter.of_law(exact, 2) == {}
    assert meter.of_law(exact, 1, grid=[1.0, 0.3]) == {}
    assert meter.of_law(chain.denoiser(Uniform(4, LogLinear())), 1) == {}


def test_a_bound_of_the_likelihood_judges_nothing() -> None:
    config = {
        "process": MASKED.config(),
        "trunk": {"hidden": 8, "blocks": 1, "heads": 2},
        "length": L,
    }
    meter, latent = meter_of(joint()), {"kind": "latent", "size": 0}

    def known(head: dict[str, object], steps: int, sampler: str | None = None) -> set[str]:
        model = NetworkDenoiser.from_config(config | {"head": head}).eval()
        return set(meter.of_law(model, steps, sampler))

    assert known({"kind": "product"}, 1) == {"kl", "tv", "missed"}
    assert known({**latent, "categories": 2}, 1) == {"kl", "tv", "missed"}
    assert known({**latent, "size": 4, "categories": 0}, 1) == set()
    # One latent for several draws: none of them has a law of its own.
    assert known({**latent, "categories": 2}, 2, "held-latent") == set()


def test_transitions_are_compared_by_counting() -> None:
    chain = MarkovChain.random(3, 6, 0.5, generator_for(2))
    samples = chain.sample(40, generator_for(7))
    pairs = Counter((int(a), int(b)) for x in samples for a, b in pairwise(x))
    firsts = Counter({a: sum(n for (c, _), n in pairs.items() if c == a) for a in range(3)})
    total = sum(pairs.values())
    expected = sum(
        n / total * math.log(n / firsts[a] / float(chain.transition[a, b]))
        for (a, b), n in pairs.items()
    )
    found = meter_of(chain).measure(samples)["transition_kl"]
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_frequencies_of_sequences_count_what_cannot_occur() -> None:
    law = FiniteSupport(torch.tensor([[0, 0], [1, 1]]), torch.tensor([0.75, 0.25]), vocab_size=2)
    samples = torch.tensor([[0, 0], [0, 0], [1, 1], [0, 1]])
    found = meter_of(law).measure(samples)
    assert found["sequence_tv"].value == pytest.approx(0.25, abs=1e-12)
    assert found["valid"].value == 0.75
    assert found["nll"].value == pytest.approx((-2 * math.log(0.75) - math.log(0.25)) / 6)


def test_a_wrong_law_is_judged_worse() -> None:
    problem, other = joint(), joint(8)
    meter = meter_of(problem, 2000)
    exact = problem.denoiser(MASKED, joint=True)
    rows = quality(exact, meter, [1], model="teacher")
    rows += quality(other.denoiser(MASKED, joint=True), meter, [1], model="wrong")
    rows += quality(exact, meter, [1], model="right", seeds=(5,))
    (table,) = verdicts([*rows, *meter.reference()], "teacher")
    found = {(line[0], line[2]): line[-1] for line in table.rows}
    for metric in ("kl", "tv", "sequence_tv", "trigram_tv"):
        assert found["wrong", metric] == "worse"
        assert found["right", metric] == "intervals overlap"
    # A temperature draws from another law.
    tempered = quality(exact, meter, [1], temperature=0.5)
    assert not {"kl", "tv"} & {row.metric for row in tempered}


def generators(chain: MarkovChain, train: Tensor, count: int) -> dict[str, Tensor]:
    powered = chain.transition**3
    sharp = MarkovChain(chain.initial, powered / powered.sum(1, keepdim=True), chain.length)
    likely = sharp.sample(count, generator_for(3))
    return {
        "honest": chain.sample(count, generator_for(2)),
        "periodic": likely[:, :2].repeat(1, chain.length // 2),
        "copies": train[:count],
        "one mode": likely[chain.log_prob(likely).argmax()].expand(count, -1),
        "likely": likely,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("honest", set()),
        ("periodic", {"duplicates", "entropy"}),
        ("copies", {"copied"}),
        ("one mode", {"duplicates", "entropy", "nll"}),
        ("likely", {"entropy", "nll"}),
    ],
)
def test_degenerate_generators_are_caught(name: str, expected: set[str]) -> None:
    chain = MarkovChain.random(8, 16, generator=generator_for(1))
    meter = meter_of(chain, 400)
    samples = generators(chain, meter.dataset.all("train"), 400)[name]
    found = meter.measure(samples)
    rows: list[Row] = [as_result(value, key, name, "", 1, 1.0) for key, value in found.items()]
    caught = {line[2] for part in suspects([*rows, *meter.reference()]) for line in part.rows}
    assert caught >= expected
    assert bool(caught) == (name != "honest")
