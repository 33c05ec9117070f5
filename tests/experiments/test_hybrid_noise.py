"""The hybrid experiment: every noise goes from teacher to student to rows."""

from __future__ import annotations

import pytest

from experiments.hybrid_noise import NOISES, Sizes, drawn, references, rows_of
from fewjump.problem import reference_markov_chain

TINY = Sizes(
    teacher_steps=2,
    student_steps=2,
    samples=64,
    teacher_counts=(1,),
    student_counts=(1,),
    length=6,
)


@pytest.mark.filterwarnings("ignore:step")
def test_a_hybrid_goes_all_the_way() -> None:
    rows = rows_of("GIDD, 20% uniform", 0, TINY)
    assert [row["model"] for row in rows] == [
        "exact product teacher",
        "trained teacher",
        "chain student",
    ]
    assert all(row["nfe"] == 1 and row["noise"] == "GIDD, 20% uniform" for row in rows)


def test_the_exact_teacher_has_the_product_floor_under_every_noise() -> None:
    chain = reference_markov_chain(6)
    law = chain.bigram_law()
    floor = float((law - law.sum(1, keepdim=True) * law.sum(0)).abs().sum()) / 2
    sizes = Sizes(samples=2048, length=6)
    for make in NOISES.values():
        (row,) = drawn(chain.denoiser(make(8)), "exact", (1,), 0, sizes)
        # One step draws positions independently: only the frequencies' own noise is left.
        assert abs(row["bigram_tv"] - floor) < 0.03
    assert references(0, sizes)["bigram_tv"] < 0.03
