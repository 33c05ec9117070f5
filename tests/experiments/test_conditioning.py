"""The experiment on students that condition: whole rows, and fillings that are what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.conditioning import DEEPER, HIDDEN, KINDS, WALKS, Config, measure
from experiments.filling import filling, filling_one_by_one, holes
from experiments.harness import LEFT
from fewjump.demo.parts import TEACHER
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from toy_text import SIZES, names_file


def test_half_of_the_positions_are_holes():
    for kind in ("stretch", "scattered"):
        found = holes(kind, (50, 8), 0)
        assert bool((found.sum(1) == 4).all())
    lower = holes("lower half", (3, 8), 0)
    assert not bool(lower[:, :4].any())
    assert bool(lower[:, 4:].all())
    stretch = holes("stretch", (50, 8), 0).long()
    assert bool(((stretch[:, 1:] - stretch[:, :-1]) == 1).sum(1).le(1).all())


def test_a_filling_is_scored_over_its_holes_alone():
    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 2.0, 0.0]).log_softmax(-1).expand(*x.shape, 4)

    model = LogitDenoiser(network, Absorbing(4, LogLinear()), 3)
    x0 = torch.tensor([[0, 1, 2], [2, 2, 1]])
    hole = torch.tensor([[True, False, True], [False, False, True]])
    each = -torch.tensor([0.0, 1.0, 2.0]).double().log_softmax(-1)
    expected = torch.stack([(each[0] + each[2]) / 2, each[1]])
    torch.testing.assert_close(filling(model, x0, hole), expected, atol=1e-6, rtol=0)


def test_holes_revealed_one_by_one_are_the_chain_rule():
    """A law that knows its neighbours: the average over all orders, against brute force."""
    joint = EnumeratedJoint.random(3, 3, 2.0, generator_for(1))
    model = joint.denoiser(Absorbing(4, LogLinear()))
    x0 = joint.sample(40, generator_for(2))
    hole = holes("scattered", (40, 3), 1)
    hole[:, 0] = True
    for row in range(3):
        exact = joint.posterior(
            torch.where(hole, 3, x0)[row : row + 1], 0.5, model.process
        ).log_prob(x0[row : row + 1])
        # With the exact posterior of each position every order has the same product.
        found = filling_one_by_one(model, x0[row : row + 1], hole[row : row + 1])
        torch.testing.assert_close(found * hole[row].sum(), -exact, atol=1e-10, rtol=0)
    alone = filling(model, x0, hole)
    together = filling_one_by_one(model, x0, hole)
    assert float((alone - together).mean()) > 0.01


def test_rows_are_whole_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.filling.FILLED_IN", {TEACHER: (1, 2)})
    monkeypatch.setattr("experiments.filling.FEW", (1,))
    monkeypatch.setattr("experiments.filling._ALONE", 1)
    monkeypatch.setattr("fewjump.evaluate.text.LADDER", (0.5, 1.0, 2.0))
    few = replace(SIZES, steps=(1, 2), teacher_extra=())
    with pytest.raises(ValueError, match="unknown kinds 'chain'"):
        Config(kinds=("chain",))
    kinds = (*KINDS, DEEPER)
    config = Config(names=names_file(tmp_path), runs=tmp_path / "runs", steps=2, kinds=kinds)
    found = measure(config, few)
    left = {f"{kind}{LEFT}" for kind in WALKS}
    assert {row["student"] for row in found["rows"]} == {"teacher", *kinds, *left}
    assert {row["steps"] for row in found["rows"] if row["student"] in left} == {2}
    counts = {k: len(HIDDEN) * (2 if k == TEACHER else 1) + 3 for k in (TEACHER, *kinds)}
    for kind, count in counts.items():
        assert sum(row["student"] == kind for row in found["fillings"]) == count
    drawn = [row for row in found["fillings"] if "steps" in row]
    assert all(row["nll"] > 0 and row["seconds_alone"] > 0 for row in drawn)
    assert measure(config, few)["fillings"] == found["fillings"]
