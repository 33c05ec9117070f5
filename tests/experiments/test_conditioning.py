"""The experiment on students that condition: whole rows, and fillings that are what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.conditioning import KINDS, Config, filling, holes, measure
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from toy_text import SIZES, names_file


def test_half_of_the_positions_are_holes():
    for kind in ("stretch", "scattered"):
        found = holes(kind, (50, 8), 0)
        assert bool((found.sum(1) == 4).all())
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


def test_rows_are_whole_and_remembered(tmp_path):
    config = Config(names=names_file(tmp_path), runs=tmp_path / "runs", steps=2)
    found = measure(config, SIZES)
    assert {row["student"] for row in found["rows"]} == {"teacher", *KINDS}
    assert len(found["fillings"]) == 3 * len(KINDS)
    assert measure(config, SIZES)["fillings"] == found["fillings"]
