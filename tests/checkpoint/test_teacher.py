"""Which original a checkpoint is, told from its contents, in every combination that exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fewjump
from checkpoint.written import (
    LENGTH,
    V,
    duo_config,
    folder,
    lightning,
    mdlm_config,
    network,
    prefixed,
    published_config,
    reference,
    sdtt_config,
    sedd_config,
    sedd_run,
)
from fewjump.checkpoint import CheckpointError, load
from fewjump.checkpoint.families import CODE_EPS
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser
from fewjump.denoiser.base import Condition
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear

RAW, EMA = network(seed=1), network(seed=2)
X = torch.randint(V, (3, LENGTH), generator=torch.Generator().manual_seed(4))
SIGMA = torch.tensor([0.05, 0.7, 2.3])
LAST = V - 1


def outputs(denoiser: Any, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return denoiser.raw_logits(x, SIGMA)


def check(denoiser: Any, tensors: dict[str, Tensor], conditioned: bool = True) -> None:
    """The network is the reference's, given σ̄ or zeros."""
    sigma = SIGMA if conditioned else torch.zeros(3)
    expected = reference(tensors, X, sigma).float()
    torch.testing.assert_close(outputs(denoiser), expected, rtol=0, atol=5e-6)


# -- families and containers --------------------------------------------------------------------


def build(tmp_path: Path, variant: str) -> tuple[Path, str]:
    """A checkpoint of a variant, and the family that it is."""
    ckpt = tmp_path / "last.ckpt"
    if variant == "sedd-absorb run":
        return sedd_run(tmp_path / "run", RAW, EMA, sedd_config()), "sedd-absorb"
    if variant == "sedd-uniform run":
        return sedd_run(tmp_path / "run", RAW, EMA, sedd_config("uniform")), "sedd-uniform"
    lightnings: dict[str, tuple[dict[str, Any], str]] = {
        "mdlm": (mdlm_config(), "mdlm"),
        "mdlm with time": (mdlm_config(time_conditioning=True), "mdlm with time"),
        "sedd in mdlm": (
            mdlm_config(parameterization="sedd", time_conditioning=True),
            "sedd-absorb",
        ),
        "udlm": (
            mdlm_config(parameterization="d3pm", diffusion="uniform", time_conditioning=True),
            "udlm",
        ),
        "duo": (duo_config(), "duo"),
        "duo distilled": (duo_config("distillation"), "duo"),
        "mdlm in duo": (duo_config("mdlm", "subs"), "mdlm"),
        "sedd in duo": (duo_config("sedd", "score"), "sedd-absorb"),
    }
    config, family = lightnings[variant]
    return lightning(ckpt, RAW, EMA, config), family


VARIANTS = [
    "sedd-absorb run",
    "sedd-uniform run",
    "mdlm",
    "mdlm with time",
    "sedd in mdlm",
    "udlm",
    "duo",
    "duo distilled",
    "mdlm in duo",
    "sedd in duo",
]


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recognised_and_computes_the_same(
    variant: str, weights: Any, tmp_path: Path
) -> None:
    path, family = build(tmp_path, variant)
    denoiser = load(path, weights=weights)
    tensors = RAW if weights == "raw" else EMA
    check(denoiser, tensors, conditioned=family != "mdlm")
    assert denoiser.length == LENGTH
    assert not denoiser.training
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    masked = family.startswith(("sedd-absorb", "mdlm"))
    assert isinstance(denoiser.process, Absorbing if masked else Uniform)
    assert denoiser.process.schedule == LogLinear(CODE_EPS)
    if masked:
        assert denoiser.process.mask == LAST  # type: ignore[union-attr]
    if family.startswith("sedd"):
        assert isinstance(denoiser, ScoreDenoiser)
        z = reference(tensors, X, SIGMA)
        if masked:
            z = z - (torch.expm1(SIGMA.double()) * (V - 1)).log()[:, None, None]
        expected = z.scatter(-1, X[..., None], 0.0).float()
        with torch.no_grad():
            score = denoiser.log_score(X, SIGMA)
        torch.testing.assert_close(score, expected, rtol=0, atol=5e-6)
    else:
        assert isinstance(denoiser, NetworkDenoiser)
        assert denoiser.leave_one_out is (family in ("udlm", "duo"))
        assert denoiser.time_conditioned is (family != "mdlm")


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", ["mdlm", "udlm", "duo", "sedd", "sdtt"])
def test_published_folders(kind: str, binary: bool, tmp_path: Path) -> None:
    codes = {"sedd": sedd_config, "sdtt": sdtt_config}
    config = codes[kind]() if kind in codes else published_config(kind)
    tensors = dict(EMA) if kind == "sedd" else prefixed(EMA)
    path = folder(tmp_path / "model", tensors, config, binary)
    check(load(path), EMA, conditioned=kind not in ("mdlm", "sdtt"))
    with pytest.raises(CheckpointError, match="one set of weights"):
        load(path, weights="raw")


def test_the_hub_folder_of_sedd_without_scaling(tmp_path: Path) -> None:
    config = sedd_config()
    config["model"]["scale_by_sigma"] = False
    denoiser = load(folder(tmp_path / "model", dict(EMA), config))
    expected = reference(EMA, X, SIGMA).scatter(-1, X[..., None], 0.0).float()
    with torch.no_grad():
        torch.testing.assert_close(denoiser.log_score(X, SIGMA), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    "prefix",
    [
        "backbone._orig_mod.",
        "_orig_mod.backbone.",
        "backbone.backbone.",
        "backbone.backbone._orig_mod.",
        "module.backbone.",
    ],
)
def test_marks_that_wrappers_leave_in_names(prefix: str, tmp_path: Path) -> None:
    path = lightning(tmp_path / "a.ckpt", RAW, EMA, mdlm_config(), prefix=prefix)
    check(load(path), EMA, conditioned=False)
    published = folder(tmp_path / "b", prefixed(EMA, prefix), published_config("mdlm"))
    check(load(published), EMA, conditioned=False)
    students = folder(tmp_path / "d", prefixed(EMA, prefix), sdtt_config())
    check(load(students), EMA, conditioned=False)
    run = sedd_run(tmp_path / "c", prefixed(RAW, "module."), EMA, sedd_config())
    check(load(run, weights="raw"), RAW)
    check(load(run), EMA)


# -- what is beside the network -----------------------------------------------------------------


def test_classes_are_kept_and_the_last_is_no_class(tmp_path: Path) -> None:
    raw, ema = network(classes=3, seed=5), network(classes=3, seed=6)
    config = mdlm_config(parameterization="d3pm", diffusion="uniform", time_conditioning=True)
    path = lightning(tmp_path / "last.ckpt", raw, ema, config)
    denoiser = load(path)
    assert denoiser.classes == 2
    for model in (denoiser, fewjump.load(fewjump.save(denoiser, tmp_path / "saved"))):
        for label in range(3):
            condition = Condition(torch.full((3,), label))
            features = model.trunk.features(X, SIGMA, None, condition)  # type: ignore[union-attr]
            expected = reference(ema, X, SIGMA, label).float()
            found = model.head.linear(features)  # type: ignore[union-attr]
            torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)
        torch.testing.assert_close(outputs(model), expected, rtol=0, atol=5e-6)
    assert load(lightning(tmp_path / "other.ckpt", RAW, EMA, config)).classes is None


def test_an_average_in_the_order_of_a_sorted_dictionary(tmp_path: Path) -> None:
    raw = dict(sorted(RAW.items()))
    path = lightning(tmp_path / "last.ckpt", raw, EMA, mdlm_config())
    check(load(path), EMA, conditioned=False)


def test_parameters_of_a_schedule_follow_the_average(tmp_path: Path) -> None:
    beside = {"noise.empty": torch.tensor(0.0), "teacher.vocab_embed.embedding": torch.zeros(2)}
    longer = {**EMA, "noise.empty": torch.tensor(0.0)}
    path = lightning(tmp_path / "last.ckpt", RAW, longer, mdlm_config(), beside=beside)
    check(load(path), EMA, conditioned=False)


FAST = json.dumps(
    {"added_tokens": [{"id": 3, "content": "[MASK]"}], "model": {"vocab": {"a": 0, "b": 1}}}
)


@pytest.mark.parametrize(
    ("tokenizer", "mask"),
    [
        (None, LAST),
        ({"_special_tokens_map": {"mask_token": "[MASK]"}, "_tokenizer": FAST}, 3),
        ({"_mask_token": {"content": "[MASK]"}, "_tokenizer": FAST}, 3),
        ({"_mask_token": "b", "_tokenizer": FAST}, 1),
        ({"_mask_token": "?", "_vocab_str_to_int": {"a": 0, "?": 2}}, 2),
        ({"_mask_token": "?", "_added_tokens_decoder": {4: "?"}}, 4),
    ],
)
def test_the_mask_is_the_tokenizers_or_the_last_state(
    tokenizer: Any, mask: int, tmp_path: Path
) -> None:
    path = lightning(tmp_path / "last.ckpt", RAW, EMA, mdlm_config(), tokenizer)
    denoiser = load(path)
    assert denoiser.process.mask == mask  # type: ignore[union-attr]
    with torch.no_grad():
        marginals = denoiser(torch.full((1, LENGTH), mask), 0.5).marginals()
    assert float(marginals[..., mask].max()) == 0
    assert load(path, mask=5).process.mask == 5  # type: ignore[union-attr]


def test_a_mask_that_cannot_be_found_is_asked_for(tmp_path: Path) -> None:
    path = lightning(tmp_path / "last.ckpt", RAW, EMA, mdlm_config(), {"_mask_token": "[MASK]"})
    with pytest.raises(CheckpointError, match="give mask="):
        load(path)
    assert load(path, mask=2).process.mask == 2  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match=f"the mask is {V}, but there are {V} states"):
        load(path, mask=V)


def test_the_mask_of_a_published_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", prefixed(EMA), published_config("mdlm"))
    (path / "tokenizer_config.json").write_text(json.dumps({"mask_token": "[MASK]"}))
    with pytest.raises(CheckpointError, match="give mask="):
        load(path)
    (path / "tokenizer.json").write_text(FAST)
    assert load(path).process.mask == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("noise", "schedule"),
    [
        ({"type": "geometric", "sigma_min": "1e-3", "sigma_max": 9}, Geometric(1e-3, 9)),
        ({"type": "linear", "sigma_min": "1e-3", "sigma_max": 7.0}, Linear(7.0, 1e-3)),
        ({"type": "loglinear", "sigma_min": 5, "sigma_max": 6}, LogLinear(CODE_EPS)),
    ],
)
def test_schedules_are_read(noise: Any, schedule: Any, tmp_path: Path) -> None:
    path = lightning(tmp_path / "a.ckpt", RAW, EMA, mdlm_config(noise=noise))
    assert load(path).process.schedule == schedule
    if noise["type"] != "linear":
        run = sedd_run(tmp_path / "run", RAW, EMA, sedd_config("uniform", noise=noise))
        assert load(run).process.schedule == schedule


def test_duos_schedules_have_an_eps_of_their_own(tmp_path: Path) -> None:
    config = {**duo_config(), "noise": {"type": "cosine", "eps": 0.01}}
    found = load(lightning(tmp_path / "a.ckpt", RAW, EMA, config)).process.schedule
    assert isinstance(found, Cosine)
    assert found.eps == pytest.approx(0.01, rel=1e-5)


def test_a_schedule_can_be_given_where_none_is_stated(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", prefixed(EMA), published_config("duo"))
    assert load(path).process.schedule == LogLinear(CODE_EPS)
    assert load(path, schedule=Cosine()).process.schedule == Cosine()
    stated = lightning(tmp_path / "a.ckpt", RAW, EMA, duo_config())
    with pytest.raises(CheckpointError, match="states its schedule"):
        load(stated, schedule=Cosine())


# -- this library's own -------------------------------------------------------------------------


def test_own_folders_and_what_was_loaded_and_saved(tmp_path: Path) -> None:
    teacher = load(lightning(tmp_path / "a.ckpt", RAW, EMA, duo_config()))
    saved = fewjump.save(teacher, tmp_path / "run" / "model")
    for path in (saved, tmp_path / "run"):
        again = load(path)
        assert torch.equal(outputs(again), outputs(teacher))
        assert again.config() == teacher.config()
        with torch.no_grad():
            assert torch.equal(again(X, 0.5).marginals(), teacher(X, 0.5).marginals())
    with pytest.raises(CheckpointError, match="one set of weights"):
        load(saved, weights="raw")
    score = load(sedd_run(tmp_path / "sedd", RAW, EMA, sedd_config()))
    saved = fewjump.save(score, tmp_path / "score")
    with torch.no_grad():
        found, expected = load(saved).log_score(X, SIGMA), score.log_score(X, SIGMA)
    assert torch.equal(found, expected)


def test_other_precisions(tmp_path: Path) -> None:
    half = {name: value.bfloat16() for name, value in prefixed(EMA).items()}
    path = folder(tmp_path / "model", half, published_config("udlm"))
    assert {p.dtype for p in load(path).parameters()} == {torch.float32}
    double = load(path, dtype=torch.float64)
    rounded = {name: value.bfloat16().float() for name, value in EMA.items()}
    rounded["rotary_emb.inv_freq"] = EMA["rotary_emb.inv_freq"]
    with torch.no_grad():
        found = double.raw_logits(X, SIGMA.double())
    torch.testing.assert_close(found, reference(rounded, X, SIGMA), rtol=0, atol=1e-5)


def test_hub_ids_need_the_extra_or_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="in nowhere/at/all, and no such path"):
        load("nowhere/at/all")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"fewjump\[hub\]"):
        load("hf:nobody/nothing")


def test_a_hub_repository_is_read_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    path = folder(tmp_path / "model", prefixed(EMA), published_config("udlm"))
    asked: list[Any] = []

    def fake(repo_id: str, allow_patterns: list[str], revision: None) -> str:
        asked.append((repo_id, allow_patterns))
        return str(path)

    monkeypatch.setattr(hub, "snapshot_download", fake)
    check(load("hf:somebody/udlm"), EMA)
    assert asked[0][0] == "somebody/udlm"
    assert not any(pattern.endswith(".py") for pattern in asked[0][1])
