"""Low-rank students: the teacher's own weights, a difference that starts at zero, and merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import fewjump
from fewjump.assembly import add_adapters, build_student
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.denoiser.lora import adapt, is_low_rank, merged
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import LogLinear
from fewjump.train import ExponentialMovingAverage

V, L, RANK = 7, 5, 2


def make(kind: str = "product", seed: int = 0, hidden: int = 8) -> NetworkDenoiser:
    torch.manual_seed(seed)
    process = Absorbing(V, LogLinear())
    config = {
        "process": process.config(),
        "trunk": {"hidden": hidden, "blocks": 2, "heads": 2, "condition_dim": 8},
        "head": {"kind": kind},
        "length": L,
    }
    model = NetworkDenoiser.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.process = process
    return model


def states() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(V - 1, (16, L), generator=generator)
    return torch.where(torch.rand(16, L, generator=generator) < 0.5, clean, V - 1)


def pointers(module: torch.nn.Module) -> set[int]:
    return {p.data_ptr() for p in module.parameters()}


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"fewjump\[lora\]"):
        adapt(make(), make(), RANK)


def test_bad_choices_are_refused_before_anything_changes() -> None:
    for rank in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"lora must be a rank from 1.*got {rank}"):
            adapt(make(), make(), rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teacher's network"):
        adapt(make(hidden=16), make(), RANK)
    with pytest.raises(ValueError, match="warm_start"):
        fewjump.distill(make(), torch.zeros(4, L, dtype=torch.long), lora=2, warm_start=False)


def test_the_weights_are_in_memory_once() -> None:
    pytest.importorskip("peft", reason="needs fewjump[lora]")
    student, teacher = make(seed=1), make()
    before = teacher(states(), 0.5).logits.clone()
    adapt(student, teacher, RANK)
    assert pointers(teacher) <= pointers(student)
    own = [p for p in student.parameters() if p.requires_grad]
    # qkv, out and two MLP layers of each of two blocks; r·(in + out) each.
    assert sum(p.numel() for p in own) == 2 * RANK * ((8 + 24) + (8 + 8) + (8 + 32) + (32 + 8))
    assert torch.equal(student(states(), 0.5).logits, before)
    average = ExponentialMovingAverage(student, 0.9)
    shadow = {v.data_ptr() for v in average.shadow.values()}
    assert pointers(teacher) <= shadow
    assert not shadow & {p.data_ptr() for p in own}


def test_merging_is_the_formula_and_leaves_the_teacher_alone() -> None:
    pytest.importorskip("peft", reason="needs fewjump[lora]")
    student, teacher = make(seed=1).double(), make().double()
    adapt(student, teacher, RANK)
    student.double()
    for parameter in student.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    kept = {k: v.clone() for k, v in teacher.state_dict().items()}
    whole = merged(student)
    layer = student.trunk.blocks[1].attention.qkv  # type: ignore[union-attr]
    difference = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    name = "trunk.blocks.1.attention.qkv.weight"
    torch.testing.assert_close(whole.state_dict()[name], kept[name] + difference)
    torch.testing.assert_close(whole(states(), 0.5).logits, student(states(), 0.5).logits)
    assert not is_low_rank(whole)
    assert whole.state_dict().keys() == kept.keys()
    assert all(torch.equal(v, kept[k]) for k, v in teacher.state_dict().items())
    assert not pointers(whole) & pointers(teacher)


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_distillation_trains_the_difference_only(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs fewjump[lora]")
    teacher = make()
    kept = {k: v.clone() for k, v in teacher.state_dict().items()}
    data = torch.randint(V - 1, (64, L), generator=torch.Generator().manual_seed(2))

    def distilled(out: Path, **options: object) -> Denoiser:
        return fewjump.distill(
            teacher,
            data,
            student=kind,
            lora=RANK,
            steps=6,
            batch_size=8,
            lr=1e-2,
            warmup=1,
            device="cpu",
            progress=False,
            out=out,
            **options,
        )

    student = distilled(tmp_path / "run")
    assert all(torch.equal(v, kept[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())
    loaded = fewjump.load(tmp_path / "run" / "model")
    x0 = torch.where(states() == V - 1, 0, states())
    got = loaded(states(), 0.5).log_prob(x0)
    torch.testing.assert_close(got, student(states(), 0.5).log_prob(x0))
    changed = {k for k, v in loaded.state_dict().items() if k in kept and not v.equal(kept[k])}
    assert "trunk.blocks.0.mlp.0.weight" in changed
    assert not any("embedding" in name or "modulation" in name for name in changed)
    # Resumed from the saved state, which holds the difference.
    again = distilled(tmp_path / "run")
    torch.testing.assert_close(again(states(), 0.5).log_prob(x0), got)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_a_score_network_lends_its_weights(kind: str, masked: bool, tmp_path: Path) -> None:
    """Under a mask its output layer too, where the student's law is that layer's softmax."""
    pytest.importorskip("peft", reason="needs fewjump[lora]")
    torch.manual_seed(0)
    process = Absorbing(V, LogLinear()) if masked else Uniform(V, LogLinear())
    trunk = {"hidden": 8, "blocks": 2, "heads": 2, "condition_dim": 8}
    teacher = ScoreDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": L})
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    kept = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = build_student(teacher, kind, None, None, True, L, 0)
    add_adapters(student, teacher, RANK, 0, fresh=False)
    lent = pointers(teacher) & pointers(student)
    assert len(lent) >= len(pointers(teacher)) - (0 if masked and kind == "product" else 2)
    # Before the first step the student is what it would be without the difference.
    plain = build_student(teacher, kind, None, None, True, L, 0)
    got, want = (model(states(), 0.5).marginals() for model in (student, plain))
    torch.testing.assert_close(got, want)

    data = torch.randint(V - 1, (64, L), generator=torch.Generator().manual_seed(2))
    made = fewjump.distill(
        teacher, data, student=kind, lora=RANK, steps=3, batch_size=8, out=tmp_path / "run"
    )
    assert all(torch.equal(v, kept[k]) for k, v in teacher.state_dict().items())
    assert not is_low_rank(made)
    loaded = fewjump.load(tmp_path / "run" / "model")
    x0 = torch.where(states() == V - 1, 0, states())
    assert type(loaded) is type(made)
    got, want = (model(states(), 0.5).log_prob(x0) for model in (loaded, made))
    torch.testing.assert_close(got, want)


def test_foreign_scores_have_no_transformer_to_take_over() -> None:
    process = Absorbing(V, LogLinear())
    teacher = ScoreDenoiser(torch.nn.Embedding(V, V), process)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes over a transformer"):
        adapt(teacher, teacher, RANK)
