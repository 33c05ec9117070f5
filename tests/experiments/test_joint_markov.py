"""The one-step experiment on chains, at toy size."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import joint_markov
from fewjump.random import generator_for


def test_exact_samples_score_the_floor_and_a_product_does_not() -> None:
    chain = joint_markov.reference_markov_chain(32)
    row = joint_markov.chain_row(chain, chain.sample(8192, generator_for(1)), 0)
    assert row["bigram_tv"] < 0.02
    # Twice an interval of 95%: one seed in 10,000 is outside, where one in 20 is outside of it.
    width = row["nll_high"] - row["nll_low"]
    assert chain.entropy() / 32 == pytest.approx(row["nll"], abs=width)
    (line, *_) = joint_markov.draw_rows(
        "Markov V=8", chain.denoiser(joint_markov.PROCESSES["masked"](8)), 0, {}
    )
    assert line["bigram_tv"] == pytest.approx(0.43, abs=0.02)
    assert line["nfe"] == 1


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_a_student_is_trained_drawn_at_two_lengths_and_remembered(process, tmp_path, monkeypatch):
    student = dataclasses.replace(joint_markov.STUDENTS["chain"], steps=100, batch_size=32)
    monkeypatch.setitem(joint_markov.STUDENTS, "chain", student)
    monkeypatch.setitem(joint_markov.CHAINS, "tiny", joint_markov.reference_markov_chain)
    monkeypatch.setitem(joint_markov.LENGTHS, "tiny", {8: 256, 20: 64})
    monkeypatch.setattr(joint_markov, "TRAINED_LENGTH", 8)
    rows = joint_markov.rows_of("tiny", process, "chain", 0, tmp_path)
    assert [row["length"] for row in rows] == [8, 20]
    assert joint_markov.rows_of("tiny", process, "chain", 0, tmp_path) == rows
    product, *_ = joint_markov.teacher_rows("tiny", process)
    # These few steps do not finish the job, but they leave the product law behind.
    assert rows[0]["bigram_tv"] < 0.7 * product["bigram_tv"]
    assert rows[1]["bigram_tv"] < 0.7 * product["bigram_tv"]
    first, second = joint_markov.references("tiny")
    assert first["entropy_rate"] == pytest.approx(
        joint_markov.reference_markov_chain(8).entropy_rate()
    )
    assert second["bigram_tv_floor"] < product["bigram_tv"]
