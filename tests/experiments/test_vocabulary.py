"""The cost check: its measures see what they should, its processes are what they claim."""

from __future__ import annotations

import pytest
import torch

from experiments.vocabulary import (
    FAMILIES,
    MEASURES,
    Vocabulary,
    make_process,
    near_rate,
    peak_bytes,
    recovery_of,
    refusals,
    slope,
    sparse_rate,
    upper_slope,
)
from fewjump.random import generator_for


def test_a_power_law_has_its_exponent() -> None:
    sizes = [256, 512, 1024, 2048]
    assert slope(sizes, [v**1.5 for v in sizes]) == pytest.approx(1.5)
    rows = [{"vocab_size": v, "x": max(1000.0, float(v))} for v in sizes]
    assert upper_slope(rows, "x") == pytest.approx(1.0)


def test_peak_memory_counts_what_lives_at_once() -> None:
    def twice() -> object:
        for _ in range(3):
            one = torch.ones(1 << 18)
            two = one + 1
            del one, two
        return None

    assert peak_bytes(twice) == pytest.approx(2 * 4 * (1 << 18), rel=0.05)


@pytest.mark.parametrize("near", [False, True])
def test_sparse_rates_are_a_generator_of_few_targets(near: bool) -> None:
    dense = (near_rate(40) if near else sparse_rate(40, generator_for(0))).to_dense()
    if near:
        # From a token to itself, the next ones and the mask, around the end of the clean tokens.
        assert dense[36].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 36, 37, 38, 39]
        assert not dense[39].any()
        dense = dense[:39]
    assert float(dense.sum(-1).abs().max()) < 1e-12
    assert float(dense.diagonal().max()) < 0
    assert int((dense > 0).sum(-1).max()) <= 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_recovery_gives_posteriors_back(family: str) -> None:
    process = make_process(family, 40, 0)
    found = recovery_of(process, 0)()
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 16).double(), atol=1e-6, rtol=0)
    assert float(found.min()) > -1e-6


def test_the_dense_route_refuses_with_a_way_around() -> None:
    for row in refusals(1 << 17):
        assert row["said"] is not None, row["asked"]
        assert "too large" in row["said"]


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_the_check_runs_and_a_quadratic_cost_is_a_failure() -> None:
    check = Vocabulary(families=["absorbing"], smallest=8, largest=9, repeats=1)
    result = check.run()
    assert len(result.charts) == 4
    rows = [dict(r) for r in result.rows if "step_bytes" in r]
    for row in rows:
        row["recovery_bytes"] = row["vocab_size"] ** 2
    failed = check.answer(rows).failures
    assert any("memory of recovery (absorbing)" in text for text in failed)


def test_sparse_products_that_only_read_memory_at_random_are_told_apart() -> None:
    def verdict(far: float, near: float) -> str:
        powers = {"sparse rate": far, "sparse rate, near targets": near}
        rows = [
            {"family": family, "vocab_size": v, **dict.fromkeys(MEASURES, v**power)}
            for family, power in powers.items()
            for v in (256, 512, 1024, 2048)
        ]
        return " ".join(Vocabulary().answer(rows).verdict)

    said = verdict(1.4, 1.0)
    assert "1.40 (recovery) and 1.40 (step); to 8 tokens near by: 1.00" in said
    assert "times as slow at V = 1,024" in said
    assert f"{1024**0.4:.1f} times as slow" in said
    assert f"{2048**0.4:.1f} times at V = 2,048" in said
    # Where near targets grow as fast, or neither does, memory explains nothing.
    assert "caches" not in verdict(1.4, 1.4)
    assert "caches" not in verdict(1.0, 1.0)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown family"):
        Vocabulary(families=["dense"]).run()
    with pytest.raises(ValueError, match="smallest < largest"):
        Vocabulary(smallest=9, largest=9).run()
