"""Masked language models as teachers: their own logits, their own tokens, and every student."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the hub extra")

import fewjump
from denoiser import tiny_hub as hub
from fewjump.denoiser import HEADS, NetworkDenoiser, from_logits, from_masked_lm
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.objective import ConditionalMatching
from fewjump.publish import Pipeline
from fewjump.sampler import run

TEXT = [hub.CLS, 5, hub.MASK, hub.MASK, 10, hub.SEP]
X = torch.tensor([[*TEXT, hub.PAD, hub.PAD], [hub.CLS, 5, 6, hub.MASK, 7, 8, 9, hub.SEP]])


def bert() -> NetworkDenoiser:
    denoiser = from_masked_lm(hub.masked_lm(), hub.tokenizer())
    assert isinstance(denoiser, NetworkDenoiser)
    return denoiser


@pytest.mark.parametrize("kind", hub.SIZES)
def test_logits_are_the_models_own(kind: str) -> None:
    model = hub.masked_lm(kind)
    denoiser = from_masked_lm(copy.deepcopy(model), hub.tokenizer())
    assert isinstance(denoiser, NetworkDenoiser)
    with torch.no_grad():
        theirs = model(input_ids=X, attention_mask=(X != hub.PAD).long()).logits
        ours = denoiser.raw_logits(X, 0.0)
        law = denoiser(X, 0.7)
    real = X != hub.PAD
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-6)
    # At the masks: softmax over the words alone, as the model ranks them.
    words = theirs.clone()
    words[..., : hub.MASK + 1] = -torch.inf
    masked = X == hub.MASK
    torch.testing.assert_close(law.marginals()[masked], words.softmax(-1)[masked])
    shown = law.marginals().gather(-1, X[..., None])[..., 0]
    assert torch.equal(shown[~masked], torch.ones_like(shown[~masked]))


def test_the_time_says_nothing_and_the_mask_is_where_it_is() -> None:
    denoiser = bert()
    assert denoiser.process.mask == hub.MASK
    assert denoiser.process.kept == (hub.PAD, hub.UNK, hub.CLS, hub.SEP)
    assert denoiser.padding == hub.PAD
    assert denoiser.clean_vocab_size == len(hub.SYMBOLS)
    assert not denoiser.time_conditioned
    with torch.no_grad():
        assert torch.equal(denoiser(X, 0.1).marginals(), denoiser(X, 0.9).marginals())


def test_special_tokens_are_drawn_only_when_asked() -> None:
    model = hub.masked_lm()
    fixed = torch.zeros(8, dtype=torch.bool)
    fixed[[0, 7]] = True
    prompt = torch.zeros(8, dtype=torch.int64)
    prompt[0], prompt[7] = hub.CLS, hub.SEP
    quiet = from_masked_lm(copy.deepcopy(model), hub.tokenizer())
    drawn = run(quiet, 200, 4, generator=0, length=8, prompt=prompt, fixed=fixed).samples
    assert int(drawn[:, ~fixed].min()) > hub.MASK
    asked = from_masked_lm(model, hub.tokenizer(), generate=[hub.SEP])
    drawn = run(asked, 200, 4, generator=0, length=8, prompt=prompt, fixed=fixed).samples
    inside = drawn[:, ~fixed]
    assert hub.SEP in inside
    assert not torch.isin(inside, torch.tensor([hub.PAD, hub.UNK, hub.CLS, hub.MASK])).any()


def test_outputs_beyond_the_tokenizer_are_never_drawn() -> None:
    wide = from_masked_lm(hub.masked_lm(vocab_size=24), hub.tokenizer())
    assert set(range(len(hub.SYMBOLS), 24)) <= set(wide.process.kept)
    drawn = run(wide, 100, 3, generator=0, length=6).samples
    assert int(drawn.max()) < len(hub.SYMBOLS)


def test_padding_is_not_attended_to() -> None:
    denoiser = bert()
    with torch.no_grad():
        padded = denoiser.raw_logits(X[:1], 0.0)[:, :6]
        alone = denoiser.raw_logits(X[:1, :6], 0.0)
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_every_student_starts_warm_trains_and_comes_back(kind: str, tmp_path: Path) -> None:
    teacher = bert()
    rows = X[:, [0, 1, 2, 3, 4, 7]]
    data = torch.tensor([[hub.CLS, 5, 6, 8, 10, hub.SEP], [hub.CLS, 9, 7, hub.PAD, 6, hub.SEP]])
    start = fewjump.distill(
        teacher, data, student=kind, steps=1, lr=1e-12, ema=None, batch_size=2, progress=False
    )
    assert isinstance(start, NetworkDenoiser)
    with torch.no_grad():
        mine, theirs = start(rows, 0.5), teacher(rows, 0.5)
        x0 = torch.where(rows == hub.MASK, 8, rows)
        torch.testing.assert_close(mine.log_prob(x0), theirs.log_prob(x0), rtol=0, atol=1e-4)
    student = fewjump.distill(
        teacher,
        data,
        student=kind,
        steps=2,
        lr=1e-2,
        ema=None,
        batch_size=2,
        progress=False,
        out=tmp_path / "run",
    )
    loaded = fewjump.load(tmp_path / "run")
    assert isinstance(loaded, NetworkDenoiser)
    assert loaded.kind == kind
    moved = float((student(rows, 0.5).log_prob(x0) - theirs.log_prob(x0)).detach().abs().max())
    assert moved > 1e-5
    if kind != "latent":  # scored by a bound that is estimated
        with torch.no_grad():
            found, expected = loaded(rows, 0.5).log_prob(x0), student(rows, 0.5).log_prob(x0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert loaded.process.kept == teacher.process.kept
    assert loaded.vocabulary_config == teacher.vocabulary_config


def test_a_saved_teacher_comes_back_and_speaks(tmp_path: Path) -> None:
    teacher = from_masked_lm(hub.save(tmp_path / "bert"), length=8)
    card = teacher.save_pretrained(tmp_path / "mine") / "README.md"
    assert "BertForMaskedLM" in card.read_text()
    assert len(Pipeline(fewjump.load(tmp_path / "bert"))(1, 2, generator=0, length=6).texts) == 1
    pipe = Pipeline(fewjump.load(tmp_path / "mine"))
    with torch.no_grad():
        torch.testing.assert_close(pipe.denoiser(X, 0.5).marginals(), teacher(X, 0.5).marginals())
    out = pipe(3, 4, generator=0, prompt="the cat")
    assert out.tokens.shape == (3, 8)
    assert (out.tokens[:, 0] == hub.CLS).all()
    assert (out.tokens[:, -1] == hub.SEP).all()
    assert all(text.startswith("the cat ") and len(text.split()) == 6 for text in out.texts)
    out = pipe(2, 4, generator=0, infill="the [MASK] [MASK] on a mat", length=[9, 10])
    for text in out.texts:
        words = text.split()
        assert (words[0], words[3:6]) == ("the", ["on", "a", "mat"])
    assert out.tokens[0, -1] == hub.PAD
    assert out.tokens[0, -2] == out.tokens[1, -1] == hub.SEP


def test_data_may_not_hold_the_mask() -> None:
    with pytest.raises(ValueError, match="token 4, which is the mask"):
        fewjump.distill(bert(), X, steps=1, batch_size=2, progress=False)


def test_loss_falls_on_words_only() -> None:
    teacher, student = bert(), bert()
    teacher.requires_grad_(False).eval()
    data = torch.tensor([[hub.CLS, 5, 6, hub.SEP, hub.PAD, hub.PAD]]).repeat(64, 1)
    _, metrics = ConditionalMatching("forward", steps=1)(
        student, teacher, data, torch.Generator().manual_seed(0)
    )
    # At t = 1 (all but) every word is masked: 2 positions of 6.
    assert float(metrics["loss_positions"]) == pytest.approx(2 / 6, abs=0.01)


# -- the adapter --------------------------------------------------------------------------------


def test_any_callable_will_do_shifted_or_not() -> None:
    table = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))
    tokens = torch.full((3, 6), 4)
    tokens[:, 2] = 7
    for shift in (False, True):
        denoiser = from_logits(
            lambda x: table[: x.shape[0]].clone(), vocab_size=9, mask=4, shift=shift, kept=[0]
        )
        found = denoiser(tokens, 0.5).marginals()
        for i in (0, 1, 3, 5):
            row = table[:, max(i - 1, 0) if shift else i].clone()
            row[:, [0, 4]] = -torch.inf
            torch.testing.assert_close(found[:, i], row.softmax(-1))
        assert torch.equal(found[:, 2], torch.nn.functional.one_hot(tokens[:, 2], 9).float())


def test_the_adapter_passes_padding_on_and_takes_model_outputs() -> None:
    model = hub.masked_lm()
    denoiser = from_logits(
        model, vocab_size=len(hub.SYMBOLS), mask=hub.MASK, kept=range(4), padding=hub.PAD
    )
    with torch.no_grad():
        theirs = from_masked_lm(copy.deepcopy(model), hub.tokenizer())(X, 0.5)
        torch.testing.assert_close(denoiser(X, 0.5).marginals(), theirs.marginals())
    student = fewjump.distill(denoiser, X.clamp(min=5), steps=1, batch_size=2, progress=False)
    assert isinstance(student, LogitDenoiser)
    assert student.network is not model


def test_a_shifted_model_keeps_the_shift_when_saved(tmp_path: Path) -> None:
    straight = bert()
    shifted = from_masked_lm(hub.masked_lm(), hub.tokenizer(), shift=True)
    assert isinstance(shifted, NetworkDenoiser)
    with torch.no_grad():
        plain = straight.raw_logits(X, 0.0)
        expected = torch.cat([plain[:, :1], plain[:, :-1]], 1)
        torch.testing.assert_close(shifted.raw_logits(X, 0.0), expected)
        loaded = NetworkDenoiser.from_pretrained(shifted.save_pretrained(tmp_path / "m"))
        torch.testing.assert_close(loaded.raw_logits(X, 0.0), expected)


# -- refusals -----------------------------------------------------------------------------------


def test_code_of_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    import json

    folder = hub.save(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "novel", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="not run by default; read it, then pass trust_remote"):
        from_masked_lm(folder)


def test_a_saved_configuration_cannot_fetch_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import transformers

    folder = bert().save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    hostile = {"_attn_implementation": "someone/kernels", "attn_implementation": "someone/kernels"}
    config["denoiser"]["trunk"]["model"] |= {**hostile, "auto_map": {"AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    asked: list[dict] = []
    build = transformers.AutoConfig.for_model

    def seen(kind: str, **options):
        asked.append(options)
        return build(kind, **options)

    monkeypatch.setattr(transformers.AutoConfig, "for_model", seen)
    fewjump.load(folder)
    assert not {*hostile, "auto_map"} & set(asked[0])
    config["denoiser"]["trunk"]["model"]["architectures"] = ["pipeline"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no model called 'pipeline'"):
        fewjump.load(folder)


def test_nonsense_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give tokenizer="):
        from_masked_lm(hub.masked_lm())
    with pytest.raises(ValueError, match="no masked language model could be read"):
        from_masked_lm(tmp_path / "nothing", hub.tokenizer())
    with pytest.raises(ValueError, match="give the tokenizer that the model was trained with"):
        from_masked_lm(hub.masked_lm(vocab_size=9), hub.tokenizer())
    with pytest.raises(ValueError, match="generate= lists special tokens"):
        from_masked_lm(hub.masked_lm(), hub.tokenizer(), generate=[7])
    unmasked = hub.tokenizer()
    unmasked.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        from_masked_lm(hub.masked_lm(), unmasked)
    bare = hub.tokenizer().backend_tokenizer
    assert from_masked_lm(hub.masked_lm(), bare).process.mask == hub.MASK
    with pytest.raises(ValueError, match="must be one of the kept"):
        from_logits(lambda x: x, vocab_size=5, mask=4, padding=0)
    with pytest.raises(ValueError, match=r"returned \(1, 2, 3\) logits"):
        from_logits(lambda x: torch.zeros(1, 2, 3), vocab_size=5, mask=4)(
            torch.zeros(1, 2).long(), 1
        )
