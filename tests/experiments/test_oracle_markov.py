"""The oracle-Markov protocol, at toy size."""

from __future__ import annotations

import pytest

from experiments import oracle_markov as oracle
from fewjump.problem import MarkovChain
from fewjump.random import generator_for

TINY = oracle.Sizes(
    trained_length=8,
    lengths=(8, 20),
    tokens=1 << 13,
    steps=200,
    heads={"shared-chain": {"states": 16}},
)


@pytest.fixture(scope="module")
def chain() -> MarkovChain:
    return MarkovChain.random(5, 8, concentration=0.4, generator=generator_for(3))


def test_the_chain_of_a_text_has_its_bigrams(chain) -> None:
    found = MarkovChain.from_text(chain.sample(20_000, generator_for(1)), 5, 12)
    assert found.length == 12
    assert float((found.transition - chain.transition).abs().max()) < 0.03
    assert float(found.transition.min()) > 0


def test_rates_are_small_for_exact_samples_and_the_mutual_information_for_a_product(chain) -> None:
    exact = oracle.rates(chain, chain.sample(4096, generator_for(1)), 0)
    assert exact["kl_rate"] < 2e-3
    assert exact["tv_rate"] < 0.02
    assert exact["unigram_l1"] < 0.02
    teacher = chain.denoiser(oracle.masked(chain))
    row = oracle.drawn_row(teacher, chain, 1, TINY, 0)
    information = float(chain.mutual_informations()[0])
    floor = chain.one_step_floor() / chain.length
    # An interval of 95% is left by one seed in 20, twice its width by one in 10,000.
    for key, value in (("kl_rate", 0.0), ("kl", floor)):
        assert row[key] > value - (row[f"{key}_high"] - row[f"{key}_low"])
    assert row["kl"] == pytest.approx(floor, abs=row["kl_high"] - row["kl_low"])
    assert row["tv_rate"] > 10 * exact["tv_rate"]
    assert row["kl_rate"] > 0.5 * information
    assert row["unigram_l1"] < 0.05


def test_duplicates_are_counted(chain) -> None:
    x = chain.sample(50, generator_for(2))
    x = x.unique(dim=0)
    assert oracle.rates(chain, x, 0)["duplicates"] == 0
    assert oracle.rates(chain, x.repeat(2, 1), 0)["duplicates"] == pytest.approx(0.5)


def test_a_student_is_drawn_at_two_lengths_and_remembered(chain, tmp_path) -> None:
    chains = {
        length: MarkovChain(chain.initial, chain.transition, length) for length in TINY.lengths
    }
    rows = oracle.student_rows("shared-chain", chains, TINY, 0, tmp_path)
    found = [(r["length"], r["steps"]) for r in rows]
    assert found == [*((8, steps) for steps in oracle.STEPS), (20, 1)]
    floor = chain.one_step_floor() / chain.length
    assert rows[0]["kl"] < 0.5 * floor
    assert oracle.student_rows("shared-chain", chains, TINY, 0, tmp_path) == rows
