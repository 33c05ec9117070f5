"""``--weights``, ``--family`` and ``--mask`` on every verb that reads an original."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import fewjump
from checkpoint import written as w
from fewjump import cli
from fewjump.checkpoint import CheckpointError
from fewjump.checkpoint.families import FAMILIES
from fewjump.reading import FamilyName, ReadingOptions, reading_values
from fewjump.verify import subjects
from fewjump.verify.checks import CHECKS, ModelCheck, check_called, run_check
from fewjump.verify.warm_start import WarmStart

GOLDEN = Path(__file__).parents[1] / "golden" / "originals"
QUICK = ["--steps", "1", "--batch-size", "2", "--no-progress", "--device", "cpu"]
VERBS = ("distill", "refine", "rollouts", "inspect", "sample", "evaluate")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning run whose average is the golden MDLM, and whose trained weights are others."""
    folder = tmp_path_factory.mktemp("lightning")
    average = golden("mdlm_subs")
    trained = {
        name: value if name == "rotary_emb.inv_freq" else value.flip(0) * 1.5
        for name, value in average.items()
    }
    config = w.mdlm_config(model={**w.MODEL, "n_heads": 4, "length": 32})
    w.lightning(folder / "last.ckpt", trained, average, config)
    return folder


def golden(case: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / case / "hf" / "model.safetensors")
    return {name.removeprefix("backbone."): value for name, value in tensors.items()}


def drawn(source: Path, out: Path, *words: str) -> np.ndarray:
    """What ``fewjump sample`` draws."""
    words = ("sample", str(source), "--num-samples", "4", "--steps", "2", *words)
    assert cli.main([*words, "--out", str(out)]) == cli.OK
    return np.load(out)


def test_the_options_are_one_definition_and_reach_every_verb() -> None:
    assert get_args(FamilyName) == FAMILIES
    for verb in VERBS:
        options = importlib.import_module(f"fewjump.commands.{verb}").Options
        assert issubclass(options, ReadingOptions), verb
    for name in CHECKS:
        options = check_called(name)
        takes = "model" in {field.name for field in dataclasses.fields(options)}
        assert issubclass(options, ReadingOptions) == takes, name


@pytest.mark.parametrize("case", ["mdlm_subs", "sedd_absorb", "udlm", "duo"])
def test_a_family_can_be_said_where_the_folder_does_not(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(GOLDEN / case / "hf" / "model.safetensors", folder)
    (folder / "config.json").write_text('{"torch_dtype": "float32"}')
    family = {"mdlm_subs": "mdlm", "sedd_absorb": "sedd-absorb"}.get(case, case)
    assert cli.main(["sample", str(folder)]) == cli.USAGE
    assert "--family" in capsys.readouterr().err
    expected = fewjump.load(folder, family=family)
    tokens = drawn(folder, tmp_path / "x.npy", "--family", family, "--length", "6")
    assert np.array_equal(tokens, fewjump.sample(expected, 4, 2, generator=0, length=6).numpy())


def test_sample_and_rollouts_read_the_weights_that_are_asked_for(run: Path, tmp_path: Path) -> None:
    average, trained = (
        fewjump.sample(fewjump.load(run, weights=name), 4, 2, generator=0).numpy()
        for name in ("ema", "raw")
    )
    assert not np.array_equal(average, trained)
    assert np.array_equal(drawn(run, tmp_path / "ema.npy"), average)
    assert np.array_equal(drawn(run, tmp_path / "raw.npy", "--weights", "raw"), trained)
    out = tmp_path / "rollouts.npy"
    words = ["rollouts", str(run), "--num-samples", "4", "--steps", "2", "--out", str(out)]
    assert cli.main([*words, "--weights", "raw"]) == cli.OK
    assert np.array_equal(np.load(out), trained)


def test_distill_and_refine_learn_from_them(run: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 50, (64, 32)))
    student, refined = tmp_path / "student", tmp_path / "refined"
    words = ["--teacher", str(run), "--data", str(tokens), "--weights", "raw", *QUICK]
    assert cli.main(["distill", "--out", str(student), *words]) == cli.OK
    expected = fewjump.load(run, weights="raw").state_dict()
    for folder in (student, refined):
        if folder == refined:
            more = ["--student", str(student), "--auxiliary-steps", "0", "--guard-samples", "4"]
            assert cli.main(["refine", "--out", str(refined), *more, *words]) == cli.OK
        kept = fewjump.load(folder / "teacher").state_dict()
        assert kept.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in kept.items())


def test_evaluate_reads_originals_beside_saved_models(run: Path, tmp_path: Path) -> None:
    from fewjump.publish.models import open_models

    own = fewjump.save(fewjump.load(run), tmp_path / "own")
    reading = reading_values(ReadingOptions(weights="raw"))
    first, second = (model.denoiser for model in open_models([run, own], reading=reading))
    raw, average = (fewjump.load(run, weights=name) for name in ("raw", "ema"))
    for found, expected in ((first, raw), (second, average)):
        pairs = zip(found.parameters(), expected.parameters())
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    with pytest.raises(CheckpointError, match=r"none of .* leave out --weights"):
        open_models([own], reading=reading)


def test_the_named_checks_read_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_values(ReadingOptions(weights="raw"))
    model = subjects.open_saved(WarmStart(model=run, weights="raw"))
    expected = fewjump.load(run, weights="raw")
    pairs = zip(model.denoiser.parameters(), expected.parameters())
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    for name in ("recovery", "step-size", "warm-start"):
        with pytest.raises(ValueError, match="--weights belongs to --model"):
            run_check(name, weights="raw")
    opened = []

    def note(check: ModelCheck) -> None:
        opened.append((check.model, reading_values(check)))
        raise FileNotFoundError

    monkeypatch.setattr(subjects, "open_saved", note)
    for name in ("recovery", "step-size", "warm-start"):
        with pytest.raises(FileNotFoundError):
            run_check(name, model=run, weights="raw")
    assert opened == 3 * [(run, reading)]


def test_errors_name_the_flag(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = str(GOLDEN / "mdlm_subs" / "hf")
    own = str(fewjump.save(fewjump.load(run), tmp_path / "own"))
    bare = w.lightning(tmp_path / "bare.ckpt", w.network(seed=1), None, w.mdlm_config())
    nameless = w.lightning(tmp_path / "nameless.ckpt", w.network(seed=1), None, None)
    for words, said in (
        (["sample", published, "--weights", "raw"], "one set of weights.*--weights ema"),
        (["sample", own, "--weights", "raw"], "no checkpoint of SEDD.*leave out --weights"),
        (["sample", own, "--family", "duo", "--mask", "3"], "leave out --family and --mask"),
        (["sample", str(bare)], "no average.*--weights raw"),
        (["distill", "--teacher", str(bare)], "no average.*--weights raw"),
        (["evaluate", str(nameless), "--weights", "raw"], r"\(--family\), one of"),
        (["sample", published, "--family", "duo"], "says it is mdlm, not duo"),
        (["refine", "--student", own, "--teacher", own, "--weights", "raw"], "none of"),
    ):
        assert cli.main(words) == cli.USAGE, words
        message = capsys.readouterr().err
        assert re.search(said, message), message
