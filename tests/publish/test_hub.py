"""Publishing: the same three files in a folder and in a repository, and a card that is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fewjump
from fewjump import cli
from fewjump.data import Characters
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.publish import Pipeline
from fewjump.results import Row, write_results
from publish.toy import model

ROWS = [
    Row("student", "ancestral", 1, 1, "frechet", 3.18, 3.05, 3.31),
    Row("student", "ancestral", 1, 1, "recall", 0.5),
    Row("student", "ancestral", 4, 4, "frechet", 2.5, 2.4, 2.6),
    Row("test data", "", None, None, "frechet", 1.3),
]


def same(a: Any, b: Any) -> bool:
    x = torch.tensor([[4, 0, 4, 1, 2, 4]])
    x[x == 4] = a.process.mask
    with torch.no_grad():
        return torch.equal(a(x, 0.5).marginals(), b(x, 0.5).marginals())


def test_a_folder_comes_back_with_its_vocabulary(tmp_path: Path) -> None:
    student = model()
    letters = Characters("abc ")
    assert student.save_pretrained(tmp_path / "m", vocabulary=letters) == tmp_path / "m"
    loaded = NetworkDenoiser.from_pretrained(tmp_path / "m")
    assert same(loaded, student)
    assert loaded.vocabulary_config == letters.config()
    # Saved again without a word about it, it still knows.
    loaded.save_pretrained(tmp_path / "again")
    again = fewjump.load(str(tmp_path / "again"))
    assert again.vocabulary_config == letters.config()
    with pytest.raises(
        ValueError, match=r"NetworkDenoiser, not a ScoreDenoiser; use fewjump\.load"
    ):
        ScoreDenoiser.from_pretrained(tmp_path / "m")


def test_a_runs_folder_means_its_model(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "run" / "model")
    assert same(fewjump.load(tmp_path / "run"), model())


def test_the_card_shows_quality_by_evaluations(tmp_path: Path) -> None:
    write_results(tmp_path / "results", ROWS, {"seed": 0})
    card = model().save_pretrained(tmp_path / "m", metrics=tmp_path / "results") / "README.md"
    text = card.read_text(encoding="utf-8")
    assert "| model | evaluations | frechet | recall |" in text
    assert "| student | 1 | 3.18 [3.05, 3.31] | 0.5 |" in text
    assert "| student | 4 | 2.5 [2.4, 2.6] |  |" in text
    assert text.index("| student | 4") < text.index("| test data |  | 1.3 |  |")
    assert "ends of an interval" in text
    two = [*ROWS, Row("student", "euler", 4, 4, "frechet", 9.0)]
    text = (model().save_pretrained(tmp_path / "n", metrics=two) / "README.md").read_text()
    assert "| student | euler | 4 | 9 |" in text


def test_core_dependencies_are_enough(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "m", vocabulary=Characters("abc "))
    code = """
import sys
for name in ("huggingface_hub", "transformers", "tokenizers", "datasets", "pyarrow", "sklearn"):
    sys.modules[name] = None
import fewjump
from fewjump.publish import Pipeline
model = fewjump.load(sys.argv[1])
print(len(Pipeline(model)(2, 3, generator=0, prompt="ab").texts), model.length)
try:
    fewjump.load("hf:someone/something")
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [
        "2 6",
        "reading hf:someone/something needs huggingface_hub: pip install 'fewjump[hub]'",
    ]


class FakeHub:
    """What the library asks of ``huggingface_hub``, answered from a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def HfApi(self, token: Any) -> FakeHub:  # noqa: N802
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> Any:
        target = self.root / repo_id
        target.mkdir(parents=True, exist_ok=True)
        for file in folder_path.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("download", options))
        return str(self.root / repo_id)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_repository_round_trip(
    fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = model()
    address = student.push_to_hub(
        "me/tiny", vocabulary=Characters("abc "), metrics=ROWS, private=True, token="t"
    )
    assert address == "https://hub/me/tiny/commit/1"
    assert fake.calls[:2] == [("token", "t"), ("create", "me/tiny", True, True)]
    files = sorted(p.name for p in (tmp_path / "me" / "tiny").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "me" / "tiny" / "README.md").read_text(encoding="utf-8")
    assert 'fewjump.load("hf:me/tiny")' in card
    assert card.startswith("---\nlibrary_name: fewjump\n")
    loaded = Denoiser.from_pretrained("me/tiny", revision="v1", local_files_only=True)
    assert same(loaded, student)
    _, options = fake.calls[-1]
    # Nothing but the three files is fetched: no code can come along.
    assert options["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    assert options["revision"] == "v1"
    assert options["local_files_only"] is True
    assert same(fewjump.load("hf:me/tiny@v2"), student)
    assert fake.calls[-1][1]["revision"] == "v2"
    assert same(Denoiser.from_pretrained("hf:me/tiny@v3"), student)
    assert fake.calls[-1][1]["revision"] == "v3"
    assert cli.main(["sample", "hf:me/tiny", "--num-samples", "1", "--steps", "2"]) == cli.OK
    assert len(capsys.readouterr().out) == 7


def test_results_of_a_repositorys_model_go_into_the_working_folder(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model().push_to_hub("me/tiny", vocabulary=Characters("abc "))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("a.txt").write_text("abc cab " * 400)
    words = ["evaluate", "hf:me/tiny", "--data", "a.txt", "--num-samples", "4", "--steps", "1"]
    assert cli.main(words) == cli.OK
    assert sorted(p.name for p in work.iterdir()) == ["a.txt", "tiny-results"]
    assert (work / "tiny-results" / "results.json").is_file()
    # A file of a saved model means its folder, beside which they go.
    folder = model().save_pretrained(work / "own", vocabulary=Characters("abc "))
    words[1] = str(folder / "model.safetensors")
    assert cli.main(words) == cli.OK
    assert (work / "own-results" / "results.json").is_file()


def test_a_repository_that_cannot_be_had_is_told_in_plain_words(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class LocalEntryNotFoundError(OSError):
        pass

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("there is no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"could not be read: there is no connection$"):
        fewjump.load("hf:me/absent")


def test_nothing_is_made_for_a_model_that_cannot_be_saved(fake: FakeHub) -> None:
    from fewjump.problem import EnumeratedJoint
    from fewjump.process import Uniform
    from fewjump.schedule import LogLinear

    exact = EnumeratedJoint(torch.eye(2) / 2).denoiser(Uniform(2, LogLinear()))
    with pytest.raises(ValueError, match="cannot be saved"):
        exact.push_to_hub("me/tiny")
    assert [call[0] for call in fake.calls] == ["token"]
    with pytest.raises(ValueError, match="named owner/name"):
        model().push_to_hub("tiny")


def test_real_client_has_what_is_asked_of_it() -> None:
    client = pytest.importorskip("huggingface_hub", reason="needs the hub extra")
    import inspect

    download = inspect.signature(client.snapshot_download).parameters
    assert {"revision", "cache_dir", "token", "local_files_only", "allow_patterns"} <= set(download)
    upload = inspect.signature(client.HfApi.upload_folder).parameters
    asked = {"repo_id", "folder_path", "commit_message", "revision", "create_pr"}
    assert asked <= set(upload)
    create = inspect.signature(client.HfApi.create_repo).parameters
    assert {"private", "exist_ok"} <= set(create)


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "./x", "/no/such", "owner/name"])
def test_a_name_that_is_neither_says_what_to_give(source: str) -> None:
    """A name is not looked for on the hub unasked."""
    with pytest.raises(
        FileNotFoundError,
        match=r"config\.json, .*, the folder of a run, .* or a repository of the hub as hf:owner",
    ):
        fewjump.load(source)
    with pytest.raises(FileNotFoundError, match="names no repository"):
        fewjump.load("hf:owner")


GOLDEN = Path(__file__).parents[1] / "golden" / "originals"


def test_checkpoints_of_the_originals_are_opened_too(tmp_path: Path) -> None:
    from checkpoint import written as w

    teacher = fewjump.load(GOLDEN / "mdlm_subs" / "hf")
    drawn = Pipeline(teacher)(2, num_inference_steps=2, generator=0)
    assert drawn.tokens.shape == (2, teacher.length)

    path = w.lightning(
        tmp_path / "last.ckpt", w.network(seed=1), w.network(seed=2), w.mdlm_config()
    )
    raw, ema = (Denoiser.from_pretrained(path, weights=which) for which in ("raw", "ema"))
    assert same(raw, fewjump.load(path, weights="raw"))
    assert same(ema, fewjump.load(path))
    assert not same(raw, ema)
    fewjump.save(raw, tmp_path / "own")
    with pytest.raises(ValueError, match=r"leave out --weights"):
        fewjump.load(tmp_path / "own", weights="raw")
    with pytest.raises(TypeError, match="wieghts"):
        Denoiser.from_pretrained(path, wieghts="raw")


@pytest.mark.parametrize("binary", [False, True])
def test_a_repository_of_an_original_brings_one_set_of_weights(
    binary: bool, fake: FakeHub, tmp_path: Path
) -> None:
    """Those that are read, with its configuration and its tokenizer's files, and never its code."""
    from checkpoint import written as w

    target = w.folder(
        tmp_path / "owner" / "original", w.network(seed=1), w.sedd_config(), binary=binary
    )
    opened = Denoiser.from_pretrained("owner/original", revision="v2")
    assert same(opened, fewjump.load(target))
    first, second = (options for name, options in fake.calls if name == "download")
    assert first["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    assert ("pytorch_model*.bin" in second["allow_patterns"]) is binary
    assert {"*.json", "*.txt"} < set(second["allow_patterns"])
    assert not any(pattern.endswith(".py") for pattern in second["allow_patterns"])
    assert first["revision"] == second["revision"] == "v2"
