"""Classes beside drafts, fitted grids and joint laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.process import Absorbing
from fewjump.rollouts import rollouts
from fewjump.sampler import fitted_grid
from fewjump.sampler.scaled import Scaled
from fewjump.schedule import LogLinear
from tests.sampler.by_class import by_class

L = 4


def network(
    kind: str = "product", guidance: tuple[float, float] | None = None, classes: int | None = 2
) -> NetworkDenoiser:
    sizes = {"hidden": 8, "blocks": 1, "heads": 1, "classes": classes, "guidance": guidance}
    process = Absorbing(4, LogLinear()).config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetworkDenoiser.from_config(
            {"process": process, "trunk": sizes, "head": {"kind": kind}, "length": L}
        ).eval()


@pytest.mark.parametrize("kind", ["product", "shared-chain"])
@pytest.mark.parametrize("trained", [None, (0.0, 1.5)])
def test_a_draft_need_not_take_the_guidance_of_its_model(
    kind: str, trained: tuple[float, float] | None
) -> None:
    model, draft = network("autoregressive", (1.0, 3.0)), network(kind, trained)
    asked: dict[str, Any] = {"label": [0, 1, 2], "guidance": 3.0, "generator": 0, "draft": draft}
    assert fewjump.sample(model, 3, 2, **asked).shape == (3, L)
    # Two evaluations where it is guided as its model is, one otherwise.
    each = 2 if kind == "product" and trained is None else 1
    assert draft.evaluations == 2 * each


def test_a_draft_of_other_classes_is_refused() -> None:
    model = network("autoregressive", classes=3)
    with pytest.raises(ValueError, match="classes of the model it drafts for, 3"):
        fewjump.sample(model, 2, 1, label=3, draft=network(classes=2))
    assert fewjump.sample(model, 2, 1, label=3, draft=network(classes=None)).shape == (2, L)


def test_guidance_of_a_joint_model_is_refused_before_it_is_evaluated(tmp_path: Path) -> None:
    model = network("shared-chain")
    with pytest.raises(ValueError, match="this model's is joint"):
        fewjump.sample(model, 2, 1, label=0, guidance=2.0)
    assert model.evaluations == 0
    assert fewjump.sample(model, 2, 1, label=0, guidance=1.0).shape == (2, L)
    out = tmp_path / "student"
    with pytest.raises(ValueError, match="this model's is joint"):
        fewjump.distill(model, student="shared-chain", guidance=(1.0, 2.0), out=out, steps=1)
    assert not out.exists()


def test_a_guided_student_may_learn_from_one_of_more_scales() -> None:
    teacher = network(guidance=(0.0, 3.0))
    done = fewjump.distill(teacher, student="chain", guidance=(1.0, 2.0), steps=1, batch_size=2)
    assert done.guidance_range == (1.0, 2.0)


@pytest.mark.parametrize("kind", ["any-order", "latent", "product"])
def test_a_model_asked_for_a_class_takes_the_samplers_that_it_takes_itself(kind: str) -> None:
    """One seed draws the same by ``label=`` and from the model that has its class already."""

    def outcome(model: fewjump.Denoiser, **asked: Any) -> Any:
        try:
            return fewjump.sample(model, 3, 2, generator=0, **asked).tolist()
        except ValueError as error:
            return str(error)

    model = network(kind)
    asked: list[dict[str, Any]] = [{"decoding": "fixed-point"}]
    names = ("ancestral", "confidence", "entropy-bounded", "euler", "held-latent")
    asked += [{"sampler": name} for name in names] + [{"sampler": Scaled((1.5,))}]
    found = [outcome(model, label=1, **one) for one in asked]
    assert found == [outcome(model.conditioned(1), **one) for one in asked]
    refused = [type(one) is str for one in found]
    assert any(refused)
    assert not all(refused)


def test_a_fitted_grid_is_one_for_a_class_and_for_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    own = fitted_grid.__globals__["fitted_grid"]
    monkeypatch.setitem(
        fitted_grid.__globals__,
        "fitted_grid",
        lambda denoiser, *a, **k: fits.append(1) or own(denoiser, *a, candidates=4, samples=4, **k),
    )
    teacher = by_class(Absorbing(4, LogLinear()), 3, 2)
    for seed in (0, 1):
        fewjump.sample(teacher, 2, 2, grid="fitted", generator=seed, label=[0, 1])
    assert len(fits) == 1
    # Batches that begin with either class.
    tokens = []
    for size in (1, 3):
        file = tmp_path / f"{size}.npz"
        rollouts(teacher, file, 6, 2, grid="fitted", batch_size=size)
        with np.load(file) as archive:
            tokens.append(archive["tokens"])
    assert np.array_equal(*tokens)
    assert len(fits) == 1


def test_what_is_wrong_is_said_before_a_grid_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fitted_grid.__globals__, "fitted_grid", None)
    teacher = by_class(Absorbing(4, LogLinear()), 3, 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"temperature": -1.0}, "temperature must be"),
        ({"sampler": "first-hitting"}, "draws its own times"),
        ({"decoding": "draft"}, "is for autoregressive laws"),
    ]
    for wrong, said in cases:
        with pytest.raises(ValueError, match=said):
            fewjump.sample(teacher, 2, 2, grid="fitted", label=0, **wrong)
