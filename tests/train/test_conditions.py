"""Classes in training: which sequence is of which, what is learned of it, and that it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.train.conditions import Conditions
from sampler.by_class import ByClass, by_class

MASKED = Absorbing(4, LogLinear())
NETWORK = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 32, "time_conditioned": False}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "batch_size": 64}


def data_of(model: ByClass, count: int) -> tuple[Tensor, Tensor]:
    """Sequences and their classes, drawn from the joint law."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1, model.classes + 1).double()
    labels = torch.multinomial(weights, count, replacement=True, generator=generator)
    each = [one.problem.sample(count, generator) for one in model.each[:-1]]
    return torch.stack(each)[labels, torch.arange(count)], labels


def network(classes: int = 2, **trunk: Any) -> NetworkDenoiser:
    torch.manual_seed(3)
    config = {**NETWORK, "classes": classes, **trunk}
    return NetworkDenoiser.from_config({"process": MASKED.config(), "trunk": config, "length": 2})


def test_a_condition_is_a_function_of_seed_and_place() -> None:
    labels, scales = torch.arange(50) % 4, torch.linspace(1, 3, 50).double()
    conditions = Conditions(4, labels, scales, 0.25, (1.0, 3.0))
    index = torch.arange(4000)
    rows = index % 50
    whole = conditions.draw(9, index, rows)
    for part in (index[:7], index[1000:1100]):
        found = conditions.draw(9, part, rows[part])
        assert torch.equal(found.labels, whole.labels[part])
        assert found.scale is not None
        assert torch.equal(found.scale, scales[rows[part]])
    dropped = whole.labels == 4
    assert torch.equal(whole.labels[~dropped], labels[rows][~dropped])
    assert abs(float(dropped.double().mean()) - 0.25) < 0.03
    without = Conditions(4, label_dropout=0.0, guidance=(1.0, 3.0)).draw(9, index, None)
    assert (torch.bincount(without.labels, minlength=4).double() / 4000 - 0.25).abs().max() < 0.03
    assert without.scale is not None
    assert abs(float(without.scale.mean()) - 2) < 0.05
    assert float(without.scale.max()) <= 3


def test_a_teacher_learns_the_law_of_each_class_and_that_of_none() -> None:
    truth = by_class(MASKED)
    x0, labels = data_of(truth, 40_000)
    teacher = fewjump.train_teacher(
        x0,
        MASKED,
        network=NETWORK,
        classes=2,
        labels=labels,
        label_dropout=0.3,
        steps=250,
        lr=1e-2,
        ema=0.97,
        **{**QUIET, "batch_size": 512},
    )
    x_t = torch.tensor([[3, 3], [0, 3], [3, 2], [1, 3]])
    for label in (0, 1, 2):
        found = teacher.conditioned(label)(x_t, 0.5).marginals()
        exact = truth.conditioned(label)(x_t, 0.5).marginals()
        other = truth.conditioned((label + 1) % 3)(x_t, 0.5).marginals()
        assert (found - exact).abs().max() < 0.06
        assert (other - exact).abs().max() > 0.12
    torch.testing.assert_close(
        teacher(x_t, 0.5).marginals(), teacher.conditioned(2)(x_t, 0.5).marginals()
    )


def test_a_student_takes_the_scale_as_an_input() -> None:
    """Of one masked position the guided law is known: p(x|y)^γ·p(x)^(1−γ), normalised."""
    process = Absorbing(5, LogLinear())
    truth = by_class(process, vocab_size=4, length=1, classes=3)
    model = fewjump.distill(
        truth,
        network=NETWORK,
        # A short gap: the position is still masked where the teacher is asked; nothing is drawn.
        objective=ConditionalMatching("teacher-rollout", max_gap=0.01, rollout_steps=1),
        guidance=(0, 4),
        steps=200,
        lr=1e-2,
        ema=0.95,
        **{**QUIET, "batch_size": 128},
    )
    assert model.guidance_range == (0.0, 4.0)
    tables = [one.problem.probs for one in truth.each]
    for label in range(3):
        for scale in (0.0, 1.0, 2.5, 4.0):
            exact = tables[label] ** scale * tables[-1] ** (1 - scale)
            found = fewjump.exact_output_law(model.conditioned(label, scale), 1)
            assert (found - exact / exact.sum()).abs().max() < 0.04
    assert fewjump.sampler.run(model, 3, 1, generator=0, label=1, guidance=3.0).nfe == 1
    for scale in (-1.0, 4.5):
        with pytest.raises(ValueError, match="guidance"):
            model.conditioned(0, scale)


def test_a_student_with_a_scale_starts_at_its_teacher() -> None:
    teacher = network()
    torch.nn.init.normal_(teacher.head.linear.weight)  # type: ignore[union-attr, arg-type]
    student = network(guidance=[0.5, 3.0])
    student.warm_start(teacher)
    x_t = torch.tensor([[3, 3], [0, 3], [3, 2]])
    labels = torch.tensor([0, 1, 2])
    for scale in (0.5, 3.0):
        mine = student.conditioned(labels, scale)(x_t, 0.5).marginals()
        assert torch.equal(mine, teacher.conditioned(labels)(x_t, 0.5).marginals())
    with pytest.raises(ValueError, match="differ in guidance"):
        teacher.warm_start(student)


def trained(out: Path | None, steps: int, **options: Any) -> NetworkDenoiser:
    x0, labels = data_of(by_class(MASKED), 100)
    model = network()
    config = TrainConfig(
        steps=steps, save_every=3, lr=1e-2, decay="constant", **{**QUIET, **options}
    )
    conditions = Conditions(2, labels)
    return train(model, CrossEntropyELBO(), x0, config, conditions=conditions, out=out).student  # type: ignore[return-value]


def test_a_training_with_classes_resumes_exactly(tmp_path: Path) -> None:
    whole = trained(None, 7)
    trained(tmp_path, 3)
    resumed = trained(tmp_path, 7)
    for mine, theirs in zip(resumed.parameters(), whole.parameters()):
        assert torch.equal(mine, theirs)
    parts = trained(None, 7, accumulate=4)
    for mine, theirs in zip(parts.parameters(), whole.parameters()):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_other_labels_are_another_run(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    x0, labels = data_of(by_class(MASKED), 100)
    config = TrainConfig(steps=3, save_every=3, lr=1e-2, decay="constant", **QUIET)
    with pytest.raises(ValueError, match=r"conditions\.labels"):
        train(
            network(), CrossEntropyELBO(), x0, config, conditions=Conditions(2, 1 - labels),
            out=tmp_path,
        )  # fmt: skip


def test_a_saved_model_keeps_its_classes(tmp_path: Path) -> None:
    model = network(guidance=[0.0, 2.0])
    again = fewjump.load(fewjump.save(model, tmp_path / "m"))
    assert (again.classes, again.guidance_range) == (2, (0.0, 2.0))
    x = fewjump.sample(model, 6, 2, generator=0, label=1, guidance=2.0)
    assert torch.equal(fewjump.sample(again, 6, 2, generator=0, label=1, guidance=2.0), x)
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert "label=0" in card
    assert "an input, from 0 to 2" in card
    plain = network(1).trunk.config
    assert "guidance" not in plain.config()


def test_clear_errors() -> None:
    x0, labels = data_of(by_class(MASKED), 60)
    common = {"network": NETWORK, "steps": 1, **QUIET}
    with pytest.raises(ValueError, match="these data have no labels"):
        fewjump.train_teacher(x0, MASKED, classes=2, **common)
    with pytest.raises(ValueError, match="labels are for a model with classes"):
        fewjump.train_teacher(x0, MASKED, labels=labels, **common)
    with pytest.raises(ValueError, match=r"hold label 5.*classes=6"):
        fewjump.train_teacher(x0, MASKED, classes=2, labels=labels + 4, **common)
    with pytest.raises(ValueError, match="59 labels do not fit 60"):
        fewjump.train_teacher(x0, MASKED, classes=2, labels=labels[1:], **common)
    with pytest.raises(ValueError, match="label_dropout"):
        fewjump.train_teacher(x0, MASKED, classes=2, labels=labels, label_dropout=1.0, **common)
    with pytest.raises(ValueError, match="score-entropy trains networks without classes"):
        fewjump.train_teacher(
            x0, MASKED, classes=2, labels=labels, objective="score-entropy", **common
        )
    plain = by_class(MASKED).each[0]
    with pytest.raises(ValueError, match="guidance is for teachers with classes"):
        fewjump.distill(plain, x0, guidance=(0, 2), **common)
    teacher = network()
    with pytest.raises(ValueError, match="data have no labels"):
        fewjump.distill(teacher, x0, steps=1, **QUIET)
    with pytest.raises(ValueError, match="lora keeps the teacher's network"):
        fewjump.distill(teacher, guidance=(0, 2), lora=2, steps=1, **QUIET)
    with pytest.raises(ValueError, match="0 ≤ low ≤ high"):
        fewjump.distill(teacher, guidance=(3, 2), steps=1, **QUIET)
    with pytest.raises(ValueError, match="which sequence is of which"):
        train(network(), CrossEntropyELBO(), x0, TrainConfig(steps=1, **QUIET))
    with pytest.raises(ValueError, match="refine is for students without classes; distil one"):
        fewjump.refine(network(), teacher, x0)
