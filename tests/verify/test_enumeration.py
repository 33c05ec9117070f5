"""``fewjump verify`` must hold, and must notice a formula that is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.process import RankOneKernel
from fewjump.process.bridge import RankOneBridge
from fewjump.verify.enumeration import (
    pad_for_mask,
    position_marginals,
    processes,
    random_joint,
    run_checks,
    tables,
)


def test_every_check_holds() -> None:
    checks = run_checks()
    assert len(checks) >= 4 * 7
    assert {c.process for c in checks} >= set(processes())
    assert [c.name for c in checks if not c.passed] == []


@pytest.mark.parametrize(("length", "seed"), [(3, 1), (3, 2), (1, 0)])
def test_holds_for_other_problems(length: int, seed: int) -> None:
    assert all(c.passed for c in run_checks(vocab_size=3, length=length, seed=seed))


@pytest.mark.parametrize(
    ("owner", "method", "names"),
    [
        (RankOneBridge, "reverse_marginals", {"reverse step", "ancestral = analytic"}),
        (RankOneBridge, "marginals", {"bridge"}),
        (RankOneKernel, "solve", {"recovery (Eq. 8)"}),
        (RankOneKernel, "dense", {"kernel"}),
    ],
)
def test_notices_a_wrong_formula(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, names: set[str]
) -> None:
    original = getattr(owner, method)

    def wrong(self: object, *args: object, **options: object) -> Tensor:
        return original(self, *args, **options) * (1 + 1e-8)

    monkeypatch.setattr(owner, method, wrong)
    failed = {c.name for c in run_checks(vocab_size=3, length=2) if not c.passed}
    assert names <= failed


def test_tables_of_independent_positions_factorise() -> None:
    one = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    process = processes(3)["uniform"]
    table = tables(process, one[:, None] * one, 0.3, 0.7)
    marginals = position_marginals(table.posterior_t, table.states, 3)
    product = marginals[:, 0, :, None] * marginals[:, 1, None, :]
    assert torch.allclose(product.reshape(9, 9), table.posterior_t, atol=1e-14)
    assert torch.allclose(table.law_t.sum(), torch.ones((), dtype=torch.float64))


def test_padding_adds_states_without_mass() -> None:
    joint = random_joint(3, 2, seed=0)
    padded = pad_for_mask(joint, 4)
    assert padded.shape == (4, 4)
    assert torch.equal(padded[:3, :3], joint)
    assert float(padded[3].sum() + padded[:, 3].sum()) == 0
