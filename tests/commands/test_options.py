"""Options beyond their use, files of options, and runs that go on: what each verb makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import fewjump
from fewjump import cli
from fewjump.checkpoint import read_config
from fewjump.data import Characters
from fewjump.denoiser import Denoiser, NetworkDenoiser
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train.monitor import DiversityGuard
from test_cli import saved_model

QUICK = ["--batch-size", "4", "--warmup", "1", "--device", "cpu", "--no-progress"]
NETWORK = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a text and a model of its letters."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("abc cab bac " * 60)
    saved_model(tmp_path, Characters(" abc"), 6)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample model --out /dev/null", "--out /dev/null is a device or a pipe"),
        ("sample model --out x.jpg", "--out must end in one of"),
        ("sample model --steps 0", "--steps must be at least 1 and at most 1000000"),
        ("sample model --steps 2000000000", "--steps must be at least 1 and at most 1000000"),
        ("sample model --num-samples 2000000000", "--num-samples must be at least 1 and at most"),
        ("rollouts model --steps 2000000000 --out x.npy", "--steps must be at least 1"),
        ("rollouts model --num-samples 2000000000 --out x.npy", "--num-samples must be"),
        ("evaluate model --data t.txt --steps 1 2000000000", "--steps must be at least 1"),
        ("evaluate model --data t.txt --num-samples 2000000000", "--num-samples must be"),
        ("inspect model --steps 2000000000", "--steps must be at least 1"),
        ("inspect model --samples 2000000000", "--samples must be at least 1"),
        ("demo digits --threads 0", "--threads must be at least 1 and at most 1024, got 0"),
        ("demo digits --threads 2000000", "--threads must be at least 1 and at most 1024"),
        ("train --data t.txt --uniform-share 0.3", "--uniform-share is for --process gidd"),
        ("train --data t.txt --process uniform --uniform-share 0.3", "is for --process gidd"),
        ("train --data t.txt --process gidd --process-file p.json", "leave them out"),
        ("train --data t.txt --process gidd --uniform-share 0", "without uniform noise gidd is"),
        ("train --data t.txt --known-share 0.3", "--known-share is for sequences"),
        ("train --data t.txt --network mlp=3", "--network has no 'mlp'; it has mlp_ratio"),
        ("train --data t.txt --network mlp_ratio=many", "--network mlp_ratio: must be int"),
        ("train --data t.txt --token-bits 16", "fewjump: --token-bits: not for t.txt"),
        ("refine --student model --teacher model --draws 1", "--draws must be at least 2"),
        ("refine --student model --teacher model --jumps 0", "--jumps must be at least 1"),
        ("refine --student model --teacher model --auxiliary-steps=-1", "--auxiliary-steps must"),
        ("refine --student model --teacher model --band 1 2", "--band must satisfy 0 ≤ low < 1"),
        ("refine --student model --teacher model --guard-samples 1", "--guard-samples must be"),
        ("refine --student model --teacher model --lr 0", "--lr must be positive"),
    ],
)
def test_values_beyond_their_use_are_refused(
    words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert cli.main([*words.split()]) == cli.USAGE
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "train --data t.txt --seed",
        "distill --teacher model --seed",
        "refine --student model --teacher model --seed",
        "rollouts model --seed",
        "sample model --seed",
        "evaluate model --data t.txt --seeds",
        "inspect model --seed",
        "demo digits --seed",
        "verify --seed",
    ],
)
def test_a_seed_is_one_of_the_same_range_everywhere(
    words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    flag = words.split()[-1]
    for value in ("-1", str(2**63), "9" * 30):
        assert cli.main([*words.split(), value]) == cli.USAGE
        assert f"{flag} must lie in [0, 2^63), got {value}" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_the_largest_seed_is_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", "model", "--num-samples", "1", "--steps", "1", "--seed", str(2**63 - 1)]
    assert cli.main(words) == cli.OK
    assert len(capsys.readouterr().out) == 7


def test_a_suffix_may_be_in_capitals(here: Path) -> None:
    for name in ("x.JSONL", "x.Npy", "x.TXT"):
        words = ["sample", "model", "--num-samples", "2", "--steps", "1", "--out", name]
        assert cli.main(words) == cli.OK
    tokens = np.load("x.Npy").tolist()
    lines = [json.loads(line) for line in Path("x.JSONL").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == tokens
    assert Path("x.TXT").read_text().split("\n\n")[0] == lines[0]["text"]


def test_options_are_read_again_in_another_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--hidden", "8", "--blocks", "1", "--heads", "2", "--length", "6", "--steps", "1"]
    train = ["train", "--data", "t.txt", "--out", "runs/t", *small, *QUICK]
    assert cli.main(train) == cli.OK
    words = ["distill", "--teacher", "runs/t", "--data", "t.txt", "--out", "runs/s"]
    assert cli.main([*words, "--steps", "1", *QUICK]) == cli.OK
    saved = yaml.safe_load(Path("runs/s/options.yaml").read_text())
    assert saved["data"] == str(here / "t.txt")
    assert saved["teacher"] == str(here / "runs" / "t")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    weights = (here / "runs/s/model/model.safetensors").read_bytes()
    assert cli.main(["distill", "--config", "../runs/s/options.yaml", "--out", "new"]) == cli.OK
    assert Path("new/model/model.safetensors").read_bytes() == weights


def test_a_file_of_earlier_options_still_holds(here: Path) -> None:
    """As it was written when every verb had its own copy of the options."""
    Path("old.yaml").write_text(
        "# Read again with --config\nteacher: model\nout: run\ndata: t.txt\nkind: auto\n"
        "length: null\nstudent: chain\nmatching: null\nhead:\n- states=3\nnear: 0.2\ndraws: 2\n"
        "consistency: 0.0\ndata_weight: 0.5\nfree_bits: 0.0\nkl_warmup: null\njumps: 2\n"
        "max_gap: 1.0\ntimes: uniform\nwarm_start: true\nlora: null\nknown: null\n"
        "known_share: 0.5\nweights: ema\nfamily: null\nmask: null\ntokenizer: null\n"
        "text_field: text\nsplit: train\ndocuments: null\npacking: null\ntoken_bits: null\n"
        "cache: null\nsteps: 1\nbatch_size: 4\nlr: 0.0003\nweight_decay: 0.0\nwarmup: 1\n"
        "decay: cosine\nclip: 1.0\naccumulate: 1\nema: 0.999\nprecision: float32\n"
        "compile: false\ncheckpoint_blocks: false\nsharding: none\nseed: 0\ndevice: cpu\n"
        "log_every: 50\nsave_every: 500\nmax_seconds: null\nprogress: false\nmonitor: true\n"
    )
    assert cli.main(["distill", "--config", "old.yaml"]) == cli.OK
    found = yaml.safe_load(Path("run/config.yaml").read_text())["objective"]
    assert found["name"] == "JointConditionalMatching"
    assert (found["near"], found["draws"], found["data_weight"]) == (0.2, 2, 0.5)
    assert found["grid"] == [1.0, 0.5, 0.0]


def test_every_field_of_the_training_arrives(here: Path) -> None:
    words = ["distill", "--teacher", "model", "--data", "t.txt", "--out", "run", "--steps", "1"]
    words += ["--betas", "0.8", "0.95", "--final-lr", "0.1", "--weighting", "sigma", *QUICK]
    rolled = ["--matching", "teacher-rollout", "--rollout-steps", "3", "--min-time", "0.01"]
    assert cli.main([*words, *rolled]) == cli.OK
    found = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (found["train"]["betas"], found["train"]["final_lr"]) == ([0.8, 0.95], 0.1)
    objective = found["objective"]
    assert (objective["weighting"], objective["rollout_steps"]) == ("sigma", 3)
    assert objective["min_time"] == 0.01
    trunk = {"mlp_ratio=2", "condition_dim=4"}
    words = ["train", "--data", "t.txt", "--out", "t", "--length", "6", "--hidden", "8"]
    words += ["--heads", "2", "--blocks", "1", "--steps", "1", "--network", *trunk, *QUICK]
    assert cli.main([*words, "--min-time", "0.02"]) == cli.OK
    config = read_config("t/model")["denoiser"]["trunk"]
    assert (config["mlp_ratio"], config["condition_dim"]) == (2, 4)
    assert yaml.safe_load(Path("t/config.yaml").read_text())["objective"]["min_time"] == 0.02


@pytest.mark.parametrize("kind", [["--student", "latent"], ["--times", "gap-doubling"]])
def test_a_run_with_a_schedule_is_lengthened_without_naming_it(
    kind: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The KL's warm-up, and a curriculum, stay those of the run's first length."""
    words = ["distill", "--teacher", "model", "--data", "t.txt", "--out", "run", *kind, *QUICK]
    assert cli.main([*words, "--steps", "4"]) == cli.OK
    before = yaml.safe_load(Path("run/config.yaml").read_text())["objective"]
    assert before.get("kl_warmup") == 2 or "curriculum_steps=4" in before["times"]
    assert cli.main([*words, "--steps", "8"]) == cli.OK
    assert yaml.safe_load(Path("run/config.yaml").read_text())["objective"] == before
    if "latent" in kind:
        assert cli.main([*words, "--steps", "9", "--kl-warmup", "4"]) == cli.USAGE
        assert "objective.kl_warmup: 2 → 4" in capsys.readouterr().err


def test_another_run_is_refused_before_the_guard_measures(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["refine", "--student", "model", "--teacher", "model", "--out", "run", *QUICK]
    words += ["--steps", "2", "--auxiliary-steps", "1", "--guard-samples", "8", "--band", "0", "99"]
    assert cli.main(words) == cli.OK
    measured, measure = [], DiversityGuard.measure

    def counted(self: DiversityGuard, student: Denoiser) -> dict[str, float]:
        measured.append(student)
        return measure(self, student)

    monkeypatch.setattr(DiversityGuard, "measure", counted)
    assert cli.main([*words, "--draws", "5"]) == cli.USAGE
    assert "objective.draws: 4 → 5" in capsys.readouterr().err
    assert measured == []
    assert cli.main([*words, "--steps", "3"]) == cli.OK
    assert measured


def test_refinement_of_models_that_are_told_their_tokens(here: Path) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    hub.tokenizer().save_pretrained("tok")
    process = Absorbing(len(hub.SYMBOLS), LogLinear(), mask=hub.MASK)
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        config = {"process": process.config(), "trunk": NETWORK, "length": 6}
        fewjump.save(NetworkDenoiser.from_config(config), name)
    Path("d.jsonl").write_text('{"text": "the cat sat on a mat"}\n' * 40)
    words = ["refine", "--student", "student", "--teacher", "teacher", "--tokenizer", "tok"]
    words += ["--data", "d.jsonl", "--out", "run", "--steps", "2", "--auxiliary-steps", "1"]
    words += ["--guard-samples", "8", "--band", "0", "99", *QUICK]
    assert cli.main(words) == cli.OK
    assert read_config("run/model")["data"]["mask"] == hub.MASK
    assert cli.main(["sample", "run", "--num-samples", "1", "--prompt", "the cat"]) == cli.OK


def test_a_length_that_only_frames_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    hub.save(here / "bert")
    for length in ("1", "2"):
        assert cli.main(["sample", "bert", "--length", length]) == cli.USAGE
        said = f"a length of {length} leaves nothing to draw: 2 tokens frame every text"
        assert said in capsys.readouterr().err
    assert cli.main(["sample", "bert", "--length", "3", "--num-samples", "1"]) == cli.OK
